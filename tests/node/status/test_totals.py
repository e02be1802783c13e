"""Rules of this file: sums of a real journal, and a run's state that grows."""

from contextlib import closing
from pathlib import Path

from dipaco.node.status.totals import Sums, estimated_watts
from dipaco.node.storage.journal import Journal
from dipaco.protocol.work.run_state import RunState
from tests.two_rounds import entries, whole_run

RUN = whole_run()


def test_the_fall_of_a_loss_counts_once_when_the_ledger_tells_both_and_outlives_a_restart(
    tmp_path: Path,
) -> None:
    state, told = RunState(RUN), entries(RUN, 2)
    with closing(Journal.open(tmp_path / "journal.sqlite")) as journal:
        sums = Sums(journal, lambda: (7, 9), watts=lambda: estimated_watts("cpu", 9))
        sums.accept(100, 2.5)
        sums.trained(state, 1, 1)
        sums.trained(state, 1, 2)
        seen = []
        for entry in told:
            state.apply(entry)
            seen.append(sums.now().improvement)
        assert seen == sorted(seen) and set(seen) == {0.0, 2.0, 3.0}
        sums.save()
    with closing(Journal.open(tmp_path / "journal.sqlite")) as journal:
        again = Sums(journal).now()
    assert again.estimated_wh == 2.5 * 72 / 3600
    assert (again.improvement, again.accepted, again.tokens, again.sent) == (3.0, 1, 100, 7)


def test_a_gpu_is_estimated_apart_from_the_threads_beside_it() -> None:
    assert estimated_watts("cuda:1", 15) == estimated_watts("mps", 1) == 200.0
    assert estimated_watts("cpu", 2) == 16.0


def test_a_device_that_is_found_later_is_estimated_from_then_on() -> None:
    device = ["cpu"]
    sums = Sums(watts=lambda: estimated_watts(device[0], 1))
    sums.accept(tokens=1, seconds=3600.0)
    device[0] = "cuda:0"
    sums.accept(tokens=1, seconds=3600.0)
    assert sums.now().estimated_wh == 8.0 + 200.0
