"""The flags of `testnet` that order faults: their grammar and their values.

    WHO    a number of volunteers drawn by the seed, `scheduler`, `keeper`, or a node's name
    SPAN   a number with its unit: 500ms, 20s, 5min, 1h

The module imports neither trio nor rich: `--help` reads it.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

from dipaco.protocol.errors import ConfigError

Kind = Literal["kill", "restart", "freeze", "leave", "join", "partition"]
Way = Literal["both", "in", "out"]

SCHEDULER: Final = "scheduler"
KEEPER: Final = "keeper"
HALF: Final = "half"
"""WHO of a partition: a random half of all nodes."""
ROLES: Final = (SCHEDULER, KEEPER, HALF)
MOST: Final = 64
"""Nodes of one fault, and volunteers of a network."""

SPANS: Final = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
LONGEST: Final = 86_400.0
"""Seconds of a span; no test runs longer than a day."""
RESTART_SECONDS: Final = 5.0
FREEZE_SECONDS: Final = 20.0
"""Default of `--freeze`: the lease time that a manifest has by default."""
DEFAULT_SECONDS: Final[dict[Kind, float | None]] = {
    "kill": None,
    "restart": RESTART_SECONDS,
    "freeze": FREEZE_SECONDS,
    "leave": None,
    "join": None,
    "partition": None,
}
NAME: Final = re.compile(r"rendezvous|(node|scheduler|keeper)-[1-9][0-9]?")


@dataclass(frozen=True, kw_only=True)
class Order:
    """One flag: the faults that it asks for."""

    flag: str
    """As it was given, for messages: `--freeze 1:20s`."""
    kind: Kind
    who: str
    """A role, a node's name, or empty: `count` random volunteers."""
    count: int = 1
    seconds: float | None = None
    """Until the node is back or the cut is healed; None: for good."""
    way: Way = "both"
    """Of a cut: `in` holds up what goes to the nodes, `out` what comes from them."""

    @property
    def for_good(self) -> bool:
        """Whether the nodes never come back."""
        return self.kind in ("kill", "leave") and self.seconds is None


def parse_order(kind: Kind, value: str) -> Order:
    """Return the order that the flag `--kind value` gives; raises ConfigError."""
    flag = f"--{kind} {value}"
    parts = value.split(":")
    if kind == "partition":
        return _partition(flag, parts)
    who, *rest = parts
    if len(rest) > 1 or (rest and kind in ("kill", "join")):
        form = "WHO" if kind in ("kill", "join") else "WHO[:SPAN]"
        raise ConfigError(f"{flag}: expected {form}")
    seconds = parse_span(rest[0], flag) if rest else DEFAULT_SECONDS[kind]
    count, name = _who(who, flag)
    if kind == "join" and name:
        raise ConfigError(f"{flag}: expected the number of newcomers")
    if name == HALF:
        raise ConfigError(f"{flag}: {HALF} is for --partition alone")
    return Order(flag=flag, kind=kind, who=name, count=count, seconds=seconds)


def _partition(flag: str, parts: list[str]) -> Order:
    """Read `[WHO:]SPAN[:in|:out]`."""
    way: Way = "both"
    if parts[-1] in ("in", "out"):
        way = "in" if parts.pop() == "in" else "out"
    if not 1 <= len(parts) <= 2:
        raise ConfigError(f"{flag}: expected [WHO:]SPAN[:in|:out]")
    seconds = parse_span(parts[-1], flag)
    count, name = _who(parts[0], flag) if len(parts) == 2 else (1, HALF)
    return Order(flag=flag, kind="partition", who=name, count=count, seconds=seconds, way=way)


def _who(text: str, flag: str) -> tuple[int, str]:
    """Return (number of random volunteers, name); the name is empty for a number."""
    if re.fullmatch(r"[0-9]{1,3}", text):
        if not 1 <= int(text) <= MOST:
            raise ConfigError(f"{flag}: {text} is not in the range 1 to {MOST}")
        return int(text), ""
    if text not in ROLES and not NAME.fullmatch(text):
        raise ConfigError(
            f"{flag}: {text!r} is no number of volunteers, no role (scheduler, keeper) and no "
            "node's name (node-1)"
        )
    return 1, text


def parse_span(text: str, flag: str) -> float:
    """Return the seconds of a span such as `20s`; raises ConfigError."""
    match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?(ms|s|min|h)", text)
    if match is None:
        raise ConfigError(f"{flag}: {text!r} is no time: give a number with ms, s, min or h")
    seconds = float(match[1]) * SPANS[match[2]]
    if not 0 < seconds <= LONGEST:
        raise ConfigError(f"{flag}: {text} is not above 0 and at most a day")
    return seconds
