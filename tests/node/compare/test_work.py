"""All methods of one seed, and some ablations, trained for real on synthetic documents.

Rules of this file: the module's fixture trains once; tests that train again do so in a copy.
"""

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace as with_fields
from math import fsum
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from dipaco.node.compare.folder import SeedFolder, seed_folder
from dipaco.node.compare.rerouting import reroute_trial
from dipaco.node.compare.results import Point, TrialResult, perplexity, sum_over
from dipaco.node.compare.trials import Trial, own_trial
from dipaco.node.compare.variants import METHODS, recut, with_seed
from dipaco.node.compare.work import blobs_of, prepare, train
from dipaco.node.reference.run import ReferenceResult, run_reference
from dipaco.protocol.run.batches import RowOrder, batch_run, batch_seed
from dipaco.protocol.run.manifest import Capacity, Reshard, Routing, run_id
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.wire.digest import Digest
from tests.node.reference.test_run import TRAINING, tiny
from tests.settings import settings

ABLATED = ("dipaco+int4", "dipaco+no-capacity")
PATHS, STEP = 4, 2 * 48  # tokens of one inner step
ROUTING = Routing(
    featurizer="bag-sign-v1",
    sample=64,
    dimension=64,
    validation_bp=1500,
    router_bp=3000,
    capacity=Capacity(num=5, den=4),
    reshard=Reshard(after_round=1, tolerance=1),
)
RUN = with_seed(tiny(routing=ROUTING), 3)


def trial(method: str) -> Trial:
    return own_trial(method, RUN)


def silent(what: str, steps: int) -> None:
    """Hear of no progress."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> SeedFolder:
    made = seed_folder(tmp_path_factory.mktemp("compare"), RUN)
    made.root.mkdir()
    prepare(made, "cpu", silent)
    for method in (*METHODS, *ABLATED):
        train(made, trial(method), "cpu", silent)
    return made


@pytest.fixture
def again(folder: SeedFolder, tmp_path: Path) -> Iterator[SeedFolder]:
    """Give a copy in which a test may train."""
    shutil.copytree(folder.root, tmp_path / "seed")
    yield with_fields(folder, root=tmp_path / "seed")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> ReferenceResult:
    home = tmp_path_factory.mktemp("reference")
    return run_reference(RUN, settings(home), lambda what, progress: None)


def result(folder: SeedFolder, method: str) -> TrialResult:
    found = folder.result(trial(method))
    assert found is not None
    return found


def scored(point: Point) -> list[tuple[int, int, int]]:
    return [(each.shard, each.documents, each.tokens) for each in point.losses]


def test_the_run_itself_among_its_controls_is_the_reference_bit_for_bit(
    folder: SeedFolder, reference: ReferenceResult
) -> None:
    own = result(folder, "dipaco-reshard")
    assert own.states == {m: states[-1].hex() for m, states in reference.states.items()}
    last = [each for (v, _), each in reference.evaluations.items() if v == TRAINING.rounds]
    assert fsum(own.nlls) == pytest.approx(fsum(each.nll for each in last), rel=1e-12)
    start = folder.start()
    assert start is not None
    assert sum(each.tokens for each in start.documents) == sum(each.tokens for each in last)


def test_one_half_chooses_and_the_other_is_shown(folder: SeedFolder) -> None:
    start = folder.start()
    assert start is not None
    halves = Counter(each.half for each in start.documents)
    assert min(halves.values()) > 3 and set(halves) == {"choice", "score"}
    for found in folder.results():
        assert found.choice_nll == sum_over("choice", start.documents, found.nlls)
        shown = sum_over("score", start.documents, found.nlls)
        assert fsum(loss.nll for loss in found.points[-1].losses) == pytest.approx(shown)


def test_methods_with_equal_shards_train_on_equal_batches_and_a_repeat_on_others() -> None:
    def batches(method: str, repeat: int = 0) -> list[int]:
        manifest = own_trial(method, RUN, repeat).manifest(RUN)
        seed = batch_seed(batch_run(manifest.training, run_id(manifest)), 1)
        return RowOrder(seed, 50).batch(0, 50)

    first = trial("dipaco").manifest(RUN)
    assert run_id(first) != run_id(trial("dipaco+int4").manifest(RUN))
    assert batches("dipaco") == batches("dipaco+int4") == batches("flat-moe")
    assert batches("dipaco", 1) == batches("flat-moe", 1) != batches("dipaco")


def test_an_ablation_of_the_router_derives_its_own(folder: SeedFolder) -> None:
    start, own = folder.start(), result(folder, "dipaco+no-capacity")
    assert start is not None and own.spec and own.shards != start.shards
    assert not result(folder, "dipaco+int4").spec


def test_every_method_begins_from_one_model_and_is_scored_on_the_same_tokens(
    folder: SeedFolder,
) -> None:
    start = folder.start()
    assert start is not None
    same = scored(start.point)
    assert len(same) == PATHS and all(tokens for _, _, tokens in same)
    for method in METHODS:
        points = result(folder, method).points
        assert points[0] == start.point
        if method != "dipaco-reshard":
            assert [scored(point) for point in points] == [same] * (TRAINING.rounds + 1)


def test_after_a_resharding_the_same_documents_are_scored_by_the_new_router(
    folder: SeedFolder,
) -> None:
    resharded, start = result(folder, "dipaco-reshard"), folder.start()
    before, after = (scored(point) for point in resharded.points[1:])
    assert before != after
    for column in (1, 2):
        assert sum(each[column] for each in before) == sum(each[column] for each in after)
    assert start is not None and resharded.shards != start.shards
    assert not result(folder, "dipaco").spec, "it keeps the start's"


def test_every_method_comes_to_something_else(folder: SeedFolder) -> None:
    assert len({result(folder, method).perplexity for method in METHODS}) == len(METHODS)


def test_steps_and_tokens_are_counted_per_path_and_over_all(folder: SeedFolder) -> None:
    for method in METHODS:
        paths = 1 if method.startswith("dense") else PATHS
        stretched = PATHS if method == "dense-compute" else 1
        steps = [2 + round_ * 2 * stretched for round_ in range(3)]
        points = result(folder, method).points
        assert [point.steps for point in points] == steps
        assert [point.tokens for point in points] == [
            STEP * (2 + paths * (step - 2)) for step in steps
        ]
    assert result(folder, "dense").compute == 1.0
    assert {result(folder, m).compute for m in METHODS if m != "dense"} == {float(PATHS)}


def test_what_a_killed_training_left_changes_nothing(again: SeedFolder) -> None:
    before, diloco = result(again, "diloco"), trial("diloco")
    again.trial_file(diloco).unlink()
    work = again.work(diloco) / "blobs"
    work.mkdir(parents=True)
    (work / "half").write_bytes(b"written when the power went")
    train(again, diloco, "cpu", silent)
    assert replace(result(again, "diloco"), seconds=before.seconds) == before
    assert not again.work(diloco).exists()


def test_final_states_stay_and_are_not_the_seed_models(folder: SeedFolder) -> None:
    start = folder.start()
    assert start is not None
    blobs, top = blobs_of(folder.root), RUN.topology
    seed = {
        ModuleId(m): blobs.read_array(Digest(bytes.fromhex(d)), top.elements(ModuleId(m)))
        for m, d in start.states.items()
    }
    for method in METHODS:
        target = METHODS[method].manifest(RUN)
        begun, ended = recut(seed, RUN, target), result(folder, method).states
        assert set(ended) == set(target.topology.modules)
        for module, digest in ended.items():
            size = target.topology.elements(ModuleId(module))
            state = blobs.read_array(Digest(bytes.fromhex(digest)), size)
            assert not np.array_equal(state, begun[ModuleId(module)])


@pytest.mark.parametrize("method", ["dipaco", "dipaco-reshard"])
def test_rerouting_scores_the_same_tokens_and_a_wide_window_changes_nothing(
    method: str, again: SeedFolder
) -> None:
    trained = result(again, method)
    reroute_trial(again, trial(method), (4, 48), device="cpu", on_work=silent)
    found = again.rerouted(trial(method))
    assert found is not None
    last = trained.points[-1].losses
    for losses in found.windows.values():
        assert sum(loss.documents for loss in losses) == sum(loss.documents for loss in last)
        assert sum(loss.tokens for loss in losses) == sum(loss.tokens for loss in last)
    assert perplexity(found.windows[48]) == pytest.approx(trained.perplexity, rel=1e-6)
    assert perplexity(found.windows[4]) != pytest.approx(trained.perplexity, rel=1e-6)
    reroute_trial(again, trial(method), (8,), device="cpu", on_work=silent)
    more = again.rerouted(trial(method))
    assert more is not None and set(more.windows) == {4, 8, 48}
    assert more.windows[4] == found.windows[4]
