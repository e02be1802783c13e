"""The leases that stand in one run, by token, by holder and by work. Pure."""

from collections import Counter
from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from typing import TypeVar

from dipaco.node.kinds.base import Work
from dipaco.node.kinds.changes import Grant
from dipaco.node.kinds.table import work_of
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.kinds import Token

K = TypeVar("K")


class Grants(Mapping[Token, Grant]):
    """The leases by token, in the order in which they were granted."""

    def __init__(self) -> None:
        self._grants: dict[Token, Grant] = {}
        self._works: dict[Token, Work] = {}
        self._of: dict[PeerId, dict[Token, None]] = {}
        self._doing: dict[Work, dict[Token, None]] = {}
        self._behind: dict[Token, None] = {}
        """The leases that were granted behind another."""
        self.prefixes = Counter[str]()
        """The leases of each IP prefix that is counted."""

    def __getitem__(self, token: Token) -> Grant:
        return self._grants[token]

    def __iter__(self) -> Iterator[Token]:
        return iter(self._grants)

    def __len__(self) -> int:
        return len(self._grants)

    def items(self) -> ItemsView[Token, Grant]:
        """Return the leases by token; faster than that of `Mapping`."""
        return self._grants.items()

    def values(self) -> ValuesView[Grant]:
        """Return the leases; faster than that of `Mapping`."""
        return self._grants.values()

    def put(self, grant: Grant) -> None:
        """Take in a lease, or what is new about one."""
        token = grant.lease.token
        before = self._grants.get(token)
        if before is None:
            work = self._works[token] = work_of(grant.lease)
            self._of.setdefault(grant.peer, {})[token] = None
            self._doing.setdefault(work, {})[token] = None
        if before is None or before.prefix != grant.prefix:
            self._count(grant.prefix, 1)
            self._count(before.prefix if before else "", -1)
        self._grants[token] = grant
        if grant.behind:
            self._behind[token] = None
        else:
            self._behind.pop(token, None)

    def drop(self, token: Token) -> Grant | None:
        """Remove a lease, and return it if it stood."""
        grant = self._grants.pop(token, None)
        if grant is None:
            return None
        self._behind.pop(token, None)
        self._count(grant.prefix, -1)
        _remove(self._of, grant.peer, token)
        _remove(self._doing, self._works.pop(token), token)
        return grant

    def _count(self, prefix: str, leases: int) -> None:
        if prefix:
            self.prefixes[prefix] += leases
            if not self.prefixes[prefix]:
                del self.prefixes[prefix]

    def work(self, grant: Grant) -> Work:
        """Return the work of a lease that stands."""
        return self._works[grant.lease.token]

    def of(self, peer: PeerId) -> list[Grant]:
        """Return the leases that a peer holds."""
        return [self._grants[token] for token in self._of.get(peer, ())]

    def doing(self, work: Work) -> list[Grant]:
        """Return the leases of a piece of work."""
        return [self._grants[token] for token in self._doing.get(work, ())]

    def holders(self, work: Work) -> int:
        """Return how many leases there are of a piece of work."""
        return len(self._doing.get(work, ()))

    def in_hand(self) -> list[Grant]:
        """Return the leases that their holders have not begun: they work on another."""
        found = (self._grants[token] for token in self._behind)
        return [each for each in found if each.behind in self._grants]


def _remove(index: dict[K, dict[Token, None]], key: K, token: Token) -> None:
    found = index[key]
    del found[token]
    if not found:
        del index[key]
