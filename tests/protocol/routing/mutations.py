"""Every value that differs from a wire value in a single field, found by reflection."""

from collections.abc import Iterator
from typing import Any

import msgspec

from dipaco.protocol.routing.spec import SpecBasis
from dipaco.protocol.wire.canonical import Wire


def mutations(value: Wire, donor: Wire | None = None) -> Iterator[tuple[str, Any]]:
    """Yield (path of the field, value with that field changed), nested fields too.

    Each leaf is changed in several ways, and takes what another honest value, the `donor`, has
    there; ways that its own bounds refuse are left out. A field that is left without any is an
    error: it would go untested.
    """
    for field in msgspec.structs.fields(type(value)):
        given = getattr(value, field.name)
        count = 0
        donated = [] if donor is None else [("", getattr(donor, field.name))]
        for where, changed in (*_changes(given), *donated):
            if changed == given:
                continue
            try:
                yield field.name + where, msgspec.structs.replace(value, **{field.name: changed})
            except ValueError:
                continue
            count += 1
        if not count:
            raise AssertionError(f"{type(value).__name__}.{field.name} has no mutation")


def _changes(given: Any) -> Iterator[tuple[str, Any]]:
    """Yield changed forms of one field's value, each with where inside it was changed."""
    if isinstance(given, Wire):
        yield "", None
        yield "", msgspec.UNSET
        for where, changed in mutations(given):
            yield f".{where}", changed
    elif given is msgspec.UNSET:
        yield "", bytes(32)
        yield "", SpecBasis(terms=bytes(4), idf=b"\1", columns=bytes(16))
    elif given is None:
        yield "", bytes(32)  # a digest, where one may stand; else the donor's business
    elif isinstance(given, int):
        yield from (("", changed) for changed in (given - 1, given + 1, given - 8, given + 8))
    elif isinstance(given, str):
        known = (
            *("bag-sign-v1", "idf-svd-v1", "kmeans", "class_means", "round_robin"),
            *("documents", "sample", "none", "bias-v1", "bias-tokens-v1"),
        )
        yield from (("", changed) for changed in (given + "2", *known))
    elif isinstance(given, bytes):
        yield from (("", changed) for changed in _changed_bytes(given))
    elif isinstance(given, tuple):
        yield from (("", changed) for changed in _changed_tuples(given))
    else:
        raise AssertionError(f"no mutation of a {type(given).__name__}")


def _changed_bytes(given: bytes) -> Iterator[bytes]:
    yield given + bytes(1)
    yield given + bytes(8)
    if given:
        yield bytes([given[0] ^ 1]) + given[1:]
        yield given[:-1] + bytes([given[-1] ^ 0x80])
        middle = len(given) // 2
        yield given[:middle] + bytes([given[middle] ^ 4]) + given[middle + 1 :]
        yield given[:-1]
        yield b""


def _changed_tuples(given: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    yield (*given, 0)
    yield given[:-1]
    yield given[::-1]
    yield (given[0] + 1, *given[1:])
    yield (*given[:-1], given[-1] - 1)
    yield (given[0] + 1, *given[1:-1], given[-1] - 1)  # the sum stays
