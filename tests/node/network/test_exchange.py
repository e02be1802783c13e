"""Blobs by digest from any holder.

Rules of this file: memory transport, virtual time, real files of the blob store; work that the
daemon does in threads is done in place, since virtual time does not see threads.
"""

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.network import blob_stream
from dipaco.node.network.blob_stream import (
    BLOB,
    LARGE_CHUNK,
    SMALL_BLOB,
    SMALL_CHUNK,
    Asker,
    chunk_bytes,
    chunk_count,
)
from dipaco.node.network.exchange import Exchange
from dipaco.node.network.fetching import LEAST_SPEED, PULL_GRACE, STALL
from dipaco.node.network.framing import frame, receive_frame
from dipaco.node.network.memory import MemoryNetwork, MemoryTransport
from dipaco.node.network.reputation import Reputation
from dipaco.node.network.rpc import Rpc
from dipaco.node.network.transport import Stream
from dipaco.node.storage.blobs import BlobStore
from dipaco.protocol.errors import RemoteProtocolError, Unavailable
from dipaco.protocol.wire.canonical import decode, encode
from dipaco.protocol.wire.digest import Digest, sha256
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.messages import AskChunk, AskHave, AskOutline, Have, Outline
from tests.node.network.peers import PEERS

T = TypeVar("T")
DATA = bytes(range(251)) * 5000  # 1.25 MB: five chunks, the last one short
CHUNKS = chunk_count(len(DATA))


async def in_place(work: Callable[[], T], /) -> T:
    await trio.lowlevel.checkpoint()
    return work()


class Node:
    """A peer with a blob store."""

    def __init__(self, transport: MemoryTransport, folder: Path) -> None:
        self.transport = transport
        self.me = transport.me
        self.reputation = Reputation(transport)
        self.rpc = Rpc(transport, self.reputation)
        self.blobs = BlobStore(folder)
        self.exchange = Exchange(
            transport, self.rpc, self.reputation, self.blobs, in_thread=in_place
        )

    async def run(self, task_status: "trio.TaskStatus[None]") -> None:  # type: ignore[name-defined]
        async with trio.open_nursery() as nursery:
            await nursery.start(self.rpc.run)
            await nursery.start(self.exchange.run)
            task_status.started()


@asynccontextmanager
async def swarm(tmp_path: Path, count: int) -> AsyncIterator[list[Node]]:
    """`count` nodes with empty stores, all connected to the first."""
    network = MemoryNetwork()
    async with trio.open_nursery() as nursery:
        nodes = []
        for peer in PEERS[:count]:

            async def join(peer: PeerId, task_status: "trio.TaskStatus[Node]") -> None:  # type: ignore[name-defined]
                async with network.join(peer) as transport:
                    task_status.started(Node(transport, tmp_path / peer))
                    await trio.sleep_forever()

            node: Node = await nursery.start(join, peer)
            await nursery.start(node.run)
            nodes.append(node)
        for node in nodes[1:]:
            await node.transport.dial(nodes[0].me, nodes[0].transport.addresses)
        await trio.sleep(1)
        yield nodes
        nursery.cancel_scope.cancel()


def outline_of(data: bytes) -> Outline:
    chunk = chunk_bytes(len(data))
    cuts = [data[at : at + chunk] for at in range(0, len(data), chunk)]
    return Outline(length=len(data), chunk=chunk, digests=tuple(map(sha256, cuts)))


def cut(data: bytes, index: int) -> bytes:
    chunk = chunk_bytes(len(data))
    return data[index * chunk : (index + 1) * chunk]


async def test_a_quiet_node_answers_calls_and_neither_sends_nor_fetches_blobs(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(tmp_path, 2) as (here, there):
        digest = there.blobs.write(DATA)
        stream = await here.transport.open(there.me, BLOB)
        await stream.send(frame(encode(AskOutline(blob=digest))))
        await receive_frame(stream, 1 << 20)
        there.exchange.quiet = lambda: True
        await stream.send(frame(encode(AskChunk(index=0))))
        with pytest.raises(Unavailable):
            await receive_frame(stream, 1 << 20)
        answer = await here.rpc.call(there.me, AskHave(blob=digest), Have, timeout=5)
        assert not answer.held
        with pytest.raises(Unavailable, match="has no blob"):
            await here.exchange.fetch(digest, holders=[there.me])
        with pytest.raises(Unavailable, match="see its reason"):
            await there.exchange.fetch(sha256(b"other"), holders=[here.me])
        there.exchange.quiet = lambda: False
        await here.exchange.fetch(digest, holders=[there.me])
        assert here.blobs.has(digest)


class Liar:
    """Answers every blob stream with `outline` and the chunks of `data`, `most` of them."""

    def __init__(
        self, node: Node, data: bytes, *, outline: Outline | None = None, most: int = 1 << 30
    ) -> None:
        self.outline = outline if outline is not None else outline_of(data)
        self.data = data
        self.most = most
        node.transport.serve(BLOB, self.serve)

    async def serve(self, stream: Stream) -> None:
        decode(await receive_frame(stream, 256), AskOutline, limit=256)
        await stream.send(frame(encode(self.outline)))
        for sent in itertools.count():
            ask = decode(await receive_frame(stream, 256), AskChunk, limit=256)
            if sent == self.most:
                await trio.sleep(1)  # what was sent arrives
                raise Unavailable("this holder leaves")
            await stream.send(cut(self.data, ask.index))


def test_chunks_grow_with_the_blob_and_follow_from_its_length_alone() -> None:
    assert (chunk_bytes(SMALL_BLOB), chunk_count(SMALL_BLOB)) == (SMALL_CHUNK, 64)
    assert (chunk_bytes(SMALL_BLOB + 1), chunk_count(SMALL_BLOB + 1)) == (LARGE_CHUNK, 17)
    assert chunk_count(0) == 0


@pytest.mark.parametrize("size", [0, 1, SMALL_CHUNK, SMALL_CHUNK + 1, len(DATA)])
async def test_a_blob_arrives_from_a_named_holder(
    autojump_clock: MockClock, tmp_path: Path, size: int
) -> None:
    async with swarm(tmp_path, 2) as (here, there):
        digest = there.blobs.write(DATA[:size])
        seen: list[tuple[int, int]] = []
        await here.exchange.fetch(
            digest, length=size, holders=[there.me], progress=lambda *now: seen.append(now)
        )
        assert here.blobs.read(digest, size) == DATA[:size]
        assert here.exchange.received == there.exchange.sent == size
        assert [now for now, _ in seen] == sorted(now for now, _ in seen)
        assert not seen or seen[-1] == (size, size)


async def test_a_blob_is_found_at_whoever_has_it(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with swarm(tmp_path, 4) as (here, empty, holder, _):
        digest = holder.blobs.write(DATA)
        await here.exchange.fetch(digest, limit=len(DATA), holders=[empty.me])
        assert here.blobs.has(digest)
        assert here.reputation.strikes(empty.me) == 0


async def test_a_blob_that_is_here_is_not_fetched(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(tmp_path, 1) as (alone,):
        await alone.exchange.fetch(alone.blobs.write(DATA), length=len(DATA))
        with pytest.raises(Unavailable, match="no connected peer has it"):
            await alone.exchange.fetch(sha256(b"elsewhere"))


async def test_a_blob_of_another_length_is_not_taken(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(tmp_path, 2) as (here, there):
        digest = there.blobs.write(DATA)
        with pytest.raises(Unavailable, match="1255000 bytes: not the length asked"):
            await here.exchange.fetch(digest, length=len(DATA) + 1, holders=[there.me])
        with pytest.raises(Unavailable, match="1255000 bytes: not the length asked"):
            await here.exchange.fetch(digest, limit=len(DATA) - 1, holders=[there.me])
        assert here.exchange.received == 0
        assert here.reputation.strikes(there.me) == 0


async def test_the_next_holder_goes_on_where_the_last_one_stopped(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(tmp_path, 3) as (here, leaver, holder):
        Liar(leaver, DATA, most=3)
        digest = holder.blobs.write(DATA)
        await here.exchange.fetch(digest, holders=[leaver.me, holder.me])
        assert here.blobs.read(digest, len(DATA)) == DATA
        # At most the chunk that was under way as the first one left is asked for twice.
        twice = holder.exchange.sent - (len(DATA) - 3 * SMALL_CHUNK)
        assert twice in (0, SMALL_CHUNK)
        assert here.exchange.received == len(DATA)


async def test_a_restart_goes_on_where_it_stopped(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(tmp_path / "before", 2) as (here, leaver):
        Liar(leaver, DATA, most=3)
        with pytest.raises(Unavailable, match="cannot fetch"):
            await here.exchange.fetch(sha256(DATA), holders=[leaver.me])
        folder = tmp_path / "before" / here.me
    folder.rename(tmp_path / PEERS[0])
    async with swarm(tmp_path, 2) as (here, holder):
        digest = holder.blobs.write(DATA)
        await here.exchange.fetch(digest, holders=[holder.me])
        assert here.blobs.read(digest, len(DATA)) == DATA
        assert holder.exchange.sent == len(DATA) - 3 * SMALL_CHUNK


@pytest.mark.parametrize("left", [b"\1" * SMALL_CHUNK, b"torn", DATA[:-1] + b"?", DATA + b"more"])
async def test_rubbish_from_an_earlier_life_costs_a_second_transfer_and_nobodys_good_name(
    autojump_clock: MockClock, tmp_path: Path, left: bytes
) -> None:
    async with swarm(tmp_path, 2) as (here, holder):
        digest = holder.blobs.write(DATA)
        here.blobs.partial(digest, len(left)).append(left)
        await here.exchange.fetch(digest, holders=[holder.me])
        assert here.blobs.read(digest, len(DATA)) == DATA
        assert here.reputation.strikes(holder.me) == 0


async def test_a_chunk_that_is_not_in_its_own_outline_costs_the_holder_a_strike(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    false = DATA[: 2 * SMALL_CHUNK] + b"?" * (len(DATA) - 2 * SMALL_CHUNK)
    async with swarm(tmp_path, 3) as (here, liar, holder):
        Liar(liar, false, outline=outline_of(DATA))
        digest = holder.blobs.write(DATA)
        await here.exchange.fetch(digest, holders=[liar.me, holder.me])
        assert here.blobs.read(digest, len(DATA)) == DATA
        assert here.reputation.strikes(liar.me) == 1
        assert holder.exchange.sent == len(DATA) - 2 * SMALL_CHUNK  # what was right was kept


async def test_an_outline_whose_chunks_match_but_not_the_digest_costs_its_provider_a_strike(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(tmp_path, 3) as (here, liar, holder):
        Liar(liar, DATA[:-1] + b"?")
        digest = holder.blobs.write(DATA)
        await here.exchange.fetch(digest, holders=[liar.me, holder.me])
        assert here.blobs.read(digest, len(DATA)) == DATA
        assert here.reputation.strikes(liar.me) == 1
        assert here.reputation.strikes(holder.me) == 0


async def test_what_a_liar_began_does_not_spoil_what_an_honest_holder_completes(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(tmp_path, 3) as (here, liar, holder):
        Liar(liar, b"?" + DATA[1:], most=2)
        digest = holder.blobs.write(DATA)
        await here.exchange.fetch(digest, holders=[liar.me, holder.me])
        assert here.blobs.read(digest, len(DATA)) == DATA
        assert here.reputation.strikes(holder.me) == 0


@pytest.mark.parametrize(
    "outline",
    [
        Outline(length=10, chunk=3, digests=(sha256(b""),) * 4),
        Outline(length=10, chunk=SMALL_CHUNK, digests=(sha256(b""),) * 2),
        Outline(length=10, chunk=SMALL_CHUNK, digests=()),
    ],
)
async def test_an_impossible_outline_costs_a_strike(
    autojump_clock: MockClock, tmp_path: Path, outline: Outline
) -> None:
    async with swarm(tmp_path, 2) as (here, liar):
        Liar(liar, DATA, outline=outline)
        with pytest.raises(Unavailable):
            await here.exchange.fetch(sha256(DATA), holders=[liar.me])
        assert here.reputation.strikes(liar.me) == 1


@pytest.mark.parametrize(
    "words",
    [
        b"\xff\xff\xff\xff",
        frame(b"\xa0"),
        frame(encode(AskOutline(blob=sha256(DATA)))) + frame(encode(AskChunk(index=CHUNKS))),
        frame(encode(AskOutline(blob=sha256(DATA)))) + frame(b"garbage"),
    ],
)
async def test_an_asker_that_breaks_the_protocol_is_dropped_and_others_are_served(
    autojump_clock: MockClock, tmp_path: Path, words: bytes
) -> None:
    async with swarm(tmp_path, 3) as (holder, offender, honest):
        digest = holder.blobs.write(DATA)
        stream = await offender.transport.open(holder.me, BLOB)
        await stream.send(words)
        await trio.sleep(1)
        assert holder.reputation.strikes(offender.me) == 1
        assert offender.me not in holder.transport.peers()
        await honest.exchange.fetch(digest, holders=[holder.me])
        assert honest.blobs.has(digest)


async def test_callers_of_one_blob_share_one_fetch(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(tmp_path, 2) as (here, holder):
        digest = holder.blobs.write(DATA)
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(here.exchange.fetch, digest)
        assert holder.exchange.sent == len(DATA)


async def test_a_fetch_outlives_one_callers_cancellation_and_ends_with_the_last(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(tmp_path, 2) as (here, silent):
        Liar(silent, b"", outline=outline_of(DATA))  # an outline, then nothing that fits
        silent.transport.network.freeze(silent.me)
        digest = sha256(DATA)
        with trio.move_on_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(here.exchange.fetch, digest)
                nursery.start_soon(here.exchange.fetch, digest)
                await trio.sleep(1)
                assert len(here.exchange._fetches) == 1
        assert here.exchange._fetches == {}


async def test_a_silent_holder_is_given_up_for_the_next(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(tmp_path, 3) as (here, silent, holder):

        async def say_nothing(stream: Stream) -> None:
            await trio.sleep_forever()

        silent.transport.serve(BLOB, say_nothing)
        digest = holder.blobs.write(DATA)
        before = trio.current_time()
        await here.exchange.fetch(digest, holders=[silent.me, holder.me])
        waited = trio.current_time() - before
        assert waited == pytest.approx(STALL, abs=1)
        assert here.reputation.strikes(silent.me) == 0


async def ask_and_never_read(node: Node, holder: Node, digest: Digest) -> Stream:
    stream = await node.transport.open(holder.me, BLOB)
    await stream.send(frame(encode(AskOutline(blob=digest))))
    for index in range(4):
        await stream.send(frame(encode(AskChunk(index=index))))
    return stream


async def test_peers_that_never_read_keep_a_turn_for_two_seconds_each(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    big = bytes(LARGE_CHUNK)  # beyond the window, so that a reader that stops blocks a send
    async with swarm(tmp_path, 6) as (holder, honest, *stuck):
        digest = holder.blobs.write(big)
        for node in stuck:
            for _ in range(2):
                await ask_and_never_read(node, holder, digest)
        before = trio.current_time()
        await honest.exchange.fetch(digest, holders=[holder.me])
        assert trio.current_time() - before < blob_stream.UPLOAD_STALL


async def test_a_prefix_has_no_more_turns_than_another(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    big = bytes(4 * LARGE_CHUNK)
    async with swarm(tmp_path, len(PEERS)) as (holder, honest, *stuck):
        evil = {node.me for node in stuck}
        holder.exchange._prefix = lambda peer: "10.6.6.0/24" if peer in evil else "10.1.1.0/24"
        digest = holder.blobs.write(big)
        for node in stuck:
            for _ in range(4):
                await ask_and_never_read(node, holder, digest)
        before = trio.current_time()
        await honest.exchange.fetch(digest, holders=[holder.me])
        assert trio.current_time() - before < 1  # the second turn is never theirs
        assert len(holder.exchange._uploads._stalled) <= blob_stream.STALLED.per_prefix


async def test_a_peer_that_takes_nothing_is_given_up(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(tmp_path, 2) as (holder, stuck):
        digest = holder.blobs.write(bytes(4 * LARGE_CHUNK))
        stream = await ask_and_never_read(stuck, holder, digest)
        await trio.sleep(blob_stream.UPLOAD_STALL + 2)
        assert not len(holder.exchange._uploads._stalled)
        with pytest.raises(Unavailable):
            await stream.send(bytes(1 << 20))


async def test_a_slow_reader_that_takes_a_piece_every_second_keeps_its_turn(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(tmp_path, 2) as (holder, slow):
        digest = holder.blobs.write(DATA)
        stream = await slow.transport.open(holder.me, BLOB)
        await stream.send(frame(encode(AskOutline(blob=digest))))
        outline = decode(await receive_frame(stream, 1 << 20), Outline, limit=1 << 20)
        got = 0
        await stream.send(frame(encode(AskChunk(index=0))))
        while got < outline.chunk:
            got += len(await stream.receive(blob_stream.PIECE))
            await trio.sleep(1.0)
        assert got == SMALL_CHUNK


async def test_holders_that_drip_take_no_place_of_a_known_peer_and_none_for_ever(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(tmp_path, 7) as (here, honest, *dripping):
        digests = [
            node.blobs.write(bytes([number]) * len(DATA)) for number, node in enumerate(dripping)
        ]
        here.reputation.vouch(lambda peer: peer == honest.me)

        async def drip(stream: Stream) -> None:
            await receive_frame(stream, 1 << 10)
            data = bytes([dripping_of[stream.peer]]) * len(DATA)
            outline = Outline(
                length=len(DATA),
                chunk=SMALL_CHUNK,
                digests=tuple(
                    sha256(data[i : i + SMALL_CHUNK]) for i in range(0, len(DATA), SMALL_CHUNK)
                ),
            )
            await stream.send(frame(encode(outline)))
            for index in itertools.count():
                await trio.sleep(blob_stream.CHUNK_TIMEOUT - 1)
                await stream.send(data[index * SMALL_CHUNK : (index + 1) * SMALL_CHUNK])

        dripping_of = {here.me: 0}
        refused = []

        async def pull(digest: Digest, node: Node) -> None:
            try:
                await here.exchange.fetch(digest, length=len(DATA), holders=[node.me])
            except Unavailable as error:
                refused.append((str(error), trio.current_time()))

        for node in dripping:
            node.transport.serve(BLOB, drip)
        mine = honest.blobs.write(DATA)
        async with trio.open_nursery() as nursery:
            for digest, node in zip(digests, dripping, strict=True):
                nursery.start_soon(pull, digest, node)
            await trio.sleep(1)
            before = trio.current_time()
            await here.exchange.fetch(mine, length=len(DATA), holders=[honest.me])
            assert trio.current_time() - before < 1
        most = PULL_GRACE + len(DATA) / LEAST_SPEED
        assert len(refused) == 5 and refused[-1][1] - before < 2 * most + 60


class FullDisk(BlobStore):
    """A store whose disk is full."""

    def partial(self, digest: Digest, size: int) -> "NoRoom":  # type: ignore[override]
        return NoRoom()


class NoRoom:
    received = 0

    def append(self, data: bytes) -> None:
        raise Unavailable("no space left on the disk")

    def finish(self) -> None: ...

    def discard(self) -> None: ...


async def test_an_error_of_our_own_store_is_not_the_holders(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(tmp_path, 3) as (here, one, other):
        digest = one.blobs.write(DATA)
        other.blobs.write(DATA)
        here.exchange._fetcher.blobs = FullDisk(tmp_path / "full")
        with pytest.raises(Unavailable, match=r"^no space left on the disk$"):
            await here.exchange.fetch(digest, holders=[one.me, other.me])
        assert other.exchange.sent == 0


async def test_many_askers_of_a_new_blob_have_it_hashed_once(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(tmp_path, 8) as (holder, *askers):
        digest = holder.blobs.write(DATA)
        reads: list[int] = []

        async def slowly(work: Callable[[], T], /) -> T:
            reads.append(1)
            await trio.sleep(0.1)
            return work()

        holder.exchange._uploads._in_thread = slowly
        for asker in askers:
            stream = await asker.transport.open(holder.me, BLOB)
            await stream.send(frame(encode(AskOutline(blob=digest))))
        await trio.sleep(0.5)
        assert len(reads) == 1
        await askers[0].exchange.fetch(digest, holders=[holder.me])


async def test_an_asker_that_leaves_while_a_blob_is_hashed_takes_the_outline_from_no_other(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(tmp_path, 2) as (holder, asker):
        digest = holder.blobs.write(DATA)

        async def slowly(work: Callable[[], T], /) -> T:
            await trio.sleep(0.1)
            return work()

        uploads = holder.exchange._uploads
        uploads._in_thread = slowly
        async with trio.open_nursery() as nursery:
            leaves = trio.CancelScope()

            async def ask_and_leave() -> None:
                with leaves:
                    await uploads._outline(digest, Asker(asker.me, "", known=False))

            nursery.start_soon(ask_and_leave)
            await trio.sleep(0.01)
            nursery.start_soon(asker.exchange.fetch, digest)
            await trio.sleep(0.05)
            leaves.cancel()
        assert asker.blobs.has(digest)
        assert not uploads._in_work


@pytest.mark.parametrize(
    ("after", "left"),
    [
        (after, left)
        for after in (1, 3, CHUNKS)
        for left in (0, 1, SMALL_CHUNK, 4 * SMALL_CHUNK + 1)
        if left != after * SMALL_CHUNK  # of the same length: only the digest tells them apart
    ],
)
async def test_a_draft_that_changes_under_a_fetch_is_nobodys_fault_but_ours(
    autojump_clock: MockClock, tmp_path: Path, after: int, left: int
) -> None:
    async with swarm(tmp_path, 3) as (here, holder, other):
        digest = holder.blobs.write(DATA)
        other.blobs.write(DATA)
        partials = tmp_path / here.me / "partial"
        received = 0

        def tamper(*_: int) -> None:
            nonlocal received
            received += 1
            if received == after:
                (path,) = partials.iterdir()
                path.write_bytes(b"?" * left)

        with pytest.raises(Unavailable, match="were changed on this disk"):
            await here.exchange.fetch(digest, holders=[holder.me], progress=tamper)
        assert here.reputation.strikes(holder.me) == here.reputation.strikes(other.me) == 0
        await here.exchange.fetch(digest, holders=[holder.me])
        assert here.blobs.read(digest, len(DATA)) == DATA
        assert here.reputation.strikes(holder.me) == 0


async def test_what_is_being_fetched_is_named_so_that_no_one_removes_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(tmp_path, 2) as (here, holder):
        digest = holder.blobs.write(DATA)
        during: list[frozenset[Digest]] = []

        def prune(*_: int) -> None:
            during.append(here.exchange.fetching)
            here.blobs.prune(here.exchange.fetching, 0)

        await here.exchange.fetch(digest, progress=prune)
        assert during == [frozenset([digest])] * CHUNKS
        assert here.exchange.fetching == frozenset()
        assert here.blobs.read(digest, len(DATA)) == DATA


class Overfull(NoRoom):
    def append(self, data: bytes) -> None:
        raise RemoteProtocolError("more than the bytes of the blob arrived")


async def test_a_breach_that_no_peer_committed_reaches_the_caller_as_something_to_retry(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with swarm(tmp_path, 2) as (here, holder):
        digest = holder.blobs.write(DATA)
        monkeypatch.setattr(here.blobs, "partial", lambda digest, size: Overfull())
        with pytest.raises(Unavailable, match="more than the bytes"):
            await here.exchange.fetch(digest, holders=[holder.me])
        assert here.reputation.strikes(holder.me) == 0


@pytest.mark.parametrize("damage", [b"", DATA[:-1], DATA + b"more"], ids=["empty", "cut", "long"])
async def test_a_blob_whose_file_has_the_wrong_length_is_fetched_again(
    tmp_path: Path, autojump_clock: MockClock, damage: bytes
) -> None:
    async with swarm(tmp_path, 2) as (holder, reader):
        digest = holder.blobs.write(DATA)
        reader.blobs.write(DATA)
        reader.blobs.path(digest).write_bytes(damage)
        await reader.exchange.fetch(digest, length=len(DATA))
        assert reader.blobs.read(digest, len(DATA)) == DATA
