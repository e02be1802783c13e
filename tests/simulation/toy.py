"""Training in integers: exact everywhere, so a run's digests can be held against a reference.

A blob is the decimal text of one number. A path's pseudo-gradients depend on all states and moments
that it starts from, so one wrong number changes every later one.
"""

from collections.abc import Mapping, Sequence

from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.wire.digest import Digest, sha256

PRIME = (1 << 61) - 1
Numbers = dict[ModuleId, int]


def blob(number: int) -> bytes:
    """Return the blob of a number."""
    return str(number).encode()


def number(data: bytes) -> int:
    """Return the number in a blob."""
    return int(data)


def digest(value: int) -> Digest:
    """Return the digest of a number's blob."""
    return sha256(blob(value))


def seed_model(modules: Sequence[ModuleId]) -> Numbers:
    """Return the states of path 0's modules after the seed phase."""
    return {module: _mixed(0, index) for index, module in enumerate(modules)}


def train(states: Numbers, moments: Numbers, path: int, round_: int) -> tuple[Numbers, Numbers]:
    """Return a path's pseudo-gradients and its moments after a round.

    moments   before it; empty: zero.
    """
    everything = _mixed(path, round_)
    for module in states:
        everything = _mixed(everything, states[module] + 3 * moments.get(module, 0))
    deltas = {
        module: _mixed(everything, index + states[module]) for index, module in enumerate(states)
    }
    after = {m: (31 * moments.get(m, 0) + deltas[m]) % PRIME for m in states}
    return deltas, after


def outer_step(
    state: int, momentum: int, contributions: Sequence[tuple[int, int]]
) -> tuple[int, int]:
    """Return a module's next state and momentum.

    contributions   (weight, pseudo-gradient) of each path.
    """
    gradient = sum(weight * delta for weight, delta in contributions)
    momentum = (9 * momentum + gradient) % PRIME
    return (state + 7 * momentum) % PRIME, momentum


def weights(paths: int) -> tuple[int, ...]:
    """Return n_p per path."""
    return tuple(10 * (paths - path) for path in range(paths))


def reference(manifest: Manifest) -> Mapping[ModuleId, list[Digest]]:
    """Train a whole run in one process; returns the digests of every version of every module."""
    top, shares = manifest.topology, weights(manifest.paths)
    seed = seed_model(top.path_modules[0])
    states = {module: seed[top.counterpart(module)] for module in top.modules}
    momenta = dict.fromkeys(top.modules, 0)
    moments: dict[int, Numbers] = {path: {} for path in range(top.paths)}
    versions = {module: [digest(states[module])] for module in top.modules}
    for round_ in range(1, manifest.training.rounds + 1):
        deltas: dict[int, Numbers] = {}
        for path in range(top.paths):
            begins = {module: states[module] for module in top.path_modules[path]}
            deltas[path], after = train(begins, moments[path], path, round_)
            if manifest.training.inner_state == "carry":
                moments[path] = after
        for module in top.modules:
            given = [(shares[path], deltas[path][module]) for path in top.paths_through(module)]
            states[module], momenta[module] = outer_step(states[module], momenta[module], given)
            versions[module].append(digest(states[module]))
    return versions


def _mixed(one: int, other: int) -> int:
    """Return a number that depends on both in no simple way."""
    found = (one * 6364136223846793005 + other + 1442695040888963407) % PRIME
    return (found * found + one) % PRIME
