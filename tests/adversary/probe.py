"""An honest peer that calls every honest node all the while, and notes how long each call takes.

Over real sockets it is a process of its own, so that the attackers' work does not slow it:
`python -m tests.adversary.probe KEY RUN TARGET...` prints a line `SECONDS WHAT` for each call.
"""

import functools
import math
import sys
from collections.abc import Awaitable, Callable

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.node.network.blob_stream import BLOB, Download
from dipaco.node.network.gossip import SYNC, SYNC_LIMIT
from dipaco.node.network.host import open_host
from dipaco.node.network.reputation import Reputation
from dipaco.node.network.rpc import Rpc
from dipaco.node.network.transport import Transport
from dipaco.protocol.errors import DipacoError, Unavailable
from dipaco.protocol.wire.address import Address
from dipaco.protocol.wire.canonical import decode
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.messages import (
    AskInventory,
    Inventory,
    LedgerPart,
    Ping,
    Pong,
    ReadLedger,
)
from dipaco.protocol.wire.signed import MAX_ENVELOPE, Signed
from dipaco.protocol.work.calls import AskHolders, Holders
from dipaco.protocol.work.kinds import Seeded
from dipaco.protocol.work.ledger import LedgerRecord, ModuleUpdated
from tests.adversary.client import Target

PAUSE = 2.0  # s between two rounds of calls
TIMEOUT = 10.0  # s after which a call counts as not answered
READY = "ready"

Note = Callable[[str, float], None]


class Probe:
    """Asks what honest nodes ask: signs of life, holders, inventories, ledgers, blobs."""

    def __init__(
        self, transport: Transport, run: Digest, targets: tuple[Target, ...], note: Note
    ) -> None:
        self._transport, self._run, self._targets, self._note = transport, run, targets, note
        reputation = Reputation(transport)
        self._control = Rpc(transport, reputation)
        self._sync = Rpc(transport, reputation, protocol=SYNC, limit=SYNC_LIMIT)
        self._control.handle(Ping, _pong)
        self._sync.handle(AskInventory, _nothing)
        self._state: Digest | None = None
        self._first = 0
        self.connected = trio.Event()

    async def serve(self) -> None:
        """Connect to every target, and call all of them until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._control.run)
            await nursery.start(self._sync.run)
            for target in self._targets:
                await self._transport.dial(target.peer, target.addresses)
            for target in self._targets:  # the streams come after the connection
                await self._control.call(target.peer, Ping(), Pong, timeout=TIMEOUT)
            self.connected.set()
            for target in self._targets:
                nursery.start_soon(self._call_all, target)

    async def _call_all(self, target: Target) -> None:
        scheduler = self._targets[0]
        ask = {
            "ping": self._ping,
            "inventory": self._inventory,
        }
        if target is scheduler:
            ask |= {"ledger": self._ledger, "holders": self._holders, "blob": self._blob}
        while True:
            for what, call in ask.items():
                await self._timed(f"{what} of {target.name}", functools.partial(call, target))
            await trio.sleep(PAUSE)

    async def _timed(self, what: str, call: Callable[[], Awaitable[None]]) -> None:
        began = trio.current_time()
        try:
            await call()
        except DipacoError:
            self._note(what, math.inf)
        else:
            self._note(what, trio.current_time() - began)

    async def _ping(self, target: Target) -> None:
        await self._control.call(target.peer, Ping(), Pong, timeout=TIMEOUT)

    async def _inventory(self, target: Target) -> None:
        ask = AskInventory(summary=Digest(bytes(32)))
        await self._sync.call(target.peer, ask, Inventory, timeout=TIMEOUT)

    async def _holders(self, target: Target) -> None:
        await self._control.call(target.peer, AskHolders(run=self._run), Holders, timeout=TIMEOUT)

    async def _ledger(self, target: Target) -> None:
        ask = ReadLedger(run=self._run, first=self._first)
        part = await self._sync.call(target.peer, ask, LedgerPart, timeout=TIMEOUT)
        self._first += len(part.records)
        for data in part.records:
            signed = decode(data, Signed, limit=MAX_ENVELOPE)
            entry = decode(signed.body, LedgerRecord, limit=MAX_ENVELOPE).entry
            if isinstance(entry, Seeded):
                self._state = entry.states[0].digest
            elif isinstance(entry, ModuleUpdated):
                self._state = entry.state

    async def _blob(self, target: Target) -> None:
        if self._state is None:
            return
        with trio.move_on_after(TIMEOUT) as slow:
            stream = await self._transport.open(target.peer, BLOB)
            download = Download(stream, self._state)
            try:
                await download.begin()
                await download.ask(0)
                await download.receive()
            except Unavailable:  # an old state is removed
                self._state = None
            finally:
                await stream.reset()
        if slow.cancelled_caught:
            raise Unavailable("no chunk in time")


async def _pong(_peer: object, _ping: Ping) -> Pong:
    return Pong()


async def _nothing(_peer: object, _ask: AskInventory) -> Inventory:
    return Inventory(same=False, items=())


async def main(arguments: list[str]) -> None:
    """Run the probe as a process."""
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(arguments[0]))
    targets = []
    for each in arguments[2:]:
        name, _, text = each.partition("=")
        address = Address.parse(text)
        assert address.peer is not None
        targets.append(Target(name, address.peer, (address,)))

    def note(what: str, seconds: float) -> None:
        print(f"{seconds:.3f} {what}", flush=True)

    async with open_host(key) as transport, trio.open_nursery() as nursery:
        probe = Probe(transport, Digest(bytes.fromhex(arguments[1])), tuple(targets), note)
        nursery.start_soon(probe.serve)
        await probe.connected.wait()
        print(READY, flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
