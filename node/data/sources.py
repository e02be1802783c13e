"""The public source of a run as a stream of numbered rows, through the `datasets` library.

`rows` gives every kind of source the same shape: an `IterableDataset` of `SourceRow`. A file is
hashed before its first row is used, once per process while it stays unchanged, so a file that is
not the pinned one is never read; only what is streamed from the hub is pinned by its commit alone
(`is_authenticated`).

`datasets` takes more than a second to import: only worker processes and `run create` call this.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TypedDict

from dipaco.node.data.downloads import Downloads
from dipaco.node.data.embedded import embedded_paths
from dipaco.node.data.https import PREFIX, HttpsFile
from dipaco.node.data.hub import Hub
from dipaco.node.data.library import import_datasets
from dipaco.node.data.patience import Patience
from dipaco.node.data.progress import OnProgress, silent
from dipaco.node.data.readers import Content, file_format, local_content, read_rows
from dipaco.node.data.synthetic import REVISION as SYNTHETIC_REVISION
from dipaco.node.data.synthetic import synthetic_text
from dipaco.node.storage.files import hash_file
from dipaco.protocol.digest import Digest, short
from dipaco.protocol.errors import ConfigError, Refusal, Unavailable
from dipaco.protocol.source import MAX_FILES, Source, SourceFile

MAX_REMEMBERED = MAX_FILES  # files whose digest is known


class SourceRow(TypedDict):
    """One row of a source."""

    index: int
    """Counted from 0 over every row of the source."""
    text: str


@dataclass(frozen=True)
class Access:
    """What this node allows a run's source, and where it keeps what it fetched."""

    local_sources: bool = False
    """Whether a run may name files and addresses of this machine and its network."""
    downloads: Downloads | None = None
    """Where files fetched whole are kept; without it none can be fetched."""
    whole_files: bool = False
    """Whether files of the hub are fetched whole and hashed before use, not streamed."""
    patience: Patience = field(default_factory=Patience)
    """With what is streamed."""


def is_authenticated(source: Source, access: Access) -> bool:
    """Return whether every row that `rows` gives comes from bytes of the manifest's SHA-256."""
    return source.kind != "hub" or access.whole_files


def rows(
    source: Source,
    *,
    start: int,
    stop: int,
    access: Access,
    on_progress: OnProgress = silent,
) -> Iterable[SourceRow]:
    """Return the rows `start` to `stop` - 1 of a source, or up to its end: an IterableDataset.

    on_progress   hears of files that are fetched whole; of rows whoever reads them tells.

    Raises ConfigError for what the operator does not allow, and Refusal for a file that no run can
    name. Reading raises Unavailable if the source is away or a file is not the pinned one, and
    Refusal for content that cannot be what the run claims.
    """
    start, stop = max(0, start), min(stop, source.documents)
    if source.kind == "synthetic":
        if source.revision != SYNTHETIC_REVISION:
            raise Unavailable(
                f"source.revision: this version knows synthetic documents {SYNTHETIC_REVISION}, "
                f"not {source.revision}"
            )
        return _stream(partial(_synthetic_rows, start, stop), hub=False)
    contents = _contents(source, access, on_progress)
    return _stream(partial(_file_rows, source, contents, start, stop), hub=source.kind == "hub")


def _stream(generate: Callable[[], Iterator[SourceRow]], *, hub: bool) -> Iterable[SourceRow]:
    datasets = import_datasets(hub=hub)
    stream: Iterable[SourceRow] = datasets.IterableDataset.from_generator(_Rows(generate))
    return stream


class _Rows:
    """A generator function for `datasets`, which names its data sets by a pickle of it."""

    def __init__(self, generate: Callable[[], Iterator[SourceRow]]) -> None:
        self._generate = generate

    def __call__(self) -> Iterator[SourceRow]:
        return self._generate()

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, ("the rows of a run's source",)


_OpenContent = Callable[[], Content]
"""Makes a file's bytes ready; nothing is fetched or hashed before a row of it is wanted."""


def _contents(
    source: Source, access: Access, on_progress: OnProgress
) -> list[tuple[SourceFile, _OpenContent]]:
    for file in source.files:
        file_format(file.name)
    if source.kind == "embedded":
        return [
            (file, partial(_checked, path, file))
            for file, path in zip(source.files, embedded_paths(source), strict=True)
        ]
    if source.kind == "hub":
        return _hub_contents(source, access, on_progress)
    return [(file, _named_content(file, access, on_progress)) for file in source.files]


def _hub_contents(
    source: Source, access: Access, on_progress: OnProgress
) -> list[tuple[SourceFile, _OpenContent]]:
    hub = Hub(source.dataset, source.revision, access.patience)
    if not access.whole_files:
        return [(file, partial(hub.content, file)) for file in source.files]
    return [
        (file, partial(_fetched, file, partial(hub.pieces, file), access, on_progress))
        for file in source.files
    ]


def _named_content(file: SourceFile, access: Access, on_progress: OnProgress) -> _OpenContent:
    """A file of kind `files`: an address, or a file of this machine."""
    if file.name.startswith(PREFIX):
        remote = HttpsFile(file.name, private=access.local_sources, size=file.size)
        return partial(_fetched, file, remote.pieces, access, on_progress)
    if not access.local_sources:
        raise ConfigError(
            "run.local_sources: this run names files of this machine; allow that only for runs "
            "of your own"
        )
    path = Path(file.name)
    if not path.is_absolute():
        raise Refusal(f"source.files: {path}: not an absolute path, nor an https address")
    return partial(_checked, path, file)


def _fetched(
    file: SourceFile,
    fetch: Callable[[int], Iterator[bytes]],
    access: Access,
    on_progress: OnProgress,
) -> Content:
    """Fetch a file whole, unless it is there; one that was damaged on the disk is fetched anew."""
    if access.downloads is None:
        raise ConfigError(f"source.files: {file.name}: there is no folder to fetch it into")
    path = access.downloads.get(file, fetch, on_progress)
    try:
        return _checked(path, file)
    except Unavailable:
        access.downloads.forget(file)
        return _checked(access.downloads.get(file, fetch, on_progress), file)


def _synthetic_rows(start: int, stop: int) -> Iterator[SourceRow]:
    for index in range(start, stop):
        yield {"index": index, "text": synthetic_text(index)}


def _file_rows(
    source: Source, contents: Sequence[tuple[SourceFile, _OpenContent]], start: int, stop: int
) -> Iterator[SourceRow]:
    """Rows are counted over all files, in the manifest's order."""
    first = 0  # the index of the file's first row
    for file, open_content in contents:
        if first >= stop:
            return
        if start < first + file.rows:
            wanted = min(file.rows, stop - first)
            skip = max(0, start - first)
            for row, text in _some_rows(file, open_content(), source.text_field, skip, wanted):
                yield {"index": first + row, "text": text}
        first += file.rows


def _some_rows(
    file: SourceFile, content: Content, field: str, skip: int, stop: int
) -> Iterator[tuple[int, str]]:
    """The rows `skip` to `stop` - 1 of a file, which are there or the run is not what it claims."""
    done = skip
    try:
        for row, text in read_rows(content, field, skip):
            yield row, text
            done = row + 1
            if done == stop:
                content.check()
                return
    except Refusal:
        content.check()  # a file that changed under us is nobody's fault
        raise
    content.check()
    raise Refusal(f"source.files: {file.name}: fewer rows than the {file.rows} that the run says")


def _checked(path: Path, file: SourceFile) -> Content:
    """Return a local file's content; raises Unavailable unless it is the pinned one."""
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
    """The digest of a file in a state that these marks tell apart from others."""
    return hash_file(path)


def _size_of(path: Path) -> int:
    try:
        if not path.is_file():
            raise Unavailable(f"source.files: {path}: no such file")
        return path.stat().st_size
    except OSError as error:
        raise Unavailable(f"source.files: {path}: {error.strerror}") from error
