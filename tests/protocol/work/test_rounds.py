"""Rules of this file: what is due follows from the ledger, however far it was told."""

from collections.abc import Iterable, Iterator

from hypothesis import given
from hypothesis import strategies as st

from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.work.ledger import Entry
from dipaco.protocol.work.rounds import Rounds, Weights
from dipaco.protocol.work.run_state import RunState
from tests.protocol.work.test_run_state import (
    ADOPTED,
    FIRST_ROUND,
    MANIFEST,
    NEXT,
    SCORED,
    TOP,
    evaluated,
    resharding,
    updated,
)

WEIGHTS: dict[bytes, Weights] = {ADOPTED.spec: (4, 3, 2, 0), NEXT.spec: (0, 3, 2, 1)}
PLACES = st.tuples(st.integers(0, 3), st.integers(0, 2))


def told(manifest: Manifest, entries: Iterable[Entry]) -> tuple[RunState, Rounds]:
    state = RunState(manifest)
    for entry in entries:
        state.apply(entry)
    return state, Rounds(state, WEIGHTS.get)


def looked_for(state: RunState, rounds: Rounds, behind: int) -> Iterator[tuple[int, int]]:
    """Yield what is due by looking at every version of every path."""
    for version in range(rounds.last + 1):
        for path in rounds.live_at(version):
            newest = min(state.version(m) for m in TOP.path_modules[path])
            if version <= newest - behind and (version, path) not in state.evaluations:
                yield version, path


@given(
    resharded=st.booleans(),
    length=st.integers(0, 15),
    places=st.lists(PLACES, unique=True),
    behind=st.integers(0, 2),
)
def test_the_evaluations_that_are_due_are_those_that_a_search_finds(
    resharded: bool, length: int, places: list[tuple[int, int]], behind: int
) -> None:
    second = [updated(module, 2) for module in TOP.modules]
    entries = [*SCORED, NEXT, *second] if resharded else [*FIRST_ROUND, *second]
    state, rounds = told(resharding() if resharded else MANIFEST, entries[:length])
    for path, version in places:
        if version <= state.path_version(path):
            state.apply(evaluated(path, version))
    found = list(rounds.due_evaluations(behind=behind))
    assert found == list(looked_for(state, rounds, behind))
    everything = rounds.done == rounds.last and not list(looked_for(state, rounds, 0))
    assert rounds.finished == everything


@given(length=st.integers(0, 15))
def test_a_path_stands_at_the_version_that_all_its_modules_have(length: int) -> None:
    second = [updated(module, 2) for module in TOP.modules]
    for manifest, entries in (
        (MANIFEST, [*FIRST_ROUND, *second]),
        (resharding(), [*SCORED, NEXT, *second]),
    ):
        state, _ = told(manifest, entries[:length])
        for path in range(4):
            newest = min(state.version(module) for module in TOP.path_modules[path])
            assert state.path_version(path) == newest


@given(
    length=st.integers(0, 15),
    arrived=st.sets(st.tuples(st.integers(0, 3), st.integers(1, 3))),
    resharded=st.booleans(),
)
def test_the_outer_steps_that_are_due_are_those_that_a_search_finds(
    length: int, arrived: set[tuple[int, int]], resharded: bool
) -> None:
    second = [updated(module, 2) for module in TOP.modules]
    entries = [*SCORED, NEXT, *second] if resharded else [*FIRST_ROUND, *second]
    state, rounds = told(resharding() if resharded else MANIFEST, entries[:length])
    for told_since in range(3):  # what is remembered of an earlier look changes nothing
        due = []
        for module in TOP.modules:
            version = state.version(module) + 1
            alive = rounds.live_at(max(1, version))
            paths = tuple(path for path in TOP.paths_through(module) if path in alive)
            complete = paths and {(path, version) for path in paths} <= arrived
            if 1 <= version <= rounds.last and complete:
                due.append((module, version, paths))
        assert list(rounds.due_steps(arrived)) == due
        newest = (min(state.version(m) for m in TOP.path_modules[p]) for p in rounds.live_paths)
        assert rounds.done == min(newest)
        arrived |= {(p, v) for p in range(4) for v in (1, 2, 3) if (p + v) % 3 == told_since}
        for entry in entries[length + told_since : length + told_since + 1]:
            state.apply(entry)
