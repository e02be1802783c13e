"""Sources of kind `hub`: a split of a data set on the Hugging Face hub, at one commit.

Its rows are streamed and only the commit pins them, unless the operator sets `run.whole_files`:
then files are fetched whole and hashed before use.
"""

from collections.abc import Sequence
from functools import partial

from dipaco.node.data.hub_client import Hub, find_split
from dipaco.node.data.readers import count_rows, file_format, read_rows
from dipaco.node.data.retry import RetryPolicy
from dipaco.node.data.sources.interface import (
    Access,
    Pinning,
    Reach,
    RowRange,
    SourceKind,
    SourceTable,
)
from dipaco.node.data.sources.pinned_files import (
    check_enough,
    count_documents,
    fetched,
    file_rows,
)
from dipaco.node.jobs.meter import Meter, OnProgress, silent
from dipaco.protocol.errors import ConfigError, Refusal
from dipaco.protocol.run.source import MAX_FILES, Count, Source, SourceFile


class HubTable(SourceTable, frozen=True, kw_only=True):
    """The table `source` of a run's TOML file."""

    dataset: str
    config: str | None = None
    """[the data set's default]"""
    split: str = "train"
    revision: str = "main"
    """A commit, or a branch or tag, which the manifest replaces by its commit."""
    text_field: str = "text"
    documents: Count | None = None
    window: Count | None = None


def _pin(table: HubTable, pinning: Pinning) -> Source:
    source = pin_hub(
        table.dataset,
        config=table.config,
        split=table.split,
        revision=table.revision,
        text_field=table.text_field,
        documents=table.documents,
        window=table.window,
        on_progress=pinning.on_progress,
    )
    check_enough(source, documents=table.documents, window=table.window)
    return source


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
    retry: RetryPolicy | None = None,
) -> Source:
    """Return a split of a data set on the hub as a manifest states it.

    A branch or tag becomes the commit that it names now. Only the files with the first `documents`
    rows are pinned; for that, only the end of a parquet file is read. Without `documents` the whole
    split is pinned, which needs parquet.

    Raises ConfigError, which names the field, and Unavailable if the hub cannot be reached.
    """
    try:
        retry = (retry or RetryPolicy()).telling(on_progress)
        found = find_split(dataset, config=config, split=split, revision=revision, retry=retry)
        hub = Hub(dataset, found.commit, retry)
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
            "source.documents: is missing; it is needed because the number of rows is known "
            "without reading them for parquet files only"
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
                next(iter(read_rows(content, field)), None)  # refuses a missing column
            count = count_rows(content)
            meter.at(sum(each.rows for each in pinned) + count)
        else:
            count = count_documents(content, field, on_progress, left)
        pinned.append(SourceFile(name=file.name, size=file.size, sha256=file.sha256, rows=count))
        left = None if left is None else left - count
    if len(pinned) > MAX_FILES:
        raise ConfigError(f"source.documents: they are in more than {MAX_FILES} files; name fewer")
    return tuple(pinned)


def _open(source: Source, access: Access, on_progress: OnProgress) -> RowRange:
    hub = Hub(source.dataset, source.revision, access.retry.telling(on_progress))
    if not access.whole_files:
        return file_rows(source, [(file, partial(hub.content, file)) for file in source.files])
    return file_rows(
        source,
        [
            (file, partial(fetched, file, partial(hub.pieces, file), access, on_progress))
            for file in source.files
        ],
    )


def _reachable(source: Source, access: Access) -> Reach:
    return Reach("on a public hub, not tried here: `verify` reads it")


KIND = SourceKind(
    table=HubTable,
    pin=_pin,
    open=_open,
    reachable=_reachable,
    is_authenticated=lambda access: access.whole_files,
)
