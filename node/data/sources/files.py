"""Sources of kind `files`: files of this machine, files at https addresses, or both.

A file of this machine is read only if the operator allows it. A file at an address is fetched
whole. Both are hashed before the first row is used.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import msgspec

from dipaco.node.data.downloads import Downloads
from dipaco.node.data.https import PREFIX, HttpsFile
from dipaco.node.data.readers import file_format, local_content
from dipaco.node.data.sources.interface import (
    Access,
    FileName,
    Pinning,
    Reach,
    RowRange,
    SourceKind,
    SourceTable,
)
from dipaco.node.data.sources.pinned_files import (
    OpenContent,
    check_enough,
    checked,
    count_documents,
    fetched,
    file_rows,
)
from dipaco.node.home_folder import expanded
from dipaco.node.jobs.meter import OnProgress, silent
from dipaco.node.storage.files import hash_file
from dipaco.protocol.errors import ConfigError, Refusal
from dipaco.protocol.run.source import MAX_FILES, Count, Source, SourceFile
from dipaco.protocol.wire.text import is_utf8, one_line

REVISION = "pinned"
MAX_DOWNLOADS = 10 * 10**9  # bytes: the default size of a volunteer's cache


class FilesTable(SourceTable, frozen=True, kw_only=True):
    """The table `source` of a run's TOML file."""

    files: Annotated[tuple[FileName, ...], msgspec.Meta(min_length=1, max_length=MAX_FILES)]
    """Relative to the TOML file, or https addresses."""
    text_field: str = "text"
    documents: Count | None = None
    window: Count | None = None


# ------------------------------------------------------------------------ pinning


def _pin(table: FilesTable, pinning: Pinning) -> Source:
    with _field_named(), TemporaryDirectory(prefix="dipaco-run-") as scratch:
        source = pin_files(
            _places(table.files, pinning.folder),
            text_field=table.text_field,
            documents=table.documents,
            window=table.window,
            downloads=Downloads(pinning.cache or Path(scratch), MAX_DOWNLOADS),
            on_progress=pinning.on_progress,
        )
    check_enough(source, documents=table.documents, window=table.window)
    return source


@contextmanager
def _field_named() -> Iterator[None]:
    """Put the field before an error's text that does not begin with one."""
    try:
        yield
    except ConfigError as error:
        named = str(error).startswith("source.")
        raise ConfigError(str(error) if named else f"source.files: {error}") from error


def _places(names: Sequence[str], folder: Path) -> list[Path | str]:
    """Return the paths and addresses of `files`; raises ConfigError for one that is there twice."""
    found = [n if _is_address(n) else _local(n, folder).absolute() for n in names]
    for name, place in zip(names, found, strict=True):
        if found.count(place) > 1:
            raise ConfigError(f"source.files: {name} is listed twice; its rows would count twice")
    return found


def _local(name: str, folder: Path) -> Path:
    """Return the path of a local file; raises ConfigError for a name that is none."""
    if "://" in name:
        raise ConfigError(f"source.files: {name}: files are fetched over https alone: use https://")
    path = folder / expanded(Path(name))
    try:
        if path.is_dir():
            raise ConfigError(f"source.files: {path} is a folder: list its files")
        if set(name) & set("*?[") and not path.exists():
            raise ConfigError(f"source.files: {path}: patterns are not expanded: list the files")
    except OSError as error:
        raise ConfigError(f"source.files: cannot read {path}: {error.strerror}") from error
    return path


def pin_files(
    names: Sequence[Path | str],
    *,
    text_field: str = "text",
    documents: int | None = None,
    window: int | None = None,
    downloads: Downloads | None = None,
    on_progress: OnProgress = silent,
) -> Source:
    """Return local files and https addresses as a manifest states them; reads every row once.

    documents   the number of rows to use, from the first on; by default all.
    window      documents of one window; by default all.
    downloads   the folder for files of addresses; without it no address can be named.

    Raises ConfigError for files that no run can use, Unavailable for an address that is away.
    """
    if not names:
        raise ConfigError("source.files: none given")
    try:
        pinned = tuple(_pinned(name, text_field, downloads, on_progress) for name in names)
    except Refusal as error:
        raise ConfigError(str(error)) from error
    count = sum(file.rows for file in pinned)
    if count == 0:
        raise ConfigError("source.files: no documents in them")
    documents = count if documents is None else min(documents, count)
    return Source(
        kind="files",
        revision=REVISION,
        files=pinned,
        text_field=text_field,
        documents=documents,
        window=documents if window is None else min(window, documents),
    )


def _pinned(
    name: Path | str, field: str, downloads: Downloads | None, on_progress: OnProgress
) -> SourceFile:
    if _is_address(str(name)):
        return _pinned_address(str(name), field, downloads, on_progress)
    path = Path(name).absolute()
    file_format(path.name)
    if not is_utf8(str(path)):
        plain = one_line(str(path))
        raise ConfigError(f"source.files: {plain}: the path is not UTF-8, no manifest can name it")
    if not path.is_file():
        raise ConfigError(f"source.files: {path}: no such file")
    size, digest = path.stat().st_size, hash_file(path)
    rows = count_documents(local_content(path), field, on_progress)
    return SourceFile(name=str(path), size=size, sha256=digest, rows=rows)


def _pinned_address(
    url: str, field: str, downloads: Downloads | None, on_progress: OnProgress
) -> SourceFile:
    """Fetch the file of an address; its author may name machines of the own network."""
    if downloads is None:
        raise ConfigError(f"source.files: {url}: there is no folder for downloads")
    file_format(url)
    path, size, digest = downloads.get_unpinned(
        url, HttpsFile(url, private=True).pieces, on_progress
    )
    rows = count_documents(local_content(path, url), field, on_progress)
    return SourceFile(name=url, size=size, sha256=digest, rows=rows)


# ------------------------------------------------------------------------ reading


def _open(source: Source, access: Access, on_progress: OnProgress) -> RowRange:
    return file_rows(source, [(f, _content(f, access, on_progress)) for f in source.files])


def _content(file: SourceFile, access: Access, on_progress: OnProgress) -> OpenContent:
    if _is_address(file.name):
        remote = HttpsFile(file.name, private=access.local_sources, size=file.size)
        return partial(fetched, file, remote.pieces, access, on_progress)
    if not access.local_sources:
        raise ConfigError(
            "run.local_sources: this run names files of this machine; allow that only for your "
            "own runs"
        )
    path = Path(file.name)
    if not path.is_absolute():
        raise Refusal(f"source.files: {path}: not an absolute path, nor an https address")
    return partial(checked, path, file)


def _is_address(name: str) -> bool:
    return name.startswith(PREFIX)


# ------------------------------------------------------------------------ examining


def _reachable(source: Source, access: Access) -> Reach:
    try:
        _open(source, replace(access, local_sources=True), silent)
    except Refusal as error:
        return Reach(str(error), cure="tell the run's owner: no node can read it")
    try:
        _open(source, access, silent)
    except (ConfigError, Refusal) as error:
        cure = "set run.local_sources if you trust the run's owner to name files of yours"
        return Reach(str(error), cure=cure)
    local = [file.name for file in source.files if not _is_address(file.name)]
    missing = [name for name in local if not os.access(name, os.R_OK)]
    if missing:
        words = f"{len(missing)} of {_files(len(local))} cannot be read, first {missing[0]}"
        return Reach(words, cure="put them at the paths that the run's manifest names")
    here = [f"{_files(len(local))} of this machine"] if local else []
    remote = len(source.files) - len(local)
    away = [f"{_files(remote)} at https addresses, not tried here"] if remote else []
    return Reach(" and ".join(here + away))


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


KIND = SourceKind(table=FilesTable, pin=_pin, open=_open, reachable=_reachable)
