"""Readers: yield the rows of one file (parquet, JSON lines or txt) in order, in bounded memory.

All nodes must agree on the rows, so they are defined here and not by the version of a library: a
row of a parquet file; a line of a JSON lines file that is not blank; a line of a txt file, blank or
not. Every row has text. The files are pinned, by digest or commit, so a fault in their content is
the fault of the run that names them, and raises Refusal. A `Content` hides the origin of the bytes:
a local file, or ranges over the network.

`datasets` has its own readers, and the tests compare the rows of both. They are not used: the
parquet reader took 330 MB more memory on one 169 MB file, and the JSON reader reads the whole file
when a line is malformed.
"""

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from dipaco.node.data.pages import BadPage, Heavy, PageGuard
from dipaco.protocol.errors import Refusal, Unavailable
from dipaco.protocol.wire.text import printable

MAX_ROW_BYTES = 1 << 28  # of one row: it is hashed whole, so it is held whole
_BATCH_BYTES = 1 << 20  # of parquet rows decoded at once, about
_BATCH_ROWS = 256
_FEWER = 16  # the factor by which a batch shrinks when its pages unpack to too much
_PAGE_BYTES = MAX_ROW_BYTES + (16 << 20)  # a writer ends a page after the row that fills it
_PAGES_BYTES = 2 * MAX_ROW_BYTES  # of the unpacked parquet pages of one batch
_READ_BYTES = 1 << 20  # of one read of a parquet file
_BOM = b"\xef\xbb\xbf"
MAX_QUOTED = 200  # characters of a file's own names, or of a library's message, in a message

Rows = Iterator[tuple[int, str]]
"""Row number in the file, from 0, and text."""


@dataclass(frozen=True)
class Content:
    """The bytes of one file, from any origin."""

    name: str
    """The name for messages; its ending determines the format."""
    open: Callable[[], BinaryIO]
    """Returns a new seekable stream of the bytes, at their start."""
    check: Callable[[], None] = lambda: None
    """Raises Unavailable if the bytes have changed since they were opened."""


def read_rows(file: Path | Content, field: str, skip: int = 0) -> Rows:
    """Yield the rows of a file from row `skip` on.

    field   the column of a parquet file, or the key of a JSON line; a txt file has `text` only.

    Raises Refusal for content that does not fit its format, Unavailable if it cannot be read.
    """
    content = _content(file)
    return _FORMATS[file_format(content.name)][0](content, field, skip)


def count_rows(file: Path | Content) -> int:
    """Return the number of rows; a parquet file states it, any other is read."""
    content = _content(file)
    return _FORMATS[file_format(content.name)][1](content)


def file_format(name: str) -> str:
    """Return the ending of a file's name that names its format; raises Refusal for another."""
    lower = name.lower()
    for ending in _FORMATS:
        if lower.endswith(f".{ending}"):
            return ending
    raise Refusal(
        f"source.files: {printable(name)}: not a .parquet, .jsonl or .txt file, nor .jsonl.gz or "
        ".jsonl.zst"
    )


def _content(file: Path | Content) -> Content:
    return file if isinstance(file, Content) else local_content(file)


def local_content(path: Path, name: str | None = None) -> Content:
    """Return a local file's content, called `name` or by its path."""
    return Content(name or str(path), lambda: path.open("rb"))


@contextmanager
def _opened(content: Content) -> Iterator[BinaryIO]:
    """Open the bytes, and translate the libraries' errors of damaged bytes."""
    try:
        with content.open() as file:
            yield file
    except (pa.ArrowException, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise _bad_file(content, error) from error
    except OSError as error:
        if error.errno is None:  # from pyarrow and gzip, for bytes that are damaged or cut off
            raise _bad_file(content, error) from error
        raise Unavailable(f"source.files: {_name(content)}: {error.strerror}") from error


def _name(content: Content) -> str:
    return printable(content.name)


def _bad_file(content: Content, error: Exception) -> Refusal:
    return Refusal(f"source.files: {_name(content)}: {printable(str(error), MAX_QUOTED)}")


def _bad_row(content: Content, row: int, fault: str) -> Refusal:
    return Refusal(f"source.files: {_name(content)}: row {row} {fault}")


def _bad_field(content: Content, fault: str, names: Iterable[str] = ()) -> Refusal:
    """Return the refusal of the field; `names` are those that the file has instead."""
    quoted = printable(", ".join(map(repr, names)), MAX_QUOTED)
    has = f", only: {quoted}" if quoted else ""
    return Refusal(f"source.text_field: {_name(content)}: {fault}{has}")


# parquet


def _read_parquet(content: Content, field: str, skip: int) -> Rows:
    with _opened(content) as stream, ExitStack() as stack:
        guard = PageGuard(stream, page=_PAGE_BYTES, batch=_PAGES_BYTES)
        file = stack.enter_context(_parquet(guard))
        column = _text_column(content, file, field)
        row = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if row + rows <= skip:  # the whole group is skipped without reading it
                row += rows
                continue
            for value in _group_values(content, file, guard, group, column):
                if row >= skip:
                    yield row, _text_of(content, row, value)
                row += 1


def _count_parquet(content: Content) -> int:
    with _opened(content) as stream, _parquet(stream) as file:
        return int(file.metadata.num_rows)


def _parquet(stream: BinaryIO | PageGuard) -> Any:
    return pq.ParquetFile(stream, pre_buffer=False, buffer_size=_READ_BYTES)


def _text_column(content: Content, file: Any, field: str) -> int:
    """Return the index of the text column among the file's leaf columns.

    A leaf cannot be found by its path: a field of a structure may have the path of a column.
    Raises Refusal if the column is missing, is there twice, or has another type.
    """
    schema = file.schema_arrow
    places = schema.get_all_field_indices(field)
    if not places:
        raise _bad_field(content, f"has no column {field!r}", schema.names)
    if len(places) > 1:
        raise _bad_field(content, f"has {len(places)} columns {field!r}; keep one")
    kind = schema.field(places[0]).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise _bad_field(
            content, f"column {field!r} is {printable(str(kind), MAX_QUOTED)}, not text"
        )
    return sum(_leaves(schema.field(place).type) for place in range(places[0]))


def _leaves(kind: Any) -> int:
    """Return the number of leaf columns in which parquet stores an Arrow type."""
    if isinstance(kind, pa.BaseExtensionType):
        return _leaves(kind.storage_type)
    if not pa.types.is_nested(kind):
        return 1
    return sum(_leaves(kind.field(i).type) for i in range(kind.num_fields))


def _group_values(
    content: Content, file: Any, guard: PageGuard, group: int, column: int
) -> Iterator[Any]:
    """Yield the values of one row group; batches shrink while their pages are too large."""
    chunk = file.metadata.row_group(group).column(column)
    mean = chunk.total_uncompressed_size // max(chunk.num_values, 1)
    rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(mean, 1)))
    done = 0
    while True:
        try:
            for batch in _batches(file, guard, group, column, rows, done):
                yield from batch
                done += len(batch)
            return
        except Heavy:
            rows = max(1, rows // _FEWER)
        except BadPage as error:
            raise _bad_file(content, error) from error


def _batches(
    file: Any, guard: PageGuard, group: int, column: int, rows: int, done: int
) -> Iterator[Any]:
    """Yield the values from `done` on, in batches of `rows` rows; raises Heavy, BadPage."""
    chunk = file.metadata.row_group(group).column(column)
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < start:
        start = chunk.dictionary_page_offset
    guard.watch(start, start + chunk.total_compressed_size, rows)
    # `file.iter_batches` takes columns by their paths, which two of them may share.
    batches = file.reader.iter_batches(
        rows, row_groups=[group], column_indices=[column], use_threads=False
    )
    for batch in batches:
        if done < len(batch):
            yield batch.column(0)[done:]
        done = max(0, done - len(batch))
        guard.allow()


def _text_of(content: Content, row: int, value: Any) -> str:
    try:
        text = value.as_py()
    except UnicodeDecodeError as error:
        raise _bad_row(content, row, "is not UTF-8") from error
    if text is None:
        raise _bad_row(content, row, "has no text (null)")
    assert isinstance(text, str)
    return text


# JSON lines, compressed or not


def _read_jsonl(content: Content, field: str, skip: int) -> Rows:
    with _opened(content) as stream:
        for row, line in enumerate(_json_lines(content, stream)):
            if row >= skip:
                yield row, _json_text(content, row, line, field)


def _count_jsonl(content: Content) -> int:
    with _opened(content) as stream:
        return sum(1 for _ in _json_lines(content, stream))


def _json_lines(content: Content, stream: BinaryIO) -> Iterator[bytes]:
    with _unpacked(content, stream) as file:
        number, first = 0, True
        while line := file.readline(MAX_ROW_BYTES + 1):
            if len(line) > MAX_ROW_BYTES:
                raise _bad_row(content, number, f"has more than {MAX_ROW_BYTES} bytes")
            if first:
                line, first = line.removeprefix(_BOM), False
            if line.strip():
                yield line
                number += 1


@contextmanager
def _unpacked(content: Content, stream: BinaryIO) -> Iterator[BinaryIO]:
    """Decompress as the file's ending says, piece by piece."""
    with ExitStack() as stack:
        ending = content.name.lower().rpartition(".")[2]
        if ending == "gz":
            unpacked = gzip.GzipFile(fileobj=stream, mode="rb")
            yield stack.enter_context(io.BufferedReader(unpacked, _READ_BYTES))
        elif ending == "zst":
            packed = stack.enter_context(pa.CompressedInputStream(stream, "zstd"))
            yield stack.enter_context(io.BufferedReader(packed, _READ_BYTES))
        else:
            yield stream


def _json_text(content: Content, row: int, line: bytes, field: str) -> str:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _bad_row(content, row, "is not UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise _bad_row(content, row, f"is not JSON: {printable(str(error), MAX_QUOTED)}") from error
    if not isinstance(value, dict):
        raise _bad_row(content, row, "is not a JSON object")
    if field not in value:
        raise _bad_field(content, f"row {row} has no {field!r}", value)
    text = value[field]
    if text is None:
        raise _bad_row(content, row, "has no text (null)")
    if not isinstance(text, str):
        raise _bad_row(content, row, f"holds no text in {field!r}")
    if not _is_unicode(text):  # JSON can spell half of a surrogate pair
        raise _bad_row(content, row, "is not Unicode text")
    return text


# txt


def _read_txt(content: Content, field: str, skip: int) -> Rows:
    if field != "text":
        raise _bad_field(content, "its rows are its lines, called 'text'")
    with _opened(content) as stream:
        for row, line in enumerate(_lines(content, stream)):
            if row >= skip:
                yield row, line


def _count_txt(content: Content) -> int:
    with _opened(content) as stream:
        return sum(1 for _ in _lines(content, stream))


def _lines(content: Content, stream: BinaryIO) -> Iterator[str]:
    """Yield lines as Python reads text: CR LF and CR end a line too."""
    # A strict decoder would fail for a whole buffer, and could not say in which row.
    with io.TextIOWrapper(stream, "utf-8", errors="surrogateescape", newline=None) as file:
        number = 0
        while line := file.readline(MAX_ROW_BYTES + 1):
            if len(line) > MAX_ROW_BYTES:
                raise _bad_row(content, number, f"has more than {MAX_ROW_BYTES} characters")
            if not line.isascii() and not _is_unicode(line):
                raise _bad_row(content, number, "is not UTF-8")
            yield line.removesuffix("\n")
            number += 1


def _is_unicode(text: str) -> bool:
    """Return whether a text has no half of a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


_Reader = tuple[Callable[[Content, str, int], Rows], Callable[[Content], int]]
_JSON_LINES: _Reader = (_read_jsonl, _count_jsonl)
_FORMATS: dict[str, _Reader] = {
    "parquet": (_read_parquet, _count_parquet),
    **dict.fromkeys(("jsonl", "jsonl.gz", "jsonl.zst"), _JSON_LINES),
    **dict.fromkeys(("json", "json.gz", "json.zst"), _JSON_LINES),  # common names on the hub
    "txt": (_read_txt, _count_txt),
}
