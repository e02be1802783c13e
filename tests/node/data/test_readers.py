"""Rules of this file: real files; on good ones the `datasets` library's own readers must agree."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from dipaco.node.data import readers
from dipaco.node.data.library import import_datasets
from dipaco.node.data.readers import count_rows, read_rows
from dipaco.node.data.sources.embedded import CORPUS_PATH
from dipaco.protocol.errors import Refusal, Unavailable
from tests.node.data.corpora import write_jsonl, write_parquet

AWKWARD = [
    "plain",
    "",
    "日本語 😀",
    "two\nlines",
    'quote " and \\',
    "\ufeffmark",
    " spaces ",
    "x" * 9999,
]


def write_txt(path: Path, column: list[str]) -> Path:
    path.write_bytes("\r\n".join(column).encode())
    return path


LINES = ["first", "", "日本語 😀", "\ufeffmark", "last without an end"]
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "zst": lambda data: pa.compress(data, "zstd", asbytes=True),
}


def write_packed(path: Path, column: list[str]) -> Path:
    plain = write_jsonl(path.with_suffix(""), column)
    data = plain.read_bytes()
    pack = PACKERS[path.suffix.removeprefix(".")]
    path.write_bytes(pack(data[:99]) + pack(data[99:]))  # in two members, as some packers do
    plain.unlink()
    return path


FILES: dict[str, Callable[[Path], Path]] = {
    "jsonl.gz": lambda folder: write_packed(folder / "a.jsonl.gz", AWKWARD * 9),
    "jsonl.zst": lambda folder: write_packed(folder / "a.jsonl.zst", AWKWARD * 9),
    "json.gz": lambda folder: write_packed(folder / "a.json.gz", AWKWARD * 9),
    "parquet": lambda folder: write_parquet(folder / "a.parquet", AWKWARD * 9),
    "jsonl": lambda folder: write_jsonl(folder / "a.jsonl", AWKWARD * 9),
    "txt": lambda folder: write_txt(folder / "a.txt", LINES * 9),
}


def texts_of(path: Path, field: str = "text") -> list[str]:
    return [text for _, text in read_rows(path, field)]


@pytest.mark.parametrize("kind", sorted(set(FILES) - {"jsonl.zst"}))  # theirs needs a library more
def test_rows_are_those_of_the_datasets_library(kind: str, tmp_path: Path) -> None:
    path = FILES[kind](tmp_path)
    builder = {"parquet": "parquet", "txt": "text"}.get(kind, "json")
    stream: Any = import_datasets().load_dataset(
        builder, data_files=[str(path)], split="train", streaming=True
    )
    assert texts_of(path) == [row["text"] for row in stream]


def test_the_embedded_corpus_reads_as_in_the_datasets_library() -> None:
    path = CORPUS_PATH
    stream: Any = import_datasets().load_dataset(
        "parquet", data_files=[str(path)], split="train", streaming=True, columns=["text"]
    )
    assert texts_of(path) == [row["text"] for row in stream]


@pytest.mark.parametrize("kind", sorted(FILES))
def test_rows_are_counted_and_can_be_read_from_any_on(kind: str, tmp_path: Path) -> None:
    path = FILES[kind](tmp_path)
    everything = list(read_rows(path, "text"))
    assert [row for row, _ in everything] == list(range(count_rows(path)))
    for skip in (0, 1, 10, 25, len(everything) - 1, len(everything), len(everything) + 5):
        assert list(read_rows(path, "text", skip)) == everything[skip:]


def test_row_groups_before_the_first_wanted_row_are_not_read(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", ["a" * 500, "b"], rows_per_group=1)
    damaged = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(0).column(1).data_page_offset
    damaged[start : start + 20] = os.urandom(20)
    path.write_bytes(damaged)
    assert list(read_rows(path, "text", skip=1)) == [(1, "b")]
    with pytest.raises(Refusal):
        texts_of(path)


def test_blank_lines_of_a_jsonl_file_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\n\n  \r\n{"text": "b"}')
    assert list(read_rows(path, "text")) == [(0, "a"), (1, "b")]
    assert count_rows(path) == 2


def test_a_large_text_column_may_be_called_anything(tmp_path: Path) -> None:
    table = pa.table({"body": pa.array(["a", "b"], pa.large_string())})
    pq.write_table(table, tmp_path / "a.parquet")
    assert texts_of(tmp_path / "a.parquet", "body") == ["a", "b"]


def test_empty_files_have_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / "a.jsonl").touch()
    write_parquet(tmp_path / "a.parquet", [])
    for name in ("a.txt", "a.jsonl", "a.parquet"):
        assert (texts_of(tmp_path / name), count_rows(tmp_path / name)) == ([], 0)


@pytest.mark.parametrize("kept", [0, 3, 100, -100, -1])
def test_a_truncated_parquet_file_is_refused(kept: int, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", AWKWARD)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(Refusal, match=r"source\.files: .*a\.parquet") as refused:
        texts_of(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["jsonl.gz", "jsonl.zst", "json.gz"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign"])
def test_a_damaged_packed_file_is_refused(kind: str, damage: str, tmp_path: Path) -> None:
    path = FILES[kind](tmp_path)
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[-9:]
    elif damage == "flipped":
        data[-40:-20] = bytes(20)
    else:
        data[:] = b'{"text": "plain"}\n'
    path.write_bytes(data)
    with pytest.raises(Refusal, match=r"source\.files: .*a\.json") as refused:
        texts_of(path)
    assert "\n" not in str(refused.value)


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", ["a"])
    with pytest.raises(
        Refusal, match=r"source\.text_field: .* has no column 'body', only: 'id', 'text'"
    ):
        texts_of(path, "body")
    path = write_jsonl(tmp_path / "a.jsonl", ["a"])
    with pytest.raises(
        Refusal, match=r"source\.text_field: .*row 0 has no 'body', only: 'id', 'text'"
    ):
        texts_of(path, "body")
    path = write_txt(tmp_path / "a.txt", ["a"])
    with pytest.raises(Refusal, match="lines, called 'text'"):
        texts_of(path, "body")


def test_a_column_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", ["a"])
    with pytest.raises(Refusal, match=r"source\.text_field: .* column 'id' is int64, not text"):
        texts_of(path, "id")


def test_a_row_without_text_is_refused_by_its_number(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", ["a"] * 12 + [None])
    with pytest.raises(Refusal, match=r"row 12 has no text \(null\)"):
        texts_of(path)


def not_utf8(folder: Path, kind: str) -> Path:
    path = folder / f"a.{kind}"
    if kind.endswith(("gz", "zst")):
        lines = b'{"text": "good"}\n{"text": "\xff"}\n'
        path.write_bytes(PACKERS[kind.rpartition(".")[2]](lines))
    elif kind == "parquet":
        raw = pa.array([b"good", b"\xff\xfe"], pa.binary())
        pq.write_table(pa.table({"text": raw.view(pa.string())}), path)
    elif kind == "jsonl":
        path.write_bytes(b'{"text": "good"}\n{"text": "\xff\xfe"}\n')
    else:
        path.write_bytes(b"good\n\xff\xfe\n")
    return path


@pytest.mark.parametrize("kind", sorted(FILES))
def test_text_that_is_not_utf8_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"source\.files: .*: row 1 is not UTF-8$"):
        texts_of(not_utf8(tmp_path, kind))


def test_a_line_that_is_not_utf8_is_refused_by_its_number_wherever_it_stands(
    tmp_path: Path,
) -> None:
    lines = [b"\xe6\x97\xa5 plain"] * 20_000  # many buffers of the decoder
    for place, ending in ((0, b"\n"), (12_345, b"\r\n"), (19_999, b"\r")):
        bad = [*lines[:place], b"caf\xe9", *lines[place + 1 :]]
        (tmp_path / "a.txt").write_bytes(ending.join(bad))
        with pytest.raises(Refusal, match=rf"a\.txt: row {place} is not UTF-8$"):
            texts_of(tmp_path / "a.txt")
    for half in (
        b"\xed\xa0\x80",
        b"\xed\xb2\x80",
        b"\xc3",
    ):  # no UTF-8 although Python can spell them
        (tmp_path / "a.txt").write_bytes(b"one\n" + half)
        with pytest.raises(Refusal, match=r"a\.txt: row 1 is not UTF-8$"):
            texts_of(tmp_path / "a.txt")


NESTED = pa.table(
    {
        "list": pa.array([[1, 2], None, [3]]),
        "meta": pa.array([{"text": f"inner {i}", "deep": {"x": [i], "y": i}} for i in range(3)]),
        "map": pa.array([[("k", i)] for i in range(3)], pa.map_(pa.string(), pa.int64())),
        "fixed": pa.array([[i, i] for i in range(3)], pa.list_(pa.int32(), 2)),
        "meta.text": pa.array([f"outer {i}" for i in range(3)]),
        "text": pa.array([f"plain {i}" for i in range(3)]),
    }
)


@pytest.mark.parametrize("names", [NESTED.column_names, NESTED.column_names[::-1]])
def test_a_column_behind_nested_ones_is_read_though_a_field_has_its_path(
    names: list[str], tmp_path: Path
) -> None:
    pq.write_table(NESTED.select(names), tmp_path / "a.parquet", row_group_size=2)
    assert texts_of(tmp_path / "a.parquet", "meta.text") == ["outer 0", "outer 1", "outer 2"]
    assert texts_of(tmp_path / "a.parquet", "text") == ["plain 0", "plain 1", "plain 2"]
    with pytest.raises(Refusal, match=r"column 'meta' is struct<.*>, not text"):
        texts_of(tmp_path / "a.parquet", "meta")


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    columns = [pa.array(["a"]), pa.array([1]), pa.array(["b"])]
    pq.write_table(pa.Table.from_arrays(columns, ["text", "id", "text"]), tmp_path / "a.parquet")
    with pytest.raises(Refusal, match=r"source\.text_field: .* has 2 columns 'text'; keep one"):
        texts_of(tmp_path / "a.parquet")
    with pytest.raises(Refusal, match=r"'id' is int64"):
        texts_of(tmp_path / "a.parquet", "id")


def test_names_in_a_file_cannot_break_a_message_or_reach_the_terminal(tmp_path: Path) -> None:
    odd = "a\nb\x1b[2J"
    pq.write_table(pa.table({odd: ["a"]}), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text(json.dumps({odd: "a"}))
    for name in ("a.parquet", "a.jsonl"):
        with pytest.raises(Refusal) as raised:
            texts_of(tmp_path / name)
        assert str(raised.value).isprintable() and r"'a\nb\x1b[2J'" in str(raised.value)
    path = tmp_path / "new\nline.txt"
    path.write_bytes(b"\xff")
    with pytest.raises(Refusal, match=r"/new line\.txt: row 0 is not UTF-8$"):
        texts_of(path)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"{", "row 1 is not JSON"),
        (b"[" * 100_000, "row 1 is not JSON"),
        (b'["text"]', "row 1 is not a JSON object"),
        (b'{"text": 1}', "row 1 holds no text in 'text'"),
        (b'{"text": null}', r"row 1 has no text \(null\)"),
        (b'{"text": "\\ud800"}', "row 1 is not Unicode text"),
    ],
)
def test_a_bad_line_of_json_is_refused_by_its_number(
    line: bytes, fault: str, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n' + line + b"\n")
    with pytest.raises(Refusal, match=fault):
        texts_of(tmp_path / "a.jsonl")


@pytest.mark.parametrize("kind", ["jsonl", "txt"])
def test_a_row_without_end_is_refused_before_it_fills_the_memory(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "MAX_ROW_BYTES", 100)
    path = tmp_path / f"a.{kind}"
    path.write_text(json.dumps({"text": "a" * 85}) + "\n" + "b" * 101, encoding="utf-8")
    with pytest.raises(Refusal, match="row 1 has more than 100"):
        texts_of(path)


MEMORY = """
import pathlib, psutil, sys
from dipaco.node.data.readers import read_rows

memory = psutil.Process().memory_info
before = most = memory().rss
read = 0
for row, text in read_rows(pathlib.Path(sys.argv[1]), "text"):
    read += len(text)
    if row % 50 == 0:
        most = max(most, memory().rss)
print(read, most - before)
"""


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_memory_does_not_grow_with_the_file(kind: str, tmp_path: Path) -> None:
    growth = []
    for rows in (1_000, 8_000):
        corpus = [str(row) * 2_000 for row in range(10_000, 10_000 + rows)]
        if kind == "parquet":
            path = write_parquet(tmp_path / f"{rows}.parquet", corpus, rows_per_group=1_000)
        else:
            path = write_jsonl(tmp_path / f"{rows}.jsonl", corpus)
        answer = subprocess.run(
            [sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True
        )
        read, grown = map(int, answer.stdout.split())
        assert read == rows * 10_000
        growth.append(grown)
    assert growth[1] - growth[0] < 30_000_000  # of 70,000,000 bytes more


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    for name in ("a.csv", "parquet", "a.parquet.gz"):
        with pytest.raises(Refusal, match=r"not a \.parquet, \.jsonl or \.txt file, nor"):
            read_rows(tmp_path / name, "text")


def test_a_file_that_is_away_is_unavailable(tmp_path: Path) -> None:
    for name in ("a.parquet", "a.jsonl", "a.txt"):
        with pytest.raises(Unavailable, match="No such file"):
            texts_of(tmp_path / name)
