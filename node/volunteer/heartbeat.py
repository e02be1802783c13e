"""Heartbeats of one lease: they renew it, and end the work when the lease no longer stands."""

import logging

import trio

from dipaco.node.jobs.values import Progress
from dipaco.node.kinds.table import kind_of
from dipaco.node.pace import Pace
from dipaco.node.volunteer.scheduler_link import SchedulerLink
from dipaco.protocol.errors import RemoteProtocolError, Unavailable
from dipaco.protocol.work.calls import Fallen, Heartbeat
from dipaco.protocol.work.kinds import Lease

log = logging.getLogger(__name__)


class Heartbeats:
    """Tells the scheduler every few seconds how far the work is."""

    def __init__(self, lease: Lease, link: SchedulerLink, seconds: float) -> None:
        """seconds   between two heartbeats."""
        self._lease, self._link, self._seconds = lease, link, seconds
        self.progress: Progress | None = None
        """The last report of the worker process."""
        self._told = Pace()
        self.lost = ""
        """Why the lease no longer stands; empty: it does."""

    async def run(self, work: trio.CancelScope) -> None:
        """Renew the lease until it falls; then cancel `work`."""
        while not self.lost:
            await trio.sleep(self._seconds)
            try:
                reply = await self._link.heartbeat(self._message())
            except (Unavailable, RemoteProtocolError) as away:
                # The lease may outlive a restart of the scheduler: the work goes on.
                level = logging.INFO if self._told.is_due(trio.current_time()) else logging.DEBUG
                log.log(level, "heartbeat not answered: %s", away)
                continue
            if isinstance(reply, Fallen):
                self.lost = reply.reason
                work.cancel()

    def _message(self) -> Heartbeat:
        begun = self.progress is not None and self.progress.stage == kind_of(self._lease).stage
        now = self.progress if begun else None
        return Heartbeat(
            run=self._lease.run,
            token=self._lease.token,
            done=now.done if now else 0,
            total=now.total if now else 0,
            tokens_per_second=now.tokens_per_second if now else 0.0,
            loss=now.loss if now else None,
        )
