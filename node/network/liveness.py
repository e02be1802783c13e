"""Pings on the control stream: they notice a dead peer in about a minute, TCP only after several.

Owns misses and round-trip times. A peer that is busy for a few seconds is not dead: only the third
miss in a row ends the connection. A peer that pings us needs no ping of ours, so of two peers one
does. No lease waits for pings: it has heartbeats of its own.
"""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from dipaco.node.network.rpc import Rpc
from dipaco.node.network.transport import Transport
from dipaco.protocol.errors import DipacoError
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.messages import Ping, Pong

if TYPE_CHECKING:
    from trio_typing import TaskStatus

# s between two pings: jittered, so that peers do not ping at the same time; long, since each wakes
# two idle computers.
PAUSE = (20.0, 30.0)
AGAIN = 5.0  # s after a ping that was not answered
ANSWER_TIMEOUT = 10.0  # s
MISSES = 3  # in a row


class Liveness:
    """Pings every peer that can be called.

    heard   called with each peer that gave a sign of life: a ping or an answer.
    """

    def __init__(
        self,
        transport: Transport,
        rpc: Rpc,
        *,
        heard: Callable[[PeerId], None] = lambda peer: None,
        chance: random.Random | None = None,
    ) -> None:
        self._transport = transport
        self._rpc = rpc
        self._heard = heard
        self._chance = chance if chance is not None else random.Random()
        self._watched: set[PeerId] = set()
        self._heard_at: dict[PeerId, float] = {}
        """By peer the last sign of life, on trio's clock."""
        self._nursery: trio.Nursery | None = None
        self.round_trips: dict[PeerId, float] = {}
        """Seconds from the latest ping of each peer to its answer."""
        rpc.handle(Ping, self._pong)
        rpc.watch(self._on_peer)

    async def run(self, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Ping until cancelled."""
        async with trio.open_nursery() as self._nursery:
            try:
                for peer in self._rpc.ready():
                    self._on_peer(peer, True)
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None  # late callbacks start nothing

    async def _pong(self, peer: PeerId, _ping: Ping) -> Pong:
        self._note_life(peer)
        return Pong()

    def _note_life(self, peer: PeerId) -> None:
        self._heard_at[peer] = trio.current_time()
        self._heard(peer)

    def _on_peer(self, peer: PeerId, ready: bool) -> None:
        if not ready:
            self.round_trips.pop(peer, None)
            self._heard_at.pop(peer, None)
        elif peer not in self._watched and self._nursery is not None:
            self._watched.add(peer)
            guard = self._transport.guard
            self._nursery.start_soon(guard.run, "pinging", peer, self._keep_pinging, peer)

    async def _keep_pinging(self, peer: PeerId) -> None:
        misses = 0
        try:
            while peer in self._rpc.ready():
                misses = 0 if await self._ping(peer) else misses + 1
                if misses == MISSES:
                    await self._transport.hang_up(peer, f"{misses} pings unanswered")
                    break
                await self._until_due(peer, again=misses > 0)
        finally:
            self._watched.discard(peer)
        if peer in self._rpc.ready():  # it came back while we hung up
            self._on_peer(peer, True)

    async def _until_due(self, peer: PeerId, *, again: bool) -> None:
        """Wait until the peer was silent for a pause; `again`: it left a ping unanswered."""
        due = False
        while not due and peer in self._rpc.ready():
            begun = trio.current_time()
            await trio.sleep(AGAIN if again else self._chance.uniform(*PAUSE))
            silent = self._heard_at.get(peer, begun) <= begun
            due = again or silent or peer not in self.round_trips  # a new connection

    async def _ping(self, peer: PeerId) -> bool:
        asked = trio.current_time()
        try:
            await self._rpc.call(peer, Ping(), Pong, timeout=ANSWER_TIMEOUT)
        except DipacoError:
            return False
        self.round_trips[peer] = trio.current_time() - asked
        self._note_life(peer)
        return True
