"""Rules of this file: lines of logs are read on a virtual clock; no process is asked."""

from trio.testing import MockClock

from dipaco.cli.testnet.chaos.observer import Observer
from dipaco.protocol.wire.identity import peer_id
from tests.values import key


async def test_the_newest_lease_tells_which_node_schedules(mock_clock: MockClock) -> None:
    observer = Observer("rendezvous")
    observer.begin()
    peer = peer_id(key("volunteer"))
    observer.name("node-1", peer)
    short = f"{peer[:8]}...{peer[-4:]}"
    observer.read("rendezvous", f"2026 info    lease seed (seed model) to={short}")
    assert observer.scheduling == "rendezvous" and not observer.first_lease.is_set()
    mock_clock.jump(3.0)
    observer.read("scheduler-2", f"2026 info    lease train (path 0 round 1) to={short}")
    assert observer.scheduling == "scheduler-2" and observer.first_lease.is_set()
    assert [(each.time, each.peer) for each in observer.trace] == [(0.0, "node-1"), (3.0, "node-1")]


async def test_results_that_count_and_records_are_progress_and_leases_are_none(
    mock_clock: MockClock,
) -> None:
    observer = Observer("rendezvous")
    observer.begin()
    seen = [observer.progress]
    for line in (
        "lease train (path 0 round 1) to=x",
        "accepted path=0 round=1 of=x",
        "ledger ModuleUpdated",
    ):
        observer.read("rendezvous", f"2026 info    {line}")
        seen.append(observer.progress)
    assert seen == [(0, 0), (0, 0), (1, 0), (1, 1)]
