"""Leases in hand: the second lease of a peer, held while it works on the first. Pure.

Its holder fetches the states and makes the shards meanwhile, so that its device goes from one lease
to the next. A lease in hand keeps no work from anybody: it is given only of what the proven peers
leave that ask next, and it goes to the first peer that asks and finds no other work. It ends when
its holder fails at the lease before it.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from itertools import chain

from dipaco.node.kinds.base import Work
from dipaco.node.kinds.changes import Grant, LeaseEnded
from dipaco.node.kinds.state import SchedulingState
from dipaco.node.kinds.table import KINDS
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.kinds import Token

RETRY_SECONDS = 20.0  # before a peer asks for a second lease again; it has work meanwhile


def in_hand(grants: Iterable[Grant]) -> Iterator[Grant]:
    """Yield the leases that their holders have not begun, the newest first."""
    standing = tuple(grants)
    tokens = {each.lease.token for each in standing}
    found = [each for each in standing if each.behind in tokens]
    yield from sorted(found, key=lambda each: -each.granted)


def to_hold(state: SchedulingState, peer: PeerId, taken: Counter[Work], kept: int) -> Work | None:
    """Return the work that `peer` may hold in hand: overdue work, and work of which all have much.

    taken   the peers that do each piece of work, or hold it in hand.
    kept    pieces of work that are left to peers without any.
    """
    overdue = (kind.overdue(state) for kind in KINDS)
    due = (kind.due(state, peer) for kind in KINDS if kind.held_ahead)
    for work in chain.from_iterable(chain(overdue, due)):
        if taken[work] >= work.places:
            continue
        if not kept:
            return work
        kept -= 1
    return None


def end_with(failed: Collection[Token], grants: Iterable[Grant]) -> tuple[LeaseEnded, ...]:
    """Return the end of the leases in hand whose holders failed at the leases before them."""
    return tuple(
        LeaseEnded(each.lease.token, "its holder failed at the lease before it")
        for each in grants
        if each.behind in failed and each.lease.token not in failed
    )
