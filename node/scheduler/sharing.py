"""The lease that is taken from its holder for a peer that finds no work. Pure.

Nobody loses a lease while work is left. A lease that its holder has in hand, while it works on
another, goes first (`in_hand`). Peers that have proven nothing share by IP prefix: one
whose prefix holds fewer takes a lease from the prefix that holds the most, as long as that one
keeps at least as many as the other then has, so no lease moves back. A proven peer counts as a
prefix of its own that holds nothing. Besides, whoever takes far longer than others did loses its
lease to a peer that waits.

Before any work of a kind is done nobody can say how long it takes: the seed model in a new run, or
the first round. A peer of another prefix that finds no work then does the same work beside its
holder, after a while. The first result that passes counts, and the other leases end.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from dipaco.node.kinds.base import Work
from dipaco.node.kinds.changes import Grant
from dipaco.node.scheduler.grants import Grants
from dipaco.node.scheduler.in_hand import in_hand
from dipaco.node.scheduler.standing import Standing
from dipaco.protocol.numbers import span
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.kinds import Token

BESIDE_TTLS = 30  # lease times to live: most seed phases of small runs are over by then
UNCOUNTED_TTLS = 180  # the same among peers whose prefix is not counted: often one machine
MOST_IN_HAND = 8  # leases in hand that are looked at for one peer without work
NOT_BEGUN = "another peer waits for it, and its holder has not begun"
MAX_BESIDE = 3  # peers that do the same work at once: each costs its own electricity


@dataclass(frozen=True)
class Taken:
    """A lease that may be taken from its holder."""

    grant: Grant
    reason: str
    failed: bool
    """Whether its holder failed: it took too long."""
    in_hand: bool = False
    """Whether its holder has not begun."""


def leases_to_take(
    grants: Grants, standing: Standing, peer: PeerId, prefix: str, now: float
) -> Iterator[Taken]:
    """Yield the leases that `peer`, which finds no work, may take, the best one first.

    prefix   of `peer`, as `seats.prefix_of` returns it; empty: it is not counted.
    """
    waiting = [each for each in in_hand(grants) if each.peer != peer]
    for each in waiting[:MOST_IN_HAND]:
        yield Taken(each, NOT_BEGUN, failed=False, in_hand=True)
    yield from _overdue(grants, {each.lease.token for each in waiting}, standing, peer, now)
    yield from _of_large_prefixes(grants, standing, peer, prefix)


def _of_large_prefixes(
    grants: Grants, standing: Standing, peer: PeerId, prefix: str
) -> Iterator[Taken]:
    """Yield the leases of new peers whose prefix holds more than that of `peer` does."""
    if max(grants.prefixes.values(), default=0) < 2:
        return
    others = (each for each in grants.values() if each.prefix and each.peer != peer)
    new = [each for each in others if not standing.proven(each.peer)]
    held = Counter(each.prefix for each in new)
    mine = 0 if standing.proven(peer) or not prefix else held[prefix]
    new = [each for each in new if held[each.prefix] >= mine + 2 and each.moved != math.inf]
    for each in sorted(new, key=lambda each: (-held[each.prefix], -each.granted)):
        reason = f"{each.prefix} holds {held[each.prefix]} leases, another peer waits for one"
        yield Taken(each, reason, failed=False)


def work_to_share(
    grants: Grants,
    standing: Standing,
    peer: PeerId,
    prefix: str,
    now: float,
    *,
    without: Grant | None = None,
) -> Work | None:
    """Return work in hand that `peer`, which finds none, may do besides its holders.

    It is the work that was leased longest ago, of those that no proven peer does.

    without   a lease that ends.
    """
    looked_at = set[Work]()
    for each in grants.values():
        if now - each.granted < BESIDE_TTLS * each.lease.ttl:
            break  # so are all that were granted after it
        work = grants.work(each)
        if not work.kind.one_result or work in looked_at or standing.measured(work):
            continue
        looked_at.add(work)
        held = [g for g in grants.doing(work) if g.peer != peer and g is not without]
        if not held or len(held) >= MAX_BESIDE:
            continue
        # A result that is being inspected counts soon.
        if any(standing.proven(each.peer) or each.moved == math.inf for each in held):
            continue
        if all(_may_join(each, prefix, now) for each in held):
            return work
    return None


def _may_join(held: Grant, prefix: str, now: float) -> bool:
    """Return whether a peer of `prefix` may do the work of a lease, besides its holder."""
    counted = bool(prefix and held.prefix)
    if counted and prefix == held.prefix:
        return False
    ttls = BESIDE_TTLS if counted else UNCOUNTED_TTLS
    return now - held.since >= ttls * held.lease.ttl


def _overdue(
    grants: Grants, waiting: Collection[Token], standing: Standing, peer: PeerId, now: float
) -> Iterator[Taken]:
    """Yield the leases whose holders take too long, the oldest first.

    waiting   the leases that were not begun.
    """
    waits, found = standing.proven(peer), []
    for token, each in grants.items():
        if now - each.granted <= standing.least(each.lease.ttl, proven_waits=waits):
            break  # so are all that were granted after it
        # A result that is being inspected waits for this node alone.
        if each.peer != peer and token not in waiting and each.moved != math.inf:
            found.append(each)
    for each in sorted(found, key=lambda each: each.since):
        longest = standing.longest(each.peer, grants.work(each), each.lease.ttl, proven_waits=waits)
        if now - each.since > longest:
            reason = f"the work was not done in {span(longest)}, and another peer waits for it"
            yield Taken(each, reason, failed=True)
