"""The holders of paths, as the scheduler of a run tells them to every peer that asks. Pure."""

from collections.abc import Mapping

from dipaco.node.kinds.table import EVALUATE, kind_of, work_of
from dipaco.node.scheduler.schedule import Schedule
from dipaco.protocol.work.bounds import most_nats
from dipaco.protocol.work.calls import Heartbeat, Held


def holders(schedule: Schedule, beats: Mapping[bytes, Heartbeat]) -> tuple[Held, ...]:
    """Return the holder of every path that is leased, or whose result waits for the outer step.

    beats   the last heartbeat of every lease, by token.
    """
    most = most_nats(schedule.manifest)  # nothing above it is shown
    found = {
        path: Held(
            path=path,
            round=round_,
            peer=accepted.peer,
            submitted=True,
            loss=accepted.result.loss_last,
        )
        for (path, round_), accepted in schedule.state.accepted.items()
    }
    for token, grant in schedule.grants.items():
        if kind_of(grant.lease) is not EVALUATE:
            work, beat = work_of(grant.lease), beats.get(token)
            found[work.path] = Held(
                path=work.path,
                round=work.round,
                peer=grant.peer,
                submitted=False,
                loss=beat.loss if beat and (beat.loss or 0) <= most else None,
            )
    return tuple(found[path] for path in sorted(found))
