"""The work of the other volunteers of a run: asked from its scheduler now and then, for status."""

from contextlib import suppress

import trio

from dipaco.node.network.guard import Guard
from dipaco.node.status.activity import RunActivity
from dipaco.node.volunteer.scheduler_link import SchedulerLink
from dipaco.protocol.errors import Refusal, RemoteProtocolError, Unavailable

ASK_SECONDS = 10.0  # between two questions
PATH_SECONDS = 0.125  # more for each path: an answer has about 100 bytes for a path
RETRY_SECONDS = 3.0  # while the scheduler has never answered


async def follow_others(
    link: SchedulerLink, activity: RunActivity, paths: int, guard: Guard
) -> None:
    """Learn who holds which of a run's `paths`, until cancelled."""

    async def learn() -> None:
        with suppress(Unavailable, Refusal, RemoteProtocolError):  # what was told has a time
            activity.learn((await link.holders()).held)

    while True:
        await guard.run("learning what the others do", link.scheduler, learn)
        known = activity.held_time is not None
        await trio.sleep(ASK_SECONDS + paths * PATH_SECONDS if known else RETRY_SECONDS)
