"""Connections and streams that ended early, summed up for the log: one line in ten minutes."""

from collections import Counter
from typing import Literal

from dipaco.protocol.wire.identity import PeerId

SUMMARY_SECONDS = 600.0

Kind = Literal["connections", "streams"]


class Endings:
    """Counts endings, and sums them up when the next one comes after `SUMMARY_SECONDS`."""

    def __init__(self) -> None:
        self._counts: Counter[Kind] = Counter()
        self._peers: set[PeerId] = set()
        self._since = float("inf")

    def note(self, kind: Kind, peer: PeerId, now: float) -> str | None:
        """Count an ending at `now`, seconds; return the sum in words if it is due, else None."""
        self._counts[kind] += 1
        self._peers.add(peer)
        self._since = min(self._since, now)
        if now - self._since < SUMMARY_SECONDS:
            return None
        minutes = (now - self._since) / 60
        counts = [*sorted(self._counts.items()), ("peers", len(self._peers))]
        numbers = ", ".join(f"{name} {count}" for name, count in counts)
        text = f"ended in the last {minutes:.0f} min: {numbers}"
        self._counts, self._peers, self._since = Counter(), set(), float("inf")
        return text
