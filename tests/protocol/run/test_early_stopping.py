"""Which version a path is used with, by its losses and in a run that is told entry by entry."""

import pytest
from msgspec.structs import replace

from dipaco.protocol.run.early_stopping import kept_version
from dipaco.protocol.run.manifest import Reshard
from dipaco.protocol.work.kinds import Evaluation
from dipaco.protocol.work.run_state import RunState
from tests.protocol.work.test_run_state import ADOPTED, SEEDED, TOP, evaluated, updated
from tests.values import manifest

PLAIN = manifest()
STOPPING = replace(PLAIN, training=replace(PLAIN.training, early_stopping=True))


@pytest.mark.parametrize(
    ("losses", "kept"),
    [
        ({0: 5.0, 1: 4.0, 2: 4.5}, 1),
        ({0: 5.0, 1: 4.0, 2: 4.0}, 1),  # the first of equals
        ({0: 5.0, 1: 4.0, 2: 3.0}, 2),
        ({0: 5.0, 2: 6.0}, 0),  # version 1 is not evaluated yet
        ({0: 5.0, 1: 4.0, 3: 1.0}, 1),  # evaluated ahead of the newest complete version: no
        ({}, 2),  # nothing held out for this path
    ],
)
def test_the_lowest_loss_counts_under_early_stopping_alone(
    losses: dict[int, float], kept: int
) -> None:
    assert kept_version(STOPPING, 2, losses) == kept
    assert kept_version(PLAIN, 2, losses) == 2


def test_versions_of_an_earlier_router_are_not_compared_with_later_ones() -> None:
    routing = replace(PLAIN.routing, router_bp=500, reshard=Reshard(after_round=1))
    run = replace(STOPPING, routing=routing, training=replace(STOPPING.training, rounds=4))
    assert kept_version(run, 1, {0: 3.0, 1: 4.0}) == 0
    assert kept_version(run, 3, {0: 3.0, 1: 4.0, 2: 4.5, 3: 5.0}) == 2
    assert kept_version(run, 2, {0: 3.0, 1: 4.0}) == 2


def test_a_run_tells_the_version_of_every_path() -> None:
    told = RunState(STOPPING)
    assert told.kept_version(0) == -1
    for entry in (ADOPTED, SEEDED):
        told.apply(entry)
    assert told.kept_version(0) == 0
    for version in (1, 2):
        for module in TOP.modules:
            told.apply(updated(module, version))
    nll = {(0, 0): 50.0, (0, 1): 40.0, (0, 2): 45.0, (1, 1): 60.0, (1, 2): 30.0}
    for (path, version), value in nll.items():
        plain = evaluated(path, version)
        found = replace(plain.evaluation, nll=value)
        told.apply(replace(plain, evaluation=found))
    nothing = Evaluation(documents=0, tokens=0, nll=0.0)
    told.apply(replace(evaluated(2, 0), evaluation=nothing))
    assert [told.kept_version(path) for path in range(4)] == [1, 2, 2, 2]
