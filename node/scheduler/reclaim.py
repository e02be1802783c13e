"""A lease of an earlier term, shown to the scheduler of this one: whether it stands again. Pure."""

from dipaco.node.kinds.changes import Change, Grant
from dipaco.node.kinds.table import kind_of, work_of
from dipaco.node.scheduler.schedule import Schedule
from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.calls import Fallen, Stands
from dipaco.protocol.work.kinds import Lease

GONE = "its work is done, or another peer has it in this term"


def reclaimed(
    schedule: Schedule, peer: PeerId, lease: Lease, *, now: float, prefix: str = ""
) -> tuple[tuple[Change, ...], Stands | Fallen]:
    """Grant the lease that `peer` shows, if this scheduler would grant the same now.

    It compares the whole lease with its own for that work, so nobody gains by an invented one: the
    peer gets no more than by asking. A peer holds at most two.
    """
    if schedule.grant_of(peer, lease.token) is not None:
        return (), Stands()
    members = schedule.manifest.schedule.members
    held = len(schedule.grants.of(peer))
    if held >= 2 or lease.token in schedule.grants or (members and peer not in members):
        return (), Fallen(reason=GONE)
    state, kind, work = schedule.state, kind_of(lease), work_of(lease)
    try:
        kind.check(state.ledger, lease)  # before our own is made of its numbers
    except RemoteProtocolError:
        return (), Fallen(reason=GONE)
    found = schedule.open.find(peer, work)
    if found is None or schedule.grants.holders(work) >= found.places:
        return (), Fallen(reason=GONE)
    if kind.lease(state, work, lease.token) != lease:
        return (), Fallen(reason=GONE)
    return (Grant(lease, peer, now, prefix=prefix, restored=True),), Stands()
