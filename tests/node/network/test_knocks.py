"""The knocks at a third party that strangers can make nodes do.

Rules of this file: memory transport, virtual time; directories and diallers are real ones; every
dial of an address counts.
"""

from collections import Counter
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.network.candidates import STEADY
from dipaco.node.network.dial_budget import PER_MINUTE
from dipaco.node.network.memory import MemoryNetwork, MemoryTransport
from dipaco.node.network.reputation import Reputation
from dipaco.node.network.rpc import Rpc
from dipaco.protocol.wire.address import Address
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.messages import Listing, ListPeers, PeerRecord, Register, Registered
from dipaco.protocol.wire.signed import sign
from tests.node.network.peers import KEY_OF, PEERS
from tests.node.network.test_dialer import Swarm, swarms

if TYPE_CHECKING:
    from trio_typing import TaskStatus

VICTIM = "8.8.4.4"
HUB = PEERS[0]
HOUR = 3600.0


class Watched(MemoryNetwork):
    """Counts the dials of each IP address."""

    def __init__(self) -> None:
        super().__init__()
        self.dials: Counter[str] = Counter()

    def at(self, place: Address) -> MemoryTransport | None:
        self.dials[place.host] += 1
        return super().at(place)


class Stranger:
    """A peer that says of itself whatever it likes."""

    def __init__(self, network: MemoryNetwork, me: PeerId, ip: str, *places: str) -> None:
        self.me, self._network, self._ip = me, network, ip
        record = PeerRecord(peer=me, addresses=places, roles=(), runs=(), sequence=1)
        self.record = sign(record, KEY_OF[me])

    async def run(self, *, task_status: "TaskStatus[None]") -> None:
        """Come to the hub, and register there."""
        async with (
            self._network.join(self.me, ip=self._ip) as transport,
            trio.open_nursery() as nursery,
        ):
            rpc = Rpc(transport, Reputation(transport))
            rpc.handle(ListPeers, self._list)
            await nursery.start(rpc.run)
            hub = self._network.nodes[HUB]
            await transport.dial(HUB, hub.addresses)
            await rpc.call(HUB, Register(records=(self.record,)), Registered, timeout=5)
            task_status.started()
            await trio.sleep_forever()

    async def _list(self, peer: PeerId, ask: ListPeers) -> Listing:
        return Listing(records=(self.record,))


async def found_swarm(swarm: Swarm) -> Watched:
    network = swarm.network = Watched()
    await swarm.join(HUB, directory=True, ip="7.7.7.7")
    return network


async def test_thirty_identities_make_four_nodes_knock_a_few_times_an_hour(
    autojump_clock: MockClock,
) -> None:
    places = [f"/ip4/{VICTIM}/tcp/{port}" for port in range(4410, 4418)]
    async with swarms() as swarm, trio.open_nursery() as strangers:
        network = await found_swarm(swarm)
        for number in range(30):
            stranger = Stranger(network, PEERS[20 + number], f"9.9.{number}.9", *places)
            await strangers.start(stranger.run)
        for number, peer in enumerate(PEERS[1:5]):
            await swarm.join(peer, HUB, ip=f"6.6.{number}.6")
        await trio.sleep(24)
        strangers.cancel_scope.cancel()  # the nodes have their records all the same
        await trio.sleep(HOUR)
        assert 4 <= network.dials[VICTIM] <= 4 * 8


async def test_all_the_dials_that_strangers_cause_are_few_a_minute(
    autojump_clock: MockClock,
) -> None:
    async with swarms() as swarm, trio.open_nursery() as strangers:
        network = await found_swarm(swarm)
        for number in range(40):
            places = [f"/ip4/8.{number}.{n}.4/tcp/4410" for n in range(8)]
            stranger = Stranger(network, PEERS[20 + number], f"9.9.{number}.9", *places)
            await strangers.start(stranger.run)
        await swarm.join(PEERS[1], HUB, ip="6.6.6.6", low=512)
        await trio.sleep(0.5)
        strangers.cancel_scope.cancel()
        await trio.sleep(5 * 60)
        hit = sum(count for ip, count in network.dials.items() if ip.startswith("8."))
        assert PER_MINUTE < hit <= 6 * PER_MINUTE + 1


async def test_an_honest_peer_is_found_again_at_once_though_strangers_fill_the_budget(
    autojump_clock: MockClock,
) -> None:
    async with swarms() as swarm, trio.open_nursery() as strangers:
        network = await found_swarm(swarm)
        honest = await swarm.join(PEERS[1], HUB, ip="5.5.5.5")
        node = await swarm.join(PEERS[2], HUB, ip="6.6.6.6", low=512)
        await trio.sleep(STEADY + 1)
        for number in range(40):
            places = [f"/ip4/8.{number}.{n}.4/tcp/4410" for n in range(8)]
            stranger = Stranger(network, PEERS[20 + number], f"9.9.{number}.9", *places)
            await strangers.start(stranger.run)
        await trio.sleep(90)
        for peer in (HUB, honest.me):
            network.disconnect(node.me, peer)
        await trio.sleep(2)
        assert node.transport.peers() >= {HUB, honest.me}
        strangers.cancel_scope.cancel()


async def test_a_peer_of_the_internet_sends_nobody_into_his_own_network(
    autojump_clock: MockClock,
) -> None:
    near = ("/ip4/192.168.1.1/tcp/80", "/ip4/127.0.0.1/tcp/6379", "/ip6/fd00::1/tcp/22")
    async with swarms() as swarm, trio.open_nursery() as strangers:
        swarm.network = network = Watched()
        node = await swarm.join(HUB, ip="7.7.7.7")
        stranger = Stranger(network, PEERS[20], "9.9.9.9", f"/ip4/{VICTIM}/tcp/1", *near)
        with pytest.raises(BaseExceptionGroup):  # no directory is here to register with
            await strangers.start(stranger.run)
        strangers.cancel_scope.cancel()
        await trio.sleep(300)
        assert network.dials[VICTIM]
        assert not {"192.168.1.1", "127.0.0.1", "fd00::1"} & network.dials.keys()
        assert node.reputation.strikes(PEERS[20]) == 0
