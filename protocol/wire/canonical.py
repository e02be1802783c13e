"""One value, one encoding: deterministic CBOR (RFC 8949, section 4.2.1) of frozen structs.

Owns the base class of every wire value and its two rules: a value is valid from the moment it is
constructed, by us or by a decoder; and bytes that are not the one canonical encoding of a value
are refused. Maps have text keys only: for these, cbor2's order is that of RFC 8949.
"""

from contextvars import ContextVar
from functools import cache
from typing import Any, Final, TypeVar

import cbor2
import msgspec

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.wire.faults import fault_of, refusal_of
from dipaco.protocol.wire.largest import largest
from dipaco.protocol.wire.scan import scan
from dipaco.protocol.wire.text import printable

PROTOCOL_VERSION: Final = 2  # in the name of every stream, and in the domain of every signature
MAX_DEPTH = 16  # nested arrays and maps; our deepest value has 6
FIELD_ITEMS = 1 << 16  # of a file that `field_of` looks into: a manifest of any version


_converting: ContextVar[bool] = ContextVar("converting", default=False)
"""Whether this thread is inside `decode`, which checks every field as it converts."""


class Wire(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """The base of every value that peers exchange.

    Types and bounds (`msgspec.Meta`) are checked on construction too, not only on decoding, so
    later code need not check again. Code of ours that breaks them has a bug: `ValueError`.
    A subclass with rules of its own calls `super().__post_init__()` first.

    All fields are always encoded, with one exception: a field that a type got later is
    `T | UnsetType = UNSET`, and UNSET is left out. So yesterday's values keep their bytes. T never
    includes the value that UNSET stands for, lest one value have two encodings.
    """

    def __post_init__(self) -> None:
        if _converting.get():
            return
        for name, type_ in _fields(type(self)):
            given = getattr(self, name)
            if given is msgspec.UNSET:  # its type does not name UnsetType, which is no value
                if name not in _later(type(self)):
                    raise ValueError(f"{name}: is missing")
                continue
            try:
                checked = msgspec.convert(given, type_, builtin_types=(bytes,))
            except msgspec.ValidationError as error:
                place, reason = fault_of(error, given, type_)
                raise ValueError(f"{name}{place and '.'}{place}: {reason}") from None
            if checked is not given:  # an int where a float belongs, a list for a tuple
                msgspec.structs.force_setattr(self, name, checked)


@cache
def _later(kind: type[Wire]) -> frozenset[str]:
    """Return the fields that may be left out."""
    fields = msgspec.structs.fields(kind)
    return frozenset(field.name for field in fields if field.default is msgspec.UNSET)


@cache
def _fields(kind: type[Wire]) -> tuple[tuple[str, Any], ...]:
    return tuple((field.name, field.type) for field in msgspec.structs.fields(kind))


W = TypeVar("W")


def encode(value: Wire) -> bytes:
    """Return the only encoding of `value`."""
    return cbor2.dumps(msgspec.to_builtins(value, builtin_types=(bytes,)), canonical=True)


def decode(data: bytes, kind: type[W], *, limit: int | None = None) -> W:
    """Read a `kind` (a wire struct, or a union of them) from bytes.

    limit   bytes that the place allows; the largest value of the type is a limit in any case.

    Raises RemoteProtocolError for anything but the canonical encoding of a valid value.
    """
    most = largest(kind)
    allowed = most.size if limit is None else min(limit, most.size)
    name = getattr(kind, "__name__", str(kind))
    if len(data) > allowed:
        raise RemoteProtocolError(
            f"malformed {name}: {len(data)} bytes where {allowed} are allowed"
        )
    plain: Any = None
    try:
        scan(data, items=most.items, depth=min(most.depth, MAX_DEPTH))
        plain = _plain(data)
        value = _converted(plain, kind)
    except RemoteProtocolError as error:
        raise RemoteProtocolError(f"malformed {name}: {error}") from error
    except cbor2.CBORError as error:
        raise RemoteProtocolError(f"malformed {name}: {printable(str(error))}") from error
    except msgspec.ValidationError as error:
        reason = printable(refusal_of(error, plain, kind))
        raise RemoteProtocolError(f"malformed {name}: {reason}") from error
    assert isinstance(value, Wire)
    if encode(value) != data:  # other key orders, long forms of numbers
        raise RemoteProtocolError(f"{name} is not in its canonical encoding")
    return value


def _converted(plain: Any, kind: type[W]) -> W:
    """Return the value of maps and lists; the fields of each are checked here, and only here."""
    before = _converting.set(True)
    try:
        return msgspec.convert(plain, kind, builtin_types=(bytes,))
    finally:
        _converting.reset(before)


def field_of(data: bytes, name: str) -> object:
    """Return one field of an encoded map of any type and version; None if there is none.

    Use it only for messages about a value that `decode` refused.
    """
    try:
        scan(data, items=FIELD_ITEMS, depth=MAX_DEPTH)
        plain = _plain(data)
    except (RemoteProtocolError, cbor2.CBORError):
        return None
    return plain.get(name) if isinstance(plain, dict) else None


def _plain(data: bytes) -> Any:
    return cbor2.loads(
        data,
        max_depth=MAX_DEPTH,
        allow_indefinite=False,
        allow_duplicate_keys=False,
        strict_hashable_types=True,
    )
