"""Rules of this file: real sources, tokenizer and router; the expected shards are made here, from
lists in memory, by the plain reading of docs/method.md 2.2, 2.5 and 2.6."""

import shutil
import subprocess
import sys
import threading
import tracemalloc
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from dipaco.node.data.embedded_tokenizer import embedded_tokenizer
from dipaco.node.data.sources.files import pin_files
from dipaco.node.data.sources.interface import Access
from dipaco.node.data.tokenizers import load_tokenizer
from dipaco.node.jobs.values import Materialise, Materialised, Progress
from dipaco.node.routing import documents
from dipaco.node.routing.derive import SourceDeps, derive
from dipaco.node.routing.shards import WAITING, HeldOut, ShardMissing, Shards, TokenShard
from dipaco.node.storage import shard_cache
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.shard_cache import ShardCache
from dipaco.protocol.errors import ConfigError, LocalProtocolError, Unavailable
from dipaco.protocol.routing import fit
from dipaco.protocol.routing.assign import Router
from dipaco.protocol.routing.recipe import recipe_of
from dipaco.protocol.routing.seeds import Split
from dipaco.protocol.routing.spec import RouterSpec, spec_digest
from dipaco.protocol.run.batches import DENSE, RowOrder, batch_seed
from dipaco.protocol.run.manifest import Manifest, run_id
from dipaco.protocol.run.source import Source
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.digest import Digest, sha256
from tests.node.data.corpora import (
    no_progress,
    small_manifest,
    spec_in,
    synthetic,
    texts,
    write_jsonl,
)

DOCUMENTS, WINDOW = 260, 100
LARGE = 1 << 30


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> SourceDeps:
    return SourceDeps(BlobStore(tmp_path_factory.mktemp("blobs")), Access(local_sources=True))


def derived(manifest: Manifest, tools: SourceDeps) -> RouterSpec:
    return spec_in(derive(manifest, tools, no_progress))


@pytest.fixture(scope="module")
def run(tools: SourceDeps) -> tuple[Manifest, RouterSpec]:
    """A run of 260 documents in three windows, two paths per training document."""
    manifest = small_manifest(synthetic(DOCUMENTS, WINDOW))
    manifest = replace(manifest, routing=replace(manifest.routing, overlap=2, sample=128))
    return manifest, derived(manifest, tools)


def shards(root: Path, tools: SourceDeps, *, max_bytes: int = LARGE, max_shards: int = 4) -> Shards:
    return Shards(ShardCache(root, max_bytes), tools, max_shards=max_shards)


class Expected:
    """All shards of one window, in memory."""

    def __init__(self, run: tuple[Manifest, RouterSpec], window: int, tools: SourceDeps) -> None:
        manifest, spec = run
        recipe, router = recipe_of(manifest), Router(spec)
        encoder = load_tokenizer(embedded_tokenizer(), tools.blobs)
        self.streams: dict[int, list[int]] = {path: [] for path in (0, 1, 2, 3, DENSE)}
        self.held_out: dict[int, list[list[int]]] = {path: [] for path in range(4)}
        self.indices: dict[int, list[int]] = {path: [] for path in range(4)}
        self.id_bytes = encoder.bytes_per_id.tolist()
        corpus = texts(DOCUMENTS)
        for index in range(window * WINDOW, min((window + 1) * WINDOW, DOCUMENTS)):
            tokens = encoder.encode([corpus[index]])[0]
            split = recipe.split(index)
            top = 2 if split is Split.TRAINING else 1
            prefix = np.array([tokens[:32]])
            paths = router.route(prefix, np.array([index]), top=top)[0].tolist()
            if split is Split.TRAINING:
                for path in (*paths, DENSE):
                    self.streams[path] += [*tokens, 0]
            elif split is Split.VALIDATION:
                self.held_out[paths[0]].append(tokens[:64])
                self.indices[paths[0]].append(index)


@pytest.mark.parametrize("window", [0, 2])
def test_every_path_gets_its_documents_and_nothing_else(
    window: int, run: tuple[Manifest, RouterSpec], tools: SourceDeps, tmp_path: Path
) -> None:
    expected, made = Expected(run, window, tools), shards(tmp_path, tools)
    for path, stream in expected.streams.items():
        shard = made.training(*run, window, path, no_progress)
        assert shard.rows == len(stream) // 65
        for index in range(shard.rows):
            row = shard.row(index)
            assert row.dtype == np.int64
            assert row.tolist() == stream[index * 65 : (index + 1) * 65]
    for path, held_out in expected.held_out.items():
        found = made.validation(*run, window, path, no_progress)
        assert [document.tolist() for document in found] == held_out
        assert found.indices.tolist() == expected.indices[path]
        assert found.id_bytes.tolist() == expected.id_bytes
    assert sum(map(len, expected.held_out.values())) > 0
    assert min(map(len, expected.streams.values())) > 0


def test_materialising_counts_each_document_once(
    run: tuple[Manifest, RouterSpec], tools: SourceDeps, tmp_path: Path
) -> None:
    expected, told = Expected(run, 2, tools), list[Progress]()
    found = shards(tmp_path, tools).materialise(*run, 2, told.append)
    assert found.tokens == len(expected.streams[DENSE])
    held_out = sum(map(len, expected.held_out.values()))
    assert found.documents == expected.streams[DENSE].count(0) + held_out
    assert (told[-1].stage, told[-1].done, told[-1].total) == ("route", 60, 60)


def test_a_window_that_is_in_the_cache_is_not_read_again(
    run: tuple[Manifest, RouterSpec], tools: SourceDeps, tmp_path: Path
) -> None:
    told: list[Progress] = []
    first = shards(tmp_path, tools).materialise(*run, 0, told.append)
    count = len(told)
    assert shards(tmp_path, tools).materialise(*run, 0, told.append) == first
    assert len(told) == count > 0


def batches_digest(made: Shards, run: tuple[Manifest, RouterSpec]) -> Digest:
    """Hash the batches of some rounds that jump between windows and paths."""
    seen = b""
    for step in range(6):
        for path in (0, 1, 2, 3, DENSE):
            shard = made.training(*run, step % 3, path, no_progress)
            order = RowOrder(batch_seed(run_id(run[0]), path), shard.rows)
            seen += b"".join(shard.row(i).tobytes() for i in order.batch(step, 4))
    return sha256(seen)


def test_the_sizes_of_the_caches_never_change_a_byte(
    run: tuple[Manifest, RouterSpec],
    tools: SourceDeps,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    large = shards(tmp_path / "large", tools, max_shards=100)
    expected = batches_digest(large, run)
    one_window = ShardCache(tmp_path / "large", LARGE).total_bytes() // 2
    monkeypatch.setattr(shard_cache, "FLUSH_BYTES", 1000)
    monkeypatch.setattr(documents, "BATCH_BYTES", 1000)
    small = shards(tmp_path / "small", tools, max_bytes=one_window, max_shards=1)
    assert batches_digest(small, run) == expected
    assert ShardCache(tmp_path / "small", LARGE).groups() == 1


def test_concurrent_requests_share_one_pass(
    run: tuple[Manifest, RouterSpec], tools: SourceDeps, tmp_path: Path
) -> None:
    told: list[list[Progress]] = [[] for _ in range(6)]
    start = threading.Barrier(len(told))

    def materialise(hear: list[Progress]) -> Materialised:
        made = shards(tmp_path, tools)
        start.wait()
        return made.materialise(*run, 0, hear.append)

    with ThreadPoolExecutor(len(told)) as pool:
        found = list(pool.map(materialise, told))
    assert len(set(found)) == 1
    passes = [hear for hear in told if any(each.stage == "route" for each in hear)]
    assert len(passes) == 1
    assert all(hear in ([], [WAITING]) for hear in told if hear is not passes[0])
    assert ShardCache(tmp_path, LARGE).groups() == 1


def test_who_waits_for_a_pass_that_breaks_off_makes_it_himself(
    run: tuple[Manifest, RouterSpec], tools: SourceDeps, tmp_path: Path
) -> None:
    first, second = shards(tmp_path, tools), shards(tmp_path, tools)
    waits, heard = threading.Event(), list[Progress]()

    def wait(progress: Progress) -> None:
        heard.append(progress)
        waits.set()

    class Broken(Exception):
        pass

    with ThreadPoolExecutor(1) as pool:
        other: Future[Materialised] | None = None

        def break_off(progress: Progress) -> None:
            nonlocal other
            other = pool.submit(second.materialise, *run, 0, wait)
            assert waits.wait(30)
            raise Broken

        with pytest.raises(Broken):
            first.materialise(*run, 0, break_off)
        assert other is not None
        assert other.result(30).documents > 0
    assert [each.stage for each in heard[:2]] == ["wait", "route"]


def test_a_pass_that_is_killed_leaves_nothing_half_made(
    run: tuple[Manifest, RouterSpec], tools: SourceDeps, tmp_path: Path
) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from dipaco.node.jobs import meter\n"
        "from dipaco.node.routing import documents\n"
        "from dipaco.node.routing.derive import SourceDeps\n"
        "from dipaco.node.routing.shards import Shards\n"
        "from dipaco.node.storage import shard_cache\n"
        "from dipaco.node.storage.blobs import BlobStore\n"
        "from dipaco.node.jobs.values import Materialise\n"
        "from dipaco.protocol.wire.canonical import decode\n"
        "documents.BATCH_BYTES = shard_cache.FLUSH_BYTES = 1000\n"
        "meter.INTERVAL = 0.0\n"
        "def stop(report):\n"
        "    print('under way', flush=True)\n"
        "    sys.stdin.read()\n"
        "job = decode(bytes.fromhex(sys.stdin.readline()), Materialise, limit=1 << 20)\n"
        "root = Path(sys.argv[1])\n"
        "cache = shard_cache.ShardCache(root / 'cache', 1 << 30)\n"
        "shards = Shards(cache, SourceDeps(BlobStore(root / 'blobs')), max_shards=4)\n"
        "shards.materialise(job.manifest, job.spec, job.window, stop)\n"
    )
    job = encode(Materialise(manifest=run[0], spec=run[1], window=0))
    cache = tmp_path / "cache"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as maker:
        assert maker.stdin is not None and maker.stdout is not None
        maker.stdin.write(job.hex().encode() + b"\n")
        maker.stdin.flush()
        assert maker.stdout.readline() == b"under way\n"
        assert any(part.stat().st_size for part in cache.glob(".build-*/train.*"))
        maker.kill()
    made = shards(cache, tools)
    with pytest.raises(ShardMissing):
        made.training_shard(spec_digest(run[1]), 0, 0)
    assert list(cache.iterdir()) == []
    told: list[Progress] = []
    made.materialise(*run, 0, told.append)
    assert [each.stage for each in told] == ["route"] * len(told) != []


def test_the_cache_file_of_another_spec_under_our_name_is_noticed_and_made_again(
    run: tuple[Manifest, RouterSpec], tools: SourceDeps, tmp_path: Path
) -> None:
    other = small_manifest(synthetic(DOCUMENTS, WINDOW))
    foreign = derived(other, tools)
    made = shards(tmp_path, tools)
    good = made.training(*run, 0, 1, no_progress).row(0).tolist()
    made.materialise(other, foreign, 0, no_progress)
    ours, theirs = (tmp_path / f"{spec_digest(each).hex()}-0" for each in (run[1], foreign))
    (theirs / "train.1").replace(ours / "train.1")  # one part alone
    assert shards(tmp_path, tools).training(*run, 0, 1, no_progress).row(0).tolist() == good
    made.materialise(other, foreign, 0, no_progress)
    shutil.rmtree(ours)
    theirs.rename(ours)  # the whole group
    assert shards(tmp_path, tools).training(*run, 0, 1, no_progress).row(0).tolist() == good


def test_a_corpus_ten_times_as_large_takes_no_more_memory(
    tools: SourceDeps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "BATCH_BYTES", 10_000)  # the smaller one fills a batch too
    monkeypatch.setattr(fit, "_BATCH", 32)

    def work(count: int) -> None:
        manifest = small_manifest(synthetic(count, 30))
        made, spec = shards(tmp_path / str(count), tools), derived(manifest, tools)
        for window in (0, manifest.source.windows - 1):
            made.materialise(manifest, spec, window, no_progress)

    work(600)  # fills what is kept for good: modules, words and their tokens
    peaks = []
    for count in (60, 600):
        tracemalloc.start()
        work(count)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_no_more_than_max_shards_stay_in_memory(
    run: tuple[Manifest, RouterSpec], tools: SourceDeps, tmp_path: Path
) -> None:
    made, seen = shards(tmp_path, tools, max_shards=2), list[weakref.ref[TokenShard]]()
    for turn in range(12):
        seen.append(weakref.ref(made.training(*run, turn % 3, turn % 4, no_progress)))
        assert len({id(shard) for each in seen if (shard := each()) is not None}) <= 2
    again = made.training(*run, 2, 3, no_progress)
    assert again is seen[-1]()  # a hit opens nothing


def test_a_damaged_shard_is_noticed_and_made_again(
    run: tuple[Manifest, RouterSpec], tools: SourceDeps, tmp_path: Path
) -> None:
    good = shards(tmp_path, tools).training(*run, 0, 1, no_progress).row(0).tolist()
    (folder,) = (path for path in tmp_path.iterdir())
    part = folder / "train.1"
    part.write_bytes(b"\x07\x07" + part.read_bytes()[2:])
    with pytest.raises(ShardMissing):
        shards(tmp_path, tools).training_shard(spec_digest(run[1]), 0, 1)
    assert shards(tmp_path, tools).training(*run, 0, 1, no_progress).row(0).tolist() == good


def test_a_damaged_validation_part_is_made_again_too(
    run: tuple[Manifest, RouterSpec], tools: SourceDeps, tmp_path: Path
) -> None:
    made = shards(tmp_path, tools)
    good = [document.tolist() for document in made.validation(*run, 0, 2, no_progress)]
    (folder,) = (path for path in tmp_path.iterdir())
    (folder / "lengths.2").write_bytes((folder / "lengths.2").read_bytes()[::-1])
    assert [each.tolist() for each in made.validation(*run, 0, 2, no_progress)] == good != []


def test_shards_of_one_spec_are_not_those_of_another(
    run: tuple[Manifest, RouterSpec], tools: SourceDeps, tmp_path: Path
) -> None:
    made = shards(tmp_path, tools)
    made.materialise(*run, 0, no_progress)
    with pytest.raises(ShardMissing, match="window 0 is not in the shard cache"):
        made.training_shard(spec_digest(replace(run[1], epoch=1)), 0, 0)
    with pytest.raises(ShardMissing, match="window 1"):
        made.validation_shard(spec_digest(run[1]), 1, 0)


def test_an_open_shard_outlives_its_eviction(
    run: tuple[Manifest, RouterSpec], tools: SourceDeps, tmp_path: Path
) -> None:
    made = shards(tmp_path, tools)
    shard = made.training(*run, 0, 0, no_progress)
    row = shard.row(1).tolist()
    for folder in tmp_path.iterdir():
        ShardCache(tmp_path, LARGE).drop(folder)
    assert shard.row(1).tolist() == row


def test_a_cache_too_small_for_one_window_is_the_volunteers_to_raise(
    run: tuple[Manifest, RouterSpec], tools: SourceDeps, tmp_path: Path
) -> None:
    made = shards(tmp_path, tools, max_bytes=10_000)
    with pytest.raises(ConfigError, match=r"storage\.cache_max: .* need more than 10000 bytes"):
        made.materialise(*run, 0, no_progress)
    assert ShardCache(tmp_path, LARGE).total_bytes() == 0


def test_a_source_that_breaks_off_leaves_no_half_window(tools: SourceDeps, tmp_path: Path) -> None:
    corpus = texts(200)
    sources: list[Source] = [
        pin_files([write_jsonl(tmp_path / name, part)])
        for name, part in (("a.jsonl", corpus[:100]), ("b.jsonl", corpus[100:]))
    ]
    both = replace(sources[0], files=sources[0].files + sources[1].files, documents=200, window=200)
    manifest = small_manifest(both)
    spec = derived(manifest, tools)
    (tmp_path / "b.jsonl").unlink()
    made = shards(tmp_path / "cache", tools)
    with pytest.raises(Unavailable, match=r"b\.jsonl"):
        made.materialise(manifest, spec, 0, no_progress)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_spec_of_another_run_and_a_window_beyond_the_last_are_bugs(
    run: tuple[Manifest, RouterSpec], tools: SourceDeps, tmp_path: Path
) -> None:
    made = shards(tmp_path, tools)
    with pytest.raises(LocalProtocolError, match="another run"):
        made.materialise(replace(run[0], name="other"), run[1], 0, no_progress)
    with pytest.raises(LocalProtocolError, match="no window 3: the source has 3"):
        made.materialise(*run, 3, no_progress)


@given(st.lists(st.integers(0, 4095), max_size=40), st.integers(1, 12))
def test_rows_cut_a_stream_without_overlap_and_repeat_one_too_short(
    stream: list[int], context: int
) -> None:
    shard, length = TokenShard(np.array(stream, dtype="<u2"), context), context + 1
    rows = [shard.row(index).tolist() for index in range(shard.rows)]
    if not stream:
        assert rows == []
    elif len(stream) < length:
        assert rows == [[stream[i % len(stream)] for i in range(length)]]
    else:
        whole = len(stream) // length * length
        assert [token for row in rows for token in row] == stream[:whole]
        assert {len(row) for row in rows} == {length}
    for outside in (-1, shard.rows):
        with pytest.raises(IndexError):
            shard.row(outside)


@given(st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=8))
def test_held_out_documents_come_back_one_by_one(corpus: list[list[int]]) -> None:
    stream = np.array([token for text in corpus for token in text], dtype="<u2")
    found = HeldOut(stream, np.array([len(text) for text in corpus], dtype="<u4"))
    assert [document.tolist() for document in found] == corpus
    assert [document.tolist() for document in found[1:3]] == corpus[1:3]
    if corpus:
        assert found[-1].tolist() == corpus[-1]
    with pytest.raises(IndexError):
        found[len(corpus)]
