"""Leases in hand: the second lease of a peer, held while it works on the first. Pure.

Its holder fetches the states and makes the shards meanwhile, so that its device goes from one lease
to the next. A lease in hand keeps no work from anybody: it is given only of what the proven peers
leave that ask next, and it goes to the first peer that asks and finds no other work. It ends when
its holder fails at the lease before it.
"""

from collections.abc import Collection, Iterable

from dipaco.node.kinds.changes import Grant, LeaseEnded
from dipaco.node.scheduler.grants import Grants
from dipaco.protocol.work.kinds import Token

RETRY_SECONDS = 20.0  # before a peer asks for a second lease again; it has work meanwhile


def in_hand(grants: Grants) -> list[Grant]:
    """Return the leases that their holders have not begun, the newest first."""
    return sorted(grants.in_hand(), key=lambda each: -each.granted)


def end_with(failed: Collection[Token], grants: Iterable[Grant]) -> tuple[LeaseEnded, ...]:
    """Return the end of the leases in hand whose holders failed at the leases before them."""
    return tuple(
        LeaseEnded(each.lease.token, "its holder failed at the lease before it")
        for each in grants
        if each.behind in failed and each.lease.token not in failed
    )
