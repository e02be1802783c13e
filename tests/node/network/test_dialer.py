"""The loop that keeps a node connected.

Rules of this file: memory transport, virtual time; directories are real ones; chance is seeded.
"""

import ipaddress
import itertools
import logging
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.network import candidates as candidates_module
from dipaco.node.network.addresses import sign_records
from dipaco.node.network.candidates import (
    LONGEST,
    REMEMBERED_PER_PREFIX,
    STEADY,
    Candidates,
    Teller,
)
from dipaco.node.network.dialer import DIAL_DEADLINE, GRACE, Dialer
from dipaco.node.network.directory import Directory
from dipaco.node.network.memory import DIAL_TIMEOUT, MemoryNetwork, MemoryTransport
from dipaco.node.network.reputation import Reputation
from dipaco.node.network.rpc import Rpc
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.wire.address import Address, Scope
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.messages import MAX_ADDRESSES, Listing, PeerRecord, open_record
from dipaco.protocol.wire.signed import Signed, sign
from tests.node.network.peers import KEY_OF, PEERS
from tests.node.network.test_directory import Shelf, in_place

if TYPE_CHECKING:
    from trio_typing import TaskStatus

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)


def address(peer: PeerId) -> Address:
    return Address("ip4", "127.0.0.1", 5000 + PEERS.index(peer), peer=peer)


LISTED = "/ip4/1.1.1.1/tcp/1"


class Unwritable(Shelf):
    """A file on a disk that takes nothing."""

    def save(self, records: tuple[Signed, ...]) -> None:
        raise ConfigError("cannot write peers.cbor: too many open files")


class Node:
    def __init__(
        self,
        transport: MemoryTransport,
        seeds: list[Address],
        store: Shelf,
        low: int,
        high: int,
        tells: tuple[Address, ...] | None,
    ) -> None:
        self.transport = transport
        self.me = transport.me
        self.reputation = Reputation(transport)
        self.rpc = Rpc(transport, self.reputation)
        self.store = store
        self.tells = tells
        self.dialer = Dialer(
            transport,
            self.rpc,
            self.reputation,
            store,
            seeds=seeds,
            records=self.records,
            low=low,
            high=high,
            chance=random.Random(self.me),
            exempt=LOOPBACK,
            in_thread=in_place,
        )

    def records(self, places: tuple[Address, ...]) -> tuple[Signed, ...]:
        key = KEY_OF[self.me]
        places = places if self.tells is None else self.tells
        return sign_records(key, places, roles=(), runs=(), sequence=1)


class Swarm:
    def __init__(self, nursery: trio.Nursery) -> None:
        self.network = MemoryNetwork()
        self._nursery = nursery
        self._scopes: dict[PeerId, trio.CancelScope] = {}
        self.ips: defaultdict[PeerId, str] = defaultdict(lambda: "127.0.0.1")

    async def join(
        self,
        peer: PeerId,
        *seeds: PeerId,
        store: Shelf | None = None,
        directory: bool = False,
        low: int = 16,
        high: int = 48,
        ip: str = "127.0.0.1",
        tells: tuple[Address, ...] | None = None,
    ) -> Node:
        def make(transport: MemoryTransport) -> Node:
            at = [replace(address(seed), host=self.ips[seed]) for seed in seeds]
            return Node(transport, at, store or Shelf(), low, high, tells)

        self.ips[peer] = ip
        node: Node = await self._nursery.start(self._run, peer, make, directory)
        return node

    async def _run(
        self,
        peer: PeerId,
        make: Callable[[MemoryTransport], Node],
        directory: bool,
        task_status: "TaskStatus[Node]",
    ) -> None:
        with trio.CancelScope() as scope:
            self._scopes[peer] = scope
            port = 5000 + PEERS.index(peer)
            async with (
                self.network.join(peer, ip=self.ips[peer], port=port) as transport,
                trio.open_nursery() as nursery,
            ):
                node = make(transport)
                if directory:
                    await nursery.start(
                        Directory(transport, node.rpc, Shelf(), in_thread=in_place).run
                    )
                await nursery.start(node.rpc.run)
                await nursery.start(node.dialer.run)
                task_status.started(node)

    async def leave(self, node: Node) -> None:
        self._scopes[node.me].cancel()
        await trio.sleep(0.1)


@asynccontextmanager
async def swarms() -> AsyncIterator[Swarm]:
    async with trio.open_nursery() as nursery:
        yield Swarm(nursery)
        nursery.cancel_scope.cancel()


async def test_a_node_finds_all_others_through_one_seed(autojump_clock: MockClock) -> None:
    async with swarms() as swarm:
        seed = await swarm.join(PEERS[0], directory=True)
        nodes = [await swarm.join(peer, seed.me) for peer in PEERS[1:6]]
        await trio.sleep(150)
        everyone = {node.me for node in (seed, *nodes)}
        for node in nodes:
            assert node.transport.peers() == everyone - {node.me}
            assert node.dialer.reason() is None


async def test_no_more_than_low_connections_are_dialled(autojump_clock: MockClock) -> None:
    async with swarms() as swarm:
        seed = await swarm.join(PEERS[0], directory=True)
        for peer in PEERS[1:12]:
            await swarm.join(peer, seed.me, low=0)
        await trio.sleep(1)
        node = await swarm.join(PEERS[12], seed.me, low=4)
        await trio.sleep(300)
        assert len(node.transport.peers()) == 4


async def test_a_node_above_high_connections_hangs_up_on_the_latest_but_never_on_a_seed(
    autojump_clock: MockClock,
) -> None:
    async with swarms() as swarm:
        seed = await swarm.join(PEERS[0])
        node = await swarm.join(PEERS[1], seed.me, high=3)
        old = [await swarm.join(peer, node.me, low=0) for peer in PEERS[2:4]]
        await trio.sleep(STEADY + 1)
        for peer in PEERS[4:8]:
            await swarm.join(peer, node.me, low=0)
        await trio.sleep(GRACE + 1)
        calls: list[PeerId] = []
        node.transport.watch(lambda peer, connected: calls.append(peer) if connected else None)
        for _ in range(60):
            await trio.sleep(10)
            assert {seed.me, *(each.me for each in old)} <= node.transport.peers()
        assert 4 * 600 / LONGEST / 2 < len(calls) < 4 * 600 / LONGEST * 2
        await trio.sleep(GRACE)
        assert len(node.transport.peers()) <= 4


async def test_a_peer_above_high_connections_learns_of_others_before_it_is_hung_up(
    autojump_clock: MockClock,
) -> None:
    async with swarms() as swarm:
        hub = await swarm.join(PEERS[0], directory=True, high=2)
        nodes = [await swarm.join(peer, hub.me) for peer in PEERS[1:6]]
        await trio.sleep(120)
        for node in nodes:
            assert node.transport.peers() >= {each.me for each in nodes} - {node.me}


async def test_one_hang_up_that_takes_its_time_counts_once(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with swarms() as swarm:
        node = await swarm.join(PEERS[0], high=3)
        others = [await swarm.join(peer, node.me, low=0) for peer in PEERS[1:5]]
        closed: list[PeerId] = []

        async def hang_up(peer: PeerId, why: str) -> None:
            closed.append(peer)
            await trio.sleep(5)
            swarm.network.disconnect(node.me, peer)

        monkeypatch.setattr(node.transport, "hang_up", hang_up)
        await trio.sleep(GRACE + 1)
        node.dialer._wake.set()
        await trio.sleep(0.1)
        node.dialer._wake.set()
        await trio.sleep(0.1)
        assert len(closed) == 1
        assert closed[0] in {other.me for other in others}


async def test_who_is_banned_knocks_ever_less_often(autojump_clock: MockClock) -> None:
    async with swarms() as swarm:
        seed = await swarm.join(PEERS[0])
        node = await swarm.join(PEERS[1], seed.me)
        await trio.sleep(STEADY + 1)
        knocks: list[float] = []
        seed.transport.watch(
            lambda _, connected: knocks.append(trio.current_time()) if connected else None
        )
        for _ in range(3):
            await seed.reputation.blame(node.me, "garbage")
        await trio.sleep(590)
        assert 5 < len(knocks) < 60
        assert "it ended the connection" in (node.dialer.reason() or "")
        await trio.sleep(LONGEST * 1.5)
        assert node.transport.peers() == {seed.me}


async def test_a_node_with_private_addresses_alone_learns_of_the_other_peers(
    autojump_clock: MockClock,
) -> None:
    async with swarms() as swarm:
        seed = await swarm.join(PEERS[0], directory=True, ip="8.8.8.8")
        other = await swarm.join(PEERS[1], seed.me, ip="9.9.9.9")
        private = Address("ip4", "192.168.1.7", 4410)
        hidden = await swarm.join(PEERS[2], seed.me, ip="7.7.7.7", tells=(private,))
        await trio.sleep(5)
        assert hidden.transport.peers() == {seed.me, other.me}
        await swarm.leave(seed)
        assert hidden.transport.peers() == {other.me}


def records_of_silent_strangers(swarm: Swarm, names: Sequence[PeerId]) -> list[Signed]:
    """Return records of peers that answer no dial, each with as many addresses as it may have."""
    places = [str(address(name).without_peer) for name in names[:MAX_ADDRESSES]]
    return [
        sign(
            PeerRecord(peer=name, addresses=tuple(places), roles=(), runs=(), sequence=1),
            KEY_OF[name],
        )
        for name in names
    ]


async def test_silent_strangers_of_an_old_file_keep_no_seed_waiting(
    autojump_clock: MockClock,
) -> None:
    strangers = PEERS[10:30]
    async with swarms() as swarm:
        for peer in strangers[:MAX_ADDRESSES]:
            swarm.network.freeze((await swarm.join(peer)).me)
        store = Shelf(*records_of_silent_strangers(swarm, strangers))
        node = await swarm.join(PEERS[1], PEERS[0], store=store)
        await trio.sleep(2)
        seed = await swarm.join(PEERS[0])
        await trio.sleep(3)
        assert node.transport.peers() == {seed.me}


async def test_a_dial_has_one_deadline_and_silent_addresses_hide_no_other_for_ever(
    autojump_clock: MockClock,
) -> None:
    silent, lively = PEERS[10:16], PEERS[2]
    async with swarms() as swarm:
        for peer in silent:
            swarm.network.freeze((await swarm.join(peer)).me)
        places = (*map(address, silent), address(lively))
        record = PeerRecord(
            peer=lively,
            addresses=tuple(str(place.without_peer) for place in places),
            roles=(),
            runs=(),
            sequence=1,
        )
        node = await swarm.join(PEERS[1], store=Shelf(sign(record, KEY_OF[lively])))
        await trio.sleep(DIAL_DEADLINE + 0.1)
        assert "no answer within 20 s at any address" in (node.dialer.reason() or "")
        found = await swarm.join(lively)
        await trio.sleep(6 * (DIAL_DEADLINE + LONGEST))
        assert node.transport.peers() == {found.me}


async def test_a_seed_that_is_away_is_dialled_for_ever_and_ever_less_often(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with swarms() as swarm:
        node = await swarm.join(PEERS[1], PEERS[0])
        await trio.sleep(0.5)
        reason = node.dialer.reason()
        assert reason is not None
        assert reason.startswith(
            "no seed answers (1 tried; last: connection refused at /ip4/127.0.0.1/tcp/5000), "
        )
        await trio.sleep(7200)
        assert "last: connection refused" in (node.dialer.reason() or "")
        back = trio.current_time()
        seed = await swarm.join(PEERS[0])
        while not node.transport.peers():
            await trio.sleep(0.1)
        assert trio.current_time() - back <= 1.25 * LONGEST
        assert node.transport.peers() == {seed.me}
        complaints = [r for r in caplog.records if "cannot reach seed" in r.message]
        assert len(complaints) == 1  # one line per cause, not one per try


async def test_after_a_sleep_a_seed_that_was_away_for_long_is_dialled_at_once(
    autojump_clock: MockClock,
) -> None:
    async with swarms() as swarm:
        node = await swarm.join(PEERS[1], PEERS[0])
        await trio.sleep(7200)
        seed = await swarm.join(PEERS[0])
        node.dialer.try_all_again()
        await trio.sleep(0.1)
        assert node.transport.peers() == {seed.me}


async def test_after_half_a_minute_away_a_seed_is_found_within_seconds(
    autojump_clock: MockClock,
) -> None:
    async with swarms() as swarm:
        seed = await swarm.join(PEERS[0])
        node = await swarm.join(PEERS[1], seed.me)
        await trio.sleep(10)
        assert node.transport.peers() == {seed.me}
        await swarm.leave(seed)
        await trio.sleep(30)
        await swarm.join(PEERS[0])
        await trio.sleep(7)
        assert node.transport.peers() == {seed.me}


async def test_the_reason_names_a_seed_that_is_silent(autojump_clock: MockClock) -> None:
    async with swarms() as swarm:
        seed = await swarm.join(PEERS[0])
        swarm.network.freeze(seed.me)
        node = await swarm.join(PEERS[1], seed.me)
        assert node.dialer.reason() == "dialling 1 peer"
        await trio.sleep(DIAL_TIMEOUT + 0.1)
        assert "no answer within 8 s at " in (node.dialer.reason() or "")


async def test_without_any_seed_the_reason_says_how_to_name_one(
    autojump_clock: MockClock,
) -> None:
    async with swarms() as swarm:
        node = await swarm.join(PEERS[0])
        assert node.dialer.reason() == "no seed is known: name one with --bootstrap"


async def test_a_node_never_dials_itself(autojump_clock: MockClock) -> None:
    async with swarms() as swarm:
        node = await swarm.join(PEERS[0], PEERS[0])
        await trio.sleep(60)
        assert node.dialer.reason() == "no seed is known: name one with --bootstrap"


async def test_peers_are_remembered_and_found_again_without_the_seed(
    autojump_clock: MockClock,
) -> None:
    async with swarms() as swarm:
        seed = await swarm.join(PEERS[0], directory=True)
        one = await swarm.join(PEERS[1], seed.me)
        other = await swarm.join(PEERS[2], seed.me)
        await trio.sleep(200)
        await swarm.leave(seed)
        await swarm.leave(other)
        await trio.sleep(60)
        assert one.transport.peers() == frozenset()
        back = await swarm.join(PEERS[2], seed.me, store=other.store)
        await trio.sleep(30)
        assert back.transport.peers() == {one.me}


FORGED = sign(
    PeerRecord(peer=PEERS[5], addresses=(LISTED,), roles=(), runs=(), sequence=1), KEY_OF[PEERS[6]]
)


async def test_a_damaged_memory_is_dropped(autojump_clock: MockClock) -> None:
    async with swarms() as swarm:
        node = await swarm.join(PEERS[0], store=Shelf(FORGED))
        await trio.sleep(1)
        assert node.dialer.reason() == "no seed is known: name one with --bootstrap"


@pytest.mark.parametrize("text", ["/dns4/a..b/tcp/1", "/ip4/1.1.1.1/tcp/0", "/ip4/1.1.1.1"])
async def test_an_address_that_nobody_can_dial_makes_no_candidate(
    autojump_clock: MockClock, text: str
) -> None:
    record = PeerRecord(peer=PEERS[5], addresses=(text,), roles=(), runs=(), sequence=1)
    async with swarms() as swarm:
        node = await swarm.join(PEERS[0], store=Shelf(sign(record, KEY_OF[PEERS[5]])))
        await trio.sleep(1)
        assert node.dialer.reason() == "no seed is known: name one with --bootstrap"


async def test_saved_records_that_no_peer_may_sign_any_more_are_dropped_with_one_line(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    old = [
        sign(PeerRecord(peer=peer, addresses=(text,), roles=(), runs=(), sequence=1), KEY_OF[peer])
        for peer, text in zip(PEERS[5:8], ("/dns4/a.example/tcp/1",) * 2 + (LISTED,), strict=True)
    ]
    async with swarms() as swarm:
        node = await swarm.join(PEERS[0], store=Shelf(*old))
        await trio.sleep(0.1)
        assert [each.peer for each in node.dialer._candidates] == [PEERS[7]]
    (line,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert line.startswith("2 saved records of peers dropped: the address '/dns4/a.example/tcp/1'")


async def test_a_banned_seed_is_not_dialled_until_its_time_is_over(
    autojump_clock: MockClock,
) -> None:
    async with swarms() as swarm:
        seed = await swarm.join(PEERS[0])
        node = await swarm.join(PEERS[1], seed.me)
        await trio.sleep(1)
        for _ in range(3):
            await node.reputation.blame(seed.me, "garbage")
        await trio.sleep(300)
        assert node.transport.peers() == frozenset()
        await trio.sleep(400)
        assert node.transport.peers() == {seed.me}


def test_a_seed_without_its_peer_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="names no peer"):
        Candidates(PEERS[1]).add_seed(address(PEERS[0]).without_peer)


def listed(sequence: int, port: int) -> Signed:
    places = (f"/ip4/1.1.1.1/tcp/{port}",)
    record = PeerRecord(peer=PEERS[5], addresses=places, roles=(), runs=(), sequence=sequence)
    return sign(record, KEY_OF[PEERS[5]])


@pytest.mark.parametrize("order", list(itertools.permutations([(1, 11), (2, 22), (3, 33)])))
def test_an_older_record_of_a_peer_never_replaces_a_newer_one(
    order: tuple[tuple[int, int], ...],
) -> None:
    candidates = Candidates(PEERS[0])
    for each in order:
        candidates.add_listed(listed(*each), 0.0)
    (known,) = candidates
    assert [place.port for place in known.addresses] == [33]
    known.connected(0.0)
    assert candidates.remembered(1.0) == (listed(3, 33),)


def record_of(number: int, host: str = "") -> Signed:
    peer, host = PEERS[number], host or f"1.{number}.1.1"
    places = (f"/ip4/{host}/tcp/1",)
    return sign(
        PeerRecord(peer=peer, addresses=places, roles=(), runs=(), sequence=1), KEY_OF[peer]
    )


STRANGER = Teller(Scope.WORLD, known=False)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Candidates:
    """Return candidates with room for four: one answered, a seed listed one, strangers the rest."""
    monkeypatch.setattr(candidates_module, "MOST", 4)
    found = Candidates(PEERS[0])
    for number in range(1, 3):
        found.add_listed(record_of(number), 0.0)
    for number in range(3, 5):
        found.add_listed(record_of(number), 0.0, STRANGER)
    good = found.get(PEERS[1])
    assert good is not None
    good.connected(0.0)
    good.disconnected(100.0, random.Random(1))
    good.failed("connection refused", 200.0, random.Random(1))
    return found


def test_a_strangers_listing_displaces_only_what_strangers_listed_and_nobody_reached(
    few: Candidates,
) -> None:
    assert few.add_listed(record_of(10), 300.0, STRANGER) is None
    third = few.get(PEERS[3])
    assert third is not None
    third.failed("connection refused", 300.0, random.Random(1))
    assert few.add_listed(record_of(10), 300.0, STRANGER) is not None
    for number in range(11, 40):
        few.add_listed(record_of(number), 300.0, STRANGER)
    assert {each.peer for each in few} == {PEERS[1], PEERS[2], PEERS[4], PEERS[10]}


def test_a_known_peers_listing_displaces_what_strangers_listed_but_nobody_that_answered(
    few: Candidates,
) -> None:
    for number in range(10, 20):
        few.add_listed(record_of(number), 300.0)
    assert {each.peer for each in few} == {PEERS[1], PEERS[2], PEERS[10], PEERS[11]}


def test_the_peers_that_stayed_longest_are_remembered_and_few_of_each_prefix() -> None:
    found = Candidates(PEERS[0])
    for number in range(1, 30):
        candidate = found.add_listed(record_of(number, f"1.1.1.{number}"), 0.0, STRANGER)
        assert candidate is not None
        candidate.connected(float(number))
    for number in range(30, 33):
        candidate = found.add_listed(record_of(number), 0.0)
        assert candidate is not None
        candidate.connected(50.0)
    kept = [open_record(signed).peer for signed in found.remembered(60.0)]
    assert kept == [*PEERS[1 : 1 + REMEMBERED_PER_PREFIX], *PEERS[30:33]]


def test_who_tells_from_afar_names_nothing_nearer_and_that_is_not_remembered() -> None:
    peer = PEERS[5]
    places = ("/ip4/1.1.1.1/tcp/1", "/ip4/192.168.1.1/tcp/1", "/ip4/127.0.0.1/tcp/1")
    record = PeerRecord(peer=peer, addresses=places, roles=(), runs=(), sequence=1)
    signed = sign(record, KEY_OF[peer])
    for scope, number, remembered in (
        (Scope.WORLD, 1, 0),
        (Scope.HOUSE, 2, 0),
        (Scope.MACHINE, 3, 1),
    ):
        found = Candidates(PEERS[0])
        candidate = found.add_listed(signed, 0.0, Teller(scope, known=False))
        assert candidate is not None and len(candidate.addresses) == number
        candidate.connected(0.0)
        assert len(found.remembered(1.0)) == remembered


async def test_a_peer_that_is_listed_after_it_came_is_remembered(
    autojump_clock: MockClock,
) -> None:
    async with swarms() as swarm:
        hub = await swarm.join(PEERS[0], directory=True)
        node = await swarm.join(PEERS[1], hub.me)
        other = await swarm.join(PEERS[2], node.me, hub.me)
        await trio.sleep(200)
        assert other.me in {open_record(signed).peer for signed in node.store.records}


async def test_a_listing_with_an_address_that_nobody_may_name_is_its_signers_fault(
    autojump_clock: MockClock,
) -> None:
    bad = PeerRecord(
        peer=PEERS[5], addresses=("/dns4/a.example/tcp/1",), roles=(), runs=(), sequence=1
    )
    listing = Listing(records=(sign(bad, KEY_OF[PEERS[5]]), record_of(6)))
    async with swarms() as swarm:
        node = await swarm.join(PEERS[1])
        await node.dialer._take_listing(PEERS[0], listing)
        assert [each.peer for each in node.dialer._candidates] == [PEERS[6]]
        assert node.reputation.strikes(PEERS[0]) == 0
        await node.dialer._take_listing(PEERS[0], Listing(records=(FORGED,)))
        assert node.reputation.strikes(PEERS[0]) == 1


async def test_a_file_that_cannot_be_written_stops_no_dialler(autojump_clock: MockClock) -> None:
    async with swarms() as swarm:
        seed = await swarm.join(PEERS[0], directory=True)
        other = await swarm.join(PEERS[1], seed.me)
        node = await swarm.join(PEERS[2], seed.me, store=Unwritable())
        await trio.sleep(200)
        assert node.transport.peers() == {seed.me, other.me}
