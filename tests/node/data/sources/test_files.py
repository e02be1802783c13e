"""Rules of this file: real files; no network is touched."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from dipaco.node.data.readers import count_rows
from dipaco.node.data.sources.dispatch import reachable, rows
from dipaco.node.data.sources.embedded import embedded_source
from dipaco.node.data.sources.files import pin_files
from dipaco.node.data.sources.interface import Access, Reach
from dipaco.protocol.errors import ConfigError, Refusal, Unavailable
from dipaco.protocol.run.source import Source
from dipaco.protocol.wire.digest import sha256
from tests.node.data.corpora import synthetic, texts, write_jsonl, write_parquet

LOCAL = Access(local_sources=True)


def read(source: Source, start: int = 0, stop: int = 1 << 40) -> list[tuple[int, str]]:
    found = rows(source, start=start, stop=stop, access=LOCAL)
    return [(row["index"], row["text"]) for row in found]


@pytest.fixture
def mixed(tmp_path: Path) -> Source:
    """Three files of three kinds: 25, 10 and 5 rows."""
    corpus = texts(35)
    write_parquet(tmp_path / "a.parquet", corpus[:25])
    write_jsonl(tmp_path / "b.jsonl", corpus[25:])
    (tmp_path / "c.txt").write_text("one\ntwo\n\nfour\nfive\n")
    return pin_files([tmp_path / name for name in ("a.parquet", "b.jsonl", "c.txt")])


def test_a_source_can_be_read_again_from_its_first_row(mixed: Source) -> None:
    for source in (mixed, synthetic(3), embedded_source()):
        stream = rows(source, start=0, stop=3, access=LOCAL)
        for _ in range(2):
            assert [row["index"] for row in stream] == [0, 1, 2]


def test_files_are_read_without_the_datasets_library() -> None:
    code = (
        "import sys\n"
        "from dipaco.node.data.sources.dispatch import rows\n"
        "from dipaco.node.data.sources.embedded import embedded_source\n"
        "from dipaco.node.data.sources.interface import Access\n"
        "read = list(rows(embedded_source(), start=0, stop=3, access=Access()))\n"
        "print(len(read), [name for name in ('datasets', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("3 []", "")


def test_rows_are_counted_over_all_files_in_order(mixed: Source) -> None:
    found = read(mixed)
    assert [index for index, _ in found] == list(range(40))
    assert [text for _, text in found] == [*texts(35), "one", "two", "", "four", "five"]


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 10), (7, 8), (20, 30), (25, 35), (30, 38), (39, 99), (40, 50)]
)
def test_a_window_is_a_slice_of_the_whole(mixed: Source, start: int, stop: int) -> None:
    assert read(mixed, start, stop) == read(mixed)[start:stop]


def test_a_source_ends_at_its_documents(mixed: Source) -> None:
    assert len(read(replace(mixed, documents=27, window=27))) == 27
    assert len(read(synthetic(5), 3)) == 2


def test_files_are_pinned_by_size_and_sha256(mixed: Source, tmp_path: Path) -> None:
    assert mixed.files[0].name == str(tmp_path / "a.parquet")
    for file in mixed.files:
        data = Path(file.name).read_bytes()
        assert (file.size, file.sha256) == (len(data), sha256(data))
    assert (mixed.documents, mixed.window, mixed.windows) == (40, 40, 1)


@pytest.mark.parametrize("change", [b"", b"!"])
def test_a_changed_file_is_refused_before_a_row_of_it_is_used(
    change: bytes, mixed: Source, tmp_path: Path
) -> None:
    read(mixed)  # what was right once is looked at again
    path = tmp_path / "b.jsonl"
    data = bytearray(path.read_bytes())
    data[-5:-4] = change
    path.write_bytes(data)
    stream = iter(rows(mixed, start=0, stop=40, access=LOCAL))
    seen: list[int] = []
    with pytest.raises(Unavailable, match=r"source\.files: .*b\.jsonl"):
        seen.extend(row["index"] for row in stream)
    assert read(mixed, 0, 25) == list(enumerate(texts(25)))
    assert max(seen, default=0) < 25


def test_a_file_that_went_away_is_unavailable(mixed: Source, tmp_path: Path) -> None:
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(Unavailable, match=r"a\.parquet: no such file"):
        read(mixed)


def test_local_files_need_the_operators_word(mixed: Source) -> None:
    with pytest.raises(ConfigError, match=r"run\.local_sources"):
        rows(mixed, start=0, stop=1, access=Access())


@pytest.mark.parametrize("name", ["a.parquet", "../a.parquet", "hf://a.parquet", "http://h/a.txt"])
def test_a_name_that_is_no_absolute_path_is_refused(name: str, mixed: Source) -> None:
    source = replace(mixed, files=(replace(mixed.files[0], name=name), *mixed.files[1:]))
    with pytest.raises(Refusal, match="not an absolute path"):
        read(source)


def test_files_of_this_machine_are_looked_for_where_they_are_allowed(
    mixed: Source, tmp_path: Path
) -> None:
    assert reachable(mixed, LOCAL) == Reach("3 files of this machine")
    assert "run.local_sources" in reachable(mixed, Access()).cure
    (tmp_path / "b.jsonl").unlink()
    found = reachable(mixed, LOCAL)
    assert found.words == f"1 of 3 files cannot be read, first {tmp_path / 'b.jsonl'}"
    assert found.cure == "put them at the paths that the run's manifest names"


def addressed(mixed: Source, *names: str) -> Source:
    """Return `mixed` with other names for its first files."""
    changed = [replace(file, name=name) for file, name in zip(mixed.files, names, strict=False)]
    return replace(mixed, files=(*changed, *mixed.files[len(names) :]))


def test_files_at_addresses_are_none_of_this_machine(mixed: Source) -> None:
    public = [f"https://example.org/{name}" for name in ("a.parquet", "b.jsonl", "c.txt")]
    away = Reach("3 files at https addresses, not tried here")
    assert reachable(addressed(mixed, *public), Access()) == away
    assert reachable(addressed(mixed, *public), LOCAL) == away
    both = reachable(addressed(mixed, *public[:2]), LOCAL)
    assert both == Reach("1 file of this machine and 2 files at https addresses, not tried here")
    assert "run.local_sources" in reachable(addressed(mixed, *public[:2]), Access()).cure


def test_an_address_that_this_node_may_not_or_no_node_can_read_is_told(mixed: Source) -> None:
    private = addressed(mixed, *(f"https://10.0.0.1/{n}.txt" for n in "abc"))
    found = reachable(private, Access())
    assert "own network" in found.words and "run.local_sources" in found.cure
    assert not reachable(private, LOCAL).cure
    for name in ("https://user:word@example.org/a.txt", "a.txt", "https://example.org/a.csv"):
        found = reachable(addressed(mixed, name), LOCAL)
        assert name in found.words and found.cure == "tell the run's owner: no node can read it"


def test_a_name_is_one_file_and_no_pattern(mixed: Source, tmp_path: Path) -> None:
    source = replace(
        mixed, files=(replace(mixed.files[0], name=f"{tmp_path}/*.parquet"), *mixed.files[1:])
    )
    with pytest.raises(Unavailable, match="no such file"):
        read(source)


def test_pinning_names_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        pin_files([tmp_path / "gone.parquet"])
    with pytest.raises(ConfigError, match=r"not a \.parquet"):
        pin_files([tmp_path / "a.csv"])
    with pytest.raises(ConfigError, match="row 1 has no text"):
        pin_files([write_parquet(tmp_path / "a.parquet", ["a", None])])
    with pytest.raises(ConfigError, match="no documents"):
        pin_files([write_parquet(tmp_path / "b.parquet", [])])
    with pytest.raises(ConfigError, match=r"source\.files: none given"):
        pin_files([])


def test_pinning_can_take_the_first_documents_in_windows(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ["a"] * 10)
    source = pin_files([path], documents=7, window=3)
    assert (source.documents, source.window, source.windows) == (7, 3, 3)


def test_streaming_needs_no_network_no_home_and_leaves_nothing_behind(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "def deny(event, args):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo'): raise SystemExit(event)\n"
        "sys.addaudithook(deny)\n"
        "from dipaco.node.data.sources.dispatch import rows\n"
        "from dipaco.node.data.sources.interface import Access\n"
        "from dipaco.node.data.sources.embedded import embedded_source\n"
        "source = embedded_source()\n"
        "print(sum(1 for _ in rows(source, start=0, stop=9999, access=Access())))\n"
        "print('torch' in sys.modules)\n"
    )
    environment = os.environ | {"HOME": "/proc/nowhere", "TMPDIR": str(tmp_path)}
    for name in ("XDG_CACHE_HOME", "HF_HOME", "USE_TORCH"):
        environment.pop(name, None)
    answer = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (answer.stdout, answer.stderr, answer.returncode) == ("1810\nFalse\n", "", 0)
    assert list(tmp_path.iterdir()) == []


def rewritten(path: Path, seen: int, source: Source, change: bytes) -> list[int]:
    """Read on after the file changed under us; returns the rows that came."""
    stream = iter(rows(source, start=0, stop=1 << 40, access=LOCAL))
    found = [next(stream)["index"] for _ in range(seen)]
    path.write_bytes(change)
    found.extend(row["index"] for row in stream)
    return found


@pytest.mark.parametrize("kept", [0, 100_000, 150_001])
def test_a_file_that_changes_its_length_under_us_is_unavailable(kept: int, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [str(i) * 1000 for i in range(10, 99)] * 5)
    source, data = pin_files([path]), path.read_bytes()
    for change in (data[:kept], data + data[:kept] + b"\n"):
        with pytest.raises(Unavailable, match=r"a\.jsonl: \d+ bytes where the run pins \d+"):
            rewritten(path, 3, source, change)
        path.write_bytes(data)
    assert len(read(source)) == source.documents


def test_a_file_that_changes_under_us_without_changing_its_length_is_unavailable(
    tmp_path: Path,
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [str(i) * 1000 for i in range(10, 99)] * 5)
    source, data = pin_files([path]), path.read_bytes()
    with pytest.raises(Unavailable, match=r"a\.jsonl: not the file that the run pins"):
        rewritten(path, 3, source, data.replace(b"98", b"89"))


def test_a_file_has_the_rows_that_the_run_says(mixed: Source) -> None:
    first, *others = mixed.files
    fewer = replace(mixed, files=(replace(first, rows=20), *others), documents=35, window=35)
    assert [text for _, text in read(fewer)][:21] == [*texts(20), texts(26)[25]]
    more = replace(mixed, files=(replace(first, rows=26), *others))
    with pytest.raises(Refusal, match=r"a\.parquet: fewer rows than the 26 that the run states"):
        read(more)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_files_without_rows_may_stand_anywhere(place: int, tmp_path: Path) -> None:
    full = {"a.jsonl": ["a", "b"], "b.jsonl": ["c"]}
    files = [write_jsonl(tmp_path / name, column) for name, column in full.items()]
    empty = [tmp_path / "empty.txt", write_parquet(tmp_path / "empty.parquet", [])]
    empty[0].touch()
    both = [*files[:place], *empty, *files[place:]]
    source = pin_files(both)
    assert [file.rows for file in source.files] == [count_rows(file) for file in both]
    assert [text for _, text in read(source, 0, 3)] == ["a", "b", "c"]
    assert [text for _, text in read(source, 1, 2)] == ["b"]
    assert [text for _, text in read(source, 2, 9)] == ["c"]


def test_empty_documents_are_rows_like_others(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ["", "a", ""])
    assert read(pin_files([path])) == [(0, ""), (1, "a"), (2, "")]


LARGE = """
import pathlib, sys
from dipaco.node.data.sources.files import pin_files
from dipaco.node.data.readers import count_rows
from dipaco.node.data.sources.dispatch import rows
from dipaco.node.data.sources.interface import Access

source = pin_files([pathlib.Path(sys.argv[1])])
stream = rows(source, start=0, stop=99, access=Access(local_sources=True))
print([len(row["text"]) for row in stream])
status = pathlib.Path("/proc/self/status").read_text()  # getrusage counts the parent's memory
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_document_of_100_megabytes_takes_a_few_times_its_own(kind: str, tmp_path: Path) -> None:
    large = "large " * 17_500_000
    column = ["a", large, "b"]
    if kind == "parquet":
        path = write_parquet(tmp_path / "a.parquet", column, rows_per_group=1)
    else:
        path = write_jsonl(tmp_path / "a.jsonl", column)
    answer = subprocess.run(
        [sys.executable, "-c", LARGE, str(path)], capture_output=True, text=True, check=True
    )
    lengths, memory = answer.stdout.splitlines()
    assert lengths == str([len(text) for text in column])
    assert 1024 * int(memory) < 6 * len(large) + 300_000_000
