"""The rendezvous directory.

Rules of this file: memory transport, virtual time; askers speak through real Rpc ends, from
addresses that the test chooses; the store is a list.
"""

import ipaddress
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.network import directory as directory_module
from dipaco.node.network.addresses import sign_records
from dipaco.node.network.directory import LIFE, Directory
from dipaco.node.network.liveness import Liveness
from dipaco.node.network.memory import MemoryNetwork, MemoryTransport
from dipaco.node.network.reputation import Reputation
from dipaco.node.network.rpc import Rpc
from dipaco.protocol.errors import ConfigError, Refusal, Unavailable
from dipaco.protocol.wire.address import Address
from dipaco.protocol.wire.digest import Digest, sha256
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.messages import (
    MAX_LISTED,
    Listing,
    ListPeers,
    PeerRecord,
    Register,
    Registered,
    open_record,
)
from dipaco.protocol.wire.signed import Signed, sign
from tests.node.network.peers import KEY_OF, PEERS

if TYPE_CHECKING:
    from trio_typing import TaskStatus

T = TypeVar("T")
RUN, OTHER_RUN = sha256(b"run"), sha256(b"another run")
LOOP, HOUSE, WORLD = "/ip4/127.0.0.1/tcp/4410", "/ip4/192.168.1.20/tcp/4410", "/ip4/8.8.4.4/tcp/1"


async def in_place(work: Callable[[], T], /) -> T:
    await trio.lowlevel.checkpoint()
    return work()


class Shelf:
    """A store that keeps the last saved records."""

    def __init__(self, *records: Signed) -> None:
        self.records = records
        self.saves = 0

    def load(self) -> tuple[Signed, ...]:
        return self.records

    def save(self, records: tuple[Signed, ...]) -> None:
        self.records = records
        self.saves += 1


class Asker:
    """A peer that registers and lists."""

    def __init__(self, transport: MemoryTransport, hub: PeerId) -> None:
        self.transport = transport
        self.me = transport.me
        self.hub = hub
        self.rpc = Rpc(transport, Reputation(transport))
        self.liveness = Liveness(transport, self.rpc)

    async def register(
        self,
        *addresses: str,
        runs: tuple[Digest, ...] = (RUN,),
        sequence: int = 1,
        records: tuple[Signed, ...] = (),
    ) -> Registered:
        places = map(Address.parse, addresses)
        records = records or sign_records(
            KEY_OF[self.me], places, roles=("volunteer",), runs=runs, sequence=sequence
        )
        ask = Register(records=records)
        return await self.rpc.call(self.hub, ask, Registered, timeout=5)

    async def list(self, run: Digest | None = None, most: int = MAX_LISTED) -> dict[PeerId, int]:
        """Return who is listed, with the number of addresses."""
        ask = ListPeers(run=run, most=most)
        listing = await self.rpc.call(self.hub, ask, Listing, timeout=5)
        records = [open_record(signed) for signed in listing.records]
        return {record.peer: len(record.addresses) for record in records}


class House:
    """A directory, and peers that come to it."""

    def __init__(self, nursery: trio.Nursery, *, strangers: Sequence[PeerId] = PEERS[1:]) -> None:
        self.network = MemoryNetwork()
        self._nursery = nursery
        self._fresh = iter(strangers)
        self.shelf = Shelf()
        self.known: set[PeerId] = set()
        self.directory: Directory
        self.hub: MemoryTransport

    async def open(self) -> None:
        await self._nursery.start(self._run_hub)

    async def _run_hub(self, task_status: "TaskStatus[None]") -> None:
        async with (
            self.network.join(PEERS[0], ip="127.0.0.1", port=4410) as self.hub,
            trio.open_nursery() as nursery,
        ):
            rpc = Rpc(self.hub, Reputation(self.hub))
            self.directory = Directory(
                self.hub,
                rpc,
                self.shelf,
                known=self.known.__contains__,
                exempt=(ipaddress.ip_network("127.0.0.0/8"),),
                chance=random.Random(1),
                in_thread=in_place,
            )
            liveness = Liveness(self.hub, rpc, heard=self.directory.renew)
            for service in (rpc, self.directory, liveness):
                await nursery.start(service.run)
            task_status.started()

    async def come(self, ip: str = "127.0.0.1") -> Asker:
        asker: Asker = await self._nursery.start(self._run_asker, next(self._fresh), ip)
        await asker.transport.dial(self.hub.me, self.hub.addresses)
        return asker

    async def _run_asker(self, me: PeerId, ip: str, task_status: "TaskStatus[Asker]") -> None:
        async with self.network.join(me, ip=ip) as transport, trio.open_nursery() as nursery:
            asker = Asker(transport, PEERS[0])
            await nursery.start(asker.rpc.run)
            await nursery.start(asker.liveness.run)
            task_status.started(asker)
            await trio.sleep_forever()


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    async with trio.open_nursery() as nursery:
        found = House(nursery)
        await found.open()
        yield found
        nursery.cancel_scope.cancel()


async def test_who_registers_is_listed_to_others_and_learns_where_it_is_seen(
    autojump_clock: MockClock,
) -> None:
    async with house() as it:
        one, other = await it.come(), await it.come()
        assert await one.register(LOOP) == Registered(observed="127.0.0.1", life=LIFE)
        assert await other.list() == {one.me: 1}
        assert await one.list() == {}


async def test_an_entry_lives_while_its_peer_gives_signs_of_life(
    autojump_clock: MockClock,
) -> None:
    async with house() as it:
        one, other = await it.come(), await it.come()
        await one.register(LOOP)
        await trio.sleep(300)
        assert await other.list() == {one.me: 1}
        it.network.freeze(one.me)
        await trio.sleep(LIFE + 1)
        assert await other.list() == {}


async def test_an_entry_ends_with_its_connection(autojump_clock: MockClock) -> None:
    async with house() as it:
        one, other = await it.come(), await it.come()
        await one.register(LOOP)
        it.network.disconnect(one.me, it.hub.me)
        await trio.sleep(0.1)
        assert await other.list() == {}


async def test_an_asker_gets_only_addresses_that_are_of_use_to_it(
    autojump_clock: MockClock,
) -> None:
    async with house() as it:
        one = await it.come("127.0.0.1")
        await one.register(LOOP, HOUSE, WORLD)
        only_here = await it.come("127.0.0.1")
        await only_here.register(LOOP)
        for ip, seen in (
            ("127.0.0.1", {one.me: 3, only_here.me: 1}),
            ("192.168.1.7", {one.me: 2}),
            ("10.0.0.7", {one.me: 2}),
            ("9.9.9.9", {one.me: 1}),
        ):
            assert await (await it.come(ip)).list() == seen


async def test_a_strangers_loopback_is_not_handed_on(autojump_clock: MockClock) -> None:
    async with house() as it:
        far, here = await it.come("9.9.9.9"), await it.come("127.0.0.1")
        with pytest.raises(Refusal, match="none of your addresses can be reached"):
            await far.register(LOOP)
        await far.register(LOOP, WORLD)
        assert await here.list() == {far.me: 1}


async def test_a_peer_without_addresses_is_a_member_that_nobody_is_sent_to(
    autojump_clock: MockClock,
) -> None:
    async with house() as it:
        one, other = await it.come("9.9.9.9"), await it.come()
        await one.register()
        assert it.directory.size == 1
        assert await other.list() == {}


async def test_lists_are_of_one_run_and_random_samples(autojump_clock: MockClock) -> None:
    async with house() as it:
        askers = [await it.come() for _ in range(20)]
        for number, asker in enumerate(askers):
            await asker.register(LOOP, runs=(RUN,) if number % 2 else (OTHER_RUN,))
        viewer = await it.come()
        assert await viewer.list(RUN) == {asker.me: 1 for asker in askers[1::2]}
        samples = {frozenset(await viewer.list(most=5)) for _ in range(10)}
        assert all(len(sample) == 5 for sample in samples)
        assert len(samples) > 5


async def test_an_older_record_is_refused(autojump_clock: MockClock) -> None:
    async with house() as it:
        one = await it.come()
        await one.register(LOOP, sequence=5)
        with pytest.raises(Refusal, match="older"):
            await one.register(LOOP, HOUSE, sequence=4)
        await one.register(LOOP, HOUSE, sequence=5)


def _forged(peer: PeerId, key_of: PeerId, *addresses: str) -> Signed:
    record = PeerRecord(peer=peer, addresses=addresses, roles=(), runs=(), sequence=1)
    return sign(record, KEY_OF[key_of])


@pytest.mark.parametrize(
    "bad",
    [
        lambda me: _forged(PEERS[40], PEERS[40], LOOP),  # another peer's true record
        lambda me: _forged(me, PEERS[40], LOOP),  # our name, another's key
        lambda me: _forged(me, me, "/ip4/0.0.0.0/tcp/4410"),
        lambda me: _forged(me, me, "/ip4/127.0.0.1"),
        lambda me: _forged(me, me, "/ip4/999.0.0.1/tcp/4410"),
        lambda me: _forged(me, me, "/unix/etc/passwd"),
        lambda me: Signed(body=b"\xa0", public_key=bytes(32), signature=bytes(64)),
    ],
)
async def test_a_false_record_costs_the_connection(autojump_clock: MockClock, bad: object) -> None:
    async with house() as it:
        one, other = await it.come(), await it.come()
        with pytest.raises(Unavailable):
            await one.register(records=(bad(one.me),))  # type: ignore[operator]
        assert one.transport.peers() == frozenset()
        assert await other.list() == {}


async def test_one_prefix_cannot_fill_the_directory(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "MAX_PER_PREFIX", 3)
    async with house() as it:
        askers = [await it.come(f"9.9.9.{number}") for number in range(5)]
        for asker in askers[:3]:
            await asker.register(WORLD)
        with pytest.raises(Unavailable, match=r"9\.9\.9\.0/24 has as many registrations"):
            await askers[3].register(WORLD)
        await askers[0].register(WORLD)  # renewing needs no new place
        it.known.add(askers[4].me)  # a peer that this node knows has a place all the same
        await askers[4].register(WORLD)
        await (await it.come("9.9.8.9")).register(WORLD)
        for _ in range(4):
            await (await it.come("127.0.0.1")).register(LOOP)  # exempt
        for asker in askers[:2]:
            it.network.disconnect(asker.me, it.hub.me)
        await trio.sleep(0.1)
        await askers[3].register(WORLD)


async def test_one_run_cannot_fill_the_directory(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "MAX_PER_RUN", 2)
    async with house() as it:
        askers = [await it.come() for _ in range(3)]
        for asker in askers[:2]:
            await asker.register(LOOP, runs=(RUN,))
            await asker.register(LOOP, runs=(RUN,))
        with pytest.raises(Unavailable, match="for this run"):
            await askers[2].register(LOOP, runs=(RUN,))
        await askers[0].register(LOOP, runs=(OTHER_RUN,))
        await askers[2].register(LOOP, runs=(RUN,))


async def test_a_full_directory_drops_who_gave_no_sign_of_life_for_longest_but_nobody_it_knows(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "MAX_ENTRIES", 4)
    monkeypatch.setattr(directory_module, "KEPT", 1)
    async with house() as it:
        known, old, lively, new = [await it.come() for _ in range(4)]
        it.known.add(known.me)
        for asker in (known, old, lively):
            await asker.register(LOOP)
        it.directory.renew(lively.me)
        await new.register(LOOP)
        assert set(await old.list()) == {known.me, lively.me, new.me}


async def test_a_list_has_peers_of_every_prefix_however_many_one_has(
    autojump_clock: MockClock,
) -> None:
    async with house() as it:
        crowd = [await it.come(f"9.9.9.{number}") for number in range(20)]
        few = [await it.come(ip) for ip in ("8.8.8.8", "7.7.7.7", "2600::1")]
        for asker in crowd + few:
            kind = "ip6" if ":" in asker.transport.place.host else "ip4"
            await asker.register(f"/{kind}/{asker.transport.place.host}/tcp/4410")
        viewer = await it.come("6.6.6.6")
        for _ in range(5):
            assert set(await viewer.list(most=5)) >= {asker.me for asker in few}


async def test_who_names_the_address_of_another_is_listed_last(autojump_clock: MockClock) -> None:
    async with house() as it:
        liars = [await it.come(f"9.9.{number}.9") for number in range(10)]
        for liar in liars:
            await liar.register(WORLD)
        honest = [await it.come(f"9.8.{number}.9") for number in range(4)]
        for asker in honest:
            await asker.register(WORLD, f"/ip4/{asker.transport.place.host}/tcp/1")
        viewer = await it.come("6.6.6.6")
        assert set(await viewer.list(most=4)) == {asker.me for asker in honest}
        assert len(await viewer.list(most=8)) == 8


async def test_a_peer_that_calls_in_a_loop_is_put_off_without_a_strike(
    autojump_clock: MockClock,
) -> None:
    async with house() as it:
        one, other = await it.come(), await it.come()
        for _ in range(directory_module.CALLS_PER_MINUTE):
            await one.register(LOOP)
            await one.list()
        with pytest.raises(Unavailable, match="12 times a minute: try again in 5 s"):
            await one.register(LOOP)
        with pytest.raises(Unavailable, match="12 times a minute"):
            await one.list()
        assert await other.list() == {one.me: 1}
        await trio.sleep(5)
        await one.register(LOOP)


async def test_a_restart_does_not_empty_the_directory_and_the_dead_leave_it(
    autojump_clock: MockClock,
) -> None:
    async with house() as it:
        one = await it.come()
        await one.register(LOOP, HOUSE)
        await trio.sleep(directory_module.SAVE_PAUSE + 1)
        saved = it.shelf.records
    async with trio.open_nursery() as nursery:
        it = House(nursery, strangers=PEERS[20:])
        it.shelf = Shelf(*saved, _forged(PEERS[3], PEERS[4], LOOP))
        await it.open()
        other = await it.come()
        assert await other.list() == {one.me: 2}
        await trio.sleep(LIFE + 1)
        assert await other.list() == {}
        nursery.cancel_scope.cancel()


async def test_what_has_not_changed_is_not_written_again(autojump_clock: MockClock) -> None:
    async with house() as it:
        one, other = await it.come(), await it.come()
        for sequence in range(1, 20):
            for asker in (one, other):
                await asker.register(LOOP, sequence=sequence)
            await trio.sleep(directory_module.SAVE_PAUSE + 1)
        assert it.shelf.saves == 1
        await other.register(LOOP, HOUSE, sequence=20)
        await trio.sleep(directory_module.SAVE_PAUSE + 1)
        assert it.shelf.saves == 2


async def test_a_file_that_cannot_be_written_ends_no_directory(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(records: tuple[Signed, ...]) -> None:
        raise ConfigError("cannot write directory.cbor: too many open files")

    async with house() as it:
        monkeypatch.setattr(it.shelf, "save", refuse)
        one, other = await it.come(), await it.come()
        await one.register(LOOP)
        await trio.sleep(60)
        assert await other.list() == {one.me: 1}
