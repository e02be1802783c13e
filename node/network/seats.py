"""Seats: how many may use something at once, in all, of one IP prefix and of one peer. Pure.

Identities are free and addresses are not, so what one prefix may take is what an attacker may take.
Peers that this node knows (its seeds, the schedulers of its runs, peers whose work counted) have
seats that nobody else can take.
"""

import ipaddress
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from dipaco.protocol.errors import Unavailable

IPV4_BITS = 24  # the smallest block that is routed on its own
IPV6_BITS = 56  # what a provider gives to one customer

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def prefix_of(ip: str | None, exempt: Sequence[Network] = ()) -> str:
    """Return the IP prefix whose addresses are counted together; empty: it is not counted.

    ip       None or empty: not known.
    exempt   networks whose addresses are not counted, such as one's own.
    """
    if not ip:
        return ""
    address = ipaddress.ip_address(ip.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if any(address in network for network in exempt):
        return ""
    bits = IPV4_BITS if address.version == 4 else IPV6_BITS
    return str(ipaddress.ip_network(f"{address}/{bits}", strict=False))


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How many seats there are."""

    in_all: int
    per_prefix: int
    per_peer: int
    kept: int = 0
    """Of all, those that only known peers may take."""


@dataclass(frozen=True, eq=False)
class Seat:
    """A seat that is taken."""

    who: str
    prefix: str


class Seats:
    """The seats of one thing.

    what   the thing in the plural, for refusals: `connections`, `uploads`.
    """

    def __init__(self, what: str, limits: Limits) -> None:
        self._what, self._limits = what, limits
        self._taken: set[Seat] = set()
        self._of_prefix: Counter[str] = Counter()
        self._of: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._taken)

    def held_by(self, prefix: str) -> int:
        """Return how many seats a prefix has."""
        return self._of_prefix[prefix]

    def take(self, who: str, prefix: str, *, known: bool = False) -> Seat:
        """Take a seat; raises Unavailable with the reason when there is none for `who`.

        who      a PeerID; empty: not known, and then it has no limit of its own.
        prefix   as `prefix_of` returns it.
        known    whether it may take the seats that are kept; no limit of its prefix holds for it.
        """
        if reason := self._refusal(who, prefix, known=known):
            raise Unavailable(reason)
        seat = Seat(who, prefix)
        self._taken.add(seat)
        self._of[who] += 1
        self._of_prefix[prefix] += 1
        return seat

    def leave(self, seat: Seat) -> None:
        """Give a seat back; nothing happens if it is free already."""
        if seat not in self._taken:
            return
        self._taken.remove(seat)
        for counts, key in ((self._of, seat.who), (self._of_prefix, seat.prefix)):
            counts[key] -= 1
            if not counts[key]:
                del counts[key]

    @contextmanager
    def seat(self, who: str, prefix: str, *, known: bool = False) -> Iterator[None]:
        """Hold a seat for the block; raises as `take` does."""
        seat = self.take(who, prefix, known=known)
        try:
            yield
        finally:
            self.leave(seat)

    def _refusal(self, who: str, prefix: str, *, known: bool) -> str:
        limits = self._limits
        if who and self._of[who] >= limits.per_peer:
            return f"you have as many {self._what} as one peer may: {limits.per_peer}"
        if not known and prefix and self._of_prefix[prefix] >= limits.per_prefix:
            return f"{prefix} has as many {self._what} as one prefix may: {limits.per_prefix}"
        if len(self._taken) >= limits.in_all - (0 if known else limits.kept):
            return f"all {self._what} are taken"
        return ""
