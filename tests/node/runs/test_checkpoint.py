"""Which versions a checkpoint is made of: the newest, the kept ones, or those of one round."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from dipaco.node.runs.checkpoint import Checkpoint, checkpoint_of, path_named
from dipaco.node.runs.files import sign_manifest
from dipaco.node.storage.blobs import BlobStore
from dipaco.protocol.errors import ConfigError, Unavailable
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.work.kinds import Evaluated
from dipaco.protocol.work.run_state import RunState
from tests.node.training.small import any_spec
from tests.protocol.work.test_run_state import ADOPTED, SEEDED, TOP, evaluated, updated
from tests.values import key, manifest

PLAIN = manifest()
STOPPING = replace(PLAIN, training=replace(PLAIN.training, early_stopping=True))


def after_round_one(value: Manifest, home: Path, *, version: int | None = None) -> Checkpoint:
    """Return where a run stands after a round that helped path 0 alone."""
    view = RunState(value)
    view.apply(ADOPTED)
    view.apply(SEEDED)
    for module in TOP.modules:
        view.apply(updated(module, 1))
    for path in range(TOP.paths):
        view.apply(with_loss(evaluated(path, 0), 40.0))
        view.apply(with_loss(evaluated(path, 1), 30.0 if path == 0 else 50.0))
    run = sign_manifest(value, key("owner"))
    return checkpoint_of(run, [any_spec(value)], view, BlobStore(home), version=version)


def with_loss(entry: Evaluated, nll: float) -> Evaluated:
    return replace(entry, evaluation=replace(entry.evaluation, nll=nll))


def test_every_path_is_used_at_the_newest_version(tmp_path: Path) -> None:
    found = after_round_one(PLAIN, tmp_path)
    assert [found.version(path) for path in range(TOP.paths)] == [1, 1, 1, 1]
    assert [each.module for each in found.modules()] == list(TOP.modules)


def test_under_early_stopping_a_path_is_used_at_its_best_version(tmp_path: Path) -> None:
    found = after_round_one(STOPPING, tmp_path)
    assert [found.version(path) for path in range(TOP.paths)] == [1, 0, 0, 0]
    own = set(found.modules([0]))
    assert {each.version for each in own} == {1}
    assert {each.version for each in set(found.modules()) - own} == {0}
    assert {m.module for m in own} & {m.module for m in found.modules([1])}  # at two versions
    assert set(found.newest.values()) == {1}


def test_a_version_that_is_asked_for_is_every_path_s(tmp_path: Path) -> None:
    for version in (0, 1):
        found = after_round_one(STOPPING, tmp_path, version=version)
        assert {found.version(path) for path in range(TOP.paths)} == {version}


def test_a_version_to_come_may_come_and_one_beyond_the_last_never_does(tmp_path: Path) -> None:
    rounds = PLAIN.training.rounds
    with pytest.raises(ConfigError, match=f"--at: .* ends at version {rounds}"):
        after_round_one(PLAIN, tmp_path, version=rounds + 1)
    with pytest.raises(Unavailable, match="stands at version 1, not 2 yet"):
        after_round_one(PLAIN, tmp_path, version=2)


def test_before_the_seed_model_there_is_no_checkpoint(tmp_path: Path) -> None:
    run = sign_manifest(PLAIN, key("owner"))
    with pytest.raises(Unavailable, match="seed model is not trained yet"):
        checkpoint_of(run, [any_spec(PLAIN)], RunState(PLAIN), BlobStore(tmp_path))


def test_states_that_are_not_here_are_named(tmp_path: Path) -> None:
    found = after_round_one(PLAIN, tmp_path)
    assert found.missing() == found.modules()
    assert [each.module for each in found.missing([3])] == list(TOP.path_modules[3])


@pytest.mark.parametrize(("text", "path"), [("0", 0), ("3", 3), ("1,0", 2), ("(0, 1)", 1)])
def test_a_path_is_an_index_or_its_experts(text: str, path: int) -> None:
    assert path_named(PLAIN, text) == path


@pytest.mark.parametrize("text", ["4", "0,2", "0,0,0", "-1", "", "a", "9" * 40])
def test_a_path_off_the_grid_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--path"):
        path_named(PLAIN, text)
