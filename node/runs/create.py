"""Creates a run: turns a TOML file into a complete manifest.

`create_manifest` pins the files that the TOML names (sources and tokenizer) by SHA-256. It refuses
a run that could never be trained, and names the field. Tables and fields are the manifest's own,
with two exceptions: `source.files`, `tokenizer.file` and `model.checkpoint` name files beside the
TOML (or addresses), and the revision of a `hub` source may be a branch. docs/runs.md has an
example.
"""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from dipaco.node.data.embedded_tokenizer import embedded_tokenizer
from dipaco.node.jobs.meter import OnProgress, silent
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.files import read_file
from dipaco.protocol.errors import ConfigError, LocalProtocolError
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.source import Source, Tokenizer
from dipaco.protocol.wire.canonical import Wire
from dipaco.protocol.wire.identity import PeerId

if TYPE_CHECKING:
    from dipaco.node.runs.warm_start import LlamaCheckpoint

MAX_TOML = 1 << 20  # bytes
END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class Created:
    """A new manifest and its tokenizer."""

    manifest: Manifest
    tokenizer: bytes | None
    """The file, for the blob store of the node that offers the run; None for the embedded one."""


def create_manifest(
    path: Path,
    *,
    owner: PeerId,
    schedulers: Sequence[PeerId] = (),
    rounds: int | None = None,
    data: Path | None = None,
    cache: Path | None = None,
    blobs: BlobStore | None = None,
    on_progress: OnProgress = silent,
) -> Created:
    """Read the TOML file of a run and return its manifest, all inputs pinned.

    owner        the PeerID of the owner; the file names none.
    schedulers   used if the file names none; if they are empty too, the owner is the scheduler.
    rounds       replaces the file's `training.rounds`.
    data         a folder whose parquet files, in order of name, replace `source.files`.
    cache        the folder that keeps files of https addresses; without it they are deleted again.
    blobs        the store that keeps the states of a warm start.
    on_progress  gets the progress of fetching files and counting rows.

    Raises ConfigError, which names the field, for a run that is malformed or cannot be trained,
    and Unavailable if a source cannot be reached.
    """
    tables = _tables(path)
    model, warm = _model(_table(tables, "model"), path)
    if data is not None:
        tables["source"] = _with_files_of(data, _table(tables, "source"), path)
    tokenizer, tokenizer_file = _tokenizer(_table(tables, "tokenizer"), path, warm)
    table = {
        **tables,
        "model": model,
        "owner": owner,
        "source": _plain(_source(_table(tables, "source"), path, cache, on_progress)),
        "tokenizer": _plain(tokenizer),
        "routing": _routing(_table(tables, "routing")),
        "grid": {"path_specific_blocks": (), **_table(tables, "grid")},
        "schedule": {
            "schedulers": tuple(schedulers) or (owner,),
            "members": (),
            **_table(tables, "schedule"),
        },
    }
    if rounds is not None:
        table["training"] = {**_table(tables, "training"), "rounds": rounds}
    try:
        manifest = msgspec.convert(table, Manifest, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {field_message(error)}") from None
    _check_enough(manifest, path)
    if warm is not None:
        manifest = _started(manifest, warm, path, blobs, on_progress)
    return Created(manifest, tokenizer_file)


def _model(table: dict[str, Any], path: Path) -> tuple[dict[str, Any], "LlamaCheckpoint | None"]:
    """Return the manifest's table, and the checkpoint to start from if the file names one."""
    folder = table.pop("checkpoint", None)
    if folder is None:
        return table, None
    from dipaco.node.runs.warm_start import read_checkpoint

    warm = read_checkpoint(path.parent / str(folder))
    _check_context(table, warm, path)
    for name, value in table.items():
        if name != "context" and value != warm.model.get(name):
            raise ConfigError(
                f"{path}: model.{name}: {value!r}, the checkpoint has {warm.model.get(name)!r}"
            )
    return {**warm.model, **table}, warm


def _check_context(table: dict[str, Any], warm: "LlamaCheckpoint", path: Path) -> None:
    """Refuse a context of more positions than the checkpoint was trained with."""
    context, known = table.get("context"), warm.model["context"]
    if type(context) is int and context > known:
        raise ConfigError(
            f"{path}: model.context: {context}, the checkpoint knows {known} positions "
            "(max_position_embeddings)"
        )


def _started(
    manifest: Manifest,
    warm: "LlamaCheckpoint",
    path: Path,
    blobs: BlobStore | None,
    on_progress: OnProgress,
) -> Manifest:
    """Write the states of a warm start into `blobs`; return the manifest that pins them."""
    from dipaco.node.runs.warm_start import keep_start

    if manifest.grid.blocks != warm.blocks:
        raise ConfigError(
            f"{path}: grid.levels: {manifest.grid.blocks} blocks, the checkpoint has {warm.blocks}"
        )
    if blobs is None:
        raise LocalProtocolError("a warm start needs a store for its states")
    return msgspec.structs.replace(manifest, start=keep_start(warm, manifest, blobs, on_progress))


def _check_enough(manifest: Manifest, path: Path) -> None:
    """Refuse a source that cannot feed the router and every path."""
    documents, sample = manifest.source.documents, manifest.routing.sample
    if documents < manifest.paths:
        raise ConfigError(f"{path}: source.documents: {documents} for {manifest.paths} paths")
    if manifest.routing.kind == "kmeans" and sample > documents:
        raise ConfigError(f"{path}: routing.sample: {sample} of {documents} documents")


def _with_files_of(folder: Path, table: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the source table with the parquet files of `folder` in place of its own."""
    from dipaco.node.data.sources.dispatch import kind_named

    kind = kind_named(table.get("kind"))
    if kind is None or "files" not in kind.table.__struct_fields__:
        raise ConfigError(
            f"data: {path} has no source of kind files, whose files could be replaced"
        )
    found = sorted(str(file) for file in folder.absolute().glob("*.parquet"))
    if not found:
        raise ConfigError(f"data: no .parquet files in {folder}")
    return {**table, "files": found}


def _source(
    table: dict[str, Any], path: Path, cache: Path | None, on_progress: OnProgress
) -> Source:
    from dipaco.node.data.sources.dispatch import KINDS, kind_named
    from dipaco.node.data.sources.interface import Pinning

    name = table.pop("kind", None)
    if (kind := kind_named(name)) is None:
        raise ConfigError(f"{path}: source.kind: {name!r} is none of {', '.join(KINDS)}")
    given = _read(table, kind.table, "source", path)
    try:
        return kind.pin(given, Pinning(path.parent, cache, on_progress))
    except ValueError as error:
        raise ConfigError(f"{path}: source.{error}") from None


def _tokenizer(
    table: dict[str, Any], path: Path, warm: "LlamaCheckpoint | None"
) -> tuple[Tokenizer, bytes | None]:
    """Return the tokenizer as the manifest states it, and its file; None for the embedded one."""
    given = _read(table, _TokenizerTable, "tokenizer", path)
    end: str | int | None = given.end_of_text
    if given.file is not None:
        file = path.parent / given.file
    elif warm is not None:
        file, end = warm.tokenizer, warm.end_of_text if end is None else end
    else:
        return embedded_tokenizer(), None
    from dipaco.node.data.tokenizers import pin_tokenizer

    pinned, data = pin_tokenizer(file, end_of_text=END_OF_TEXT if end is None else end)
    if warm is not None:
        if pinned.vocabulary > warm.vocabulary:
            raise ConfigError(
                f"{path}: tokenizer.file: {pinned.vocabulary} ids, the checkpoint's embedding has "
                f"{warm.vocabulary}"
            )
        pinned = msgspec.structs.replace(pinned, vocabulary=warm.vocabulary)
    if given.sha256 is not None and given.sha256 != pinned.sha256.hex():
        raise ConfigError(
            f"{path}: tokenizer.sha256: {given.sha256}, but the file has {pinned.sha256.hex()}"
        )
    return pinned, data


def _routing(table: dict[str, Any]) -> dict[str, Any]:
    if isinstance(beacon := table.get("beacon"), str):
        try:
            table["beacon"] = bytes.fromhex(beacon)
        except ValueError:
            raise ConfigError(f"routing.beacon: {beacon!r} is not hexadecimal") from None
    return table


class _TokenizerTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `tokenizer` of a run's TOML file; the manifest states the facts of the file."""

    file: str | None = None
    """Relative to the TOML file; without one, the checkpoint's, or the embedded tokenizer."""
    end_of_text: str | None = None
    """[that of the checkpoint of a warm start, else `END_OF_TEXT`]"""
    sha256: str | None = None
    """The digest that the file must have, if it is given."""


T = TypeVar("T", bound=msgspec.Struct)


def _read(table: dict[str, Any], kind: type[T], name: str, path: Path) -> T:
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {name}.{field_message(error)}") from None


def _plain(value: Wire) -> Any:
    return msgspec.to_builtins(value, builtin_types=(bytes,))


def _tables(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_file(path, limit=MAX_TOML).decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def _table(tables: dict[str, Any], name: str) -> dict[str, Any]:
    table = tables.get(name, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{name}: not a table")
    return dict(table)


def field_message(error: msgspec.ValidationError) -> str:
    """Return `model.heads: ...` for msgspec's `... - at `$.model.heads``."""
    words, _, place = str(error).partition(" - at `$")
    place = place.strip("`.")
    unknown = re.fullmatch(r"Object contains unknown field `(.+)`", words)
    missing = re.fullmatch(r"Object missing required field `(.+)`", words)
    named = re.fullmatch(r"([a-z_.]+): (.+)", words)
    for match, reason in ((unknown, "no such field"), (missing, "is missing")):
        if match:
            named = re.fullmatch(r"(.+)\n(.+)", f"{match[1]}\n{reason}")
    field, reason = (named[1], named[2]) if named else ("", words)
    return f"{'.'.join(part for part in (place, field) if part)}: {reason}"
