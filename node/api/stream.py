"""What a client watches: server-sent events, until it leaves.

A client that reads slowly misses states of the status between two that it gets, and nothing waits
for it but its own connection, which ends after some seconds without progress. Nothing is queued:
the connection holds how far its client is.
"""

import trio

from dipaco.node.api.answers import TICK, Answers
from dipaco.node.api.connection import Connection, event_of

PULSE = 15.0  # s without an event, after which a comment is sent: proxies and clients see life
SIGN_OF_LIFE = b": \n\n"


async def stream(answers: Answers, connection: Connection) -> None:
    """Send the status now and at every change, until the client leaves."""
    await connection.begin_events()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_until_left, connection, nursery.cancel_scope)
        seen, sent_at = 0, trio.current_time()
        while True:
            number, status = await answers.watched()
            if number != seen:
                await connection.events(event_of("status", status))
            elif trio.current_time() >= sent_at + PULSE:
                await connection.events(SIGN_OF_LIFE)
            else:
                await trio.sleep(TICK)
                continue
            seen, sent_at = number, trio.current_time()


async def _until_left(connection: Connection, scope: trio.CancelScope) -> None:
    await connection.left()
    scope.cancel()
