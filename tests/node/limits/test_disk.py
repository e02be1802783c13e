"""The limit on the disk: free space is a number of the test, times are arguments."""

from dipaco.node.limits.disk import RETRY_SECONDS, DiskLimit
from dipaco.node.storage.files import DiskFull


class Disk:
    free = 10**12

    def limit(self) -> DiskLimit:
        return DiskLimit(lambda: self.free, 500 * 10**6)


def test_less_than_the_least_free_space_forbids_work_and_says_what_would_allow_it() -> None:
    disk = Disk()
    limit = disk.limit()
    assert limit.closed(0.0) is None
    disk.free = 500 * 10**6
    assert limit.closed(1.0) is None
    disk.free -= 1
    found = limit.closed(2.0)
    assert found and found.code == "disk"
    words = "0.5 GB free, storage.min_free is 0.5 GB; work goes on when 0.55 GB are free"
    assert str(found) == words


def test_work_is_allowed_again_only_some_way_above_the_line() -> None:
    disk = Disk()
    limit = disk.limit()
    disk.free = 499 * 10**6
    assert limit.closed(0.0)
    disk.free = 549 * 10**6
    assert limit.closed(1.0)
    disk.free = 550 * 10**6
    assert limit.closed(2.0) is None
    disk.free = 500 * 10**6  # used by the work itself
    assert limit.closed(3.0) is None


def test_no_least_space_is_no_limit() -> None:
    assert DiskLimit(lambda: 0, 0).closed(0.0) is None


def test_a_write_that_found_no_space_forbids_work_for_a_while_whatever_seems_free() -> None:
    limit = Disk().limit()
    limit.note(DiskFull("cannot write shards: no space left on the disk"), 100.0)
    found = limit.closed(100.0 + RETRY_SECONDS - 0.1)
    problem = "cannot write shards: no space left on the disk"
    words = f"1000.0 GB free, {problem}; the node tries again by itself"
    assert found and found.code == "disk" and str(found) == words
    assert limit.closed(100.0 + RETRY_SECONDS) is None
