"""The limit on the disk: free space is a number of the test; virtual time."""

import trio
from trio.testing import MockClock

from dipaco.node.limits.disk import RETRY_SECONDS, Disk, DiskLimit, no_space
from dipaco.node.limits.values import Closed, Observed
from dipaco.node.storage.files import DiskFull

LIMIT = DiskLimit(500 * 10**6)


def closed(free: int, *, before: bool = False) -> Closed | None:
    return LIMIT.closed(Observed(disk_free=free), 0.0, before=before)


def test_less_than_the_least_free_space_forbids_work_and_says_what_would_allow_it() -> None:
    assert closed(500 * 10**6) is None
    found = closed(500 * 10**6 - 1)
    assert found and (found.code, found.by) == ("disk", "need")
    words = "0.5 GB free, storage.min_free is 0.5 GB; work goes on when 0.55 GB are free"
    assert str(found) == words


def test_work_is_allowed_again_only_some_way_above_the_line() -> None:
    assert closed(549 * 10**6, before=True)
    assert closed(550 * 10**6, before=True) is None
    assert closed(500 * 10**6) is None  # used by the work itself


def test_no_least_space_is_no_limit_and_neither_is_a_disk_that_was_not_looked_at() -> None:
    assert DiskLimit(0).closed(Observed(disk_free=0), 0.0, before=False) is None
    assert LIMIT.closed(Observed(), 0.0, before=True) is None


async def test_a_write_that_found_no_space_forbids_work_for_a_while_whatever_seems_free(
    autojump_clock: MockClock,
) -> None:
    disk = Disk(lambda: 10**12)
    problem = "cannot write shards: no space left on the disk"
    disk.note(DiskFull(problem))
    await trio.sleep(RETRY_SECONDS - 0.1)
    found = LIMIT.closed(disk.observed(), 0.0, before=False)
    assert found == no_space(10**12, problem)
    assert found and str(found) == f"1000.0 GB free, {problem}; the node tries again by itself"
    await trio.sleep(0.1)
    assert LIMIT.closed(disk.observed(), 0.0, before=True) is None
