"""The CDDL schema (RFC 8610) of all wire types, read from the types themselves.

docs/protocol.cddl is this text; `regenerate.py` writes it and a test compares. What CDDL cannot
say (multiples, rules between fields, characters as opposed to bytes) stands in the comments that
the types carry.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator

from msgspec import NODEFAULT
from msgspec import inspect as types

from dipaco.protocol.wire.canonical import Wire
from dipaco.protocol.wire.identity import PeerIdField
from tests.golden.values import wire_types

WIDTH = 96
MOST_BYTES_OF_A_CHARACTER = 4  # in UTF-8; CDDL's .size counts bytes
PEER_ID = "peer-id"
HEADER = """\
; Every value that dipaco nodes exchange, in CDDL (RFC 8610). The bytes on the wire are its one
; deterministic encoding (RFC 8949, section 4.2.1): see protocol.md. Written from the types in
; protocol/ by `python -m tests.golden.regenerate`; a test holds the two together, and another
; validates the golden vectors in tests/golden/wire.json against their rules here.
;
; All fields are always present, but for those with a ?, which came later and are left out where
; they have no value; no others may be. Numbers with a fraction part in their range are floats even
; when whole. Patterns match the whole text."""


def schema() -> str:
    """Return the whole schema; its first rule, which validators take, is any one value."""
    kinds = wire_types()
    choice = " /\n  ".join(kind.__name__ for kind in kinds)
    text = "\n\n".join([HEADER, f"value = {choice}", *map(_rule, kinds)])
    peer = _type(types.type_info(PeerIdField))
    named = (
        f"; The node or owner that holds an Ed25519 key, as libp2p writes it.\n{PEER_ID} = {peer}"
    )
    return f"{text.replace(peer, PEER_ID)}\n\n{named}\n"


def _rule(kind: type[Wire]) -> str:
    info = types.type_info(kind)
    assert isinstance(info, types.StructType) and info.forbid_unknown_fields
    lines = [*_comment(inspect.getdoc(kind) or "", ""), f"{kind.__name__} = {{"]
    said = _field_docs(kind)
    lines.append(f'  "{info.tag_field}": "{info.tag}",')
    for field in info.fields:
        lines += _comment(said.get(field.name, ""), "  ")
        mark = "? " if _may_be_left_out(field) else ""
        lines.append(f'  {mark}"{field.name}": {_type(field.type)},')
    return "\n".join([*lines, "}"])


def _may_be_left_out(field: types.Field) -> bool:
    """Return whether the field's default is UNSET, which a type description does not name."""
    return not field.required and field.default is field.default_factory is NODEFAULT


def _comment(text: str, indent: str) -> Iterator[str]:
    words = " ".join(text.split())
    return (f"{indent}; {line}" for line in textwrap.wrap(words, WIDTH - len(indent)))


def _field_docs(kind: type[Wire]) -> dict[str, str]:
    """Return the text under each field of a type."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    said, name = {}, ""
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        elif name and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            said[name] = str(node.value.value)
        else:
            name = ""
    return said


def _type(info: types.Type) -> str:
    match info:
        case types.Metadata(type=inner):
            return _type(inner)
        case types.StructType(cls=cls):
            return cls.__name__
        case types.UnionType(types=each):
            return " / ".join(_type(part) for part in each)
        case types.LiteralType(values=each):
            return " / ".join(f'"{part}"' if isinstance(part, str) else str(part) for part in each)
        case types.EnumType(cls=cls):
            return " / ".join(f'"{member.value}"' for member in cls)
        case types.VarTupleType(item_type=item, min_length=least, max_length=most):
            one = f"({_type(item)})" if isinstance(item, types.UnionType) else _type(item)
            return f"[{least or 0}*{'' if most is None else most} {one}]"
        case types.BoolType():
            return "bool"
        case types.NoneType():
            return "null"
        case types.IntType() | types.FloatType():
            return _number(info)
        case types.BytesType(min_length=least, max_length=most):
            return f"bstr{_size(least, most)}"
        case types.StrType():
            return _text(info)
    raise AssertionError(f"no CDDL for {info}")


def _number(info: types.IntType | types.FloatType) -> str:
    assert info.gt is None or isinstance(info, types.FloatType)
    if isinstance(info, types.IntType):
        most = info.lt - 1 if info.lt is not None else info.le
        assert info.ge is not None, "an integer without a least value"
        if most is not None:
            return f"{info.ge}..{most}"
        assert info.ge == 0
        return "uint"
    bounds = {".ge": info.ge, ".gt": info.gt, ".le": info.le, ".lt": info.lt}
    said = [f"(float {name} {float(b)!r})" for name, b in bounds.items() if b is not None]
    return " .and ".join(said) or "float"


def _text(info: types.StrType) -> str:
    ascii_only = info.pattern is not None and _ascii(info.pattern)
    most = info.max_length
    if most is not None and not ascii_only:
        most *= MOST_BYTES_OF_A_CHARACTER
    size = f"tstr{_size(info.min_length, most)}"
    if info.pattern is None:
        return size
    assert info.pattern.startswith("^") and info.pattern.endswith(r"\Z")
    pattern = info.pattern[1:-2].replace("\\", "\\\\")
    return f'({size}) .and (tstr .regexp "{pattern}")'


def _ascii(pattern: str) -> bool:
    outside = re.sub(r"\[[^]]*\]", "", pattern)
    return pattern.isascii() and "[^" not in pattern and "." not in outside


def _size(least: int | None, most: int | None) -> str:
    if least is not None and least == most:
        return f" .size {least}"
    if most is None:
        return ""
    return f" .size ({least or 0}..{most})"
