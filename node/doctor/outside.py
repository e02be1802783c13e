"""What peers say of this machine: its clock against theirs, and whether its port can be reached."""

from statistics import median

from dipaco.node.doctor.check import Check
from dipaco.node.seen import OutsideView
from dipaco.protocol.numbers import count, span

ENOUGH = 3  # peers whose median is believed; with fewer a single wrong clock may be the peer's
OFFSET_SECONDS = 5.0  # a larger one is no matter of the network
CLOCK_CURE = "have the clock set by the network: timedatectl set-ntp true"
CONNECT = "ask again when peers are connected: dipaco-node peers"
UNTRIED = "no peer tried a port: none is in another network, or they did a short while ago"


def judged(view: OutsideView, *, rendezvous: bool) -> list[Check]:
    """Return the checks of what peers told.

    rendezvous   others have to reach this node; a volunteer may dial out alone.
    """
    return [_clock(view), _reach(view, rendezvous)]


def _clock(view: OutsideView) -> Check:
    name = "peers' clock"
    if not view.answers:
        return Check(name=name, verdict="warn", words="no peer told the time", cure=CONNECT)
    told = f"median of {count(len(view.answers), 'peer')}"
    offset = median(each.offset_s for each in view.answers)
    if abs(offset) <= OFFSET_SECONDS:
        words = f"this clock agrees with theirs within {OFFSET_SECONDS:.0f} s, {told}"
        return Check(name=name, verdict="ok", words=words)
    way = "behind" if offset > 0 else "ahead of"
    words = f"this clock is {span(abs(offset))} {way} theirs, {told}"
    if len(view.answers) < ENOUGH:
        words += "; theirs may be wrong"
    return Check(name=name, verdict="warn", words=words, cure=CLOCK_CURE)


def _reach(view: OutsideView, rendezvous: bool) -> Check:
    at = {each.port: each.observed for each in view.answers}
    if "answers" in at:
        words = f"a peer reached port {view.port} of {at['answers']}"
        return Check(name="reach", verdict="ok", words=words)
    if "open" not in at and "closed" not in at:
        return Check(
            name="reach",
            verdict="warn" if rendezvous else "ok",
            words=UNTRIED,
            cure=CONNECT if rendezvous else "",
        )
    found = "another program answers" if "open" in at else "no answer"
    words = f"{found} at port {view.port} of {at.get('open') or at['closed']}"
    if not rendezvous:
        words += "; a node that dials out alone is a full member"
    cure = f"forward TCP port {view.port} to this machine, and open it in its firewall"
    return Check(name="reach", verdict="fail" if rendezvous else "warn", words=words, cure=cure)
