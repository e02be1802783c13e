"""The door: who may connect, and who goes when all places are taken. No I/O.

Three things are counted: handshakes in progress, where nothing but an IP address is known; open
connections; and streams in use. Peers that this node knows keep places in each, and are never sent
away for a stranger.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from dipaco.node.network.seats import Limits, Network, Seat, Seats, prefix_of
from dipaco.protocol.errors import Unavailable
from dipaco.protocol.wire.identity import PeerId

MOST_CONNECTIONS = (
    256  # connections; enough for a rendezvous node, far below a process's limit of open files
)
KEPT_SHARE = 4  # one connection in so many is kept for known peers
OF_PREFIX = 48  # connections of strangers; a lab of 30 machines in one network has room
OF_PEER = 3  # connections; two that dial each other at once have 2, a copied key adds one
HANDSHAKES = Limits(in_all=96, per_prefix=16, per_peer=96, kept=32)
"""Each ends within `host.HANDSHAKE_TIMEOUT`; the oldest of a crowd goes before."""
STREAMS = 64  # inbound streams that one peer may hold open
STREAMS_IN_ALL = 2048  # each holds a window of 256 KiB at most unless it is read
STREAMS_OF_PREFIX = 768
KNOWN_IPS = 512  # addresses at which known peers were seen, the latest ones
FULL = "its place is needed: connections are full, and its network has most of them"
CROWDED = "its network, or itself, has as many connections as one may"


@dataclass(frozen=True, kw_only=True)
class Guest:
    """A connection."""

    link: Hashable
    peer: PeerId
    prefix: str
    """Empty: not counted."""
    invited: bool
    """Whether this node dialled it."""


def surplus(
    inside: Sequence[Guest], new: Guest, *, most: int, known: Callable[[PeerId], bool]
) -> tuple[Guest, str] | None:
    """Return the connection that has to end now that `new` has come, and why; None: all stay.

    inside   the others, in the order in which they came.
    most     connections, those included that are kept for known peers.
    """
    everyone = [*inside, new]
    strangers = [guest for guest in everyone if not (guest.invited or known(guest.peer))]
    crowds = Counter(guest.prefix for guest in strangers if guest.prefix)
    if sum(guest.peer == new.peer for guest in everyone) > OF_PEER and not new.invited:
        return new, CROWDED
    if new in strangers and crowds[new.prefix] > OF_PREFIX:
        return new, CROWDED
    if len(strangers) <= most - most // KEPT_SHARE and len(everyone) <= most:
        return None
    if not strangers:
        return None if new.invited else (new, FULL)
    largest = max(crowds[guest.prefix] for guest in strangers)
    latest = [guest for guest in strangers if crowds[guest.prefix] == largest][-1]
    return latest, FULL


class Door:
    """The places of one node.

    most     connections.
    exempt   networks whose addresses are not counted.
    alive    whether a connection still stands.
    """

    def __init__(
        self,
        *,
        most: int = MOST_CONNECTIONS,
        exempt: Sequence[Network] = (),
        alive: Callable[[Hashable], bool] = lambda link: True,
    ) -> None:
        self._most, self._exempt, self._alive = most, tuple(exempt), alive
        self._inside: dict[Hashable, Guest] = {}
        self._known: Callable[[PeerId], bool] = lambda peer: False
        self._known_ips: dict[str, None] = {}
        self._handshakes = Seats("handshakes", HANDSHAKES)
        self._pending: dict[Seat, Callable[[], None]] = {}
        """Handshakes of strangers, the oldest first."""
        self._streams = Seats(
            "streams",
            Limits(
                in_all=STREAMS_IN_ALL,
                per_prefix=STREAMS_OF_PREFIX,
                per_peer=STREAMS,
                kept=STREAMS_IN_ALL // KEPT_SHARE,
            ),
        )

    def favour(self, known: Callable[[PeerId], bool]) -> None:
        """Keep places for the peers for which `known` is true."""
        self._known = known

    def knock(self, ip: str | None, give_up: Callable[[], None]) -> Seat:
        """Take a place for a handshake; raises Unavailable when there is none.

        A known peer is recognised by the address at which it was connected before. For a stranger,
        the oldest handshake of the fullest network is given up: one that is honest is short.

        give_up   ends this handshake; it is called at most once, when another takes its place.
        """
        prefix, known = self._prefix(ip), ip in self._known_ips
        try:
            seat = self._handshakes.take("", prefix, known=known)
        except Unavailable:
            if not self._push_out(prefix):
                raise
            seat = self._handshakes.take("", prefix, known=known)
        if not known:
            self._pending[seat] = give_up
        return seat

    def answered(self, seat: Seat) -> None:
        """Give the place of a handshake back."""
        self._pending.pop(seat, None)
        self._handshakes.leave(seat)

    def _push_out(self, prefix: str) -> bool:
        """Give up a handshake for one from `prefix`; returns whether there was one to give up."""
        crowds = Counter(seat.prefix for seat in self._pending)
        own = crowds[prefix] >= HANDSHAKES.per_prefix and bool(prefix)
        fullest = prefix if own else max(crowds, key=lambda each: crowds[each], default="")
        for seat, give_up in self._pending.items():
            if seat.prefix == fullest:
                self.answered(seat)
                give_up()
                return True
        return False

    def enter(
        self, link: Hashable, peer: PeerId, ip: str | None, *, invited: bool
    ) -> tuple[Hashable, PeerId, str] | None:
        """Note a connection; returns one that the caller has to end, of whom, and why."""
        for gone in [each for each in self._inside if not self._alive(each)]:
            del self._inside[gone]
        new = Guest(link=link, peer=peer, prefix=self._prefix(ip), invited=invited)
        found = surplus(self._others(link), new, most=self._most, known=self._known)
        self._inside[link] = new
        if self._known(peer) and ip:
            self._remember(ip)
        if found is None:
            return None
        guest, why = found
        del self._inside[guest.link]
        return guest.link, guest.peer, why

    def leave(self, link: Hashable) -> None:
        """Note that a connection has ended."""
        self._inside.pop(link, None)

    def open(self, peer: PeerId, ip: str | None) -> Seat:
        """Take a place for an inbound stream; raises Unavailable when there is none."""
        return self._streams.take(peer, self._prefix(ip), known=self._known(peer))

    def close(self, seat: Seat) -> None:
        """Give the place of a stream back."""
        self._streams.leave(seat)

    def _others(self, link: Hashable) -> list[Guest]:
        return [guest for guest in self._inside.values() if guest.link != link]

    def _prefix(self, ip: str | None) -> str:
        return prefix_of(ip, self._exempt)

    def _remember(self, ip: str) -> None:
        self._known_ips.pop(ip, None)
        self._known_ips[ip] = None
        if len(self._known_ips) > KNOWN_IPS:
            del self._known_ips[next(iter(self._known_ips))]
