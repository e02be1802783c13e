"""Rules of this file: a run with a quorum takes exactly the outer steps of the paths that did not
miss the round, and no path misses one that would leave a module below its quorum."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.run.training import Quorum
from dipaco.protocol.work.ledger import Entry, RoundMissed, SpecAdopted
from dipaco.protocol.work.rounds import Rounds
from dipaco.protocol.work.run_state import RunState
from tests.protocol.work.test_run_state import MANIFEST, SEEDED, TOP, evaluated, updated
from tests.values import digest

LIVE = (0, 1, 2, 3)


def with_quorum(num: int = 1, den: int = 2) -> Manifest:
    quorum = Quorum(num=num, den=den, grace=0)
    return replace(MANIFEST, training=replace(MANIFEST.training, quorum=quorum))


def adopted(live: tuple[int, ...] = LIVE) -> SpecAdopted:
    return SpecAdopted(epoch=0, spec=digest("spec"), live=live)


def told(
    *entries: Entry, live: tuple[int, ...] = LIVE, manifest: Manifest | None = None
) -> RunState:
    state = RunState(manifest or with_quorum())
    for entry in (adopted(live), SEEDED, *entries):
        state.apply(entry)
    return state


def missed(path: int, round_: int = 1) -> RoundMissed:
    return RoundMissed(path=path, round=round_)


def test_a_module_steps_with_the_paths_that_did_not_miss_the_round_and_with_no_others() -> None:
    state = told(missed(3))
    for wrong in ([0, 1], [0, 1, 2, 3], [0]):
        with pytest.raises(RemoteProtocolError, match="all live paths but those that missed"):
            state.apply(updated("stem", 1, wrong))
    state.apply(updated("stem", 1, [0, 1, 2]))
    with pytest.raises(RemoteProtocolError, match="all live paths but"):
        state.apply(updated("L1.E1", 1, [2, 3]))
    state.apply(updated("L1.E1", 1, [2]))


def test_dead_paths_are_neither_counted_nor_missed() -> None:
    state = told(live=(0, 1, 3))
    with pytest.raises(RemoteProtocolError, match="no training data"):
        state.apply(missed(2))
    state.apply(updated("stem", 1, [0, 1, 3]))


@pytest.mark.parametrize(
    ("before", "entry", "why"),
    [
        ((missed(3),), missed(2), r"module L1\.E1 would have 0 results of 2"),
        ((missed(3),), missed(3), "twice"),
        ((), missed(0, 2), "stands at version 0"),
        ((), missed(0, 3), "round 3 is out of place"),
        ((updated("stem", 1),), missed(0), "module stem stands at version 1"),
        ((), missed(4), "no training data"),
    ],
)
def test_no_path_misses_a_round_out_of_turn(
    before: tuple[Entry, ...], entry: Entry, why: str
) -> None:
    state = told(*before)
    with pytest.raises(RemoteProtocolError, match=why):
        state.apply(entry)


def test_a_run_without_a_quorum_knows_no_missed_rounds_and_states_no_live_paths() -> None:
    state = RunState(MANIFEST)
    with pytest.raises(RemoteProtocolError, match="exactly where the manifest has a quorum"):
        state.apply(adopted())
    for entry in (SpecAdopted(epoch=0, spec=digest("spec")), SEEDED):
        state.apply(entry)
    with pytest.raises(RemoteProtocolError, match="no quorum"):
        state.apply(missed(3))
    with pytest.raises(RemoteProtocolError, match="exactly where the manifest has a quorum"):
        RunState(with_quorum()).apply(SpecAdopted(epoch=0, spec=digest("spec")))


@pytest.mark.parametrize("live", [(1, 0), (0, 0), (0, 4)])
def test_the_live_paths_are_ascending_and_the_runs(live: tuple[int, ...]) -> None:
    with pytest.raises(RemoteProtocolError, match="not ascending, or not the run's"):
        RunState(with_quorum()).apply(adopted(live))


@pytest.mark.parametrize(("num", "den"), [(1, 1), (3, 2), (2, 2)])
def test_a_quorum_of_all_paths_is_none(num: int, den: int) -> None:
    with pytest.raises(ValueError, match=r"^(num: not below|den: )"):
        Quorum(num=num, den=den, grace=0)


def test_the_share_is_exact_and_rounded_up() -> None:
    third = Quorum(num=1, den=3, grace=0)
    assert [third.reached(1, paths) for paths in (2, 3, 4)] == [True, True, False]
    assert not Quorum(num=3, den=4, grace=0).reached(1, 2)


def test_a_module_of_the_late_path_alone_comes_to_the_version_as_it_is() -> None:
    state = told(missed(3), live=(0, 1, 3))
    own = ModuleId("L1.E1")  # of path 3 alone, since path 2 has no data
    assert state.version(own) == 1 and state.states[own][0] == state.states[own][1]
    assert state.version(ModuleId("stem")) == 0 and state.path_version(2) == 0
    assert own not in state.momenta
    for module, paths in {"stem": [0, 1], "L1.E0": [0, 1], "L2.E0": [0], "L2.E1": [1]}.items():
        state.apply(updated(module, 1, paths))
    assert [state.path_version(path) for path in range(4)] == [1, 1, 1, 1]
    state.apply(evaluated(3, 1))
    state.apply(updated(own, 2, [3]))


def test_a_path_goes_on_from_the_moments_of_the_last_round_that_it_did_not_miss() -> None:
    first = [updated(module, 1) for module in TOP.modules]
    state = told(*first, missed(3, 2))
    second = {"stem": [0, 1, 2], "L1.E0": [0, 1], "L1.E1": [2], "L2.E0": [0, 2], "L2.E1": [1]}
    for module, paths in second.items():
        state.apply(updated(module, 2, paths))
    assert state.path_moments(3, 3) == tuple(
        (m, digest(f"moments of 3 {m} 1")) for m in TOP.path_modules[3]
    )
    assert (state.last_round(3, 3), state.last_round(2, 3), state.last_round(3, 2)) == (1, 2, 1)
    assert told(missed(0)).last_round(0, 2) == 0


def outcomes(
    value: Manifest, *entries: Entry, live: tuple[int, ...]
) -> list[tuple[str, list[int]]]:
    """Return every first step that the fold takes after `entries`: by trying all sets of paths."""
    found = []
    for module in TOP.modules:
        through = TOP.paths_through(module)
        for mask in range(1, 1 << len(through)):
            paths = [path for bit, path in enumerate(through) if mask >> bit & 1]
            state = told(*entries, manifest=value, live=live)
            with suppress(RemoteProtocolError):
                state.apply(updated(module, 1, paths))
                found.append((str(module), paths))
    return found


@settings(max_examples=30)
@given(
    share=st.sampled_from([(1, 2), (1, 3), (2, 3), (3, 4), (1, 1000)]),
    live=st.sets(st.integers(0, 3), min_size=1),
    late=st.lists(st.integers(0, 3), max_size=6),
)
def test_the_fold_takes_exactly_the_steps_that_are_due_and_none_below_the_quorum(
    share: tuple[int, int], live: set[int], late: list[int]
) -> None:
    value, alive = with_quorum(*share), tuple(sorted(live))
    state, taken = told(manifest=value, live=alive), list[Entry]()
    gone: set[int] = set()
    for path in late:
        # The plain definition: every module with other live paths keeps its share.
        sizes = [
            (
                len(live & {*TOP.paths_through(m)}),
                len((live - gone - {path}) & {*TOP.paths_through(m)}),
            )
            for m in TOP.path_modules[path]
        ]
        can = path in live - gone and all(
            of == 1 or left * share[1] >= share[0] * of for of, left in sizes
        )
        assert (state.why_not_miss((path,), 1) == "") == can
        if can:
            state.apply(missed(path))
            taken.append(missed(path))
            gone.add(path)
    rounds = Rounds(state, lambda spec: None)
    arrived = {(path, 1) for path in live - gone}
    due = [(str(module), list(paths)) for module, _, paths in rounds.due_steps(arrived)]
    assert due == outcomes(value, *taken, live=alive)
    for module, paths in due:
        of = len(live & {*TOP.paths_through(ModuleId(module))})
        assert len(paths) * share[1] >= share[0] * of
    for module in TOP.modules:
        assert state.version(module) == int(
            bool(rests := live & {*TOP.paths_through(module)}) and rests <= gone
        )
