"""Orders to a node and its reasons, as lines for people."""

import time

from dipaco.node.api.values import Ordered, Why
from dipaco.node.limits.moments import moment_text
from dipaco.protocol.wire.text import escaped

RESUME = "dipaco-node resume"


def ordered_text(ordered: Ordered, now: float) -> str:
    """Return what the node does from now on, and the command that takes it back."""
    if ordered.mode == "runs" and ordered.gpus_off:
        return "; ".join(f"cuda:{n} is off, on with {RESUME} --gpu {n}" for n in ordered.gpus_off)
    if ordered.mode == "runs":
        return "resumed: works whenever no other limit forbids it (dipaco-node why)"
    if ordered.mode == "finishing":
        return f"finishing: no new lease, paused when the one in hand has ended; back with {RESUME}"
    if ordered.until is None:
        return f"paused until you resume: {RESUME}"
    return f"paused until {moment_text(ordered.until, now)}; to go on before: {RESUME}"


def why_text(why: Why) -> str:
    """Return the reasons that held at a moment, one a line, and from when to when."""
    now = time.time()
    if why.since is None:
        return f"nothing is known of {moment_text(why.at, now)}: no reasons were kept then"
    since = moment_text(why.since, now)
    until = "now" if why.until is None else moment_text(why.until, now)
    first, *others = [escaped(each.text) for each in why.reasons]
    return "\n".join(
        (f"{since} to {until}  {why.state}: {first}", *(f"  also: {o}" for o in others))
    )
