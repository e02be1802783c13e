"""What is kept up to date change by change equals what is worked out anew, on random histories."""

import random
from collections import Counter

import pytest
from msgspec.structs import replace

from dipaco.node.kinds.base import Work
from dipaco.node.kinds.changes import Change
from dipaco.node.kinds.table import KINDS, work_of
from dipaco.node.scheduler.choosing import Asker
from dipaco.node.scheduler.open_work import OpenWork
from dipaco.node.scheduler.retention import BlobsNeeded, blobs_needed
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.calls import NoLease
from dipaco.protocol.work.kinds import Lease, TrainLease
from tests.node.scheduler.shell import Shell, result
from tests.values import manifest, peer

PEERS = tuple(peer(f"v{number}") for number in range(6))


class Watched(Shell):
    """A schedule whose shell keeps the needed blobs up to date, as the real one does."""

    def __init__(self, run: Manifest) -> None:
        self.needed: BlobsNeeded | None = None
        super().__init__(run, (40, 30, 20, 10))
        self.needed = BlobsNeeded(self.schedule)

    def make(self, changes: tuple[Change, ...]) -> None:
        for change in changes:
            super().make((change,))
            if self.needed:
                self.needed.changed(change)


def run_of(early_stopping: bool) -> Manifest:
    plain = manifest()
    training = replace(plain.training, rounds=4, inner_state="carry", early_stopping=early_stopping)
    return replace(plain, training=training)


def plain_choice(shell: Shell, who: PeerId) -> Work | None:
    """Return the work that a peer gets that nobody is ahead of, worked out the plain way."""
    schedule, state = shell.schedule, shell.schedule.state
    others = [each for each in schedule.grants.values() if each.peer != who]
    taken = Counter(work_of(each.lease) for each in others)
    for urgent in (True, False):
        for kind in KINDS:
            found = kind.overdue(state) if urgent else kind.open(state)
            may = [work for work in found if urgent or kind.may(state, work, who)]
            if not urgent:
                may.sort(key=lambda work, kind=kind: kind.rank(state, work, who))  # type: ignore[misc]
            for work in may:
                if taken[work] < work.places:
                    return work
    return None


def check(shell: Watched) -> None:
    schedule = shell.schedule
    anew = OpenWork(schedule.state, schedule.grants)
    for kind in KINDS:
        assert dict(schedule.open.of(kind)) == dict(anew.of(kind))
        assert set(schedule.open.free(kind)) == set(anew.free(kind))
        assert schedule.open.overdue(kind) == anew.overdue(kind)
    held = [work_of(each.lease) for each in schedule.grants.values()]
    assert all(schedule.grants.holders(work) == n for work, n in Counter(held).items())
    for who in PEERS:
        mine = [each for each in schedule.grants.values() if each.peer == who]
        assert schedule.grants.of(who) == mine
    prefixes = Counter(each.prefix for each in schedule.grants.values() if each.prefix)
    assert schedule.grants.prefixes == prefixes
    assert shell.needed is not None
    assert shell.needed.now() == blobs_needed(schedule)


@pytest.mark.parametrize("early_stopping", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_the_fast_way_equals_the_plain_one(seed: int, early_stopping: bool) -> None:
    rng, shell, now = random.Random(seed), Watched(run_of(early_stopping)), 0.0
    held: dict[PeerId, Lease] = {}
    for _ in range(150):
        now += rng.uniform(0, 4)
        who = rng.choice(PEERS)
        _happen(shell, rng, who, held, now)
        check(shell)
    assert shell.ledger.path_version(0) > 0


def _happen(
    shell: Watched, rng: random.Random, who: PeerId, held: dict[PeerId, Lease], now: float
) -> None:
    """Have something happen to a peer, or to the run."""
    schedule, lease = shell.schedule, held.get(who)
    for other, each in held.items():
        if other != who:
            shell.beat(other, each, now=now, progress=int(now), prefix=f"{other} prefix")
    match rng.choice(["ask", "submit", "submit", "submit", "back", "expire", "moments", "step"]):
        case "ask":
            given_up = [schedule.grants.work(each) for each in schedule.grants.of(who)]
            choice = schedule.choosing.left(Asker(who, "", now, given_up))
            assert choice.held_back or choice.work == plain_choice(shell, who)
            got = shell.ask(who, now, prefix="")
            held.pop(who, None)
            if not isinstance(got, NoLease):
                held[who] = got
            schedule.queue.leave(who)  # so nobody is ahead of anybody
        case "submit" if lease:
            shell.hand_in(who, result(lease), now)
            del held[who]
        case "back" if lease:
            shell.hand_back(who, lease, "no", now)
            del held[who]
        case "expire":
            schedule.gone(who, now - 3.0)
            shell.make(schedule.expire(now))
        case "moments":
            if rng.random() < 0.2 and isinstance(lease, TrainLease) and lease.moments:
                shell.make(schedule.moments_lost((lease.path, lease.round - 1)))
            shell.arrive()
        case "step":
            if due := next(schedule.due_steps(), None):
                lost = due.contributions[0].path
                if rng.random() < 0.1:
                    shell.make(schedule.discard(lost, due.version))
                else:
                    shell.step()
        case _:
            pass
