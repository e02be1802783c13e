"""A node's line: its rates, its delay and its loss, as pure arithmetic on times.

TCP hides a lost packet: the bytes behind it arrive late. So a loss is a pause of the line, as long
as the sender's kernel waits before it sends again.
"""

import random
import re
from dataclasses import dataclass, field
from typing import Final

from dipaco.cli.testnet.chaos.grammar import parse_span
from dipaco.protocol.errors import ConfigError

RATES: Final = {
    "kbit/s": 125.0,
    "Mbit/s": 125e3,
    "Gbit/s": 125e6,
    "kB/s": 1e3,
    "MB/s": 1e6,
    "GB/s": 1e9,
}
SEGMENT: Final = 1448
"""Bytes of a TCP segment on Ethernet: what one lost packet holds."""
RESEND_SECONDS: Final = 0.2
"""Linux's least time before it sends a lost segment again."""
LEAST_RATE: Final = 1e3
"""Bytes a second; a slower line would not carry a heartbeat in time."""
MOST_LOSS: Final = 0.3
"""Share of segments; beyond it TCP makes no progress worth measuring."""
MOST_DELAY: Final = 5.0
"""Seconds one way; a handshake may take 8."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One node's line to everybody else."""

    up: float
    """Bytes a second that leave the node."""
    down: float
    """Bytes a second that reach it."""
    delay: float
    """Seconds that each byte takes in either direction."""
    loss: float = 0.0
    """Share of segments that are lost, in either direction."""
    nodes: int | None = None
    """The number of volunteers that have this line, the first ones; None: all."""


def parse_line(value: str) -> Line:
    """Return the line of `[N:]UP/DOWN,DELAY[,LOSS%]`; raises ConfigError."""
    flag = f"--slow-link {value}"
    unit = "|".join(map(re.escape, RATES))
    rate = rf"([0-9]+(?:\.[0-9]+)?) ?({unit})"
    form = rf"(?:([1-9][0-9]?):)?{rate}/{rate},([^,]+)(?:,([0-9]+(?:\.[0-9]+)?)%)?"
    match = re.fullmatch(form, value)
    if match is None:
        raise ConfigError(
            f"{flag}: expected [N:]UP/DOWN,DELAY[,LOSS%] such as 1Mbit/s/8Mbit/s,40ms,1% "
            "(kbit/s, Mbit/s, Gbit/s, kB/s, MB/s, GB/s)"
        )
    up, down = float(match[2]) * RATES[match[3]], float(match[4]) * RATES[match[5]]
    delay, loss = parse_span(match[6], flag), float(match[7] or 0) / 100
    if min(up, down) < LEAST_RATE:
        raise ConfigError(f"{flag}: a rate below 1 kB/s carries no heartbeat in time")
    if delay > MOST_DELAY:
        raise ConfigError(f"{flag}: a delay above {MOST_DELAY:g} s ends every handshake")
    if loss > MOST_LOSS:
        raise ConfigError(f"{flag}: above a loss of {MOST_LOSS:.0%} TCP makes no progress")
    nodes = int(match[1]) if match[1] else None
    return Line(up=up, down=down, delay=delay, loss=loss, nodes=nodes)


@dataclass
class Pipe:
    """One direction of a node's line, which all its connections share."""

    rate: float
    """Bytes a second."""
    free: float = 0.0
    """When the bytes that were taken in so far have left."""

    def leave(self, now: float, size: int) -> float:
        """Take in `size` bytes at `now`, and return when the last of them has left."""
        self.free = max(now, self.free) + size / self.rate
        return self.free


@dataclass
class Losses:
    """The pauses that lost segments cost, drawn from a seed."""

    share: float
    rng: random.Random = field(repr=False)

    def pause(self, size: int, delay: float) -> float:
        """Return the seconds by which a chunk of `size` bytes is late.

        delay   seconds one way: the sender waits at least for one answer.
        """
        segments = -(-size // SEGMENT)
        lost = sum(self.rng.random() < self.share for _ in range(segments)) if self.share else 0
        return max(RESEND_SECONDS, 2 * delay) if lost else 0.0
