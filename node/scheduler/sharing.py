"""The lease that is taken from its holder for a peer that finds no work. Pure.

Nobody loses a lease while work is left. Peers that have proven nothing share by IP prefix: one
whose prefix holds fewer takes a lease from the prefix that holds the most, as long as that one
keeps at least as many as the other then has, so no lease moves back. A proven peer counts as a
prefix of its own that holds nothing. Besides, whoever takes far longer than others did loses its
lease to a peer that waits.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dipaco.node.kinds.changes import Grant
from dipaco.node.kinds.table import work_of
from dipaco.node.scheduler.standing import Standing
from dipaco.protocol.numbers import span
from dipaco.protocol.wire.identity import PeerId


@dataclass(frozen=True)
class Taken:
    """A lease that may be taken from its holder."""

    grant: Grant
    reason: str
    failed: bool
    """Whether its holder failed: it took too long."""


def leases_to_take(
    grants: Iterable[Grant], standing: Standing, peer: PeerId, prefix: str, now: float
) -> Iterator[Taken]:
    """Yield the leases that `peer`, which finds no work, may take, the best one first.

    prefix   of `peer`, as `seats.prefix_of` returns it; empty: it is not counted.
    """
    others = [each for each in grants if each.peer != peer]
    yield from _overdue(others, standing, peer, now)
    proven = standing.proven(peer)
    new = [each for each in others if each.prefix and not standing.proven(each.peer)]
    held = Counter(each.prefix for each in new)
    mine = 0 if proven or not prefix else held[prefix]
    newest_first = sorted(new, key=lambda each: (-held[each.prefix], -each.granted))
    for each in newest_first:
        if held[each.prefix] >= mine + 2 and each.moved != math.inf:
            reason = f"{each.prefix} holds {held[each.prefix]} leases, another peer waits for one"
            yield Taken(each, reason, failed=False)


def _overdue(
    grants: Iterable[Grant], standing: Standing, peer: PeerId, now: float
) -> Iterator[Taken]:
    """Yield the leases whose holders take too long, the oldest first."""
    for each in sorted(grants, key=lambda each: each.granted):
        longest = standing.longest(
            each.peer,
            work_of(each.lease),
            each.lease.ttl,
            proven_waits=standing.proven(peer),
        )
        # A result that is being inspected waits for this node alone.
        if now - each.granted > longest and each.moved != math.inf:
            reason = f"the work was not done in {span(longest)}, and another peer waits for it"
            yield Taken(each, reason, failed=True)
