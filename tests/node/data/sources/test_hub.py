"""Rules of this file: the real client library talks to a stand-in hub on loopback; no real waits.

What the stand-in has is a split `train` of two parquet files with 700 and 500 rows or, where a
test says so, a split `test` of packed JSON lines; each file is some ranges long.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from dipaco.node.data.downloads import Downloads
from dipaco.node.data.sources.dispatch import is_authenticated, reachable, rows
from dipaco.node.data.sources.hub import pin_hub
from dipaco.node.data.sources.interface import Access
from dipaco.node.jobs.values import Progress
from dipaco.protocol.errors import ConfigError, Refusal, Unavailable
from dipaco.protocol.run.source import Source
from dipaco.protocol.wire.digest import sha256
from tests.node.data.network import Waits, json_gz, json_lines, noise, parquet
from tests.standin import COMMIT, LFS_BYTES, StandIn

FIRST, SECOND, OTHER = noise(700, 1), noise(500, 2), noise(900, 3)
FILES = {
    "data/train-00000-of-00002.parquet": parquet(FIRST),
    "data/train-00001-of-00002.parquet": parquet(SECOND),
    "README.md": b"---\nconfigs:\n- config_name: default\n  data_files:\n"
    b"  - {split: train, path: data/train-*}\n---\n# Books\n",
}
PACKED = {"data/test-00000-of-00001.json.gz": json_gz(OTHER)}


@pytest.fixture
def hub(hub: StandIn) -> StandIn:
    hub.files = dict(FILES)
    return hub


@pytest.fixture
def source(hub: StandIn) -> Source:
    return pinned(hub, window=300)


@pytest.fixture
def packed(hub: StandIn) -> Source:
    hub.files = dict(PACKED)
    return pinned(hub, split="test", documents=800)


KNOWN: dict[str, Source] = {}


def pinned(hub: StandIn, **given: Any) -> Source:
    """What `pin_hub` says of what a new stand-in has: always the same, so it is asked once."""
    key = repr(given)
    if key not in KNOWN:
        KNOWN[key] = pin_hub("owner/books", **given)
        hub.asked.clear()
    return KNOWN[key]


def read(source: Source, waits: Waits, start: int = 0, stop: int = 1 << 40) -> list[str]:
    found = list(rows(source, start=start, stop=stop, access=Access(retry=waits.retry())))
    assert [row["index"] for row in found] == list(range(start, start + len(found)))
    return [row["text"] for row in found]


def test_a_branch_becomes_its_commit_and_every_file_is_pinned(source: Source) -> None:
    assert (source.kind, source.dataset, source.config) == ("hub", "owner/books", "default")
    assert (source.split, source.revision, source.documents) == ("train", COMMIT, 1200)
    for file, count in zip(source.files, (700, 500), strict=True):
        data = FILES[file.name]
        assert (file.size, file.sha256, file.rows) == (len(data), sha256(data), count)


def test_whether_a_node_can_read_it_is_told_without_asking_the_hub(
    hub: StandIn, source: Source
) -> None:
    hub.gone = True
    found = reachable(source, Access())
    assert found.words.startswith("on a public hub, not tried here") and not found.cure
    assert hub.asked == []


@pytest.mark.parametrize("revision", ["main", "v1", COMMIT])
def test_a_tag_and_a_commit_pin_the_same(revision: str, hub: StandIn, source: Source) -> None:
    assert pin_hub("owner/books", revision=revision, window=300) == source


def test_only_the_files_that_hold_the_documents_are_pinned(hub: StandIn) -> None:
    few = pin_hub("owner/books", documents=700)
    assert [file.rows for file in few.files] == [700]
    assert not any("00001" in asked and "resolve" in asked for asked in hub.asked)


def test_a_file_whose_digest_the_hub_does_not_know_is_read_for_it(
    hub: StandIn, waits: Waits
) -> None:
    data = json_lines(["a", "b"])
    assert len(data) < LFS_BYTES
    hub.files = {"data/train.jsonl": data}
    small = pin_hub("owner/books", documents=2)
    assert (small.files[0].sha256, small.documents) == (sha256(data), 2)
    assert read(small, waits) == ["a", "b"]


def test_rows_are_streamed_in_ranges(source: Source, hub: StandIn, waits: Waits) -> None:
    assert read(source, waits) == FIRST + SECOND
    bodies = [asked for asked in hub.asked if asked.startswith("GET /cdn/")]
    assert len(bodies) > 4
    assert all("bytes=" in asked for asked in bodies)
    assert waits.slept == []


@pytest.mark.parametrize(("start", "stop"), [(0, 10), (650, 760), (700, 1200), (1199, 9999)])
def test_a_window_is_a_slice_of_the_whole(
    start: int, stop: int, source: Source, waits: Waits
) -> None:
    assert read(source, waits, start, stop) == (FIRST + SECOND)[start:stop]


def test_a_window_asks_nothing_of_files_before_it(
    source: Source, hub: StandIn, waits: Waits
) -> None:
    read(source, waits, 900, 910)
    assert not any("train-00000" in asked for asked in hub.asked)
    held = sum(_length(asked) for asked in hub.asked if asked.startswith("GET /cdn/"))
    assert held < 2 * len(FILES["data/train-00001-of-00002.parquet"])


def _length(asked: str) -> int:
    first, last = asked.rpartition("bytes=")[2].split("-")
    return int(last) - int(first) + 1


def test_packed_lines_are_streamed_too(packed: Source, hub: StandIn, waits: Waits) -> None:
    assert [file.rows for file in packed.files] == [800]
    assert packed.files[0].sha256 == sha256(PACKED["data/test-00000-of-00001.json.gz"])
    assert read(packed, waits, 100) == OTHER[100:800]
    assert sum(asked.startswith("GET /cdn/") for asked in hub.asked) > 1


@pytest.mark.parametrize("cuts", [[0], [1, 1000, 40_000], [50_000] * 2])
@pytest.mark.parametrize("kind", ["source", "packed"])
def test_a_cut_connection_neither_doubles_nor_loses_a_document(
    kind: str, cuts: list[int], request: pytest.FixtureRequest, hub: StandIn, waits: Waits
) -> None:
    source: Source = request.getfixturevalue(kind)
    hub.cuts.extend(cuts)
    assert read(source, waits) == (FIRST + SECOND if kind == "source" else OTHER[:800])
    assert hub.cuts == []
    assert len(waits.slept) == len(cuts)


@pytest.mark.parametrize(
    ("answer", "at_least"),
    [((429, {"Retry-After": "7"}), 7), ((503, {}), 1), ((503, {"Retry-After": "3"}), 3)],
)
def test_a_hub_that_asks_to_come_again_is_asked_again_when_it_says(
    answer: tuple[int, dict[str, str]], at_least: float, source: Source, hub: StandIn, waits: Waits
) -> None:
    hub.failures += [answer] * 2
    assert read(source, waits) == FIRST + SECOND
    assert hub.failures == []
    assert sum(waits.slept) >= 2 * at_least


def test_the_hubs_api_is_asked_again_too(source: Source, hub: StandIn, waits: Waits) -> None:
    hub.api_failures += [(503, {}), (429, {"Retry-After": "5"})]
    assert read(source, waits, 0, 5) == FIRST[:5]
    assert hub.api_failures == []
    assert sum(waits.slept[1:6]) == 5


def test_a_wait_beyond_measure_is_not_waited(source: Source, hub: StandIn, waits: Waits) -> None:
    hub.failures.append((429, {"Retry-After": "86400"}))
    with pytest.raises(Unavailable, match="come back after 86400 seconds"):
        read(source, waits)
    assert waits.slept == []


def test_a_hub_that_stays_away_is_given_up_within_minutes(
    source: Source, hub: StandIn, waits: Waits
) -> None:
    hub.failures += [(503, {})] * 10_000
    with pytest.raises(Unavailable, match=r"owner/books@5e1f5e1f/data/train-0.*the hub says 503"):
        read(source, waits)
    assert 120 < waits.now < 240


def test_a_commit_that_is_gone_is_named(source: Source, hub: StandIn, waits: Waits) -> None:
    hub.gone = True
    with pytest.raises(Unavailable, match=rf"source\.revision: owner/books@{COMMIT}: not on the"):
        read(source, waits)
    assert waits.slept == []


def test_a_file_that_is_gone_is_named(source: Source, hub: StandIn, waits: Waits) -> None:
    del hub.files["data/train-00001-of-00002.parquet"]
    with pytest.raises(Unavailable, match=r"train-00001-of-00002\.parquet: no such file on the"):
        read(source, waits)


def test_a_file_with_another_digest_is_not_read(source: Source, hub: StandIn, waits: Waits) -> None:
    hub.files["data/train-00000-of-00002.parquet"] = parquet(noise(700, 9))
    with pytest.raises(Unavailable, match="not the file that the run pins"):
        read(source, waits)
    assert not any("/cdn/" in asked for asked in hub.asked)


def test_a_hub_that_knows_no_ranges_is_not_downloaded_in_their_place(
    source: Source, hub: StandIn, waits: Waits
) -> None:
    hub.ranged = False
    with pytest.raises(Unavailable, match="whole files where a range is asked"):
        read(source, waits)


def test_a_file_with_fewer_rows_than_pinned_is_refused(source: Source, waits: Waits) -> None:
    first = replace(source.files[0], rows=701)
    with pytest.raises(Refusal, match="fewer rows than the 701 that the run states"):
        read(replace(source, files=(first, source.files[1])), waits)


def test_a_column_that_is_missing_is_named(source: Source, waits: Waits) -> None:
    with pytest.raises(
        Refusal, match=r"source\.text_field: .* has no column 'body', only: 'id', 'text'"
    ):
        read(replace(source, text_field="body"), waits)


def test_whole_files_are_hashed_before_use_and_kept(
    source: Source, hub: StandIn, waits: Waits, tmp_path: Path
) -> None:
    told: list[Progress] = []
    kept = Downloads(tmp_path, 10**7, waits.retry())
    access = Access(downloads=kept, whole_files=True)
    hub.cuts += [1000]
    for _ in range(2):
        found = rows(source, start=0, stop=1200, access=access, on_progress=told.append)
        assert [row["text"] for row in found] == FIRST + SECOND
    bodies = [asked for asked in hub.asked if asked.startswith("GET /cdn/")]
    assert sum(map(_length, bodies)) < 2 * sum(file.size for file in source.files)
    assert (is_authenticated(source, access), is_authenticated(source, Access())) == (True, False)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"split": "valid"}, "source.split: owner/books has no split 'valid', only: train"),
        ({"config": "other"}, "source.config: owner/books: .*other"),
        ({"text_field": "body"}, "source.text_field: .* no column 'body'"),
    ],
)
def test_what_a_data_set_has_not_is_named(given: dict[str, Any], words: str, hub: StandIn) -> None:
    with pytest.raises(ConfigError, match=words):
        pin_hub("owner/books", **given)


def test_what_is_not_on_the_hub_is_named(hub: StandIn) -> None:
    with pytest.raises(Unavailable, match=r"source\.revision: owner/books@v9: not on the hub"):
        pin_hub("owner/books", revision="v9")
    with pytest.raises(Unavailable, match="owner/none@main: not on the hub"):
        pin_hub("owner/none")
    with pytest.raises(ConfigError, match=r"source\.dataset: 'books' is not owner/name"):
        pin_hub("books")


def test_packed_lines_need_a_number_of_documents(hub: StandIn) -> None:
    hub.files = dict(PACKED)
    with pytest.raises(ConfigError, match=r"source\.documents: is missing"):
        pin_hub("owner/books", split="test")


def test_code_of_a_data_set_is_refused(hub: StandIn, tmp_path: Path) -> None:
    hub.files["books.py"] = f"open({str(tmp_path / 'ran')!r}, 'w')".encode()
    with pytest.raises((ConfigError, Unavailable), match="no longer supported"):
        pin_hub("owner/books")
    assert not (tmp_path / "ran").exists()


RUN = """
name = "hub"
seed = 1
[source]
kind = "hub"
dataset = "owner/books"
documents = 900
[model]
d_model = 16
heads = 2
kv_heads = 2
d_ff = 32
context = 64
[grid]
levels = [{ experts = 2, blocks = 1 }, { experts = 2, blocks = 1 }]
[routing]
sample = 200
[training]
seed_steps = 1
rounds = 1
inner_steps = 1
batch = 2
[training.inner]
[training.outer]
"""


def test_a_run_on_the_hub_is_founded_and_derived_without_an_account(
    hub: StandIn, tmp_path: Path
) -> None:
    (tmp_path / "run.toml").write_text(RUN)
    user = tmp_path / "user"
    (user / ".cache" / "huggingface").mkdir(parents=True)
    (user / ".cache" / "huggingface" / "token").write_text("hf_secret")
    environment = os.environ | {
        "HOME": str(user),
        "HF_ENDPOINT": hub.endpoint,
        "HF_TOKEN": "hf_secret",
        "DIPACO_HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path),
    }
    for name in [name for name in environment if name.startswith("HF_") and name not in WANTED]:
        del environment[name]

    def node(*words: str) -> str:
        command = [sys.executable, "-m", "dipaco.cli.main", *words]
        answer = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert answer.returncode in (0, 5), answer.stderr
        return answer.stdout

    node("run", "create", "run.toml", "--out", "my.run")
    assert f"hub {COMMIT}" in node("run", "show", "my.run")
    node("verify", "my.run", "--out", "own.spec")
    assert "verified" in node("verify", "my.run", "--spec", "own.spec").lower()
    left = [path for path in user.rglob("*") if path.is_file()]
    assert [path.name for path in left] == ["token"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("dipaco-")]


WANTED = ("HF_ENDPOINT", "HF_TOKEN")
