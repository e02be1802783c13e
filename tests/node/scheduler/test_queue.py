"""The queue: whoever asks and gets nothing has a place, told with the reason, and kept.

1. The order is that of first asking; nobody falls back while it keeps asking, nor over a restart.
2. New work goes to the first that may have it; whoever is not there holds up nobody for long.
3. New peers share a place by prefix and come after proven ones; the number of places is bounded.
"""

import contextlib
import random
from pathlib import Path

import pytest
from msgspec.structs import replace
from trio.testing import MockClock

from dipaco.node.kinds.changes import PlaceLeft, PlaceTaken
from dipaco.node.scheduler.journaled import saved_changes
from dipaco.node.scheduler.queue import (
    KEPT_SECONDS,
    LEASED_RETRY_SECONDS,
    MAX_RETRY_SECONDS,
    SLACK_SECONDS,
    Queue,
    retry_after,
)
from dipaco.node.storage.journal import Journal
from dipaco.protocol.run.manifest import run_id
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.calls import MAX_PLACES, NoLease, Stands
from dipaco.protocol.work.kinds import EvaluateLease, Lease, TrainLease
from tests.node.scheduler.shell import ANNA, BERT, CARA, RUN, Shell
from tests.node.scheduler.swarm import SCHEDULER, Swarm, until
from tests.node.scheduler.swarm import found as run_file
from tests.values import manifest, peer

NEAR, FAR, EVIL = "10.1.1.0/24", "10.2.2.0/24", "10.6.6.0/24"


@pytest.fixture
def shell() -> Shell:
    """Return a run whose seed model one peer holds: everybody else waits."""
    made = Shell(manifest(), (40, 30, 20, 10))
    made.lease(peer("founder"))
    return made


def place(told: Lease | NoLease) -> tuple[object, object]:
    assert isinstance(told, NoLease)
    return told.place, told.places


def busy() -> tuple[Shell, dict[PeerId, TrainLease]]:
    """Return a run whose four paths are held, and all of whose evaluations are done."""
    plain = manifest()
    shell = Shell(replace(plain, training=replace(plain.training, rounds=9)), (40, 30, 20, 10))
    shell.seed(peer("founder"))
    holders = [peer(f"h{number}") for number in range(4)]
    held = {who: shell.train_lease(who) for who in holders}
    while isinstance(lease := shell.ask(peer("eve")), EvaluateLease):
        assert shell.submit(peer("eve"), lease) == Stands()
    shell.make((PlaceLeft(peer("eve")),))
    return shell, held


def test_places_are_told_in_the_order_of_first_asking(shell: Shell) -> None:
    assert place(shell.ask(ANNA, 0.0)) == (1, 1)
    assert place(shell.ask(BERT, 1.0)) == (2, 2)
    assert place(shell.ask(CARA, 2.0)) == (3, 3)
    assert place(shell.ask(ANNA, 3.0)) == (1, 3)
    assert place(shell.ask(CARA, 4.0)) == (3, 3)
    told = shell.ask(BERT, 5.0)
    assert isinstance(told, NoLease) and "seed" in told.reason
    assert told.retry_after == 2 * LEASED_RETRY_SECONDS


def test_the_first_asks_most_often_and_nobody_waits_longer_than_ten_seconds() -> None:
    idle, working = ([retry_after(n, leased=x) for n in (1, 2, 4, 5, 900)] for x in (False, True))
    assert idle == [2, 4, 8, 10, 10] and working == [0.25, 0.5, 1, 1.25, 10]
    assert retry_after(None, leased=True) == MAX_RETRY_SECONDS


def test_new_work_goes_to_the_first_that_is_expected_to_ask() -> None:
    shell, held = busy()
    for who in (ANNA, BERT, CARA):
        shell.ask(who, 0.0)
    first = next(iter(held))
    shell.hand_back(first, held[first], "stopped", 1.0)
    assert place(shell.ask(CARA, 1.0)) == (3, 3)
    assert place(shell.ask(BERT, 1.0)) == (2, 3)
    assert isinstance(shell.ask(ANNA, 2.0), TrainLease)
    assert place(shell.ask(BERT, 3.0)) == (1, 2)


def test_whoever_does_not_ask_in_time_is_passed_and_keeps_its_place() -> None:
    shell, held = busy()
    for who in (ANNA, BERT):
        shell.ask(who, 0.0)
    who, late = next(iter(held)), retry_after(1, leased=True) + SLACK_SECONDS
    shell.ask(ANNA, 0.0)
    shell.hand_back(who, held[who], "stopped", 1.0)
    assert isinstance(shell.ask(BERT, late), NoLease)
    assert isinstance(shell.ask(BERT, late + 0.1), TrainLease)
    assert place(shell.ask(ANNA, late + 1.0)) == (1, 1)


def test_whoever_is_gone_is_passed_at_once() -> None:
    shell, held = busy()
    for who in (ANNA, BERT):
        shell.ask(who, 0.0)
    who = next(iter(held))
    shell.hand_back(who, held[who], "stopped", 1.0)
    shell.schedule.gone(ANNA, 1.0)
    assert isinstance(shell.ask(BERT, 1.0), TrainLease)


def test_small_work_leaves_a_place_as_it_is(shell: Shell) -> None:
    for who in (ANNA, BERT, CARA):
        shell.ask(who, 0.0)
    founder = peer("founder")
    (seed,) = (grant.lease for grant in shell.schedule.grants.values())
    assert shell.submit(founder, seed, 1.0) == Stands()
    for number in range(4):
        shell.train_lease(peer(f"h{number}"), 13.0)  # the three are late
    assert isinstance(shell.ask(CARA, 14.0), EvaluateLease)
    assert isinstance(shell.ask(ANNA, 14.0), EvaluateLease)
    assert [each.key for each in shell.schedule.queue] == [ANNA, BERT, CARA]


def test_a_place_without_a_word_lapses(shell: Shell) -> None:
    shell.ask(ANNA, 0.0)
    shell.ask(BERT, 1.0)
    shell.schedule.queue.heard_from(BERT, 1.0)
    shell.make(tuple(map(PlaceLeft, shell.schedule.queue.lapsed(KEPT_SECONDS))))
    assert place(shell.ask(BERT, KEPT_SECONDS)) == (1, 1)


def test_places_outlive_a_restart(shell: Shell) -> None:
    for who in (ANNA, BERT, CARA):
        shell.ask(who, 0.0)
    saved = [change for change in shell.log if isinstance(change, PlaceTaken)]
    shell.restart()
    for change in saved:
        shell.schedule.apply(replace_time(change, 100.0))
    shell.make(shell.schedule.expire(100.0))
    assert place(shell.ask(CARA, 100.0)) == (3, 3)
    assert place(shell.ask(BERT, 101.0)) == (2, 3)


def replace_time(change: PlaceTaken, now: float) -> PlaceTaken:
    return PlaceTaken(change.key, change.peer, now)


def test_new_peers_of_a_prefix_share_one_place_after_those_that_are_proven(shell: Shell) -> None:
    for number in range(100):
        told = shell.ask(peer(f"x{number}"), 0.0, prefix=EVIL)
        assert place(told) == (1, 1)
    assert place(shell.ask(peer("y"), 1.0, prefix=FAR)) == (2, 2)
    shell.schedule.standing.trained(ANNA, 0.0)
    assert place(shell.ask(ANNA, 2.0, prefix=NEAR)) == (1, 3)
    assert place(shell.ask(peer("y"), 3.0, prefix=FAR)) == (3, 3)


def test_the_queue_is_bounded_and_only_proven_peers_displace_others() -> None:
    queue = Queue()
    for number in range(MAX_PLACES):
        queue.take(f"prefix {number}", peer("x"), 0.0)
    assert queue.displaced_by(new=True) is None
    assert queue.displaced_by(new=False) == f"prefix {MAX_PLACES - 1}"
    shell = Shell(manifest(), (40, 30, 20, 10))
    shell.lease(peer("founder"))
    for number in range(MAX_PLACES):
        shell.ask(peer("x"), 0.0, prefix=f"prefix {number}")
    told = shell.ask(peer("z"), 0.0, prefix="another")
    assert isinstance(told, NoLease) and told.reason.startswith("all work is leased")
    assert len(shell.schedule.queue) == MAX_PLACES
    shell.schedule.standing.trained(ANNA, 0.0)
    assert place(shell.ask(ANNA, 0.0, prefix=NEAR)) == (1, MAX_PLACES)
    assert len(shell.schedule.queue) == MAX_PLACES


@pytest.mark.parametrize("values", [(0, 1), (2, 1), (1, MAX_PLACES + 1), (-1, 5)])
def test_numbers_that_are_no_place_are_refused(values: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="place"):
        NoLease(code="no-lease", reason="", retry_after=1.0, place=values[0], places=values[1])


def test_a_place_without_the_number_of_places_is_refused() -> None:
    with pytest.raises(ValueError, match="place"):
        NoLease(code="no-lease", reason="", retry_after=1.0, place=1)


@pytest.mark.parametrize("seed", range(8))
def test_nobody_falls_back_and_nobody_starves(seed: int) -> None:
    """Eight peers, three paths at a time in work: each place falls only, and all get their turn."""
    rng, (shell, held) = random.Random(seed), busy()
    waiting = {peer(f"w{number}"): 0.0 for number in range(8)}
    places: dict[PeerId, int] = {}
    served: dict[PeerId, int] = dict.fromkeys(waiting, 0)
    working: dict[PeerId, tuple[Lease, float]] = {
        who: (lease, rng.uniform(5, 30)) for who, lease in held.items()
    }
    for second in range(600):
        now = float(second)
        for who, (lease, done) in list(working.items()):
            if done <= now:
                shell.submit(who, lease, now)
                del working[who]
                places.pop(who, None)
                waiting[who] = now + rng.uniform(0, 2)
            else:
                shell.beat(who, lease, now=now, progress=second)
        shell.arrive()
        while shell.step():
            pass
        for who in rng.sample(sorted(waiting), len(waiting)):
            if waiting[who] > now:
                continue
            told = shell.ask(who, now)
            if isinstance(told, NoLease):
                if told.code == "run-over":
                    return
                assert isinstance(told.place, int)
                assert told.place <= places.get(who, MAX_PLACES), who
                places[who] = told.place
                waiting[who] = now + told.retry_after
                continue
            del waiting[who]
            if isinstance(told, TrainLease):
                places.pop(who, None)
                served[who] = served.get(who, 0) + 1
            working[who] = told, now + (20 if isinstance(told, TrainLease) else 1)
    assert min(served.values()) > 0


# -------------------------------------------------------------------------- disk, whole nodes


def test_places_are_read_back_in_their_order(tmp_path: Path) -> None:
    for step in range(2):
        with contextlib.closing(Journal.open(tmp_path / "journal")) as journal:
            if not step:
                for who in (ANNA, BERT, CARA):
                    journal.save_place(RUN, who, who)
                journal.drop_place(RUN, ANNA)
                journal.save_place(RUN, ANNA, ANNA)
                journal.save_place(RUN, BERT, BERT)  # it is there already
            found = list(saved_changes(RUN, journal, 5.0))
    assert found == [PlaceTaken(who, who, 5.0) for who in (BERT, CARA, ANNA)]


async def test_a_volunteer_shows_its_place_and_keeps_it_over_a_restart_of_the_scheduler(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    run_file(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER)
    nodes = [await swarm.start("anna"), await swarm.start("bert")]

    def waits() -> bool:
        reasons = [node.parts.activity.reason for node in nodes]
        return any(each.text.startswith("place 1 of 1: all work is leased") for each in reasons)

    await until(waits, seconds=40.0)
    before = scheduler.parts.journal.places(run_id(manifest()))
    assert len(before) == 1
    await swarm.kill(scheduler)
    await until(lambda: not waits())
    scheduler = await swarm.start(SCHEDULER)
    await until(waits, seconds=40.0)
    assert scheduler.parts.journal.places(run_id(manifest())) == before
