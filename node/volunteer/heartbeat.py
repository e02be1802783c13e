"""Heartbeats of one lease: they renew it, and end the work when the lease no longer stands."""

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from dipaco.node.jobs.values import Progress
from dipaco.node.kinds.table import kind_of
from dipaco.node.volunteer.scheduler_link import SchedulerLink
from dipaco.protocol.errors import LeaseLost, RemoteProtocolError, Unavailable
from dipaco.protocol.work.calls import Fallen, Heartbeat
from dipaco.protocol.work.kinds import Lease


class Heartbeats:
    """Tells the scheduler every few seconds that the work gets on."""

    def __init__(self, lease: Lease, link: SchedulerLink, seconds: float) -> None:
        """seconds   between two heartbeats."""
        self._lease, self._link, self._seconds = lease, link, seconds
        self._progress = 0
        self._training: Progress | None = None
        """The last report of the work itself, after its preparation."""
        self._scope: trio.CancelScope | None = None
        self.lost = ""
        """Why the lease no longer stands; empty: it does."""

    def got_on(self) -> None:
        """Note that the work got on: bytes arrived, for example."""
        self._progress += 1

    def report(self, progress: Progress) -> None:
        """Take in the figures of a report of the worker process."""
        if progress.stage == kind_of(self._lease).stage:
            self._training = progress

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Cancel the block once the lease falls; raises LeaseLost then, and if it has before."""
        with trio.CancelScope() as self._scope:
            if not self.lost:
                yield
                return
        raise LeaseLost(self.lost)

    async def run(self) -> None:
        """Renew the lease until it falls."""
        while not self.lost:
            await self._link.pause(self._seconds)  # a new scheduler is shown the lease at once
            await self.beat()

    async def beat(self) -> None:
        """Renew the lease now, or learn that it has fallen."""
        try:
            reply = await self._link.heartbeat(self._lease, self._message())
        except (Unavailable, RemoteProtocolError) as away:
            # The lease may outlive a restart of the scheduler: the work goes on.
            self._link.say_away_beside(away, self._seconds)
            return
        if isinstance(reply, Fallen):
            self.lost = reply.reason
            if self._scope is not None:
                self._scope.cancel()

    def _message(self) -> Heartbeat:
        now = self._training
        return Heartbeat(
            run=self._lease.run,
            token=self._lease.token,
            progress=self._progress,
            tokens_per_second=now.tokens_per_second if now else 0.0,
            loss=now.loss if now else None,
        )
