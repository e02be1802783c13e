"""Whole runs in one process, on synthetic documents: the method's laws and its special cases."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from dipaco.node.aggregation.outer import read_delta
from dipaco.node.config import StorageSection
from dipaco.node.data.embedded_tokenizer import embedded_tokenizer
from dipaco.node.jobs.values import Progress
from dipaco.node.reference.run import ReferenceResult, ReferenceRun, run_reference
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.files import Home
from dipaco.node.worker.performer import Performer
from dipaco.protocol.errors import Refusal
from dipaco.protocol.routing.recipe import recipe_of, unfitted_spec
from dipaco.protocol.run.manifest import Capacity, Manifest, Reshard, Routing
from dipaco.protocol.run.model_shape import Grid, Level, Model
from dipaco.protocol.run.source import Source
from dipaco.protocol.run.training import Adam, Nesterov, Training
from tests.settings import settings
from tests.values import digest, manifest

LEVELS = (Level(experts=2, blocks=1), Level(experts=2, blocks=1))
ROOMY = StorageSection()
TRAINING = Training(
    seed_steps=2,
    rounds=2,
    inner_steps=2,
    batch=2,
    inner=Adam(lr=0.01, warmup=1),
    outer=Nesterov(),
    deltas="f32",
    updates="f32",
)


def tiny(**changes: object) -> Manifest:
    """Return a run over 120 synthetic documents; `changes` replace whole fields."""
    plain = manifest(
        source=Source(kind="synthetic", revision="1", files=(), documents=120, window=120),
        tokenizer=embedded_tokenizer(),
        model=Model(d_model=8, heads=2, kv_heads=1, d_ff=16, context=48),
        routing=Routing(sample=64, dimension=64, validation_bp=1500),
        training=TRAINING,
    )
    return msgspec.structs.replace(plain, **changes)


def run(value: Manifest, home: Path, *, storage: StorageSection = ROOMY) -> ReferenceResult:
    return run_reference(value, settings(home, storage=storage), lambda what, progress: None)


def test_two_homes_come_to_the_same_result_whatever_their_caches_hold(tmp_path: Path) -> None:
    value = tiny()
    first = run(value, tmp_path / "a")
    assert run(value, tmp_path / "b", storage=StorageSection(max_shards=1)) == first
    again = run(value, tmp_path / "a")  # all shards and blobs are there already
    assert again == first


def test_windows_take_turns_and_a_cache_for_one_of_them_changes_nothing(tmp_path: Path) -> None:
    source = Source(kind="synthetic", revision="1", files=(), documents=120, window=60)
    value = tiny(source=source)
    roomy = run(value, tmp_path / "a")
    group = max(p.stat().st_size for p in (tmp_path / "a" / "cache").rglob("train.dense"))
    storage = StorageSection(max_shards=1, cache_max=3 * group)
    assert run(value, tmp_path / "b", storage=storage) == roomy
    kept = len(list((tmp_path / "b" / "cache" / "shards").iterdir()))
    assert kept < len(list((tmp_path / "a" / "cache" / "shards").iterdir())) == 2


def test_the_seed_model_is_copied_into_every_module(tmp_path: Path) -> None:
    grid = Grid(levels=LEVELS, path_specific_blocks=(1,), path_specific_stem=True)
    result = run(tiny(grid=grid), tmp_path)
    start = {str(module): digests[0] for module, digests in result.states.items()}
    assert start["L1.E0"] == start["L1.E1"]
    assert len({start[m] for m in start if m.startswith("p")}) == 1
    assert len(set(start.values())) == 2
    assert len({digests[-1] for digests in result.states.values()}) == len(start)


def test_every_module_takes_one_step_per_round_and_every_path_is_evaluated(tmp_path: Path) -> None:
    value = tiny()
    result = run(value, tmp_path)
    assert {len(digests) for digests in result.states.values()} == {3}
    assert set(result.states) == set(result.momenta) == set(value.topology.modules)
    assert set(result.evaluations) == {(v, p) for v in (0, 1, 2) for p in range(4)}
    first, last = result.perplexity(0), result.perplexity(2)
    assert first is not None and last is not None and last < first < 4500


def test_a_flat_mixture_of_experts_is_a_grid_that_shares_nothing(tmp_path: Path) -> None:
    flat = Grid(levels=LEVELS, path_specific_blocks=(0, 1), path_specific_stem=True)
    value = tiny(grid=flat, training=msgspec.structs.replace(TRAINING, rounds=1))
    result = run(value, tmp_path)
    assert list(result.states) == ["p0", "p1", "p2", "p3"]
    blobs = BlobStore(Home.at(tmp_path).blobs)
    for module, (before, after) in result.states.items():  # one contributor: alpha = 1, factor 1
        size = value.topology.elements(module)
        delta = read_delta(blobs, value, module, result.momenta[module])  # b = g = the delta
        start = blobs.read_array(before, size)
        expected = start - np.float32(0.7) * (delta + np.float32(0.9) * delta)
        assert blobs.read_array(after, size).tobytes() == expected.tobytes()


def test_a_dense_model_is_a_grid_of_one_path(tmp_path: Path) -> None:
    dense = Grid(levels=(Level(experts=1, blocks=2),), path_specific_blocks=())
    outer = Nesterov(lr=1.0, momentum=0.0)  # the outer step then gives back the inner result
    training = msgspec.structs.replace(TRAINING, outer=outer, rounds=1)
    value = tiny(grid=dense, training=training)
    result = run(value, tmp_path)
    assert list(result.states) == ["stem", "L1.E0"]
    blobs = BlobStore(Home.at(tmp_path).blobs)
    for module, (before, after) in result.states.items():
        size = value.topology.elements(module)
        delta = read_delta(blobs, value, module, result.momenta[module])
        trained = blobs.read_array(before, size) - delta
        assert blobs.read_array(after, size).tobytes() == trained.tobytes()


def test_diloco_is_a_grid_whose_paths_share_every_module(tmp_path: Path) -> None:
    shared = Grid(
        levels=(Level(experts=4, blocks=0), Level(experts=1, blocks=2)), path_specific_blocks=()
    )
    value = tiny(grid=shared, training=msgspec.structs.replace(TRAINING, rounds=1))
    assert all(used == ("stem", "L2.E0") for used in value.topology.path_modules)
    result = run(value, tmp_path)
    assert list(result.states) == ["stem", "L2.E0"]
    assert len({result.evaluations[1, path].nll for path in range(4)}) == 4


def test_runs_of_other_prefixes_score_the_same_positions_of_the_same_documents(
    tmp_path: Path,
) -> None:
    """Their shards are the same, too: this router does not read text."""
    training = msgspec.structs.replace(TRAINING, batch_order=digest("order"))
    plain = Routing(kind="round_robin", sample=64, dimension=64, validation_bp=1500)
    long = tiny(routing=plain, training=training)
    routing = msgspec.structs.replace(plain, prefix=16, scored_from=32)
    short = tiny(routing=routing, training=training)
    found = run(long, tmp_path / "long")
    assert run(short, tmp_path / "short").evaluations == found.evaluations
    routing = msgspec.structs.replace(plain, prefix=16)
    more = run(tiny(routing=routing, training=training), tmp_path / "more").evaluations
    for place, each in more.items():
        assert each.documents == found.evaluations[place].documents
        assert each.tokens == found.evaluations[place].tokens + 16 * each.documents


def resharding(**changes: object) -> Manifest:
    """Return a run of two windows that re-shards after round 1, its paths far apart."""
    routing = Routing(
        sample=64,
        dimension=64,
        validation_bp=1500,
        router_bp=3000,
        reshard=Reshard(after_round=1, windows=2, tolerance=1),
    )
    return tiny(
        source=Source(kind="synthetic", revision="1", files=(), documents=240, window=120),
        routing=msgspec.structs.replace(routing, **changes),
        grid=Grid(levels=LEVELS, path_specific_blocks=(0, 1), path_specific_stem=True),
        training=msgspec.structs.replace(TRAINING, inner_steps=12, inner=Adam(lr=0.05, warmup=1)),
    )


@pytest.mark.parametrize("overlap", [1, 2])
def test_a_run_that_re_shards_goes_on_by_a_router_of_its_own_paths_scores(
    tmp_path: Path, overlap: int
) -> None:
    value = resharding(overlap=overlap)
    result = run(value, tmp_path)
    first, second = result.specs
    assert (first.kind, second.kind) == ("kmeans", "class_means")
    assert first.centroids != second.centroids and second.fit and second.fit.labels
    data = BlobStore(Home.at(tmp_path).blobs).read(second.fit.labels, 1 << 16)
    assert len(set(np.frombuffer(data, "<u2").tolist()) & {0, 1, 2, 3}) == 4
    assert sum(first.documents) == sum(second.documents) and sum(first.documents) % overlap == 0
    documents = {v: [result.evaluations[v, p].documents for p in range(4)] for v in (0, 1, 2)}
    assert documents[0] == documents[1] != documents[2]  # version 1 is of the first router
    assert len({sum(each) for each in documents.values()}) == 1


def test_re_sharding_comes_to_the_same_in_another_home_with_a_smaller_cache(
    tmp_path: Path,
) -> None:
    value = resharding(capacity=Capacity(num=3, den=2, unit="tokens"))
    training = msgspec.structs.replace(value.training, inner_steps=2)
    value = msgspec.structs.replace(value, training=training)
    first = run(value, tmp_path / "a")
    assert run(value, tmp_path / "b", storage=StorageSection(max_shards=1)) == first


def test_progress_names_each_piece_of_work(tmp_path: Path) -> None:
    seen: dict[str, Progress] = {}
    value = tiny(training=msgspec.structs.replace(TRAINING, rounds=1))
    run_reference(value, settings(tmp_path), seen.__setitem__)
    work = [f"round 1, path {path}" for path in range(4)]
    assert [what for what in seen if what in work] == work
    assert seen["seed model"].done == seen["seed model"].total == 2


def test_a_source_that_yields_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    routing = Routing(sample=64, dimension=64, prefix_bytes=16384, min_tokens=16384)
    with pytest.raises(Refusal, match="none of its 120 documents"):
        run(tiny(routing=routing), tmp_path)


def test_a_path_without_training_data_is_evaluated_with_the_last_states_of_its_modules(
    tmp_path: Path,
) -> None:
    """A comparison scores every shard's held-out documents, those of an empty shard too."""
    flat = Grid(levels=LEVELS, path_specific_blocks=(0, 1), path_specific_stem=True)
    value = tiny(grid=flat)
    spec = msgspec.structs.replace(unfitted_spec(recipe_of(value)), tokens=(9, 9, 9, 0))
    lines = {module: [digest(f"{module} 0")] for module in value.topology.modules}
    for path in (0, 1, 2):
        for module in value.topology.path_modules[path]:
            lines[module] = [digest(f"{module} {version}") for version in range(3)]
    performer = Performer(settings(tmp_path))
    run = ReferenceRun(value, [spec], performer, lambda what, progress: None, states=lines)
    for path, version in ((0, 2), (3, 0)):
        wanted = [digest(f"{m} {version}") for m in value.topology.path_modules[path]]
        assert [state.digest for state in run.evaluation(2, path).modules] == wanted
