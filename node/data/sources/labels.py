"""Labels of documents: a second column of a source's rows, such as the domain of the text.

They are no part of a run: only reports group documents by them.
"""

from collections.abc import Collection, Iterable
from pathlib import Path

from msgspec.structs import replace

from dipaco.node.data.readers import read_rows
from dipaco.node.data.sources.dispatch import KINDS
from dipaco.node.data.sources.interface import Access
from dipaco.node.jobs.meter import Meter, OnProgress
from dipaco.protocol.errors import ConfigError, Refusal
from dipaco.protocol.run.source import Source
from dipaco.protocol.wire.text import printable

MAX_LABEL = 64  # characters: a name that fits a table
MAX_LABELS = 256  # different ones: more is no grouping, and no table

Labels = dict[int, str]
"""By the document's row of the source or file, from 0, its label."""


def labels_of_source(
    source: Source, column: str, wanted: Collection[int], access: Access, on_progress: OnProgress
) -> Labels:
    """Return the labels of some rows of a run's source.

    column   of a parquet file, or key of a JSON line.
    wanted   the rows, from 0.
    Raises ConfigError, which names the column, if it is missing or holds no labels; Unavailable if
    the source is away.
    """
    if source.kind == "synthetic":
        raise ConfigError(f"column {printable(column)!r}: a synthetic source has text alone")
    try:
        renamed = replace(source, text_field=column)
    except ValueError as error:
        raise ConfigError(f"column {printable(column)!r}: {error}") from error
    read = KINDS[source.kind].open(renamed, access, on_progress)
    rows = ((row["index"], row["text"]) for row in read(0, min(_stop(wanted), source.documents)))
    return _labels(rows, column, wanted, on_progress)


def labels_of_file(
    file: Path, column: str, wanted: Collection[int], on_progress: OnProgress
) -> Labels:
    """Return the labels of some rows of a file; arguments and errors as of `labels_of_source`."""
    return _labels(read_rows(file, column), column, wanted, on_progress)


def _stop(wanted: Collection[int]) -> int:
    return max(wanted, default=-1) + 1


def _labels(
    rows: Iterable[tuple[int, str]], column: str, wanted: Collection[int], on_progress: OnProgress
) -> Labels:
    due, meter = frozenset(wanted), Meter(on_progress, "labels", _stop(wanted))
    found, kept = Labels(), dict[str, str]()  # one text for each label
    try:
        for index, text in rows:
            if index in due:
                found[index] = kept.setdefault(text, text)
                _check_label(index, text, len(kept))
            meter.at(index + 1)
            if len(found) == len(due):
                break
    except Refusal as error:
        words = str(error)
        for field in ("source.text_field: ", "source.files: "):  # of the manifest: another column
            words = words.removeprefix(field)
        raise ConfigError(f"column {printable(column)!r}: {words}") from error
    return found


def _check_label(row: int, text: str, count: int) -> None:
    """Refuse a text that is no label, and the first one of too many."""
    if not 1 <= len(text) <= MAX_LABEL or not text.isprintable():
        raise Refusal(
            f"row {row}: {printable(text[:MAX_LABEL])!r} is no label: that is a line of 1 to "
            f"{MAX_LABEL} characters"
        )
    if count > MAX_LABELS:
        raise Refusal(f"it has more than {MAX_LABELS} different labels")
