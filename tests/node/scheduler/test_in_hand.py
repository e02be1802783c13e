"""Leases in hand: a second lease that a peer holds while it works on the first. Pure, but the end.

1. There is one more at most, of work that the others leave, and none for new peers of a prefix.
2. Whoever asks and finds no other work gets it, and its holder has not failed.
3. It ends with a failure at the lease before it; it begins when that one's result is handed in.
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from dipaco.node.jobs.values import Answer, Failed, InspectResult, Job, Progress
from dipaco.node.kinds.changes import Grant, LeaseEnded
from dipaco.node.scheduler.in_hand import in_hand
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.files import Home
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.calls import Fallen, Granted, NoLease, Stands
from dipaco.protocol.work.kinds import EvaluateLease, Lease, TrainLease
from tests.node.scheduler.fakes import FakeWorker, train_leases
from tests.node.scheduler.shell import ANNA, BERT, CARA, SPEC, TTL, Shell
from tests.node.scheduler.swarm import RUN, SCHEDULER, Swarm, SwarmNode, found, until
from tests.node.scheduler.test_swarm import states, undisturbed
from tests.values import manifest, peer

NEAR = "10.1.1.0/24"


@pytest.fixture
def shell() -> Shell:
    plain = manifest()
    made = Shell(replace(plain, training=replace(plain.training, rounds=9)), (40, 30, 20, 10))
    made.seed(peer("founder"))
    return made


def ask_next(
    shell: Shell, who: PeerId, first: Lease, now: float = 0.0, *, prefix: str = ""
) -> Lease | NoLease:
    shell.tokens += 1
    token = shell.tokens.to_bytes(16, "big")
    changes, reply = shell.schedule.ask_next(
        who, SPEC, first.token, token=token, now=now, prefix=prefix
    )
    shell.make(changes)
    return reply.lease if isinstance(reply, Granted) else reply


def held(shell: Shell, who: PeerId, now: float = 0.0) -> tuple[TrainLease, TrainLease]:
    """Have a peer hold two leases."""
    first = shell.train_lease(who, now)
    second = ask_next(shell, who, first, now)
    assert isinstance(second, TrainLease), second
    return first, second


def waiting(shell: Shell) -> list[bytes]:
    return [grant.lease.token for grant in in_hand(shell.schedule.grants)]


def ended(shell: Shell) -> list[LeaseEnded]:
    return [change for change in shell.log if isinstance(change, LeaseEnded)][1:]  # of the seed


def test_a_peer_holds_one_more_lease_of_another_path_and_no_third(shell: Shell) -> None:
    first, second = held(shell, ANNA)
    assert first.path != second.path and waiting(shell) == [second.token]
    assert shell.beat(ANNA, first, now=1.0) == shell.beat(ANNA, second, now=1.0) == Stands()
    third = ask_next(shell, ANNA, first)  # as if the answer had been lost
    assert isinstance(third, TrainLease) and waiting(shell) == [third.token]
    assert [each.failed for each in ended(shell)] == [None]
    assert isinstance(ask_next(shell, ANNA, third), NoLease)  # that is not the one in work
    assert len(shell.schedule.grants) == 2


def test_a_lease_that_does_not_stand_brings_no_second_one(shell: Shell) -> None:
    first = shell.train_lease(ANNA)
    shell.hand_back(ANNA, first, "gone")
    assert isinstance(ask_next(shell, ANNA, first), NoLease)
    assert isinstance(ask_next(shell, BERT, shell.train_lease(CARA)), NoLease)
    assert waiting(shell) == []


def test_new_peers_of_a_prefix_have_one_lease_at_a_time_and_proven_ones_two(shell: Shell) -> None:
    first = shell.lease(ANNA, prefix=NEAR)
    assert isinstance(ask_next(shell, ANNA, first, prefix=NEAR), NoLease)
    assert shell.submit(ANNA, first) == Stands()
    second = shell.lease(ANNA, prefix=NEAR)
    assert isinstance(ask_next(shell, ANNA, second, prefix=NEAR), TrainLease)


def test_what_idle_proven_peers_will_ask_for_is_left_to_them(shell: Shell) -> None:
    for who in (ANNA, BERT, CARA, peer("dora")):
        assert shell.submit(who, shell.train_lease(who)) == Stands()
    shell.arrive()
    while shell.step():
        pass
    first = shell.train_lease(ANNA, now=1.0)
    assert isinstance(ask_next(shell, ANNA, first, now=1.0), NoLease)  # three paths, three peers
    shell.schedule.gone(BERT, now=1.0)
    assert isinstance(ask_next(shell, ANNA, first, now=1.0), TrainLease)


def test_whoever_finds_no_other_work_gets_the_lease_in_hand(shell: Shell) -> None:
    first, second = held(shell, ANNA)
    third, _ = held(shell, BERT)
    for number in range(4):
        assert isinstance(shell.lease(peer(f"e{number}")), EvaluateLease)
    taken = [shell.train_lease(who) for who in (CARA, peer("dora"))]
    assert second.path in {lease.path for lease in taken} and waiting(shell) == []
    assert all(each.failed is None and "not begun" in each.reason for each in ended(shell))
    assert isinstance(shell.ask(peer("late")), NoLease)
    assert isinstance(shell.beat(ANNA, second, now=1.0), Fallen)
    assert shell.submit(ANNA, first) == shell.submit(BERT, third) == Stands()


def test_a_lease_that_was_begun_stays_with_its_holder(shell: Shell) -> None:
    first, second = held(shell, ANNA)
    _, other = held(shell, BERT)
    for number in range(4):
        shell.lease(peer(f"e{number}"))
    shell.schedule.handing_in(ANNA, first.token, now=60.0)
    assert waiting(shell) == [other.token]
    assert shell.train_lease(CARA, now=61.0).path == other.path
    assert isinstance(shell.ask(peer("dora"), now=61.0), NoLease)
    assert shell.submit(ANNA, second, now=120.0) == Stands()
    took = shell.schedule.standing._durations["train"]
    assert list(took) == [60.0]  # from the beginning of its work, not from its grant


def test_while_a_result_is_handed_in_any_other_work_is_given(shell: Shell) -> None:
    first, _ = held(shell, BERT)
    own, other = shell.train_lease(ANNA), shell.train_lease(CARA)
    assert own.path != other.path != first.path
    assert isinstance(ask_next(shell, ANNA, own), NoLease)
    shell.schedule.handing_in(ANNA, own.token, now=1.0)
    assert isinstance(ask_next(shell, ANNA, own, now=1.0), EvaluateLease)
    assert shell.submit(ANNA, own, now=2.0) == Stands()


def test_a_peer_that_hangs_loses_both_and_fails_once(shell: Shell) -> None:
    first, second = held(shell, ANNA)
    for now in range(10, 30 * int(TTL), 10):
        for lease in (first, second):
            shell.beat(ANNA, lease, now=float(now), progress=int(lease is second))
    shell.make(shell.schedule.expire(now=30 * TTL))
    assert shell.schedule.grants == {}
    assert [each.failed is not None for each in ended(shell)] == [True, False]


def test_both_are_given_back_and_the_one_in_hand_was_no_failure(shell: Shell) -> None:
    first, second = held(shell, ANNA)
    shell.hand_back(ANNA, second, "stopped")
    shell.hand_back(ANNA, first, "stopped")
    assert [each.failed is not None for each in ended(shell)] == [False, True]


def test_a_peer_that_restarts_gives_up_both(shell: Shell) -> None:
    held(shell, ANNA)
    assert isinstance(shell.lease(ANNA), TrainLease) and len(shell.schedule.grants) == 1
    assert [each.failed is not None for each in ended(shell)] == [True, False]


def test_the_answers_to_two_results_may_be_lost(shell: Shell) -> None:
    first, second = held(shell, ANNA)
    shell.schedule.handing_in(ANNA, first.token, now=1.0)
    for _ in range(2):
        assert shell.submit(ANNA, first) == shell.submit(ANNA, second) == Stands()


# -------------------------------------------------------------------------- whole nodes


class Slow(FakeWorker):
    """Trains, and inspects, with the given seconds more; loses its device at the end of work."""

    trains = inspects = 0.0
    lost = ""
    spans: list[tuple[float, float]]
    """Of every training, from its beginning to its end."""

    async def _answer(self, job: Job, on_progress: Callable[[Progress], None]) -> Answer:
        began, lease = trio.current_time(), train_leases([job])
        await trio.sleep(self.inspects if isinstance(job, InspectResult) else 0.0)
        answer = await super()._answer(job, on_progress)
        if lease:
            for _ in range(int(self.trains)):
                await trio.sleep(1.0)
                on_progress(Progress(stage="train", done=1, total=2))
            self.spans.append((began, trio.current_time()))
        return Failed(kind="device", reason=self.lost) if lease and self.lost else answer


def slow(home: Home, **seconds: float) -> Slow:
    made = Slow(BlobStore(home.blobs))
    made.spans = []
    vars(made).update(seconds)
    return made


def grants(scheduler: SwarmNode, node: SwarmNode) -> list[Grant]:
    found = scheduler.parts.request_router.schedulers[RUN].schedule.grants.values()
    return [grant for grant in found if grant.peer == node.parts.me]


def holds_in_hand(scheduler: SwarmNode) -> list[Grant]:
    return in_hand(scheduler.parts.request_router.schedulers[RUN].schedule.grants)


async def holding_two(swarm: Swarm, tmp_path: Path, **seconds: Any) -> tuple[SwarmNode, ...]:
    """Start a scheduler, and a volunteer that works on one lease and holds another."""
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER, worker=slow, inspects=seconds.pop("inspects", 0.0))
    anna = await swarm.start("anna", worker=slow, **seconds)
    schedulers = scheduler.parts.request_router.schedulers
    await until(lambda: RUN in schedulers and len(grants(scheduler, anna)) == 2)
    return scheduler, anna


async def test_the_next_lease_is_ready_when_the_first_is_done_and_begins_at_once(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    scheduler, anna = await holding_two(swarm, tmp_path, inspects=20.0)
    await trio.sleep(5.0)
    status, (waits,) = anna.reporter.status(), holds_in_hand(scheduler)
    assert status.task and status.task.kind == "train" and status.state == "training"
    assert isinstance(waits.lease, TrainLease) and waits.lease.path != status.task.path
    assert all(anna.parts.blobs.has(blob) for blob in waits.lease.inputs)
    assert waits.lease.window in anna.worker.made_windows
    await until(lambda: scheduler.reporter.ledger().finished)
    gaps = [after[0] - before[1] for before, after in pairwise(anna.worker.spans)]
    # All but the first, before which nothing was proven, and the one between the rounds.
    assert sum(gap < 0.1 for gap in gaps) == 5, gaps
    assert anna.reporter.status().totals.refused == 0
    assert states(scheduler) == await undisturbed(tmp_path)


async def test_whoever_dies_with_two_leases_holds_up_neither_path(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    scheduler, anna = await holding_two(swarm, tmp_path)
    await swarm.start("bert")
    await swarm.kill(anna)
    await until(lambda: not grants(scheduler, anna), seconds=3.0)
    await until(lambda: scheduler.reporter.ledger().finished)
    assert states(scheduler) == await undisturbed(tmp_path)


async def test_whoever_leaves_gives_both_back(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    scheduler, anna = await holding_two(swarm, tmp_path)
    anna.stop.set()
    await anna.ended.wait()
    assert not grants(scheduler, anna)
    assert not anna.parts.activity.task


async def test_a_device_that_fails_gives_both_back_and_is_waited_for_once(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    scheduler, anna = await holding_two(swarm, tmp_path)
    anna.worker.lost = anna.worker.device = "device cuda:0: it is gone"
    await until(lambda: anna.parts.activity.reason.code == "device")
    began = trio.current_time()
    while trio.current_time() < began + 100:
        assert not grants(scheduler, anna)
        await trio.sleep(0.5)
    assert [round(time - began) for time in anna.worker.looked] == [10, 30, 70]
    anna.worker.lost = anna.worker.device = ""
    await until(lambda: scheduler.reporter.ledger().finished)
    assert states(scheduler) == await undisturbed(tmp_path)


async def test_a_slow_volunteer_keeps_no_second_path_from_one_that_comes(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    scheduler, anna = await holding_two(swarm, tmp_path)
    anna.worker.trains = 3600.0
    (waits,) = holds_in_hand(scheduler)
    bert = await swarm.start("bert")
    await until(lambda: anna.parts.activity.sums.now().accepted > 2, seconds=2 * 3600.0)
    assert isinstance(waits.lease, TrainLease)
    assert waits.lease.path in {lease.path for lease in train_leases(bert.worker.done)}
    assert anna.reporter.status().totals.refused == 0
    await until(lambda: scheduler.reporter.ledger().finished)
    assert states(scheduler) == await undisturbed(tmp_path)
