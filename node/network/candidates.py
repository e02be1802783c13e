"""The peers that a node may dial, and the time of the next try of each.

Candidates are the operator's seeds, peers remembered from earlier, and peers that directories list.
Anybody may list, so what a stranger lists displaces nothing better. All decisions take the time as
`now`; the dials themselves are in `dialer`, and how often an address may be dialled in
`dial_budget`.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dipaco.node.network.addresses import addresses_of
from dipaco.node.network.seats import Network, prefix_of
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.wire.address import Address, Scope
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.messages import open_record
from dipaco.protocol.wire.signed import Signed

SHORTEST = 1.0  # s between two dials of a peer
LONGEST = 60.0
# Of a scheduler or keeper, without which a run stands still: while it cannot be reached, and while
# it ends connections soon. The second costs it a handshake a time, from everybody.
LONGEST_OF_NEEDED, LONGEST_OF_UNSTEADY = 2.0, 10.0
SHARE = 0.15  # of the time it has been away: after an outage of 30 s it is dialled every 4.5 s
STEADY = 30.0  # s that a connection must last: else the pauses between dials go on growing
MOST = 512  # candidates; the least promising are forgotten
REMEMBERED = 128  # peers kept on disk, of those that answered: those that stayed longest
REMEMBERED_PER_PREFIX = 16  # so that one network does not fill the file


@dataclass(frozen=True)
class Teller:
    """From whom a record comes."""

    scope: Scope = Scope.MACHINE
    """Of its IP address. It can name nothing nearer: no peer of the internet sends us to our own
    local network, and no peer of that network to services of this machine."""
    known: bool = True


OWN_FILE = Teller()


@dataclass
class Candidate:
    """A peer and what became of the attempts to reach it."""

    peer: PeerId
    addresses: tuple[Address, ...]
    seed: bool
    record: Signed | None = None
    """The newest one, if all of its addresses may be dialled: it is worth remembering."""
    sequence: int = -1
    """Of the newest record."""
    trusted: bool = False
    """Whether a peer that this node knows has listed it."""
    longest: float = 0.0
    """Seconds of its longest connection that has ended."""
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

    def disconnected(
        self, now: float, chance: random.Random, *, needed: bool = False
    ) -> str | None:
        """Note its end; returns the cause if the connection did not last, and it is a new one."""
        self.longest = self.longest_at(now)
        began, self.connected_at = self.connected_at, None
        if began is None or now - began >= STEADY:
            self.away_since, self.cause = None, ""
            self.next_try = now + chance.uniform(0.1, 0.5)
            return None
        cause = f"it ended the connection within {STEADY:g} s"
        return self._pause(cause, now, chance, LONGEST_OF_UNSTEADY if needed else LONGEST)

    def longest_at(self, now: float) -> float:
        """Return the seconds of its longest connection so far."""
        return max(self.longest, now - self.connected_at if self.connected_at is not None else 0.0)

    def failed(
        self, cause: str, now: float, chance: random.Random, *, needed: bool = False
    ) -> str | None:
        """Note a failure and draw the time of the next try; returns `cause` if it is a new one.

        needed   whether a run of this node stands still until the peer is back.
        """
        return self._pause(cause, now, chance, LONGEST_OF_NEEDED if needed else LONGEST)

    def _pause(self, cause: str, now: float, chance: random.Random, longest: float) -> str | None:
        if self.away_since is None:
            self.away_since = now
        wait = min(longest, max(SHORTEST, SHARE * (now - self.away_since)))
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
    """All candidates of a node; none is the node itself (`me`).

    exempt   networks that are not counted as one prefix.
    """

    def __init__(self, me: PeerId, exempt: Sequence[Network] = ()) -> None:
        self._me = me
        self._exempt = exempt
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

    def add_listed(self, signed: Signed, now: float, teller: Teller = OWN_FILE) -> Candidate | None:
        """Take a peer's record, unless a newer one is known or there is no room for it.

        Returns the peer's candidate; raises RemoteProtocolError for a record that nobody may list.
        """
        record = open_record(signed)
        told, known = addresses_of(record), self._known.get(record.peer)
        addresses = tuple(each for each in told if each.scope >= teller.scope and not each.relay)
        if record.peer == self._me or not addresses:
            return None
        if known is not None and (known.seed or record.sequence < known.sequence):
            return None
        if known is None:
            if len(self._known) >= MOST and not self._forget_one(now, teller.known):
                return None
            known = self._known[record.peer] = Candidate(record.peer, (), seed=False)
        if set(known.addresses) != set(addresses):
            known.addresses = addresses
        known.record = signed if len(addresses) == len(told) else None
        known.sequence = record.sequence
        known.trusted |= teller.known
        return known

    def _forget_one(self, now: float, trusted: bool) -> bool:
        """Remove the least promising candidate; returns whether there was one.

        trusted   whether it makes room for a peer that is listed by one that this node knows.
        """
        kept = {each.peer for each in self._worth_remembering(now)}
        spare = [
            each
            for each in self
            if not (each.seed or each.dialling or each.peer in kept)
            and each.connected_at is None
            and (trusted or not each.trusted)
            and (each.away_since is not None or trusted > each.trusted)
        ]
        if spare:
            del self._known[min(spare, key=_promise).peer]
        return bool(spare)

    def remembered(self, now: float) -> tuple[Signed, ...]:
        """Return the records to keep on disk."""
        return tuple(each.record for each in self._worth_remembering(now) if each.record)

    def _worth_remembering(self, now: float) -> list[Candidate]:
        """Return the peers that answered, those that stayed longest first, few of each prefix."""
        found, of_prefix = list[Candidate](), Counter[str]()
        answered = [each for each in self if each.answered and each.record]
        for each in sorted(answered, key=lambda each: -each.longest_at(now)):
            prefix = prefix_of(each.addresses[0].host, self._exempt)
            of_prefix[prefix] += 1
            if len(found) < REMEMBERED and (
                not prefix or of_prefix[prefix] <= REMEMBERED_PER_PREFIX
            ):
                found.append(each)
        return found


def _promise(candidate: Candidate) -> tuple[bool, bool, float]:
    """Order candidates by what they promise: the one that has been away longest comes first."""
    away = candidate.away_since
    return candidate.trusted, away is None, away or 0.0
