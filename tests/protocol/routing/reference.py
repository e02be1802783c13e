"""The oracle: the router of docs/method.md section 4 in plain Python integers, line by line.

Slow, without NumPy, and written apart from the product on purpose: shared code would share bugs.
"""

import hashlib
import struct
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from math import floor, isqrt

Row = list[int]


def h(tag: str, *parts: bytes) -> bytes:
    running = b"".join(struct.pack("<I", len(p)) + p for p in (tag.encode(), *parts))
    return hashlib.sha256(running).digest()


def rdiv(a: int, b: int) -> int:
    return floor(Fraction(a, b) + Fraction(1, 2))


class Draw:
    def __init__(self, seed: bytes) -> None:
        self.seed, self.n = seed, 0

    def below(self, m: int) -> int:
        while True:
            r = int.from_bytes(
                h("dipaco/1/draw", self.seed, struct.pack("<Q", self.n))[:8], "little"
            )
            self.n += 1
            if r < 2**64 - (2**64 % m):
                return r % m


def raw(prefix: Sequence[int], feat_seed: bytes, dimension: int) -> Row:
    y = [0] * dimension
    for token, count in Counter(prefix).items():
        for d in range(dimension):
            y[d] += isqrt(256 * count) * sign(token, d, feat_seed)
    return y


def sign(token: int, d: int, feat_seed: bytes) -> int:
    bits = h("dipaco/1/sign", feat_seed, struct.pack("<I", token))
    return 1 if bits[d // 8] >> (d % 8) & 1 else -1


def terms(prefixes: Sequence[Sequence[int]]) -> dict[int, int]:
    """Return the weight of each term, by its token."""
    n = len(prefixes)
    df = Counter(token for prefix in prefixes for token in set(prefix))
    idf = {v: (n + 1).bit_length() - f.bit_length() for v, f in df.items() if f >= 4}
    most = sorted((v for v in idf if idf[v] > 0), key=lambda v: (-df[v], v))[:4096]
    return {v: idf[v] for v in sorted(most)}


def weighted(prefix: Sequence[int], idf: dict[int, int]) -> Row:
    """Return a document's row of M."""
    counts = Counter(prefix)
    return [isqrt(256 * counts[v]) * idf[v] for v in idf]


def basis(
    prefixes: Sequence[Sequence[int]], feat_seed: bytes, dimension: int
) -> tuple[dict[int, int], list[Row]]:
    """Return the terms' weights and the columns of Q."""
    idf = terms(prefixes)
    m = [weighted(prefix, idf) for prefix in prefixes]
    q = [[256 * sign(v, d, feat_seed) for v in idf] for d in range(dimension)]
    for _ in range(3 if idf else 0):
        mq = [[dot(row, column) for row in m] for column in q]
        z = [[dot(part, list(column)) for column in zip(*m, strict=True)] for part in mq]
        q = []
        for column in z:
            shift = max(0, max(map(abs, column)).bit_length() - 20)
            q.append(orthogonal([value >> shift for value in column], q))
    return idf, q


def orthogonal(z: Row, before: list[Row]) -> Row:
    """Return z without its parts along the columns before, 2^14 long; zeros if little is left."""
    for q in before:
        c = rdiv(dot(q, z), 2**14)
        z = [a - rdiv(c * b, 2**14) for a, b in zip(z, q, strict=True)]
    length = isqrt(dot(z, z))
    return [rdiv(a * 2**14, length) for a in z] if length >= 1024 else [0] * len(z)


def projected(prefix: Sequence[int], idf: dict[int, int], q: list[Row]) -> Row:
    """Return y of a prefix by a basis."""
    row = weighted(prefix, idf)
    return [dot(row, column) >> 12 for column in q]


def mean(ys: list[Row]) -> Row:
    return [rdiv(sum(column), len(ys)) for column in zip(*ys, strict=True)]


def normalised(y: Row, mu: Row, norm_bits: int) -> Row:
    u = [a - b for a, b in zip(y, mu, strict=True)]
    q = isqrt(sum(a * a for a in u))
    return [rdiv(a * 2**norm_bits, q) if q else 0 for a in u]


def dot(a: Row, b: Row) -> int:
    return sum(p * q for p, q in zip(a, b, strict=True))


def scores(x: Row, centroids: list[Row], scale: int, bias: Row) -> Row:
    return [dot(c, c) - 2 * scale * dot(x, c) + b for c, b in zip(centroids, bias, strict=True)]


def route(x: Row, centroids: list[Row], scale: int, bias: Row, top: int) -> Row:
    found = scores(x, centroids, scale, bias)
    return [j for _, j in sorted((s, j) for j, s in enumerate(found))[:top]]


def seed_centres(xs: list[Row], paths: int, draw: Draw) -> list[int]:
    chosen = [draw.below(len(xs))]
    while len(chosen) < paths:
        d = [
            min(sum((a - b) ** 2 for a, b in zip(x, xs[c], strict=True)) for c in chosen)
            for x in xs
        ]
        t, total = draw.below(sum(d)), 0
        for i, value in enumerate(d):
            total += value
            if total > t:
                chosen.append(i)
                break
    return chosen


def kmeans(
    xs: list[Row], paths: int, seed: bytes, *, scale: int, max_updates: int
) -> tuple[list[Row], int, int]:
    """Return the centroids, the number of updates and the inertia of one restart."""
    centroids = [[scale * v for v in xs[i]] for i in seed_centres(xs, paths, Draw(seed))]
    previous: Row | None = None
    updates = 0
    while True:
        zero = [0] * paths
        assigned = [route(x, centroids, scale, zero, 1)[0] for x in xs]
        distance = [
            scale**2 * dot(x, x) + scores(x, centroids, scale, zero)[a]
            for x, a in zip(xs, assigned, strict=True)
        ]
        inertia = sum(distance)
        for j in range(paths):
            if j in assigned:
                continue
            movable = [i for i, a in enumerate(assigned) if assigned.count(a) >= 2]
            i = min(movable, key=lambda i: (-distance[i], i))
            assigned[i], distance[i] = j, 0
        if assigned == previous or updates == max_updates:
            return centroids, updates, inertia
        for j in range(paths):
            members = [x for x, a in zip(xs, assigned, strict=True) if a == j]
            centroids[j] = [
                rdiv(scale * sum(column), len(members)) for column in zip(*members, strict=True)
            ]
        previous, updates = assigned, updates + 1


def capacity_bias(
    xs: list[Row],
    centroids: list[Row],
    inertia: int,
    capacity: tuple[int, int],
    scale: int,
    weights: Sequence[int],
) -> Row:
    (num, den), n, paths = capacity, len(xs), len(centroids)
    whole = sum(weights)
    e, bias, best, smallest = inertia // n, [0] * paths, [0] * paths, whole + 1
    for q in range(64):
        sizes = [0] * paths
        for x, weight in zip(xs, weights, strict=True):
            sizes[route(x, centroids, scale, bias, 1)[0]] += weight
        if max(sizes) < smallest:
            smallest, best = max(sizes), list(bias)
        if max(sizes) * paths * den <= num * whole:
            break
        eta = max(1, (e >> 4) // (1 + q // 8))
        bias = [
            b + rdiv(eta * (paths * w - whole), whole) for b, w in zip(bias, sizes, strict=True)
        ]
        bias = [b - min(bias) for b in bias]
    return best
