"""Pinning a new run's source: every file by size, SHA-256 and rows, each read once for it."""

from collections.abc import Sequence
from pathlib import Path

from dipaco.node.data.downloads import Downloads
from dipaco.node.data.https import PREFIX, HttpsFile
from dipaco.node.data.hub import Hub, find_split
from dipaco.node.data.patience import Patience
from dipaco.node.data.progress import Meter, OnProgress, silent
from dipaco.node.data.readers import Content, count_rows, file_format, local_content, read_rows
from dipaco.node.storage.files import hash_file
from dipaco.protocol.errors import ConfigError, Refusal
from dipaco.protocol.source import MAX_FILES, Source, SourceFile

FILES_REVISION = "pinned"


def pin_files(
    names: Sequence[Path | str],
    *,
    text_field: str = "text",
    documents: int | None = None,
    window: int | None = None,
    downloads: Downloads | None = None,
    on_progress: OnProgress = silent,
) -> Source:
    """Return local files and https addresses as a manifest states them, every row read once.

    documents   only the first so many rows; by default all.
    window      documents of one window; by default all.
    downloads   where files of addresses are kept; without it none can be named.

    Raises ConfigError for files that no run can use, Unavailable for an address that is away.
    """
    if not names:
        raise ConfigError("source.files: none given")
    try:
        pinned = tuple(_pin(name, text_field, downloads, on_progress) for name in names)
    except Refusal as error:
        raise ConfigError(str(error)) from error
    count = sum(file.rows for file in pinned)
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


def _pin(
    name: Path | str, field: str, downloads: Downloads | None, on_progress: OnProgress
) -> SourceFile:
    if str(name).startswith(PREFIX):
        return _pin_address(str(name), field, downloads, on_progress)
    path = Path(name).expanduser().absolute()
    file_format(path.name)
    if not path.is_file():
        raise ConfigError(f"source.files: {path}: no such file")
    size, digest = path.stat().st_size, hash_file(path)
    return SourceFile(
        name=str(path),
        size=size,
        sha256=digest,
        rows=_count(local_content(path), field, on_progress),
    )


def _pin_address(
    url: str, field: str, downloads: Downloads | None, on_progress: OnProgress
) -> SourceFile:
    """Fetch the file of an address; the author may name machines of his own network."""
    if downloads is None:
        raise ConfigError(f"source.files: {url}: there is no folder to fetch it into")
    file_format(url)
    path, size, digest = downloads.get_unpinned(
        url, HttpsFile(url, private=True).pieces, on_progress
    )
    count = _count(local_content(path, url), field, on_progress)
    return SourceFile(name=url, size=size, sha256=digest, rows=count)


def _count(content: Content, field: str, on_progress: OnProgress, stop: int | None = None) -> int:
    """Read every row, or the first `stop`, and count them."""
    meter, count = Meter(on_progress, "count", stop or 0), 0
    for row, _ in read_rows(content, field):
        count = row + 1
        meter.at(count)
        if count == stop:
            break
    return count


def pin_hub(
    dataset: str,
    *,
    config: str | None = None,
    split: str = "train",
    revision: str = "main",
    text_field: str = "text",
    documents: int | None = None,
    window: int | None = None,
    on_progress: OnProgress = silent,
    patience: Patience | None = None,
) -> Source:
    """Return a split of a data set on the hub as a manifest states it.

    A branch or tag becomes the commit that it names now. Only the files that hold the first
    `documents` rows are pinned; of a parquet file no more than its end is read for that. Without
    `documents` all of the split is, which needs parquet.

    Raises ConfigError, which names the field, and Unavailable if the hub cannot be reached.
    """
    try:
        patience = patience or Patience()
        found = find_split(
            dataset, config=config, split=split, revision=revision, patience=patience
        )
        hub = Hub(dataset, found.commit, patience)
        pinned = _pin_split(hub, found.names, text_field, documents, on_progress)
    except Refusal as error:
        raise ConfigError(str(error)) from error
    count = sum(file.rows for file in pinned)
    documents = count if documents is None else min(documents, count)
    if documents == 0:
        raise ConfigError(f"source.split: no documents in {split!r} of {dataset}")
    try:
        return Source(
            kind="hub",
            revision=found.commit,
            dataset=dataset,
            config=found.config,
            split=split,
            files=pinned,
            text_field=text_field,
            documents=documents,
            window=documents if window is None else min(window, documents),
        )
    except ValueError as error:
        raise ConfigError(f"source.{error}") from error


def _pin_split(
    hub: Hub, names: Sequence[str], field: str, documents: int | None, on_progress: OnProgress
) -> tuple[SourceFile, ...]:
    formats = [file_format(name) for name in names]
    if documents is None and set(formats) != {"parquet"}:
        raise ConfigError(
            "source.documents: is missing; of files that are not parquet nobody knows the rows "
            "before reading them all"
        )
    pinned: list[SourceFile] = []
    left = documents
    meter = Meter(on_progress, "count", documents or 0)
    for name, kind in zip(names, formats, strict=True):
        if left is not None and left <= 0:
            break
        file = hub.describe(name, on_progress)
        content = hub.content(file)
        if kind == "parquet":
            if not pinned:
                next(iter(read_rows(content, field)), None)  # names a column that is not there
            count = count_rows(content)
            meter.at(sum(each.rows for each in pinned) + count)
        else:
            count = _count(content, field, on_progress, left)
        pinned.append(SourceFile(name=file.name, size=file.size, sha256=file.sha256, rows=count))
        left = None if left is None else left - count
    if len(pinned) > MAX_FILES:
        raise ConfigError(f"source.documents: in more than {MAX_FILES} files; name fewer")
    return tuple(pinned)
