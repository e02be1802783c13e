"""Calls between peers.

Rules of this file: memory transport, virtual time, two or three real Rpc ends, no sockets.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.network import rpc as rpc_module
from dipaco.node.network.framing import frame
from dipaco.node.network.memory import MemoryNetwork, MemoryTransport
from dipaco.node.network.reputation import BAN, STRIKES, Reputation
from dipaco.node.network.rpc import CONTROL, Rpc
from dipaco.protocol.errors import LeaseLost, Refusal, RemoteProtocolError, Unavailable
from dipaco.protocol.wire.canonical import Wire, encode
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.messages import Failure, Ping, Pong, Request
from tests.node.network.breaches import BREACHES, Echo, Other
from tests.node.network.peers import PEERS


class End:
    """A node that answers `Echo`."""

    def __init__(self, transport: MemoryTransport) -> None:
        self.transport = transport
        self.me = transport.me
        self.reputation = Reputation(transport)
        self.rpc = Rpc(transport, self.reputation)
        self.asked: list[tuple[PeerId, str]] = []
        self.rpc.handle(Echo, self.echo)

    async def echo(self, peer: PeerId, request: Echo) -> Wire:
        self.asked.append((peer, request.text))
        match request.text:
            case "refuse":
                raise Refusal("this run is not for you")
            case "later":
                raise LeaseLost("the lease ended")
            case "offend":
                raise RemoteProtocolError("a bogus signature")
            case "slow":
                await trio.sleep(20)
            case "other":
                return Other()
        return request

    async def say(self, peer: PeerId, text: str, timeout: float = 5.0) -> str:
        return (await self.rpc.call(peer, Echo(text=text), Echo, timeout=timeout)).text


@asynccontextmanager
async def ends(count: int) -> AsyncIterator[tuple[MemoryNetwork, list[End]]]:
    """`count` nodes, all connected to the first, in ascending order of their PeerIDs."""
    network = MemoryNetwork()
    async with trio.open_nursery() as nursery:
        found = []
        for peer in PEERS[1 : count + 1]:
            transport: MemoryTransport = await nursery.start(_join, network, peer)
            end = End(transport)
            await nursery.start(end.rpc.run)
            found.append(end)
        for end in found[1:]:
            await end.transport.dial(found[0].me, found[0].transport.addresses)
        yield network, found
        nursery.cancel_scope.cancel()


async def _join(network: MemoryNetwork, peer: PeerId, task_status: object) -> None:
    async with network.join(peer) as transport:
        task_status.started(transport)  # type: ignore[attr-defined]
        await trio.sleep_forever()


async def test_both_ends_call_each_other_whoever_dialled(autojump_clock: MockClock) -> None:
    async with ends(2) as (_, (small, large)):
        assert await large.say(small.me, "up") == "up"
        assert await small.say(large.me, "down") == "down"
        assert small.asked == [(large.me, "up")]


async def test_a_call_to_oneself_needs_no_connection(autojump_clock: MockClock) -> None:
    async with ends(1) as (_, (alone,)):
        assert await alone.say(alone.me, "hello") == "hello"


async def test_an_answer_may_be_one_of_two_kinds(autojump_clock: MockClock) -> None:
    async with ends(2) as (_, (small, large)):
        for text, kind in (("other", Other), ("same", Echo)):
            answer = await small.rpc.call(large.me, Echo(text=text), Echo, Other, timeout=5)
            assert type(answer) is kind


async def test_a_handlers_refusal_and_unavailable_are_raised_at_the_caller(
    autojump_clock: MockClock,
) -> None:
    async with ends(2) as (_, (small, large)):
        with pytest.raises(Refusal, match="this run is not for you"):
            await small.say(large.me, "refuse")
        with pytest.raises(Unavailable, match="the lease ended"):
            await small.say(large.me, "later")
        assert await small.say(large.me, "still here") == "still here"


async def test_a_late_answer_is_dropped_and_the_stream_serves_on(
    autojump_clock: MockClock,
) -> None:
    async with ends(2) as (_, (small, large)):
        with pytest.raises(Unavailable, match="did not answer Echo within 5 s"):
            await small.say(large.me, "slow")
        assert trio.current_time() == pytest.approx(5, abs=0.1)
        await trio.sleep(30)
        assert await small.say(large.me, "next") == "next"


async def test_what_is_not_served_is_unavailable(autojump_clock: MockClock) -> None:
    async with ends(2) as (_, (small, large)):
        with pytest.raises(Unavailable, match="'Ping' is not served here"):
            await small.rpc.call(large.me, Ping(), Pong, timeout=5)


async def test_no_call_goes_to_a_peer_that_is_not_connected(autojump_clock: MockClock) -> None:
    async with ends(3) as (_, (_hub, one, other)):
        with pytest.raises(Unavailable, match="not connected"):
            await one.say(other.me, "hello")


async def test_callers_learn_at_once_that_the_peer_left(autojump_clock: MockClock) -> None:
    async with ends(2) as (network, (small, large)):
        await small.say(large.me, "hello")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                with pytest.raises(Unavailable, match="went away"):
                    await small.say(large.me, "slow", timeout=60)

            await trio.sleep(1)
            network.kill(large.me)
        assert trio.current_time() < 2


async def test_a_frozen_peer_costs_the_deadline_and_no_more(autojump_clock: MockClock) -> None:
    async with ends(3) as (network, (hub, frozen, lively)):
        await hub.say(frozen.me, "hello")
        network.freeze(frozen.me)
        with pytest.raises(Unavailable, match="within 5 s"):
            await hub.say(frozen.me, "are you there?")
        assert await hub.say(lively.me, "and you?") == "and you?"


async def test_requests_in_flight_are_bounded_and_the_rest_wait(
    autojump_clock: MockClock,
) -> None:
    async with ends(2) as (_, (small, large)):
        async with trio.open_nursery() as nursery:
            for _ in range(rpc_module.IN_FLIGHT + 5):
                nursery.start_soon(small.say, large.me, "slow", 60)
            await trio.sleep(1)
            assert len(large.asked) == rpc_module.IN_FLIGHT
        assert len(large.asked) == rpc_module.IN_FLIGHT + 5
        assert trio.current_time() == pytest.approx(40, abs=2)


async def test_a_peer_that_asks_beyond_the_bound_is_told_busy(autojump_clock: MockClock) -> None:
    async with ends(2) as (_, (small, large)):
        await small.say(large.me, "hello")
        stream = await small.transport.open(large.me, CONTROL)
        for number in range(rpc_module.SERVED + 1):
            body = encode(Echo(text="slow"))
            await stream.send(frame(encode(Request(id=number, kind="Echo", body=body))))
        failure = encode(
            Failure(
                id=rpc_module.SERVED,
                fault="unavailable",
                reason="busy with your earlier requests",
            )
        )
        assert await stream.receive(1 << 16) == frame(failure)


@pytest.mark.parametrize("breach", BREACHES)
async def test_a_peer_that_breaks_the_protocol_is_hung_up_and_another_is_served(
    autojump_clock: MockClock, breach: str
) -> None:
    async with ends(3) as (_, (hub, honest, _)):
        # the hub has the smallest PeerID, so the offender must answer on the hub's own stream
        offender = Offender(PEERS[9], breach)
        async with trio.open_nursery() as nursery:
            network = hub.transport.network
            offender.transport = await nursery.start(_join, network, offender.me)
            offender.transport.serve(CONTROL, offender.serve)
            await offender.transport.dial(hub.me, hub.transport.addresses)
            await trio.sleep(1)
            assert offender.me not in hub.transport.peers()
            assert hub.reputation.strikes(offender.me) == 1
            assert await honest.say(hub.me, "hello") == "hello"
            nursery.cancel_scope.cancel()


class Offender:
    """A peer that sends one breach as soon as the hub opens its stream."""

    def __init__(self, me: PeerId, breach: str) -> None:
        self.me = me
        self.breach = breach
        self.transport: MemoryTransport

    async def serve(self, stream: object) -> None:
        await stream.send(BREACHES[self.breach])  # type: ignore[attr-defined]
        await trio.sleep_forever()


async def test_a_malformed_answer_costs_its_sender_the_connection(
    autojump_clock: MockClock,
) -> None:
    async with ends(2) as (_, (small, large)):
        with pytest.raises(RemoteProtocolError, match="malformed Pong"):
            await small.rpc.call(large.me, Echo(text="hi"), Pong, timeout=5)
        assert small.reputation.strikes(large.me) == 1
        assert large.me not in small.transport.peers()


async def test_a_habitual_offender_is_banned_and_may_return_later(
    autojump_clock: MockClock,
) -> None:
    async with ends(2) as (_, (hub, other)):
        for _ in range(STRIKES):
            assert not hub.reputation.banned(other.me)
            await hub.reputation.blame(other.me, "garbage")
        await other.transport.dial(hub.me, hub.transport.addresses)
        assert hub.transport.peers() == frozenset()
        with pytest.raises(Unavailable, match="banned"):
            await hub.transport.dial(other.me, other.transport.addresses)
        await trio.sleep(BAN)
        await other.transport.dial(hub.me, hub.transport.addresses)
        assert await hub.say(other.me, "again") == "again"


async def test_a_stream_that_breaks_is_opened_again(autojump_clock: MockClock) -> None:
    async with ends(2) as (network, (small, large)):
        await small.say(large.me, "hello")
        for stream in list(network.links[frozenset((small.me, large.me))]):
            await stream.reset()
        await trio.sleep(1)
        assert await large.say(small.me, "again") == "again"


async def test_a_peer_that_opens_no_stream_is_hung_up(autojump_clock: MockClock) -> None:
    async with ends(1) as (network, (large,)), trio.open_nursery() as nursery:
        silent: MemoryTransport = await nursery.start(_join, network, PEERS[0])
        await silent.dial(large.me, large.transport.addresses)
        assert silent.peers() == {large.me}
        await trio.sleep(rpc_module.OPEN_TIMEOUT + 1)
        assert silent.peers() == frozenset()
        nursery.cancel_scope.cancel()


async def test_watchers_are_told_when_a_peer_can_be_called_and_when_no_more(
    autojump_clock: MockClock,
) -> None:
    async with ends(2) as (network, (small, large)):
        seen: list[tuple[PeerId, bool]] = []
        small.rpc.watch(lambda peer, ready: seen.append((peer, ready)))
        await small.say(large.me, "hello")
        assert small.rpc.ready() == {large.me}
        network.cut(small.me, large.me)
        await trio.sleep(1)
        assert seen[-1] == (large.me, False)
        assert small.rpc.ready() == frozenset()
