"""Strikes, bans, and prefixes that are closed to strangers.

Rules of this file: memory transport, virtual time; every peer connects for real.
"""

import ipaddress
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.network.memory import MemoryNetwork
from dipaco.node.network.paced import FIRST_PAUSE
from dipaco.node.network.reputation import (
    BAN,
    FIRST_CLOSURE,
    LONGEST_CLOSURE,
    MEMORY,
    STRIKES,
    Closure,
    Reputation,
)
from dipaco.protocol.wire.identity import PeerId
from tests.node.network.peers import PEERS

Come = Callable[[PeerId], bool]


def test_a_closure_doubles_up_to_an_hour_and_a_quiet_hour_forgets_all() -> None:
    closure, now, lengths = Closure(), 0.0, list[float]()
    for _ in range(9):
        for _ in range(STRIKES):
            closure = closure.struck(now)
        lengths.append(closure.ends - now)
        now = closure.ends + 1
    assert lengths == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    assert max(lengths) == LONGEST_CLOSURE
    assert closure.struck(closure.ends + MEMORY) == Closure(1, closure.ends + MEMORY, closure.ends)


@asynccontextmanager
async def hub(exempt: str = "") -> AsyncIterator[tuple[Reputation, set[PeerId], Come]]:
    """Yield a node's reputation, the peers that it knows, and a way for others to come to it."""
    network, known = MemoryNetwork(), set[PeerId]()
    networks = (ipaddress.ip_network(exempt),) if exempt else ()
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(network.join(PEERS[0], ip="7.7.7.7"))
        reputation = Reputation(node, exempt=networks)
        reputation.vouch(known.__contains__)
        for number, peer in enumerate(PEERS[1:]):
            ip = f"9.9.9.{number}" if number < 50 else "8.8.8.8"
            await stack.enter_async_context(network.join(peer, ip=ip))

        def come(peer: PeerId) -> bool:
            network.connect(peer, node.me)
            return peer in node.peers()

        yield reputation, known, come


async def until_in(come: Come, peer: PeerId) -> float:
    """Return the seconds until `peer` is let in, when it tries every second."""
    began = trio.current_time()
    while not come(peer):
        await trio.sleep(1)
    return trio.current_time() - began


async def test_after_a_ban_a_new_identity_of_the_prefix_waits_ever_longer(
    autojump_clock: MockClock,
) -> None:
    fresh, waits = iter(PEERS[1:50]), list[float]()
    async with hub() as (reputation, _, come):
        for _ in range(4):
            offender = next(fresh)
            waits.append(await until_in(come, offender))
            for _ in range(STRIKES):
                come(offender)
                await reputation.blame(offender, "garbage")
    assert waits == [0, FIRST_CLOSURE, 2 * FIRST_CLOSURE, 4 * FIRST_CLOSURE]


async def test_changing_the_identity_before_its_ban_helps_nobody(autojump_clock: MockClock) -> None:
    async with hub() as (reputation, _, come):
        for offender in PEERS[1 : 1 + STRIKES]:
            assert come(offender)
            await reputation.blame(offender, "garbage")
        assert not come(PEERS[10])
        assert come(PEERS[60])  # of another prefix


async def test_a_closed_prefix_lets_known_peers_in_and_keeps_who_is_there(
    autojump_clock: MockClock,
) -> None:
    async with hub() as (reputation, known, come):
        known.add(PEERS[10])
        assert come(PEERS[11])
        for offender in PEERS[1 : 1 + STRIKES]:
            come(offender)
            await reputation.blame(offender, "garbage")
        assert come(PEERS[10])
        assert come(PEERS[11])
        assert not reputation.banned(PEERS[11])


async def test_an_exempt_prefix_is_never_closed(autojump_clock: MockClock) -> None:
    async with hub("9.9.9.0/24") as (reputation, _, come):
        for offender in PEERS[1 : 1 + 2 * STRIKES]:
            assert come(offender)
            await reputation.blame(offender, "garbage")


async def test_a_known_peer_is_banned_for_its_own_garbage_but_not_for_a_value(
    autojump_clock: MockClock,
) -> None:
    async with hub() as (reputation, known, come):
        known.add(PEERS[1])
        for _ in range(2 * STRIKES):
            assert come(PEERS[1])
            await reputation.blame_signer(PEERS[1], "published a router that is refuted")
        for _ in range(STRIKES):
            assert come(PEERS[1])
            await reputation.blame(PEERS[1], "garbage")
        assert not come(PEERS[1])
        assert come(PEERS[2])  # its prefix has no part in it
        assert await until_in(come, PEERS[1]) == BAN


async def test_a_prefix_of_free_identities_gets_a_few_lines_in_the_log(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with hub() as (reputation, _, come):
        for peer in PEERS[1:40]:
            come(peer)
            await reputation.blame(peer, "garbage")
        lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert len(lines) <= 3  # 39 and more before: each strike, each closure
        assert "garbage" in lines[0]
        await trio.sleep(FIRST_PAUSE + 1)
        come(PEERS[60])
        await reputation.blame(PEERS[60], "garbage")
        assert "hung up" in caplog.records[-1].getMessage()  # of another prefix: at once
