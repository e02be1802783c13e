"""Creates a run: turns a TOML file into a complete manifest.

`create_manifest` pins the files that the TOML names (sources and tokenizer) by SHA-256. It refuses
a run that could never be trained, and names the field. Tables and fields are the manifest's own,
with two exceptions: `source.files`, `tokenizer.file` and `model.checkpoint` name files beside the
TOML (or addresses), and the revision of a `hub` source may be a branch. docs/runs.md has an
example.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from dipaco.node.data.embedded_tokenizer import embedded_tokenizer
from dipaco.node.data.sources.interface import FileName
from dipaco.node.jobs.meter import OnProgress, silent
from dipaco.node.runs.files import peer_named
from dipaco.node.runs.tables import (
    CHECKPOINT,
    TABLES,
    TokenizerTable,
    convert_field,
    convert_table,
    inner_optimizer,
    read_tables,
)
from dipaco.node.storage.blobs import BlobStore
from dipaco.protocol.errors import ConfigError, LocalProtocolError
from dipaco.protocol.run.exactness import BAG_SIGN
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.source import Source, Tokenizer
from dipaco.protocol.wire.canonical import Wire
from dipaco.protocol.wire.faults import nearest, shown
from dipaco.protocol.wire.identity import PeerId

if TYPE_CHECKING:
    from dipaco.node.runs.warm_start import LlamaCheckpoint

END_OF_TEXT = "<|endoftext|>"
BAG_SIGN_COLUMNS = 256  # `routing.dimension` of a file that names that featurizer alone


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
    tables = read_tables(path)
    tables["model"], warm = _model(tables["model"], path)
    _hexadecimal(tables["routing"], "routing", "beacon", path)
    _hexadecimal(tables["training"], "training", "batch_order", path)
    if tables["routing"].get("featurizer") == BAG_SIGN:
        tables["routing"].setdefault("dimension", BAG_SIGN_COLUMNS)
    if "inner" in tables["training"]:
        tables["training"]["inner"] = _plain(inner_optimizer(tables["training"]["inner"], path))
    tables["schedule"] = {"schedulers": tuple(schedulers) or (owner,), **tables["schedule"]}
    if rounds is not None:
        tables["training"]["rounds"] = rounds
    if data is not None:
        tables["source"] = _with_files_of(data, tables["source"], path)
    for name, kind in TABLES.items():  # before a source is fetched and counted
        convert_table(tables[name], kind, name, path)
    _check_peers(tables["schedule"], path)
    tokenizer, tokenizer_file = _tokenizer(tables["tokenizer"], path, warm)
    source = _source(tables["source"], path, cache, on_progress)
    table = {**tables, "owner": owner, "source": _plain(source), "tokenizer": _plain(tokenizer)}
    manifest: Manifest = convert_field(table, Manifest, "", path)
    _check_enough(manifest, path)
    if warm is not None:
        manifest = _started(manifest, warm, path, blobs, on_progress)
    return Created(manifest, tokenizer_file)


def _model(table: dict[str, Any], path: Path) -> tuple[dict[str, Any], "LlamaCheckpoint | None"]:
    """Return the manifest's table, and the checkpoint to start from if the file names one."""
    folder = table.pop(CHECKPOINT, None)
    if folder is None:
        return table, None
    from dipaco.node.runs.warm_start import read_checkpoint

    place = f"model.{CHECKPOINT}"
    name = convert_field(folder, FileName, place, path)
    with _named(path, place):
        warm = read_checkpoint(path.parent / name)
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
        found = "is missing:" if name is None else f"{shown(name)} is not"
        hint = nearest(name, KINDS) if isinstance(name, str) else ""
        raise ConfigError(f"{path}: source.kind: {found} one of {', '.join(KINDS)}{hint}")
    fields = kind.table.__struct_fields__
    for field in table:
        if field not in fields:
            raise ConfigError(
                f"{path}: source.{field}: a source of kind {name} has none; it has "
                f"{', '.join(fields)}"
            )
    given = convert_table(table, kind.table, "source", path)
    try:
        with _named(path):
            return kind.pin(given, Pinning(path.parent, cache, on_progress))
    except ValueError as error:
        raise ConfigError(f"{path}: source.{error}") from None


def _tokenizer(
    table: dict[str, Any], path: Path, warm: "LlamaCheckpoint | None"
) -> tuple[Tokenizer, bytes | None]:
    """Return the tokenizer as the manifest states it, and its file; None for the embedded one."""
    given = convert_table(table, TokenizerTable, "tokenizer", path)
    end: str | int | None = given.end_of_text
    if given.file is not None:
        file = path.parent / given.file
    elif warm is not None:
        file, end = warm.tokenizer, warm.end_of_text if end is None else end
    else:
        _check_embedded(given, path)
        return embedded_tokenizer(), None
    from dipaco.node.data.tokenizers import pin_tokenizer

    with _named(path, "tokenizer.file" if given.file is not None else f"model.{CHECKPOINT}"):
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


def _check_embedded(given: TokenizerTable, path: Path) -> None:
    """Refuse facts of a tokenizer file where the embedded tokenizer, which has others, is used."""
    facts = {"end_of_text": END_OF_TEXT, "sha256": embedded_tokenizer().sha256.hex()}
    for name, fact in facts.items():
        if getattr(given, name) not in (None, fact):
            raise ConfigError(
                f"{path}: tokenizer.{name}: needs tokenizer.file; without it the run "
                "has the packaged tokenizer"
            )


def _check_peers(schedule: dict[str, Any], path: Path) -> None:
    """Refuse a PeerID that no key can have."""
    for field in ("schedulers", "members", "keepers"):
        for peer in schedule.get(field, ()):
            peer_named(peer, f"{path}: schedule.{field}")


def _hexadecimal(table: dict[str, Any], name: str, field: str, path: Path) -> None:
    """Replace the hexadecimal text of a field, if it is there, by its bytes."""
    if (given := table.get(field)) is None:
        return
    place = f"{name}.{field}"
    try:
        table[field] = bytes.fromhex(convert_field(given, str, place, path))
    except ValueError:
        raise ConfigError(f"{path}: {place}: {shown(given)} is not hexadecimal") from None


@contextmanager
def _named(path: Path, field: str = "") -> Iterator[None]:
    """Put the TOML file, and the field that names another file, before an error's text."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(
            ": ".join(part for part in (str(path), field, str(error)) if part)
        ) from error


def _plain(value: Wire) -> Any:
    return msgspec.to_builtins(value, builtin_types=(bytes,))
