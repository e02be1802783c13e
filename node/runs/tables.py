"""The TOML file of a run: its tables and fields, and what is wrong with one that a person wrote.

The tables are the manifest's own types. `source` and `tokenizer` are types of their own, since the
manifest states facts of files that the TOML file only names; `model` may name a checkpoint.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from dipaco.node.data.sources.interface import FileName
from dipaco.node.storage.toml import read_toml
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.run.manifest import Manifest, Name, Routing, Scheduling
from dipaco.protocol.run.model_shape import Grid, Model
from dipaco.protocol.run.training import Adam, Inner, Muon, Training
from dipaco.protocol.wire.faults import fault_of, nearest, shown
from dipaco.protocol.wire.text import one_line

HexDigest = Annotated[
    str, Meta(pattern=r"^[0-9a-f]{64}\Z", description="64 hexadecimal digits in quotes")
]


class TokenizerTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `tokenizer`; the manifest states the facts of the file."""

    file: FileName | None = None
    """Relative to the TOML file; without one, the checkpoint's, or the embedded tokenizer."""
    end_of_text: str | None = None
    """[that of the checkpoint of a warm start, else `END_OF_TEXT`]"""
    sha256: HexDigest | None = None
    """The digest that the file must have, if it is given."""


SEED: Final = {f.name: f.type for f in msgspec.structs.fields(Manifest)}["seed"]
PLAIN: Final[dict[str, Any]] = {"name": Name, "seed": SEED}
"""The fields above the first table."""
TABLES: Final[dict[str, type[msgspec.Struct]]] = {
    "tokenizer": TokenizerTable,
    "model": Model,
    "grid": Grid,
    "routing": Routing,
    "training": Training,
    "schedule": Scheduling,
}
"""Every table but `source`, whose fields depend on its kind."""
INNER: Final[dict[str, type[Adam] | type[Muon]]] = {"adamw": Adam, "muon": Muon}
"""The inner optimizers, by `training.inner.kind`; the first is that of a file without the field."""
CHECKPOINT: Final = "checkpoint"
"""The field of `model` that names a folder to start from."""


def read_tables(path: Path) -> dict[str, Any]:
    """Return the tables of a run's TOML file, every name in them known, each plain field right.

    Raises ConfigError, which names file and field.
    """
    tables = read_toml(path)
    if not tables:
        raise ConfigError(f"{path}: is empty; `dipaco-node run init` prints one that runs")
    known = known_fields()
    for place in _places(tables):
        if place not in known:
            raise ConfigError(f"{path}: {one_line(place)}: {_unknown(place, known)}")
    for name in ("source", *TABLES):
        if not isinstance(table := tables.setdefault(name, {}), dict):
            raise ConfigError(f"{path}: {name}: {shown(table)} is not a table: [{name}]")
    for name, kind in PLAIN.items():
        if name not in tables:
            raise ConfigError(f"{path}: {name}: is missing; it stands above the first [table]")
        convert_field(tables[name], kind, name, path)
    return tables


def convert_field(value: Any, kind: Any, place: str, path: Path) -> Any:
    """Return `value` as a `kind`; raises ConfigError, which names file and field."""
    try:
        return msgspec.convert(value, kind, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        inner, reason = fault_of(error, value, kind)
        where = ".".join(part for part in (place, inner) if part)
        raise ConfigError(f"{path}: {where}: {reason}") from None


S = TypeVar("S", bound=msgspec.Struct)


def convert_table(table: dict[str, Any], kind: type[S], name: str, path: Path) -> S:
    """Return a table as a `kind`; raises ConfigError, which names file, table and field."""
    value = convert_field(table, kind, name, path)
    assert isinstance(value, kind)
    return value


def inner_optimizer(given: Any, path: Path) -> Inner:
    """Return the table `training.inner` as the manifest states it.

    Raises ConfigError, which names file and field.
    """
    place, name = "training.inner", "adamw"
    if isinstance(given, dict):
        name = given.get("kind", name)
        given = {field: value for field, value in given.items() if field != "kind"}
    kind = INNER.get(name) if isinstance(name, str) else None
    if kind is None:
        hint = nearest(name, INNER) if isinstance(name, str) else ""
        raise ConfigError(
            f"{path}: {place}.kind: {shown(name)} is not one of {', '.join(INNER)}{hint}"
        )
    fields = [field.name for field in msgspec.structs.fields(kind)]
    for field in given if isinstance(given, dict) else ():
        if field not in fields:
            raise ConfigError(
                f"{path}: {place}.{field}: {name} has none; it has {', '.join(fields)}"
            )
    return convert_table(given, kind, place, path)


def known_fields() -> frozenset[str]:
    """Return the dotted name of every table and field that the TOML file of a run may have."""
    from dipaco.node.data.sources.dispatch import KINDS

    found = {*PLAIN, "source", "source.kind", "training.inner.kind", f"model.{CHECKPOINT}"}
    for kind in KINDS.values():
        found.update(f"source.{field.name}" for field in msgspec.structs.fields(kind.table))
    for name, table in TABLES.items():
        found |= {name, *_fields(name, table)}
    return frozenset(found)


def _fields(prefix: str, table: type[msgspec.Struct]) -> Iterator[str]:
    for field in msgspec.structs.fields(table):
        name = f"{prefix}.{field.name}"
        yield name
        for inner in _structs(field.type):
            yield from _fields(name, inner)


def _structs(kind: Any) -> Iterator[type[msgspec.Struct]]:
    """Yield the struct types within a field's type, such as `Level` in a tuple of levels."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
    for argument in getattr(kind, "__args__", ()):
        yield from _structs(argument)


def _places(table: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted name of every table and field, from the top down."""
    for name, value in table.items():
        yield (place := f"{prefix}{name}")
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, dict):
                yield from _places(inner, f"{place}.")


def _unknown(place: str, known: frozenset[str]) -> str:
    """Return the reason for a name that is none, with the nearest that is."""
    table, _, name = place.rpartition(".")
    if place in ("owner", "format", "start"):
        return "the manifest's own, which `run create` fills in (the owner: --owner or --key)"
    if name in known:
        above = f"{name} stands above the first [table]"
        return f"no such field; {above if name in PLAIN else f'did you mean [{name}]?'}"
    same = sorted(each for each in known if each.rpartition(".")[2] == name)
    if same:
        return f"no such field; {name} stands in [{same[0].rpartition('.')[0]}]"
    beside = sorted(each.rpartition(".")[2] for each in known if each.rpartition(".")[0] == table)
    listed = ", ".join(beside)
    if not table:
        return f"no such table or field{nearest(name, beside) or f'; there are {listed}'}"
    hint = nearest(name, beside).replace("did you mean ", f"did you mean {table}.")
    return f"no such field{hint or f'; [{table}] has {listed}'}"
