"""The budget of the dials that strangers cause: whom they reach is not for strangers to choose.

A record is signed by its peer, yet its addresses may be those of anybody, and identities are free.
So dials are counted by what they hit, whoever names it: by address and port, by IP address, by IP
prefix, and in all. A dial that reaches the peer it was meant for costs nothing, and its address is
good from then on. Addresses that the operator gave are not counted. All decisions take `now`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

from dipaco.node.network.allowance import Allowances
from dipaco.node.network.seats import Network, prefix_of
from dipaco.protocol.wire.address import Address
from dipaco.protocol.wire.identity import PeerId

HOUR = 3600.0
FIRST_PAUSE = 60.0  # s after the first failure at an address and port
GROWTH = 4.0  # of the pause with each further failure: dials at 0, 1, 5 and 21 minutes
LONGEST_PAUSE = HOUR
PER_IP = 4  # failures at once, and then an hour: a home has few nodes, and each dials us as well
PER_PREFIX = 8  # the same of a prefix
WRONG = 4.0  # failures for which a dial counts that reached a third party
PER_MINUTE = 20  # dials in all: as many as a node wants connections; a new node finds all at once
MAX_PLACES = 4096  # addresses and ports remembered: more than 2 hours of dials can name
MAX_GOOD = 1024  # addresses at which peers were reached, and as many from which they came
GOOD_FOR = HOUR  # after the first dial that fails there; somebody else may live there by now


@dataclass(frozen=True)
class _Pause:
    ends: float
    seconds: float


@dataclass(frozen=True)
class Dial:
    """A dial that began."""

    peer: PeerId
    place: Address
    prefix: str
    """By which it was counted as failed; empty: it was not."""


class DialBudget:
    """Says when an address may be dialled.

    exempt   networks that are not counted by IP address and prefix, such as one's own.
    """

    def __init__(self, exempt: Sequence[Network] = ()) -> None:
        self._prefix_of = lru_cache(MAX_PLACES)(partial(prefix_of, exempt=exempt))
        self._pauses: dict[tuple[str, int], _Pause] = {}
        self._of_ip = Allowances(PER_IP, seconds=HOUR, keys=MAX_PLACES)
        self._of_prefix = Allowances(PER_PREFIX, seconds=HOUR, keys=MAX_PLACES)
        self._in_all = Allowances(PER_MINUTE, seconds=60.0, keys=2)
        self._reached: dict[tuple[PeerId, str, int], float] = {}
        """Where a peer proved who it is, the latest last; the time until which that counts."""
        self._seen: dict[tuple[PeerId, str], None] = {}
        """The IP addresses from which a peer came, the latest last."""

    def wait(self, peer: PeerId, place: Address, now: float, *, known: bool = False) -> float:
        """Return the seconds until it is worth asking again; 0: `peer` may be dialled there now.

        known   whether it is a peer that this node knows. It has a minute's dials of its own, and
                an address at which it answered once stays good.
        """
        if self._good(peer, place, now, known):
            return 0.0
        pause = self._pauses.get((place.host, place.port))
        waits = [pause.ends - now if pause else 0.0, self._in_all.wait(_crowd(known), now)]
        if max(waits) <= 0 and (prefix := self._counted(peer, place)):
            waits += [self._of_ip.wait(place.host, now), self._of_prefix.wait(prefix, now)]
        return max(0.0, *waits)

    def begin(self, peer: PeerId, place: Address, now: float, *, known: bool = False) -> Dial:
        """Count a dial; it counts as failed until `reached` says otherwise."""
        if self._good(peer, place, now, known):
            key = peer, place.host, place.port
            self._reached[key] = min(self._reached[key], now + GOOD_FOR)
            return Dial(peer, place, "")
        before = self._pauses.get((place.host, place.port))
        recent = before is not None and now - before.ends < LONGEST_PAUSE
        self._pause(place, before.seconds * GROWTH if before and recent else FIRST_PAUSE, now)
        self._in_all.spend(_crowd(known), now)
        if prefix := self._counted(peer, place):
            self._of_ip.spend(place.host, now)
            self._of_prefix.spend(prefix, now)
        return Dial(peer, place, prefix)

    def reached(self, dial: Dial, now: float) -> None:
        """Note that the peer answered and proved who it is."""
        self._pauses.pop((dial.place.host, dial.place.port), None)
        if dial.prefix:
            self._of_ip.give_back(dial.place.host, now)
            self._of_prefix.give_back(dial.prefix, now)
        key = dial.peer, dial.place.host, dial.place.port
        self._reached.pop(key, None)
        self._reached[key] = math.inf
        if len(self._reached) > MAX_GOOD:
            del self._reached[next(iter(self._reached))]

    def missed(self, dial: Dial, now: float) -> None:
        """Note that somebody else answered: a third party, whom nobody meant to reach."""
        self._reached.pop((dial.peer, dial.place.host, dial.place.port), None)
        self._pause(dial.place, LONGEST_PAUSE, now)
        if dial.prefix:
            self._of_ip.spend(dial.place.host, now, WRONG - 1)
            self._of_prefix.spend(dial.prefix, now, WRONG - 1)

    def seen(self, peer: PeerId, ip: str | None) -> None:
        """Note that `peer` is connected from `ip`: its addresses there are its own."""
        if not ip:
            return
        self._seen.pop((peer, ip), None)
        self._seen[peer, ip] = None
        if len(self._seen) > MAX_GOOD:
            del self._seen[next(iter(self._seen))]

    def _good(self, peer: PeerId, place: Address, now: float, known: bool) -> bool:
        until = self._reached.get((peer, place.host, place.port))
        return until is not None and (known or now < until)

    def _counted(self, peer: PeerId, place: Address) -> str:
        """Return the prefix by which a dial is counted; empty: it is not."""
        return "" if (peer, place.host) in self._seen else self._prefix_of(place.host)

    def _pause(self, place: Address, seconds: float, now: float) -> None:
        seconds = min(seconds, LONGEST_PAUSE)
        self._pauses.pop((place.host, place.port), None)
        self._pauses[place.host, place.port] = _Pause(now + seconds, seconds)
        if len(self._pauses) > MAX_PLACES:
            del self._pauses[next(iter(self._pauses))]


def _crowd(known: bool) -> str:
    return "known" if known else "strangers"
