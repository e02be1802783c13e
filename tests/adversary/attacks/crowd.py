"""One attacker with many identities: what 256 of one prefix cost a run of honest volunteers."""

import trio

from dipaco.node.network.blob_stream import BLOB
from dipaco.node.network.framing import frame
from dipaco.node.network.gossip import SYNC
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.digest import sha256
from dipaco.protocol.wire.messages import AskInventory, AskOutline, Inventory, Register, Registered
from dipaco.protocol.wire.signed import Signed
from dipaco.protocol.work.calls import Stands
from tests.adversary.arena import Arena, attempt
from tests.adversary.attacks.dials import record
from tests.adversary.attacks.work import beat, take_lease
from tests.adversary.client import Line, Stranger
from tests.adversary.registry import attack

IDENTITIES = 256
LEAST_THROUGHPUT = 0.8  # of that without them


@attack(needs="process", lines=80)
async def one_prefix_of_256(arena: Arena) -> str | None:
    """Take all that one prefix can: 256 identities connect, register, sit on leases, ask, stall."""
    alone = await _throughput(arena)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_crowd, arena)
        await trio.sleep(arena.seconds)  # until they stand
        beside = await _throughput(arena)
        nursery.cancel_scope.cancel()
    if beside < LEAST_THROUGHPUT * alone:
        return f"throughput {beside / alone:.2f} of {alone:.2f} ledger records a second"
    return None


async def _crowd(arena: Arena) -> None:
    async def act(stranger: Stranger, number: int) -> None:
        line = await stranger.meet(arena.scheduler)
        places = (f"/ip4/{arena.ip(10, 1)}/tcp/{1000 + number}",)
        await attempt(_register(line, record(stranger, places)))
        if number % 4 == 0:
            _, lease = await take_lease(arena, stranger)
            while True:
                await line.ask(beat(arena, lease, 1), Stands)
                await trio.sleep(2.0)
        sync = await stranger.line(arena.scheduler, SYNC)
        while True:
            await sync.ask(AskInventory(summary=sha256(b"")), Inventory)
            stream = await stranger.door.open(arena.scheduler.peer, BLOB)
            await stream.send(frame(encode(AskOutline(blob=sha256(b"none")))))
            await trio.sleep(4.0)

    await arena.crowd(IDENTITIES, act, seconds=100 * arena.seconds)


async def _register(line: Line, signed: Signed) -> None:
    await line.ask(Register(records=(signed,)), Registered)


async def _throughput(arena: Arena) -> float:
    """Return the ledger records a second, over a while."""
    began, first = trio.current_time(), await arena.progress()
    await trio.sleep(5 * arena.seconds)
    return (await arena.progress() - first) / (trio.current_time() - began)
