"""The public source of a run as a stream of numbered rows, through the `datasets` library.

`rows` gives every kind of source the same shape: an `IterableDataset` of `SourceRow`. Nothing here
needs the network, an account or a cache folder. A file is hashed before its first row is used,
once per process while it stays unchanged, so a file that is not the pinned one is never read.

`datasets` takes more than a second to import: only worker processes and `run create` call this.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypedDict

from dipaco.node.data.embedded import embedded_paths
from dipaco.node.data.readers import count_rows, file_format, read_rows
from dipaco.node.data.synthetic import REVISION as SYNTHETIC_REVISION
from dipaco.node.data.synthetic import synthetic_text
from dipaco.node.storage.files import hash_file
from dipaco.protocol.digest import Digest, short
from dipaco.protocol.errors import ConfigError, Refusal, Unavailable
from dipaco.protocol.manifest import MAX_FILES, Source, SourceFile

FILES_REVISION = "local"
MAX_REMEMBERED = MAX_FILES  # files whose digest is known


class SourceRow(TypedDict):
    """One row of a source."""

    index: int
    """Counted from 0 over every row of the source."""
    text: str


def rows(source: Source, *, start: int, stop: int, local_files: bool) -> Iterable[SourceRow]:
    """Return the rows `start` to `stop` - 1 of a source, or up to its end: an IterableDataset.

    local_files   whether the operator allows a run to name files of this machine.

    Raises ConfigError where he does not, and Unavailable if a file is away or is not the pinned
    one; reading raises Refusal for content that cannot be what the run claims.
    """
    span = {"start": start, "stop": min(stop, source.documents)}
    if source.kind == "synthetic":
        if source.revision != SYNTHETIC_REVISION:
            raise Unavailable(
                f"source.revision: this version knows synthetic documents {SYNTHETIC_REVISION}, "
                f"not {source.revision}"
            )
        return _stream(_synthetic_rows, span)
    paths = embedded_paths(source) if source.kind == "embedded" else _local(source, local_files)
    pinned = {
        "paths": tuple(map(str, paths)),
        "digests": tuple(file.sha256 for file in source.files),
        "sizes": tuple(file.size for file in source.files),
        "field": source.text_field,
    }
    return _stream(_file_rows, pinned | span)


def _stream(
    generator: Callable[..., Iterator[SourceRow]], given: dict[str, Any]
) -> Iterable[SourceRow]:
    stream: Iterable[SourceRow] = import_datasets().IterableDataset.from_generator(
        generator, gen_kwargs=given
    )
    return stream


def pin_files(
    paths: Sequence[Path],
    *,
    text_field: str = "text",
    documents: int | None = None,
    window: int | None = None,
) -> Source:
    """Return local files as a manifest states them: hashed, and every row read once.

    documents   only the first so many rows; by default all.
    window      documents of one window; by default all.

    Raises ConfigError for files that no run can use.
    """
    if not paths:
        raise ConfigError("source.files: none given")
    try:
        pinned = tuple(_pin(path.expanduser().absolute()) for path in paths)
        count = sum(_count_good_rows(Path(file.name), text_field) for file in pinned)
    except (Refusal, Unavailable) as error:
        raise ConfigError(str(error)) from error
    if count == 0:
        raise ConfigError("source.files: no documents in them")
    documents = count if documents is None else min(documents, count)
    return Source(
        kind="files",
        revision=FILES_REVISION,
        files=pinned,
        text_field=text_field,
        documents=documents,
        window=documents if window is None else min(window, documents),
    )


def _pin(path: Path) -> SourceFile:
    file_format(path.name)
    return SourceFile(name=str(path), size=_size_of(path), sha256=hash_file(path))


def _count_good_rows(path: Path, field: str) -> int:
    return sum(1 for _ in read_rows(path, field))


def _local(source: Source, allowed: bool) -> tuple[Path, ...]:
    if not allowed:
        raise ConfigError(
            "run.local_sources: this run names files of this machine; allow that only for runs "
            "of your own"
        )
    paths = tuple(Path(file.name) for file in source.files)
    for path in paths:
        file_format(path.name)
        if not path.is_absolute():
            raise Refusal(f"source.files: {path}: not an absolute path")
    return paths


def _synthetic_rows(start: int, stop: int) -> Iterator[SourceRow]:
    for index in range(start, stop):
        yield {"index": index, "text": synthetic_text(index)}


def _file_rows(
    paths: tuple[str, ...],
    digests: tuple[Digest, ...],
    sizes: tuple[int, ...],
    field: str,
    start: int,
    stop: int,
) -> Iterator[SourceRow]:
    """Rows are counted over all files, in the manifest's order."""
    first = 0  # the index of the file's first row
    for path, digest, size in zip(map(Path, paths), digests, sizes, strict=True):
        if first >= stop:
            return
        _check(path, digest, size)
        skip = max(0, start - first)
        if skip and (count := count_rows(path)) <= skip:
            first += count
            continue
        row = -1
        for row, text in read_rows(path, field, skip):
            if first + row >= stop:
                return
            yield {"index": first + row, "text": text}
        first += row + 1


def _check(path: Path, digest: Digest, size: int) -> None:
    """Raise Unavailable unless the file is the pinned one."""
    found = _size_of(path)
    if found != size:
        raise Unavailable(f"source.files: {path}: {found} bytes where the run pins {size}")
    status = path.stat()
    if _hash_of(path, found, status.st_mtime_ns, status.st_ino) != digest:
        raise Unavailable(
            f"source.files: {path}: not the file that the run pins (SHA-256 {short(digest)}...)"
        )


@lru_cache(maxsize=MAX_REMEMBERED)
def _hash_of(path: Path, size: int, changed: int, inode: int) -> Digest:
    """The digest of a file in a state that these marks tell apart from others."""
    return hash_file(path)


def _size_of(path: Path) -> int:
    try:
        if not path.is_file():
            raise Unavailable(f"source.files: {path}: no such file")
        return path.stat().st_size
    except OSError as error:
        raise Unavailable(f"source.files: {path}: {error.strerror}") from error


@lru_cache(maxsize=1)
def import_datasets() -> Any:
    """Return the `datasets` module, cut off from what is outside: hub, telemetry, home, torch.

    It leaves lock files in its cache folder, which therefore is a scratch folder of the process.
    With torch it would take 190 MB and two seconds more.
    """
    scratch = tempfile.mkdtemp(prefix="dipaco-datasets-")
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    os.environ.update(
        HF_HOME=scratch,
        HF_DATASETS_CACHE=os.path.join(scratch, "datasets"),
        HF_HUB_OFFLINE="1",
        HF_DATASETS_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_DATASETS_DISABLE_PROGRESS_BARS="1",
        USE_TORCH="0",
    )
    import datasets  # type: ignore[import-untyped]

    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    return datasets
