"""The choice of work for a peer that asks: what is left for it, and what it may take. Pure.

Work goes to whoever is first in the queue and may do it (`queue`). Of several pieces that are
equally urgent a peer gets the one that it has at hand, if that holds nobody up. Near the end of a
round a slow peer gets none that faster ones will have done before it would be (`pace`).
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import islice

from dipaco.node.kinds.base import Work
from dipaco.node.kinds.changes import LeaseEnded
from dipaco.node.kinds.state import SchedulingState
from dipaco.node.kinds.table import KINDS, TRAIN, kind_of
from dipaco.node.scheduler.grants import Grants
from dipaco.node.scheduler.in_hand import end_with
from dipaco.node.scheduler.open_work import OpenWork
from dipaco.node.scheduler.pace import held_back, work_to_double
from dipaco.node.scheduler.queue import Queue
from dipaco.node.scheduler.sharing import MOST_IN_HAND, Taken, leases_to_take, work_to_share
from dipaco.node.scheduler.standing import Standing
from dipaco.protocol.wire.identity import PeerId

MOST_TRIED = 8 + MOST_IN_HAND  # leases of others that are looked at for a peer without work


@dataclass(frozen=True)
class Asker:
    """A peer that asks for work."""

    peer: PeerId
    prefix: str
    """Of its IP address; empty: it is not counted."""
    now: float
    given_up: Collection[Work] = ()
    """The work of leases of its that end."""
    besides: Collection[Work] = ()
    """Work that it does not do."""


@dataclass(frozen=True)
class Choice:
    """What a peer gets."""

    work: Work | None
    """None: nothing."""
    ended: tuple[LeaseEnded, ...] = ()
    """The leases that others give up for it."""
    ahead: tuple[PeerId, ...] = ()
    """The peers before it for whom there is no work either."""
    held_back: str = ""
    """Why it gets no training that is left, if it is too slow for it."""


class Choosing:
    """Chooses for one run; it reads the parts of its schedule, and changes none."""

    def __init__(
        self,
        state: SchedulingState,
        grants: Grants,
        open_work: OpenWork,
        standing: Standing,
        queue: Queue,
    ) -> None:
        self._state, self._grants, self._open = state, grants, open_work
        self._standing, self._queue = standing, queue

    def is_new(self, peer: PeerId, prefix: str) -> bool:
        """Return whether a peer has proven nothing where others have.

        As long as nobody is proven all are treated alike, and so are peers whose prefix is not
        counted.
        """
        return bool(prefix) and len(self._standing) > 0 and not self._standing.proven(peer)

    def key(self, peer: PeerId, prefix: str) -> str:
        """Return the place of a peer in the queue: its own, or that of its prefix."""
        own = not prefix or self._standing.proven(peer) or peer in self._queue
        return peer if own else prefix

    def first_lease(self, asker: Asker) -> Choice:
        """Choose for a peer that holds no lease."""
        left = self.left(asker)
        if left.work:
            return left
        taken = self._taken(asker, left.ahead)
        if taken.work:
            return taken
        peer, prefix, now = asker.peer, asker.prefix, asker.now
        work = work_to_share(self._grants, self._standing, peer, prefix, now)
        work = work or work_to_double(self._grants, self._standing, self._open, peer, now)
        return Choice(work, held_back=left.held_back)

    def to_hold(self, asker: Asker) -> Work | None:
        """Choose what a peer may hold in hand: overdue work, and work of which all have much."""
        kept = len(self._ahead(asker.peer, asker.now, new=True))
        kinds = (kind for kind in KINDS if kind.held_ahead)
        found = self._open.groups(asker.peer, kinds, urgent_of=KINDS, ended=asker.given_up)
        for group in found:
            if kept < len(group):
                return group[kept]
            kept -= len(group)
        return None

    # ------------------------------------------------------------------ work that is left

    def left(self, asker: Asker) -> Choice:
        """Choose the first piece of work that has a place left, and is kept for nobody else.

        Small work is kept for nobody, and neither is what nobody but the peer may do. A peer that
        has proven nothing gets small work before other work.
        """
        peer, now, state = asker.peer, asker.now, self._state
        new = self.is_new(peer, asker.prefix)
        ahead = self._ahead(self.key(peer, asker.prefix), now, new=new)
        kinds = sorted(KINDS, key=lambda kind: not kind.small) if new else KINDS
        slow = ""
        for group in self._open.groups(peer, kinds, ended=asker.given_up, besides=asker.besides):
            kind = group[0].kind
            if kind.small:
                return Choice(group[0], held_back=slow)
            alone = next((work for work in group if kind.alone(state, work, peer)), None)
            if alone:
                return Choice(alone)
            slow = slow or self._held_back(group, peer, now)
            if slow:
                continue
            takers = self._takers(ahead, group)
            if len(takers) < len(group):
                mine = (each for each in group if state.last_at(each.path) not in takers)
                return Choice(next(mine, group[0]))
            ahead = [each for each in ahead if each not in takers]
        return Choice(None, ahead=tuple(ahead), held_back=slow)

    def _ahead(self, key: str, now: float, *, new: bool) -> list[PeerId]:
        """Return the peers that get work before the one at a place, and are expected to ask soon.

        new   whether these are all proven peers that hold no lease, or one of small work.
        """
        places = self._queue.before(key, last=new)
        found = dict.fromkeys(each.peer for each in places if each.expected >= now)
        if new:
            found.update(dict.fromkeys(self._idle(now)))
        return [each for each in found if each != key]

    def _idle(self, now: float) -> Iterable[PeerId]:
        for peer in self._standing.awaited(now):
            if all(kind_of(each.lease).small for each in self._grants.of(peer)):
                yield peer

    def _takers(self, ahead: Iterable[PeerId], group: tuple[Work, ...]) -> set[PeerId]:
        """Return the first peers that may have work of a group, as many as there are pieces."""
        kind, state = group[0].kind, self._state
        may = (each for each in ahead if any(kind.may(state, work, each) for work in group))
        return set(islice(may, len(group)))

    def _held_back(self, group: tuple[Work, ...], peer: PeerId, now: float) -> str:
        if group[0].kind is not TRAIN:
            return ""
        pieces = len(self._open.free(TRAIN))
        return held_back(self._grants, self._standing, peer, pieces, now)

    # ------------------------------------------------------------------ leases of others

    def _taken(self, asker: Asker, ahead: tuple[PeerId, ...]) -> Choice:
        """Choose a piece of work that another peer has to give up.

        ahead   the peers before it for whom there is no work: each may take a lease in hand as
                well as it, and a new peer takes none from others while proven ones wait.
        """
        peer, prefix, now = asker.peer, asker.prefix, asker.now
        in_hand, waits = len(ahead), any(map(self._standing.proven, ahead))
        waits &= self.is_new(peer, prefix)
        found = leases_to_take(self._grants, self._standing, peer, prefix, now)
        # Work that was doubled has several holders: they lose it together, if all take too long.
        late: dict[Work, list[LeaseEnded]] = {}
        for each in islice(found, MOST_TRIED):
            held, token = self._grants.work(each.grant), each.grant.lease.token
            end = LeaseEnded(token, each.reason, failed=now if each.failed else None, late=True)
            ends = late.setdefault(held, []) if each.failed else []
            ends.append(end)
            work = self._open.freed(held, peer, leases=len(ends))
            if work and each.in_hand and in_hand:
                in_hand -= 1
                continue
            if work and waits and not work.kind.small:
                work = None
            if work is None and each.failed:
                work, ends = self._shared_instead(asker, each), [end]
            if work is not None:
                tokens = {each.token for each in ends}
                behind = end_with(tokens, self._grants.values()) if each.failed else ()
                return Choice(work, (*ends, *behind))
        return Choice(None)

    def _shared_instead(self, asker: Asker, taken: Taken) -> Work | None:
        peer, prefix, now = asker.peer, asker.prefix, asker.now
        grants, standing = self._grants, self._standing
        return work_to_share(grants, standing, peer, prefix, now, without=taken.grant)
