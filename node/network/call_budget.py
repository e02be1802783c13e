"""What peers may ask per second. No I/O.

Every call costs the loop a part of a millisecond, and its answer bytes of the uplink. A peer that
asks for more is read later: its calls wait where they are, at its own end of the stream. Identities
are free, so strangers share what their IP prefix may have, and all of them a part of this node.
"""

from collections import OrderedDict
from collections.abc import Callable

from dipaco.node.network.allowance import Allowance
from dipaco.protocol.wire.identity import PeerId

UNIT = 16 << 10  # bytes that cost as much as a call
# Calls per second, and at once after a quiet time. A call takes about 0.3 ms, so all strangers
# together have a sixth of one core; 1.6 MB/s for a peer is more than most uplinks have. A node that
# looks for every blob of a run with 1,024 paths asks 1,100 times, with at most 16 calls in flight:
# it never waits, and one that asks twice as much waits 0.2 s for an answer, at a timeout of 5 s.
PEER = (100.0, 2_000.0)
PREFIX = (200.0, 4_000.0)  # two such peers; a lab of 30 machines asks 10 times a second in all
STRANGERS = (500.0, 10_000.0)
KNOWN = (400.0, 8_000.0)  # one known peer; they share with nobody
MAX_KEYS = 4096  # peers and prefixes remembered, the latest to ask


class CallBudget:
    """What each peer, each prefix and all strangers have left.

    known    whether a peer is known here.
    prefix   returns the IP prefix of a peer; empty: it is not counted.
    """

    def __init__(
        self, known: Callable[[PeerId], bool], prefix: Callable[[PeerId], str], *, now: float
    ) -> None:
        self._known, self._prefix = known, prefix
        self._strangers = Allowance(*STRANGERS, now=now)
        self._left: OrderedDict[str, Allowance] = OrderedDict()

    def __len__(self) -> int:
        return len(self._left)

    def spend(self, peer: PeerId, *, size: int = 0, calls: int = 1, now: float) -> float:
        """Count calls of `peer`, or the `size` bytes of answers; returns seconds to wait."""
        units = calls + size / UNIT
        if self._known(peer):
            return self._of(f"known {peer}", KNOWN, now).owe(units, now=now)
        waits = [
            self._of(peer, PEER, now).owe(units, now=now),
            self._strangers.owe(units, now=now),
        ]
        if prefix := self._prefix(peer):
            waits.append(self._of(prefix, PREFIX, now).owe(units, now=now))
        return max(waits)

    def _of(self, key: str, limit: tuple[float, float], now: float) -> Allowance:
        found = self._left.pop(key, None)
        self._left[key] = found = found or Allowance(*limit, now=now)
        if len(self._left) > MAX_KEYS:
            self._left.popitem(last=False)
        return found
