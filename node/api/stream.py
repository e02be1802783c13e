"""What a client watches: server-sent events, until it leaves.

A client that reads slowly misses states of the status between two that it gets, and nothing waits
for it but its own connection, which ends after some seconds without progress. Nothing is queued:
the connection holds how far its client is, and what it has missed is read again.
"""

from functools import partial

import msgspec
import trio

from dipaco.node.api.answers import TICK, Answers
from dipaco.node.api.connection import Connection, event_of
from dipaco.node.api.values import StreamQuery

PULSE = 15.0  # s without an event, after which a comment is sent: proxies and clients see life
SIGN_OF_LIFE = b": \n\n"
AT_ONCE = 256  # events, and lines of the log, that are sent at once: some 100 kB


async def stream(answers: Answers, asked: StreamQuery, connection: Connection) -> None:
    """Send what there is, and what comes, until the client leaves."""
    watched = _Watched(answers, asked)
    await connection.begin_events()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_until_left, connection, nursery.cancel_scope)
        sent_at = trio.current_time()
        while True:
            data = await watched.news()
            if not data and trio.current_time() >= sent_at + PULSE:
                data = SIGN_OF_LIFE
            if data:
                await connection.events(data)
                sent_at = trio.current_time()
                continue
            with trio.move_on_after(TICK):
                await answers.handler.event_log.changed.wait()


async def _until_left(connection: Connection, scope: trio.CancelScope) -> None:
    await connection.left()
    scope.cancel()


class _Watched:
    """How far one client is."""

    def __init__(self, answers: Answers, asked: StreamQuery) -> None:
        self._answers, self._handler = answers, answers.handler
        self._topics, self._level = asked.topics.split(","), asked.level
        self._status = 0
        known, line = self._handler.event_log.number, self._handler.log_lines.number
        self._event = known if asked.after is None else min(asked.after, known)
        self._line = line if asked.line is None else min(asked.line, line)

    async def news(self) -> bytes:
        """Return what the client has not got yet; empty: nothing.

        There is no await after the look at the events, so that none is missed by who waits next.
        """
        status = await self._new_status() if "status" in self._topics else b""
        lines = self._new_lines() if "log" in self._topics else b""
        events = await self._new_events() if "events" in self._topics else b""
        return status + lines + events

    async def _new_status(self) -> bytes:
        number, status = await self._answers.watched()
        if number == self._status:
            return b""
        self._status = number
        return event_of("status", status)

    async def _new_events(self) -> bytes:
        event_log = self._handler.event_log
        if event_log.holds(self._event):
            found = event_log.after(self._event)[:AT_ONCE]
        else:
            read = partial(self._handler.events, self._event, 0.0, AT_ONCE)
            found = list((await self._answers.read(read)).events)
        if found:
            self._event = found[-1].number
        elif not event_log.holds(self._event):  # the rest is damaged, or too old
            self._event = event_log.before_recent
        encode = msgspec.json.encode
        return b"".join(event_of("event", encode(each), each.number) for each in found)

    def _new_lines(self) -> bytes:
        found = self._handler.log_lines.after(self._line, self._level)[:AT_ONCE]
        if found:
            self._line = found[-1].number
        return b"".join(event_of("log", msgspec.json.encode(each)) for each in found)
