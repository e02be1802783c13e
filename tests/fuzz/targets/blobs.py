"""The content of blobs: deltas, moments, packed updates, states, score sheets."""

from collections.abc import Iterator
from functools import partial

import numpy as np
from msgspec.structs import replace

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.routing.labels import agree, labels_of, read_sheet, sheet_bytes, standing
from dipaco.protocol.run.training import Adam, Muon
from dipaco.protocol.tensors.block_float import Bits, pack, steps, unpack
from dipaco.protocol.tensors.delta import (
    Encoding,
    check_bound,
    decode_delta,
    encode_delta,
    rounding,
)
from dipaco.protocol.tensors.moments import (
    Moments,
    check_moments,
    decode_moments,
    encode_moments,
)
from tests.fuzz.mutate import Flat
from tests.fuzz.target import Target, hold
from tests.values import manifest

ELEMENTS = 300  # three groups of 128, the last one not full
DOCUMENTS = 100
BY_ADAMW = 130  # of them, in a run of Muon
TRAINING = manifest().training
MUON = replace(TRAINING, inner=Muon())
STATE = np.linspace(-1, 1, ELEMENTS, dtype=np.float32)


STEPS = range(TRAINING.seed_steps, TRAINING.seed_steps + TRAINING.inner_steps)  # of round 1


def _values(scale: float) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    chance = np.random.default_rng(1)
    return (chance.standard_normal(ELEMENTS) * scale).astype(np.float32)


def deltas(encoding: Encoding) -> tuple[bytes, ...]:
    """Return deltas of usual sizes, and of zeros."""
    return tuple(encode_delta(_values(scale), encoding) for scale in (1e-3, 1e-6, 10.0, 0.0))


def delta(encoding: Encoding, data: bytes) -> None:
    """Decode a delta and check its bound, as the inspection of a result does."""
    found = decode_delta(data, encoding, ELEMENTS)
    hold(bool(np.isfinite(found).all()) and found.shape == (ELEMENTS,), "it is not finite")
    if encoding not in ("int2", "topk"):  # whose codes follow from the values before encoding
        hold(encode_delta(found, encoding) == data, "it encodes to other bytes")
    rounded = rounding(data, encoding, ELEMENTS)
    check_bound(found, STATE, TRAINING, STEPS, rounded=rounded)


def updates(bits: Bits) -> tuple[bytes, ...]:
    return tuple(pack(_values(scale), bits) for scale in (1e-3, 1.0, 0.0))


def update(bits: Bits, data: bytes) -> None:
    """Unpack a packed update."""
    found = unpack(data, bits, ELEMENTS)
    hold(bool(np.isfinite(found).all()), "it is not finite")
    hold(pack(found, bits) == data, "it packs to other bytes")
    hold(bool(np.isfinite(steps(data, bits, ELEMENTS)).all()), "its steps are not finite")


def moments() -> tuple[bytes, ...]:
    first = _values(1e-4)
    return tuple(
        encode_moments(Moments(first * scale, np.square(first) * 2), Adam(), step)
        for scale, step in ((1.0, 1), (0.1, 30), (0.0, 2))
    )


def momenta() -> tuple[bytes, ...]:
    first, momentum = _values(1e-4)[:BY_ADAMW], _values(1e-3)[BY_ADAMW:]
    return tuple(
        encode_moments(Moments(first, np.square(first) * 2, momentum * scale), Muon(), step)
        for scale, step in ((1.0, 1), (10.0, 30), (0.0, 2))
    )


def momentum(data: bytes) -> None:
    """Decode the moments of a run of Muon and check them."""
    found, inner = decode_moments(data, ELEMENTS, ELEMENTS - BY_ADAMW), MUON.inner
    hold(bool(np.isfinite(found.momentum).all()), "a momentum is not finite")
    check_moments(found, MUON, 1)
    again = encode_moments(found, inner, 7)
    same = decode_moments(again, ELEMENTS, ELEMENTS - BY_ADAMW)
    hold(again == encode_moments(same, inner, 7), "it drifts")


def moment(data: bytes) -> None:
    """Decode moments and check them, as their inspection does."""
    found = decode_moments(data, ELEMENTS)
    hold(bool(np.isfinite(found.first).all()), "a first moment is not finite")
    hold(bool((found.second >= 0).all() and np.isfinite(found.second).all()), "a second one is not")
    check_moments(found, TRAINING, 1)
    again = encode_moments(found, TRAINING.inner, 7)
    hold(again == encode_moments(decode_moments(again, ELEMENTS), TRAINING.inner, 7), "it drifts")


def sheets() -> tuple[bytes, ...]:
    return tuple(
        sheet_bytes([(3000 + 7 * n * scale) % (1 << 24) if n % 3 else -1 for n in range(DOCUMENTS)])
        for scale in (1, 10, 100_000)
    )


def sheet(data: bytes) -> None:
    """Read a sheet, compare it, and make labels of it."""
    scores = read_sheet(data, DOCUMENTS)
    other = read_sheet(sheets()[0], DOCUMENTS)
    standing(2, lambda i, j: agree(scores, other, 4), scorers=1)
    labels_of([(0, scores), (1, other)], DOCUMENTS, margin=16)


def targets() -> Iterator[Target]:
    """Yield one target an encoding."""
    declared = (RemoteProtocolError,)
    for encoding in Encoding.__args__:  # type: ignore[attr-defined]
        name = f"blob/delta-{encoding}"
        yield Target(name, partial(deltas, encoding), declared, Flat, call=partial(delta, encoding))
    for bits in Bits.__args__:  # type: ignore[attr-defined]
        name = f"blob/update-int{bits}"
        yield Target(name, partial(updates, bits), declared, Flat, call=partial(update, bits))
    yield Target("blob/moments", moments, declared, Flat, call=moment)
    yield Target("blob/moments-muon", momenta, declared, Flat, call=momentum)
    yield Target("blob/sheet", sheets, declared, Flat, call=sheet)
