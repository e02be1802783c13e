"""The peers that a node may dial, and the time of the next try of each.

Candidates are the operator's seeds, peers remembered from earlier, and peers that directories list.
All decisions take the time as `now`; the dials themselves are in `dialer`.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from dipaco.node.network.addresses import addresses_of
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.wire.address import Address
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.messages import open_record
from dipaco.protocol.wire.signed import Signed

SHORTEST = 1.0  # s between two dials of a peer
LONGEST = 60.0
SHARE = 0.15  # of the time it has been away: after an outage of 30 s it is dialled every 4.5 s
STEADY = 30.0  # s that a connection must last: else the pauses between dials go on growing
MOST = 512  # candidates; the least promising are forgotten
REMEMBERED = 128  # peers kept on disk, of those that answered


@dataclass
class Candidate:
    """A peer and what became of the attempts to reach it."""

    peer: PeerId
    addresses: tuple[Address, ...]
    seed: bool
    record: Signed | None = None
    sequence: int = -1
    """Of the record."""
    connected_at: float | None = None
    away_since: float | None = None
    """The first failure in a row: of a dial, or of a connection that did not last."""
    next_try: float = 0.0
    cause: str = ""
    dialling: bool = False
    answered: bool = False
    """At least once: worth remembering."""

    def connected(self, now: float) -> None:
        """Note a connection; only one that lasts ends a row of failures."""
        self.connected_at, self.answered = now, True

    def disconnected(self, now: float, chance: random.Random) -> str | None:
        """Note its end; returns the cause if the connection did not last, and it is a new one."""
        began, self.connected_at = self.connected_at, None
        if began is None or now - began >= STEADY:
            self.away_since, self.cause = None, ""
            self.next_try = now + chance.uniform(0.1, 0.5)
            return None
        return self.failed(f"it ended the connection within {STEADY:g} s", now, chance)

    def failed(self, cause: str, now: float, chance: random.Random) -> str | None:
        """Note a failure and draw the time of the next try; returns `cause` if it is a new one."""
        if self.away_since is None:
            self.away_since = now
        wait = min(LONGEST, max(SHORTEST, SHARE * (now - self.away_since)))
        self.next_try = now + wait * chance.uniform(0.75, 1.25)
        before, self.cause = self.cause, cause
        return cause if cause != before else None

    def next_addresses(self) -> tuple[Address, ...]:
        """Return the addresses to dial; each call begins one further.

        The whole dial has a deadline, and silent addresses must not keep the others out for ever.
        """
        now, self.addresses = self.addresses, self.addresses[1:] + self.addresses[:1]
        return now


class Candidates:
    """All candidates of a node; none is the node itself (`me`)."""

    def __init__(self, me: PeerId) -> None:
        self._me = me
        self._known: dict[PeerId, Candidate] = {}

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self._known.values())

    def get(self, peer: PeerId) -> Candidate | None:
        """Return the candidate of this PeerID, if there is one."""
        return self._known.get(peer)

    def add_seed(self, address: Address) -> None:
        """Add an address of the operator's; raises ConfigError for one that names no peer."""
        if (peer := address.peer) is None:
            raise ConfigError(f"the seed {address} {address.seed_fault()}")
        if peer != self._me:
            known = self._known.setdefault(peer, Candidate(peer, (), seed=True))
            known.addresses = (*known.addresses, address)

    def add_listed(self, signed: Signed) -> None:
        """Take a peer's record, unless a newer one is known; raises RemoteProtocolError."""
        record = open_record(signed)
        addresses, known = addresses_of(record), self._known.get(record.peer)
        if record.peer == self._me or not addresses:
            return
        if known is not None and (known.seed or record.sequence < known.sequence):
            return
        if known is None:
            if len(self._known) >= MOST and not self._forget_one():
                return
            known = self._known[record.peer] = Candidate(record.peer, (), seed=False)
        if set(known.addresses) != set(addresses):
            known.addresses = addresses
        known.record, known.sequence = signed, record.sequence

    def _forget_one(self) -> bool:
        """Remove the candidate that has been away longest; returns whether there was one."""
        away = [
            c
            for c in self._known.values()
            if not c.seed and c.away_since is not None and c.connected_at is None
        ]
        if away:
            del self._known[min(away, key=lambda c: c.away_since or 0.0).peer]
        return bool(away)

    def remembered(self) -> tuple[Signed, ...]:
        """Return the records to keep on disk: of peers that answered."""
        answered = [each.record for each in self if each.answered and each.record]
        return tuple(answered[-REMEMBERED:])
