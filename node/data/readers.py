"""The rows of one local file: parquet, jsonl or txt, one after the other, in bounded memory.

What a row is, is part of what every node must agree on, so it is stated here and not left to the
version of a library: a parquet row; a line of a jsonl file that is not blank; a line of a txt
file, blank or not. Every row has text. Files come here after their digest was checked, so what
is wrong with their content is the fault of the run that names them: Refusal.

`datasets` has readers of its own, and the tests compare rows with theirs. They are not used: its
parquet reader took 330 MB more memory on one 169 MB file, and its JSON reader falls back to
reading a whole file when a line is malformed.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from dipaco.protocol.errors import Refusal, Unavailable

MAX_ROW_BYTES = 1 << 28  # of one row: it is hashed whole, so it is held whole
_BATCH_BYTES = 1 << 20  # of parquet rows decoded at once, about
_BATCH_ROWS = 256
_READ_BYTES = 1 << 20  # of one read of a parquet file
_BOM = b"\xef\xbb\xbf"

Rows = Iterator[tuple[int, str]]
"""Row number in the file, from 0, and text."""


def read_rows(path: Path, field: str, skip: int = 0) -> Rows:
    """Yield the rows of a file from row `skip` on.

    field   the column of a parquet file, the key of a jsonl file; a txt file has `text` alone.

    Raises Refusal for content that is not what its name says, Unavailable if it cannot be read.
    """
    return _FORMATS[file_format(path.name)][0](path, field, skip)


def count_rows(path: Path) -> int:
    """Return the number of rows; of a parquet file without reading them."""
    return _FORMATS[file_format(path.name)][1](path)


def file_format(name: str) -> str:
    """Return `parquet`, `jsonl` or `txt`; raises Refusal for any other ending."""
    ending = Path(name).suffix.lower().removeprefix(".")
    if ending not in _FORMATS:
        raise Refusal(f"source.files: {name}: not a .parquet, .jsonl or .txt file")
    return ending


@contextmanager
def _opened(path: Path) -> Iterator[None]:
    """Translate what a damaged file makes the libraries raise."""
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise Refusal(f"source.files: {path}: {_one_line(error)}") from error
    except OSError as error:
        if error.errno is None:  # pyarrow's, of a file that ends too early
            raise Refusal(f"source.files: {path}: {_one_line(error)}") from error
        raise Unavailable(f"source.files: {path}: {error.strerror}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _bad_row(path: Path, row: int, fault: str) -> Refusal:
    return Refusal(f"source.files: {path}: row {row} {fault}")


# parquet


def _read_parquet(path: Path, field: str, skip: int) -> Rows:
    with _opened(path), _parquet(path) as file:
        column = _text_column(path, file, field)
        row = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if row + rows <= skip:  # none of the group is wanted: not read at all
                row += rows
                continue
            for value in _group_values(file, group, field, column):
                if row >= skip:
                    yield row, _text_of(path, row, value)
                row += 1


def _count_parquet(path: Path) -> int:
    with _opened(path), _parquet(path) as file:
        return int(file.metadata.num_rows)


def _parquet(path: Path) -> Any:
    return pq.ParquetFile(path, pre_buffer=False, buffer_size=_READ_BYTES)


def _text_column(path: Path, file: Any, field: str) -> int:
    """The place of the text column among the file's leaves; refuses one that is no text."""
    schema = file.schema_arrow
    if field not in schema.names:
        has = ", ".join(schema.names)[:200]
        raise Refusal(f"source.text_field: {path} has no column {field!r}, only: {has}")
    kind = schema.field(field).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise Refusal(f"source.text_field: column {field!r} of {path} is {kind}, not text")
    names = [file.schema.column(i).path for i in range(len(file.schema.names))]
    return names.index(field)


def _group_values(file: Any, group: int, field: str, column: int) -> Iterator[Any]:
    chunk = file.metadata.row_group(group).column(column)
    mean = chunk.total_uncompressed_size // max(chunk.num_values, 1)
    rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(mean, 1)))
    for batch in file.iter_batches(rows, row_groups=[group], columns=[field], use_threads=False):
        yield from batch.column(0)


def _text_of(path: Path, row: int, value: Any) -> str:
    try:
        text = value.as_py()
    except UnicodeDecodeError as error:
        raise _bad_row(path, row, "is not UTF-8") from error
    if text is None:
        raise _bad_row(path, row, "has no text (null)")
    assert isinstance(text, str)
    return text


# jsonl


def _read_jsonl(path: Path, field: str, skip: int) -> Rows:
    with _opened(path):
        for row, line in enumerate(_json_lines(path)):
            if row >= skip:
                yield row, _json_text(path, row, line, field)


def _count_jsonl(path: Path) -> int:
    with _opened(path):
        return sum(1 for _ in _json_lines(path))


def _json_lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        if file.read(len(_BOM)) != _BOM:
            file.seek(0)
        number = 0
        while line := file.readline(MAX_ROW_BYTES + 1):
            if len(line) > MAX_ROW_BYTES:
                raise _bad_row(path, number, f"has more than {MAX_ROW_BYTES} bytes")
            if line.strip():
                yield line
                number += 1


def _json_text(path: Path, row: int, line: bytes, field: str) -> str:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _bad_row(path, row, "is not UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise _bad_row(path, row, f"is not JSON: {_one_line(error)}") from error
    if not isinstance(value, dict):
        raise _bad_row(path, row, "is not a JSON object")
    text = value.get(field)
    if text is None:
        has = ", ".join(value)[:200]
        raise Refusal(f"source.text_field: {path}: row {row} has no {field!r}, only: {has}")
    if not isinstance(text, str):
        raise _bad_row(path, row, f"holds no text in {field!r}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
        raise _bad_row(path, row, "is not Unicode text") from error
    return text


# txt


def _read_txt(path: Path, field: str, skip: int) -> Rows:
    if field != "text":
        raise Refusal(f"source.text_field: the rows of {path} are its lines, called 'text'")
    with _opened(path):
        for row, line in enumerate(_lines(path)):
            if row >= skip:
                yield row, line


def _count_txt(path: Path) -> int:
    with _opened(path):
        return sum(1 for _ in _lines(path))


def _lines(path: Path) -> Iterator[str]:
    """Lines as Python reads text: `\\r\\n` and `\\r` end one too."""
    with path.open(encoding="utf-8", newline=None) as file:
        number = 0
        while line := file.readline(MAX_ROW_BYTES + 1):
            if len(line) > MAX_ROW_BYTES:
                raise _bad_row(path, number, f"has more than {MAX_ROW_BYTES} characters")
            yield line.removesuffix("\n")
            number += 1


_FORMATS: dict[str, tuple[Callable[[Path, str, int], Rows], Callable[[Path], int]]] = {
    "parquet": (_read_parquet, _count_parquet),
    "jsonl": (_read_jsonl, _count_jsonl),
    "txt": (_read_txt, _count_txt),
}
