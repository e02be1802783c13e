"""Decisions by measured speed: slow peers near the end of a round, and work that ends late. Pure.

A path's training is equally long in inner steps for all, so a peer's speed is the time that its
last ones took, from lease to result on the scheduler's clock: nobody can claim another. Only
proven peers count as faster than anybody.
"""

import math

from dipaco.node.kinds.base import Work
from dipaco.node.kinds.changes import Grant
from dipaco.node.kinds.table import kind_of
from dipaco.node.scheduler.grants import Grants
from dipaco.node.scheduler.open_work import OpenWork
from dipaco.node.scheduler.standing import Standing
from dipaco.protocol.numbers import count, span
from dipaco.protocol.wire.identity import PeerId

FASTER = 1.5  # times as fast: the speeds of like machines differ by less from one lease to the next
LATE = 1.5  # times its own pace, after which nobody can say when a peer is done
GAIN = 0.25  # of its own time that a peer must save to do what another does already
DOUBLED = 4  # leases for each one that is worked on twice: idle nodes' electricity is not free


def held_back(grants: Grants, standing: Standing, peer: PeerId, pieces: int, now: float) -> str:
    """Say why `peer` gets no training: faster peers will have done it before. Empty: they will not.

    pieces   of training that nobody has.
    """
    mine = standing.pace(peer)
    if mine is None or mine < FASTER * standing.fastest:
        return ""
    done, helpers, soonest = 0, 0, math.inf
    for other, pace in standing.paces():
        if other == peer or pace * FASTER > mine:
            continue
        ready = _ready(grants.of(other), pace, standing.heard(other, now), now)
        if (more := int((now + mine - ready) // pace) if ready < now + mine else 0) > 0:
            done, helpers, soonest = done + more, helpers + 1, min(soonest, ready)
        if helpers and done >= pieces:
            return (
                f"what is left of the round is done by {count(helpers, 'faster peer')}, the first "
                f"of them free in {span(soonest - now)}, before it would be in {span(mine)}"
            )
    return ""


def _ready(held: list[Grant], pace: float, heard: bool, now: float) -> float:
    """Return when a peer of a known pace can begin with further work; inf: nobody can say."""
    working = [each for each in held if not kind_of(each.lease).small]
    if not working:
        return now if heard else math.inf
    ready = now
    for each in working:
        if each.behind or each.handed_in:
            ready += pace if each.behind else 0.0
        elif now > each.since + LATE * pace:
            return math.inf
        else:
            ready = max(ready, each.since + pace)
    return ready


def work_to_double(
    grants: Grants, standing: Standing, open_work: OpenWork, peer: PeerId, now: float
) -> Work | None:
    """Return work in hand that `peer`, which finds none, would have done well before its holder.

    It is the work that ends last. At most one lease of `DOUBLED` is worked on twice.
    """
    mine = standing.pace(peer)
    if mine is None:
        return None
    long = [each for each in grants.values() if not grants.work(each).kind.small]
    doubled = sum(grants.holders(grants.work(each)) > 1 for each in long) // 2
    if doubled >= max(1, len(long) // DOUBLED):
        return None
    best, latest = None, now + (1 + GAIN) * mine
    for each in long:
        work = grants.work(each)
        if each.peer == peer or each.behind or each.handed_in or each.moved == math.inf:
            continue
        ends = _ends(each, work, standing, now)
        if ends > latest and grants.holders(work) == 1 and open_work.freed(work, peer):
            best, latest = work, ends
    return best


def _ends(grant: Grant, work: Work, standing: Standing, now: float) -> float:
    """Return when a lease is expected to end with a result; inf: long overdue."""
    pace = standing.pace(grant.peer) or standing.slowest(work)
    if pace is None:
        return now
    return math.inf if now > grant.since + LATE * pace else grant.since + pace
