"""The paths that are absent from the rounds of an ablation."""

from collections import Counter

import pytest
from msgspec.structs import replace

from dipaco.node.compare.absent import QUORUM, a_quarter
from dipaco.node.compare.variants import method_named
from dipaco.protocol.run.model_shape import Grid, Level
from dipaco.protocol.work.ledger import RoundMissed, SpecAdopted
from dipaco.protocol.work.run_state import RunState
from tests.protocol.work.test_run_state import SEEDED
from tests.values import digest, manifest

ROUNDS = 16


@pytest.mark.parametrize("experts", [(2, 2), (4,), (4, 4), (2, 2, 2)], ids=str)
def test_a_quarter_misses_each_round_in_turns_and_every_module_keeps_half(
    experts: tuple[int, ...],
) -> None:
    levels = tuple(Level(experts=each, blocks=1) for each in experts)
    value = manifest(grid=Grid(levels=levels, path_specific_blocks=()))
    live, count = range(value.paths), Counter[int]()
    for round_ in range(1, ROUNDS + 1):
        missed = a_quarter(value, round_, live)
        assert len(missed) == value.paths // 4
        count.update(missed)
        for module in value.topology.modules:
            paths = {*value.topology.paths_through(module)}
            assert len(paths) == 1 or QUORUM.reached(len(paths - missed), len(paths))
    assert set(count) == set(live)
    assert count.total() == ROUNDS * value.paths // 4


def test_a_run_of_fewer_than_four_live_paths_misses_nobody() -> None:
    assert not a_quarter(manifest(), 1, (0, 1, 3))


def test_a_swarm_could_miss_the_same_paths() -> None:
    method = method_named("dipaco+absent")
    value = method.manifest(manifest())
    state = RunState(value)
    state.apply(SpecAdopted(epoch=0, spec=digest("spec"), live=(0, 1, 2, 3)))
    state.apply(SEEDED)
    for path in method.missed(value, 1, (0, 1, 2, 3)):
        state.apply(RoundMissed(path=path, round=1))
    assert state.missed == {1: {0}}
    plain = method_named("dipaco+int4")
    assert not plain.missed(replace(value), 1, (0, 1, 2, 3))
