"""Rows of pinned files: the common part of the kinds `embedded`, `files` and `hub`.

A file is hashed before its first row is used, once per process while it stays unchanged. So no row
of a file is used that is not the pinned one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

from dipaco.node.data.readers import Content, file_format, local_content, read_rows
from dipaco.node.data.sources.interface import Access, RowRange, SourceRow
from dipaco.node.jobs.meter import Meter, OnProgress
from dipaco.node.storage.files import hash_file
from dipaco.protocol.errors import ConfigError, Refusal, Unavailable
from dipaco.protocol.run.source import MAX_FILES, Source, SourceFile
from dipaco.protocol.wire.digest import Digest, short

MAX_REMEMBERED = MAX_FILES  # files whose digest is cached

OpenContent = Callable[[], Content]
"""Returns a file's content; it is called, and fetches or hashes, when the first row is wanted."""


def count_documents(
    content: Content, field: str, on_progress: OnProgress, stop: int | None = None
) -> int:
    """Read all rows, or the first `stop`, and return their number."""
    meter, count = Meter(on_progress, "count", stop or 0), 0
    for row, _ in read_rows(content, field):
        count = row + 1
        meter.at(count)
        if count == stop:
            break
    return count


def check_enough(source: Source, **asked: int | None) -> None:
    """Raise ValueError, which begins with the field, if a field has less than was asked for."""
    for name, wanted in asked.items():
        if wanted is not None and wanted > (found := getattr(source, name)):
            raise ValueError(f"{name}: {wanted}, but the files hold {found}")


def file_rows(source: Source, contents: Sequence[tuple[SourceFile, OpenContent]]) -> RowRange:
    """Return a function that reads rows of the files of `source`, opening each when it is needed.

    Raises Refusal for a file of an unknown format.
    """
    for file, _ in contents:
        file_format(file.name)
    return partial(_file_rows, source.text_field, contents)


def fetched(
    file: SourceFile,
    fetch: Callable[[int], Iterator[bytes]],
    access: Access,
    on_progress: OnProgress,
) -> Content:
    """Fetch a file whole, unless it is there; a file damaged on the disk is fetched again."""
    if access.downloads is None:
        raise ConfigError(f"source.files: {file.name}: there is no folder for downloads")
    path = access.downloads.get(file, fetch, on_progress)
    try:
        return checked(path, file)
    except Unavailable:
        access.downloads.forget(file)
        return checked(access.downloads.get(file, fetch, on_progress), file)


def _file_rows(
    field: str, contents: Sequence[tuple[SourceFile, OpenContent]], start: int, stop: int
) -> Iterator[SourceRow]:
    """Yield the rows `start` to `stop` - 1, numbered over all files in the manifest's order."""
    first = 0  # the index of the file's first row
    for file, open_content in contents:
        if first >= stop:
            return
        if start < first + file.rows and file.rows:
            wanted = min(file.rows, stop - first)
            skip = max(0, start - first)
            for row, text in _some_rows(file, open_content(), field, skip, wanted):
                yield {"index": first + row, "text": text}
        first += file.rows


def _some_rows(
    file: SourceFile, content: Content, field: str, skip: int, stop: int
) -> Iterator[tuple[int, str]]:
    """Yield the rows `skip` to `stop` - 1 of a file; raises Refusal if it has fewer."""
    done = skip
    try:
        for row, text in read_rows(content, field, skip):
            yield row, text
            done = row + 1
            if done == stop:
                content.check()
                return
    except Refusal:
        content.check()  # a file that changed meanwhile is not the run's fault
        raise
    content.check()
    raise Refusal(f"source.files: {file.name}: fewer rows than the {file.rows} that the run states")


def checked(path: Path, file: SourceFile) -> Content:
    """Return a local file's content; raises Unavailable unless it is the pinned file."""
    _check(path, file)
    return replace(local_content(path, file.name), check=partial(_check, path, file))


def _check(path: Path, file: SourceFile) -> None:
    found = _size_of(path)
    if found != file.size:
        raise Unavailable(f"source.files: {path}: {found} bytes where the run pins {file.size}")
    status = path.stat()
    if _hash_of(path, found, status.st_mtime_ns, status.st_ino) != file.sha256:
        raise Unavailable(
            f"source.files: {path}: not the file that the run pins (SHA-256 "
            f"{short(file.sha256)}...)"
        )


@lru_cache(maxsize=MAX_REMEMBERED)
def _hash_of(path: Path, size: int, changed: int, inode: int) -> Digest:
    """Return the digest of a file; size, time of change and inode are the key of the cache."""
    return hash_file(path)


def _size_of(path: Path) -> int:
    try:
        if not path.is_file():
            raise Unavailable(f"source.files: {path}: no such file")
        return path.stat().st_size
    except OSError as error:
        raise Unavailable(f"source.files: {path}: {error.strerror}") from error
