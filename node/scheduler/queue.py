"""The queue of one run: whoever asked for work and found none, in the order of first asking. Pure.

A place is kept while its holder keeps asking, and over a restart of the scheduler: nobody falls
back. It is given up for a lease; small work leaves it as it is. Work is kept for the places before
whoever asks, as long as their holders are expected to ask: until the time that they were told, and
a little longer. So the first one that may have new work gets it, at once if it is there, and
whoever is not there holds up nobody for long.

Identities are free: peers that have proven nothing share one place of their IP prefix, come after
those that have, and the number of places is bounded.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.calls import MAX_PLACES

KEPT_SECONDS = 60.0  # of a place without a word: a restart of its holder, or of its line
SLACK_SECONDS = 2.0  # after the time that a peer was told to ask again: the call and its way
RETRY_SECONDS = 2.0  # of the first place, before it asks again; each further one waits as much more
# The same while work is leased. What a node gives back is with another one 0.3 s later; 1,000 that
# wait ask 115 times a second in all. Else a ledger record alone brings work, and it wakes them.
LEASED_RETRY_SECONDS = 0.25
MAX_RETRY_SECONDS = 10.0  # of all that wait: a lease may end at any time


@dataclass(frozen=True)
class Place:
    """One place in the queue."""

    key: str
    """A peer, or the IP prefix of peers that have proven nothing."""
    peer: PeerId
    """Who asked last in this place."""
    heard: float
    """When, in seconds on the scheduler's clock."""
    expected: float
    """Until then it is expected to ask; -inf: it is gone, at work, or held back."""

    @property
    def new(self) -> bool:
        """Whether it is of peers that have proven nothing."""
        return self.key != self.peer


def retry_after(number: int | None, *, leased: bool) -> float:
    """Return the seconds after which a peer at a place asks again; None: it has no place.

    leased   whether any work is leased: its holder may give it back at any moment.
    """
    if number is None:
        return MAX_RETRY_SECONDS
    return min(MAX_RETRY_SECONDS, (LEASED_RETRY_SECONDS if leased else RETRY_SECONDS) * number)


class Queue:
    """The places, in the order in which they were taken."""

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[Place]:
        """Yield the places in the order in which they are served."""
        places = self._places.values()
        yield from (each for each in places if not each.new)
        yield from (each for each in places if each.new)

    def before(self, key: str, *, last: bool = False) -> Iterator[Place]:
        """Yield the places that are served before that of `key`, or before a new one of its.

        last   whether a new one would be the last of all; else it comes before those of peers
               that have proven nothing.
        """
        found = self._places.get(key)
        new = found.new if found else last
        for each in self:
            if each.key == key or each.new > new:
                return
            yield each

    def take(self, key: str, peer: PeerId, now: float, *, held_back: bool = False) -> None:
        """Put a place at the end; its holder was told to ask again.

        held_back   whether nothing is kept for it now.
        """
        expected = -math.inf if held_back else now + MAX_RETRY_SECONDS + SLACK_SECONDS
        self._places[key] = Place(key, peer, now, expected)

    def displaced_by(self, *, new: bool) -> str | None:
        """Return the place that has to go for a further one: the last of a full queue.

        Empty: none has to. None: there is no room, since peers that have proven nothing displace
        nobody.
        """
        if len(self._places) < MAX_PLACES:
            return ""
        last = next((each for each in reversed(self._places.values()) if each.new), None)
        return last.key if last and not new else None

    def asked(self, key: str, peer: PeerId, now: float, *, wait: float) -> None:
        """Note that the holder of a place asked, and was told to ask again after `wait` seconds."""
        if key in self._places:
            self._places[key] = Place(key, peer, now, now + wait + SLACK_SECONDS)

    def passes(self, key: str, now: float) -> None:
        """Note that nothing is kept for a place now: its holder is at work, or held back."""
        if place := self._places.get(key):
            self._places[key] = replace(place, heard=now, expected=-math.inf)

    def heard_from(self, key: str, now: float) -> None:
        """Note that the holder of a place was heard of."""
        if place := self._places.get(key):
            self._places[key] = replace(place, heard=now)

    def gone(self, peer: PeerId) -> None:
        """Note that the connection of a peer broke: nothing is kept for it meanwhile."""
        for key, place in self._places.items():
            if place.peer == peer:
                self._places[key] = replace(place, expected=-math.inf)

    def leave(self, key: str) -> None:
        """Give up a place."""
        self._places.pop(key, None)

    def lapsed(self, now: float) -> Iterator[str]:
        """Yield the places whose holders were not heard of for too long."""
        return (k for k, place in self._places.items() if place.heard + KEPT_SECONDS <= now)
