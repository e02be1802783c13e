"""Who gets in, who waits, and who goes: connections, handshakes and streams.

Rules of this file: the decision is pure; what a node makes of it is shown in memory; handshakes
that never end are bare sockets at a real host on loopback.
"""

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from dipaco.node.network import door as door_module
from dipaco.node.network.door import CROWDED, FULL, OF_PEER, OF_PREFIX, Door, Guest, surplus
from dipaco.node.network.host import open_host
from dipaco.node.network.memory import MemoryNetwork
from dipaco.node.network.seats import Limits
from dipaco.protocol.errors import Unavailable
from dipaco.protocol.wire.identity import PeerId
from tests.node.network.peers import KEYS, PEERS
from tests.node.network.test_shims import LISTEN, is_served
from tests.node.network.test_transport_contract import ECHO, echo, until

Known = Callable[[PeerId], bool]
NEAR, FAR = "203.0.113.0/24", "198.51.100.0/24"


def nobody(_peer: PeerId) -> bool:
    return False


def guests(count: int, prefix: str = "", *, first: int = 0, invited: bool = False) -> list[Guest]:
    """Connections of different peers, which came in the order of their numbers."""
    return [
        Guest(link=number, peer=PeerId(f"peer {number}"), prefix=prefix, invited=invited)
        for number in range(first, first + count)
    ]


def goes(inside: list[Guest], new: Guest, *, most: int = 8, known: Known = nobody) -> object:
    found = surplus(inside, new, most=most, known=known)
    return None if found is None else (found[0].link, found[1])


def test_all_stay_while_there_is_room() -> None:
    *inside, new = guests(6, NEAR)
    assert goes(inside, new) is None


def test_a_quarter_of_the_places_is_kept_for_known_peers() -> None:
    *inside, stranger = guests(7)
    assert goes(inside, stranger) == (stranger.link, FULL)
    assert goes(inside, stranger, known=lambda peer: peer == stranger.peer) is None


def test_of_the_largest_crowd_the_latest_goes() -> None:
    inside = [*guests(4, NEAR), *guests(2, FAR, first=4)]
    (other,) = guests(1, "192.0.2.0/24", first=9)
    assert goes(inside, other) == (3, FULL)
    assert goes(inside, replace(other, prefix=NEAR)) == (other.link, FULL)


def test_a_peer_that_is_not_counted_by_prefix_is_no_crowd() -> None:
    inside = [*guests(4), *guests(2, NEAR, first=4)]
    (new,) = guests(1, "", first=9)
    assert goes(inside, new) == (5, FULL)


def test_a_known_peer_gets_in_for_a_stranger_and_is_never_sent_away() -> None:
    known = {guest.peer for guest in guests(5)} | {PeerId("peer 9")}
    inside = [*guests(5), *guests(3, NEAR, first=5)]
    (newcomer,) = guests(1, first=9)
    assert goes(inside, newcomer, known=known.__contains__) == (7, FULL)
    (stranger,) = guests(1, FAR, first=10)
    assert goes(guests(5), stranger, most=5, known=known.__contains__) == (stranger.link, FULL)


def test_a_peer_that_this_node_dialled_is_no_stranger() -> None:
    inside = guests(8, NEAR, invited=True)
    (stranger,) = guests(1, FAR, first=8)
    assert goes(inside, stranger) == (stranger.link, FULL)
    assert goes(inside, replace(stranger, invited=True)) is None


def test_a_network_of_thirty_machines_gets_in_and_a_crowd_does_not() -> None:
    *inside, new = guests(OF_PREFIX + 1, NEAR)
    assert goes(inside[:30], new, most=256) is None
    assert goes(inside, new, most=256) == (new.link, CROWDED)
    assert goes(inside, new, most=256, known=lambda peer: peer == new.peer) is None


def test_a_peer_holds_few_connections_itself() -> None:
    (one,) = guests(1)
    inside = [replace(one, link=number) for number in range(OF_PEER)]
    new = replace(one, link=OF_PEER)
    assert goes(inside[1:], new, most=256) is None
    assert goes(inside, new, most=256, known=lambda peer: True) == (new.link, CROWDED)


def test_a_known_peer_is_recognised_by_its_address_before_it_has_said_who_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        door_module, "HANDSHAKES", Limits(in_all=3, per_prefix=2, per_peer=9, kept=1)
    )
    door = Door()
    door.favour(lambda peer: peer == PEERS[0])
    door.enter("link", PEERS[0], "203.0.113.7", invited=True)
    given_up: list[str] = []
    ips = ["203.0.113.9", "198.51.100.1", "203.0.113.8", "192.0.2.1", "203.0.113.7"]
    for ip in ips:
        door.knock(ip, partial(given_up.append, ip))
    # Two places, and a third for the address at which the known peer was: nobody pushes it out.
    assert given_up == ["203.0.113.9", "198.51.100.1"]


def test_of_one_network_the_oldest_handshake_goes_and_of_others_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        door_module, "HANDSHAKES", Limits(in_all=9, per_prefix=2, per_peer=9, kept=0)
    )
    door, given_up = Door(), list[str]()
    for ip in ("198.51.100.1", "203.0.113.1", "203.0.113.2", "203.0.113.3"):
        seat = door.knock(ip, partial(given_up.append, ip))
    assert given_up == ["203.0.113.1"]
    door.answered(seat)
    door.knock("203.0.113.4", partial(given_up.append, "203.0.113.4"))
    assert given_up == ["203.0.113.1"]


def test_what_has_ended_takes_no_place_even_when_nobody_said_so() -> None:
    ended: set[object] = set()
    door = Door(most=1, alive=lambda link: link not in ended)
    assert door.enter("first", PEERS[0], None, invited=False) is None
    ended.add("first")
    assert door.enter("second", PEERS[1], None, invited=False) is None
    door.leave("second")
    assert door.enter("third", PEERS[2], None, invited=False) is None


def test_streams_have_places_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "STREAMS", 1)
    door = Door()
    seat = door.open(PEERS[0], "203.0.113.7")
    with pytest.raises(Unavailable, match="as many streams as one peer may: 1"):
        door.open(PEERS[0], "203.0.113.7")
    door.close(seat)
    door.open(PEERS[0], "203.0.113.7")


async def test_a_crowd_of_identities_leaves_room_for_others_and_for_known_peers() -> None:
    network = MemoryNetwork()
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(network.join(PEERS[0], most=8))
        hub.favour(lambda peer: peer == PEERS[20])
        places = [f"203.0.113.{number}" for number in range(1, 11)]
        places += ["198.51.100.1", "192.0.2.1"]
        for number, ip in enumerate(places, start=1):
            node = await stack.enter_async_context(network.join(PEERS[number], ip=ip))
            await node.dial(hub.me, hub.addresses)
        assert hub.peers() == {PEERS[1], PEERS[2], PEERS[3], PEERS[4], PEERS[11], PEERS[12]}
        friend = await stack.enter_async_context(network.join(PEERS[20], ip="203.0.113.99"))
        await friend.dial(hub.me, hub.addresses)
        assert hub.peers() >= {PEERS[11], PEERS[12], PEERS[20]}


@pytest.mark.parametrize("source", ["127.0.9.1", "127.0.0.1"])
async def test_half_open_connections_shut_out_nobody(
    monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setattr(
        door_module, "HANDSHAKES", Limits(in_all=8, per_prefix=4, per_peer=9, kept=2)
    )
    async with open_host(KEYS[0], listen=LISTEN) as hub, open_host(KEYS[1]) as guest:
        hub.serve(ECHO, echo)
        port = hub.addresses[0].port
        async with AsyncExitStack() as stack:
            for _ in range(20):
                with trio.socket.socket() as found:
                    silent = stack.enter_context(found.dup())
                await silent.bind((source, 0))
                await silent.connect(("127.0.0.1", port))
            await wait_all_tasks_blocked(0.02)
            with trio.fail_after(2):  # 9 s before, with 300 of them
                await guest.dial(hub.me, hub.addresses)
                assert await is_served(guest, hub)


async def test_the_latest_connection_of_a_crowd_ends_when_a_host_is_full() -> None:
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(open_host(KEYS[0], listen=LISTEN, most=4))
        hub.serve(ECHO, echo)
        hub.favour(lambda peer: peer == PEERS[9])
        crowd = [await stack.enter_async_context(open_host(KEYS[each])) for each in (1, 2, 3, 4)]
        for node in crowd:
            await node.dial(hub.me, hub.addresses)
        await until(lambda: not crowd[3].peers())
        assert hub.peers() == {PEERS[1], PEERS[2], PEERS[3]}
        friend = await stack.enter_async_context(open_host(KEYS[9]))
        await friend.dial(hub.me, hub.addresses)
        await until(lambda: hub.peers() == {PEERS[1], PEERS[2], PEERS[3], PEERS[9]})
        assert await is_served(friend, hub)
