"""Before the first lease: a scheduler learns what it signed before, from whoever holds it.

Its home may be an old copy, or have lost its journal, while peers hold a longer ledger of its own
signing. That one counts. Whatever it signed before it knew that ledger would contradict it, and
make it look like a scheduler that signs two. So it looks at the ledgers of all peers that it can
reach first, and at that of each peer that asks it for work later. All waits are bounded: alone in
the world it goes on.
"""

from collections.abc import Callable, Set

import trio

from dipaco.protocol.wire.identity import PeerId

RETURN_SECONDS = 2.0  # for the peers of an earlier start to be connected again
MOST_SECONDS = 10.0  # for all of them to tell what they hold
ASKER_SECONDS = 5.0  # for one that asks for work, which waits 10 s for its answer
LOOK_SECONDS = 0.1  # between two looks


def must_wait(since: float, unheard: Set[PeerId], *, expected: bool) -> bool:
    """Return whether the first lease has to wait, `since` seconds after the start.

    unheard    connected peers whose ledgers were not pulled yet.
    expected   whether peers of an earlier start may come back.
    """
    if since >= MOST_SECONDS:
        return False
    return bool(unheard) or (expected and since < RETURN_SECONDS)


async def catch_up(unheard: Callable[[], Set[PeerId]], *, expected: bool) -> None:
    """Wait until all peers that can be reached have told of their ledgers, within bounds."""
    began = trio.current_time()
    while must_wait(trio.current_time() - began, unheard(), expected=expected):
        await trio.sleep(LOOK_SECONDS)


async def hear_out(peer: PeerId, unheard: Callable[[], Set[PeerId]]) -> None:
    """Wait until the ledger of a peer that asks for work was pulled, within a bound."""
    with trio.move_on_after(ASKER_SECONDS):
        while peer in unheard():
            await trio.sleep(LOOK_SECONDS)
