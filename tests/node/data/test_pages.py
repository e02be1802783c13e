"""Rules of this file: files are written by the real library; where one lies, its bytes are changed.
Limits are set low, so that what stands for a file that fills the memory stays small."""

import contextlib
import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipaco.node.data import readers
from dipaco.node.data.pages import BadPage, PageGuard, _parsed
from dipaco.node.data.readers import read_rows
from dipaco.protocol.errors import Refusal

PAGE, BATCH = 100_000, 200_000


@pytest.fixture
def low(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_PAGE_BYTES", PAGE)
    monkeypatch.setattr(readers, "_PAGES_BYTES", BATCH)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of every batch that is unpacked from now on."""
    plain, sizes = readers._batches, []

    def noted(*given: Any) -> Iterator[Any]:
        for values in plain(*given):
            sizes.append(values.nbytes)
            yield values

    monkeypatch.setattr(readers, "_batches", noted)
    return sizes


def written(path: Path, column: list[str], **options: Any) -> Path:
    pq.write_table(pa.table({"id": range(len(column)), "text": column}), path, **options)
    return path


def read(path: Path) -> list[str]:
    return [text for _, text in read_rows(path, "text")]


def number(value: int) -> bytes:
    """As the footer has it: zigzag in base 128."""
    value, found = 2 * value, b""
    while value > 127:
        found += bytes([value & 127 | 128])
        value >>= 7
    return found + bytes([value])


def claim_less(path: Path) -> None:
    """Make the footer say that the text column unpacks to next to nothing."""
    size = pq.ParquetFile(path).metadata.row_group(0).column(1).total_uncompressed_size
    true = number(size)
    false = bytes([129] * (len(true) - 1) + [0])  # as many bytes, and a small number
    data = path.read_bytes()
    assert data.count(true) == 1
    path.write_bytes(data.replace(true, false))
    claimed = pq.ParquetFile(path).metadata.row_group(0).column(1).total_uncompressed_size
    assert claimed < size / 10


@pytest.mark.usefixtures("low")
@pytest.mark.parametrize("compression", ["zstd", "snappy", "none"])
def test_one_enormous_text_is_refused_before_it_is_unpacked(
    compression: str, tmp_path: Path, batches: list[int]
) -> None:
    path = written(tmp_path / "a.parquet", ["x", "y" * 300_000, "z"], compression=compression)
    with pytest.raises(Refusal, match=r"source\.files: .*a\.parquet: a page unpacks to 3000\d\d "):
        read(path)
    assert sum(batches) < 100


@pytest.mark.usefixtures("low")
def test_what_a_file_claims_of_its_sizes_is_not_believed(
    tmp_path: Path, batches: list[int]
) -> None:
    column = [f"{i}" + "y" * 50_000 for i in range(40)]
    options = {"use_dictionary": False, "data_page_size": 1, "write_batch_size": 1}
    path = written(tmp_path / "a.parquet", column, **options)
    claim_less(path)
    assert read(path) == column
    assert max(batches) <= BATCH


@pytest.mark.usefixtures("low")
def test_a_dictionary_of_a_long_text_does_not_stand_for_many_rows_at_once(
    tmp_path: Path, batches: list[int]
) -> None:
    column = ["y" * 30_000 if i % 3 else "x" for i in range(2000)]
    path = written(tmp_path / "a.parquet", column, use_dictionary=True, compression="zstd")
    assert path.stat().st_size < 50_000
    assert read(path) == column
    assert max(batches) <= BATCH and sum(batches) > 2000 * 10_000


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["snappy", "none"])
def test_usual_files_are_read_in_usual_batches(
    version: str, compression: str, tmp_path: Path, batches: list[int]
) -> None:
    column = [f"{i} of a text" for i in range(3000)]
    options = {"data_page_version": version, "compression": compression, "row_group_size": 1000}
    path = written(tmp_path / "a.parquet", column, data_page_size=1000, **options)
    assert read(path) == column
    assert len(batches) == 3 * 4


def test_headers_are_followed_however_the_file_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", [f"{i}" * 50 for i in range(500)], data_page_size=500)
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(1)
    start = chunk.dictionary_page_offset
    stop = start + chunk.total_compressed_size
    data = path.read_bytes()
    weighed = []
    for step in (1, 7, 300, len(data)):
        guard = PageGuard(io.BytesIO(data), page=PAGE, batch=10**6)
        guard.watch(start, stop, 2)
        guard.seek(start - 5)
        assert b"".join(iter(partial(guard.read, step), b"")) == data[start - 5 :]
        weighed.append(guard._left)
    assert len(set(weighed)) == 1 and weighed[0] < 10**6 - chunk.total_uncompressed_size / 2


@given(st.binary(max_size=60))
def test_no_bytes_make_a_header_that_hangs_or_fails_otherwise(data: bytes) -> None:
    with contextlib.suppress(IndexError, BadPage):
        assert _parsed(data).length <= len(data)


def test_a_header_that_claims_a_list_without_end_is_not_followed() -> None:
    with pytest.raises(IndexError):
        _parsed(bytes([0x59, 0xF8]) + b"\xff" * 8 + b"\x01")
    with pytest.raises(BadPage, match="too deep"):
        _parsed(bytes([0x5C] + [0x1C] * 50))
