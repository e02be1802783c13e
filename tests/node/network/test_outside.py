"""How a node looks from outside.

Rules of this file: memory transport, virtual time, addresses that the test chooses, and a dial that
notes what it is asked.
"""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.network.memory import MemoryNetwork, MemoryTransport
from dipaco.node.network.outside import (
    ASKED,
    DIALS,
    DIALS_PER_MINUTE,
    Outsiders,
)
from dipaco.node.network.reputation import Reputation
from dipaco.node.network.rpc import Rpc
from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.wire.canonical import decode, encode
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.messages import AskOutside, Outside, PortState
from tests.node.network.peers import PEERS

PUBLIC, OTHER = "8.8.4.4", "9.9.9.9"
PORT = 4410


@dataclass
class Dialled:
    """A dial that notes its targets."""

    state: PortState = "answers"
    seconds: float = 0.0
    targets: list[tuple[str, int]] = field(default_factory=list)

    async def __call__(self, ip: str, port: int) -> PortState:
        self.targets.append((ip, port))
        await trio.sleep(self.seconds)
        return self.state


class Node:
    """A node with a clock of its own, which others see at an address that the test chooses."""

    def __init__(self, transport: MemoryTransport, ips: dict[PeerId, str]) -> None:
        self.transport, self.me, self.offset = transport, transport.me, 0.0
        transport.remote_ip = ips.get  # type: ignore[method-assign, assignment]
        self.dialled = Dialled()
        self.rpc = Rpc(transport, Reputation(transport))
        self.outsiders = Outsiders(
            transport,
            self.rpc,
            dial=self.dialled,
            clock=lambda: 1_800_000_000.0 + trio.current_time() + self.offset,
            chance=random.Random(1),
        )


@asynccontextmanager
async def nodes(number: int, ip: str = PUBLIC) -> AsyncIterator[list[Node]]:
    """Run nodes, of which the first one has dialled all others."""
    network, ips = MemoryNetwork(), dict.fromkeys(PEERS, OTHER) | {PEERS[0]: ip}
    async with trio.open_nursery() as nursery:
        found: list[Node] = []

        async def run(peer: PeerId, task_status: Any) -> None:
            async with network.join(peer) as transport, trio.open_nursery() as own:
                found.append(Node(transport, ips))
                await own.start(found[-1].rpc.run)
                task_status.started()
                await trio.sleep_forever()

        for peer in PEERS[:number]:
            await nursery.start(run, peer)
        first, *others = found
        for other in others:
            await first.transport.dial(other.me, other.transport.addresses)
        await trio.testing.wait_all_tasks_blocked()
        yield found
        nursery.cancel_scope.cancel()


async def test_peers_tell_their_time_our_address_and_whether_they_reach_our_port(
    autojump_clock: MockClock,
) -> None:
    async with nodes(4) as (first, *others):
        for node, offset in zip(others, (-3.0, 0.0, 7200.0), strict=True):
            node.offset = offset
            node.dialled.seconds = 4.0  # the time is told before it
        view = await first.outsiders.ask()
        assert sorted(each.offset_s for each in view.answers) == pytest.approx([-3, 0, 7200])
        assert {each.observed for each in view.answers} == {PUBLIC}
        assert {each.port for each in view.answers} == {"answers"}
        assert view.port == first.transport.addresses[0].port
        assert all(node.dialled.targets == [(PUBLIC, view.port)] for node in others)


async def test_a_peer_dials_the_askers_own_public_address_and_nothing_else(
    autojump_clock: MockClock,
) -> None:
    for ip in ("127.0.0.1", "192.168.1.20", "100.64.0.9", "::1", "fe80::1%eth0", "169.254.1.1"):
        async with nodes(2, ip) as (first, other):
            assert {each.port for each in (await first.outsiders.ask()).answers} == {"not-dialled"}
            assert other.dialled.targets == []


async def test_a_peer_that_asks_often_is_told_the_time_and_dialled_no_more(
    autojump_clock: MockClock,
) -> None:
    async with nodes(2) as (first, other):
        for _ in range(10):
            found = await first.rpc.call(other.me, AskOutside(port=PORT), Outside, timeout=10)
        assert (found.port, len(other.dialled.targets)) == ("not-dialled", DIALS_PER_MINUTE)
        await trio.sleep(60)
        found = await first.rpc.call(other.me, AskOutside(port=PORT), Outside, timeout=10)
        assert found.port == "answers"
        await first.rpc.call(other.me, AskOutside(port=0), Outside, timeout=10)
        assert len(other.dialled.targets) == DIALS_PER_MINUTE + 1


async def test_many_askers_have_few_dials_at_once(autojump_clock: MockClock) -> None:
    async with nodes(8) as (first, *askers):
        ips = {node.me: f"8.8.{number}.4" for number, node in enumerate(askers)}
        first.transport.remote_ip = ips.get  # type: ignore[method-assign, assignment]
        first.dialled.seconds = 5.0
        states = list[str]()

        async def ask(node: Node) -> None:
            found = await node.rpc.call(first.me, AskOutside(port=PORT), Outside, timeout=10)
            states.append(found.port)

        async with trio.open_nursery() as nursery:
            for node in askers:
                nursery.start_soon(ask, node)
        assert sorted(states) == ["answers"] * DIALS + ["not-dialled"] * (len(askers) - DIALS)
        assert len({ip for ip, _ in first.dialled.targets}) == DIALS <= ASKED


@pytest.mark.parametrize(
    ("good", "hostile"),
    [(b"8.8.4.4", b"8.8.4.x"), (b"8.8.4.4", b"8.8.444"), (b"open", b"oval")],
)
def test_a_hostile_answer_is_refused(good: bytes, hostile: bytes) -> None:
    data = encode(Outside(observed=PUBLIC, time=1, port="open"))
    assert decode(data, Outside).observed == PUBLIC
    with pytest.raises(RemoteProtocolError):
        decode(data.replace(good, hostile), Outside)
