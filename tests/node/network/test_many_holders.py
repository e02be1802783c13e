"""One blob from several holders at once, some of them hostile.

Rules of this file: as in test_exchange.
"""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.network.blob_stream import BLOB, SMALL_BLOB, SMALL_CHUNK
from dipaco.node.network.fetching import LEAST_SPEED, PULL_GRACE, SEVERAL, STALL
from dipaco.node.network.framing import frame, receive_frame
from dipaco.node.network.gathering import PATIENCE
from dipaco.node.network.transport import Stream
from dipaco.protocol.errors import Unavailable
from dipaco.protocol.wire.canonical import decode, encode
from dipaco.protocol.wire.digest import sha256
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.messages import AskChunk, AskHave, AskOutline, Have
from tests.node.network.test_exchange import CHUNKS, DATA, Liar, Node, cut, outline_of, swarm

BIG = bytes(range(256)) * (SMALL_BLOB // 256)  # 64 chunks


class Slow:
    """Serves `data`, each chunk after `seconds`; chunks from `stalls_at` on never come."""

    def __init__(
        self, node: Node, data: bytes, *, seconds: float = 0.0, stalls_at: int = 1 << 30
    ) -> None:
        self.data, self.seconds, self.stalls_at = data, seconds, stalls_at
        self.asked: list[int] = []
        node.transport.serve(BLOB, self.serve)

    async def serve(self, stream: Stream) -> None:
        decode(await receive_frame(stream, 256), AskOutline, limit=256)
        await stream.send(frame(encode(outline_of(self.data))))
        while True:
            index = decode(await receive_frame(stream, 256), AskChunk, limit=256).index
            self.asked.append(index)
            if index >= self.stalls_at:
                await trio.sleep_forever()
            await trio.sleep(self.seconds)
            await stream.send(cut(self.data, index))


async def test_several_holders_send_parts_of_one_blob(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(tmp_path, 5) as (here, *holders):
        for holder in holders:
            digest = holder.blobs.write(BIG)
        named = [holder.me for holder in holders]
        await here.exchange.fetch(digest, length=len(BIG), holders=named)
        assert here.blobs.read(digest, len(BIG)) == BIG
        parts = sorted((holder.exchange.sent for holder in holders), reverse=True)
        assert sum(part > 0 for part in parts) == SEVERAL
        assert here.exchange.received == len(BIG)
        assert parts[0] < len(BIG) / 2


async def test_a_fast_holder_sends_what_a_slow_one_does_not(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(tmp_path, 3) as (here, slow, fast):
        first, second = Slow(slow, BIG, seconds=5.0), Slow(fast, BIG, seconds=0.1)
        before = trio.current_time()
        named = [slow.me, fast.me]
        await here.exchange.fetch(sha256(BIG), length=len(BIG), holders=named)
        assert trio.current_time() - before < 64 * 0.1 + 4
        assert len(first.asked) < 6
        assert len(second.asked) <= 64


@pytest.mark.parametrize("named", [True, False])
async def test_a_blob_that_stalls_near_its_end_moves_to_another_holder(
    autojump_clock: MockClock, tmp_path: Path, named: bool
) -> None:
    async with swarm(tmp_path, 3) as (here, stalling, holder):
        Slow(stalling, DATA, stalls_at=CHUNKS - 1)
        digest = holder.blobs.write(DATA)
        before = trio.current_time()
        holders = [stalling.me, holder.me] if named else [stalling.me]
        await here.exchange.fetch(digest, holders=holders, length=len(DATA))
        waited = trio.current_time() - before
        assert waited < (PATIENCE + 1 if named else STALL + 1)
        assert here.blobs.read(digest, len(DATA)) == DATA
        assert here.reputation.strikes(stalling.me) == 0
        if not named:  # what had come was kept
            assert holder.exchange.sent < 2 * SMALL_CHUNK


async def test_a_false_chunk_costs_its_sender_a_strike_and_the_blob_nothing(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(tmp_path, 4) as (here, liar, one, other):
        Liar(liar, bytes(len(DATA)), outline=outline_of(DATA))
        for holder in (one, other):
            digest = holder.blobs.write(DATA)
        named = [liar.me, one.me, other.me]
        await here.exchange.fetch(digest, length=len(DATA), holders=named)
        assert here.blobs.read(digest, len(DATA)) == DATA
        assert here.reputation.strikes(liar.me) == 1
        assert here.reputation.strikes(one.me) == here.reputation.strikes(other.me) == 0


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (1, 2, 0)])
async def test_where_outlines_differ_the_digest_decides_and_the_liar_gets_a_strike(
    autojump_clock: MockClock, tmp_path: Path, order: tuple[int, ...]
) -> None:
    false = DATA[:-1] + b"?"
    async with swarm(tmp_path, 4) as (here, liar, one, other):
        Liar(liar, false)
        for holder in (one, other):
            digest = holder.blobs.write(DATA)
        named = [(liar, one, other)[index].me for index in order]
        await here.exchange.fetch(digest, length=len(DATA), holders=named)
        assert here.blobs.read(digest, len(DATA)) == DATA
        assert here.reputation.strikes(liar.me) == 1
        assert here.reputation.strikes(one.me) == here.reputation.strikes(other.me) == 0


async def test_two_liars_of_one_mind_are_both_found_out(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    false = b"?" + DATA[1:]
    async with swarm(tmp_path, 4) as (here, first, second, honest):
        Liar(first, false)
        Liar(second, false)
        digest = honest.blobs.write(DATA)
        named = [first.me, second.me, honest.me]
        await here.exchange.fetch(digest, length=len(DATA), holders=named)
        assert here.blobs.read(digest, len(DATA)) == DATA
        assert here.reputation.strikes(honest.me) == 0
        assert here.reputation.strikes(first.me) == here.reputation.strikes(second.me) == 1


async def test_a_peer_that_says_it_has_a_blob_and_has_not_is_passed_over_without_a_strike(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(tmp_path, 4) as (here, boaster, other, holder):
        for node in (boaster, other):

            async def have(_peer: PeerId, _ask: AskHave) -> Have:
                return Have(held=True)

            node.rpc.handle(AskHave, have)
        digest = holder.blobs.write(DATA)
        await here.exchange.fetch(digest, length=len(DATA), holders=[boaster.me])
        assert here.blobs.has(digest)
        assert here.reputation.strikes(boaster.me) == here.reputation.strikes(other.me) == 0


async def test_holders_that_are_asked_last_send_nothing_while_others_send(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(tmp_path, 4) as (here, source, one, other):
        for holder in (source, one, other):
            digest = holder.blobs.write(BIG)
        named = [one.me, other.me]
        await here.exchange.fetch(digest, length=len(BIG), holders=named, last=[source.me])
        assert source.exchange.sent == 0
        alone = source.blobs.write(DATA)
        await here.exchange.fetch(alone, length=len(DATA), holders=named, last=[source.me])
        assert source.exchange.sent == len(DATA)


async def test_a_holder_that_is_asked_last_helps_when_the_others_stall(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(tmp_path, 3) as (here, source, stalling):
        Slow(stalling, DATA, stalls_at=1)
        digest = source.blobs.write(DATA)
        before = trio.current_time()
        await here.exchange.fetch(digest, length=len(DATA), holders=[stalling.me], last=[source.me])
        assert trio.current_time() - before < STALL + 1
        assert source.exchange.sent == len(DATA) - SMALL_CHUNK


async def test_a_blob_that_nobody_gives_ends_in_time(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(tmp_path, 5) as (here, *stalling):
        for node in stalling:
            Slow(node, DATA, stalls_at=0)
        before = trio.current_time()
        with pytest.raises(Unavailable, match="cannot fetch"):
            named = [node.me for node in stalling]
            await here.exchange.fetch(sha256(DATA), length=len(DATA), holders=named)
        most = PULL_GRACE + len(DATA) / LEAST_SPEED
        assert trio.current_time() - before < 2 * most
        assert all(here.reputation.strikes(node.me) == 0 for node in stalling)


async def test_a_liar_that_drips_is_followed_no_longer_than_it_moves(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    false = b"?" + DATA[1:]
    async with swarm(tmp_path, 3) as (here, liar, honest):
        Slow(liar, false, stalls_at=3)
        digest = honest.blobs.write(DATA)
        before = trio.current_time()
        await here.exchange.fetch(digest, length=len(DATA), holders=[liar.me, honest.me])
        assert trio.current_time() - before < 2 * STALL
        assert here.blobs.read(digest, len(DATA)) == DATA
        assert here.reputation.strikes(honest.me) == 0
