"""Blobs of a run from other volunteers first, and from their source last.

Rules of this file: as in test_exchange; all nodes are connected with each other.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.network.finding import (
    LEAST_SPEED,
    LONGEST_PAUSE,
    PATIENCE,
    STRANGERS_PATIENCE,
    Finder,
    Wanted,
    waits_for,
)
from dipaco.protocol.errors import Unavailable
from dipaco.protocol.wire.digest import sha256
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.messages import AskPresence, PresenceIs
from dipaco.protocol.work.placement import rank
from tests.node.network.peers import PEERS
from tests.node.network.test_exchange import DATA, Node
from tests.node.network.test_exchange import swarm as star

BLOB = Wanted(sha256(DATA), len(DATA), "state")
FIRST, SECOND = sorted(PEERS[1:3], key=lambda peer: rank(BLOB.digest, peer))


@asynccontextmanager
async def swarm(tmp_path: Path, count: int) -> AsyncIterator[list[Node]]:
    async with star(tmp_path, count) as nodes:
        for node in nodes:
            for other in nodes:
                await node.transport.dial(other.me, other.transport.addresses)
        await trio.sleep(1)
        yield nodes


def finder(node: Node) -> Finder:
    return Finder(node.exchange, node.rpc, node.reputation, node.transport.guard, me=node.me)


async def bring(node: Node, source: Node, wanted: list[Wanted] | None = None) -> None:
    seen: list[tuple[int, int]] = []
    await finder(node).bring(
        wanted or [BLOB], PEERS, lambda *now: seen.append(now), last=(source.me,)
    )
    assert not seen or seen[-1][0] == seen[-1][1]


def says(node: Node, *answers: str) -> None:
    async def presence(_peer: PeerId, _ask: AskPresence) -> PresenceIs:
        return PresenceIs(blobs=answers)  # type: ignore[arg-type]

    node.rpc.handle(AskPresence, presence)


async def test_many_that_want_a_blob_at_once_take_it_from_its_source_once(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(tmp_path, 8) as (source, *others):
        blobs = [source.blobs.write(bytes([n]) * len(DATA)) for n in range(4)]
        wanted = [Wanted(blob, len(DATA), "state") for blob in blobs]
        async with trio.open_nursery() as nursery:
            for node in others:
                nursery.start_soon(bring, node, source, wanted)
        assert all(node.blobs.has(blob) for node in others for blob in blobs)
        assert source.exchange.sent <= 2 * len(blobs) * len(DATA)  # of 7 times
        assert all(node.exchange.received_by_kind == {"state": 4 * len(DATA)} for node in others)


async def test_a_newcomer_takes_nothing_from_the_source_that_others_have(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(tmp_path, 4) as (source, one, other, newcomer):
        for node in (source, one, other):
            node.blobs.write(DATA)
        await bring(newcomer, source)
        assert newcomer.blobs.has(BLOB.digest)
        assert source.exchange.sent == 0
        assert one.exchange.sent and other.exchange.sent


@pytest.mark.parametrize("known", [False, True])
async def test_a_peer_that_promises_for_ever_delays_a_blob_for_a_bounded_time(
    autojump_clock: MockClock, tmp_path: Path, known: bool
) -> None:
    async with swarm(tmp_path, 3) as (source, liar, here):
        here.reputation.vouch(lambda peer: known)
        says(liar, "coming")
        source.blobs.write(DATA)
        before = trio.current_time()
        await bring(here, source)
        most = PATIENCE + len(DATA) / LEAST_SPEED if known else STRANGERS_PATIENCE
        assert trio.current_time() - before < most + LONGEST_PAUSE
        assert here.blobs.has(BLOB.digest)


async def test_a_peer_that_claims_what_it_lacks_costs_one_question(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(tmp_path, 3) as (source, boaster, here):
        says(boaster, "held")
        source.blobs.write(DATA)
        before = trio.current_time()
        await bring(here, source)
        assert trio.current_time() - before < 1
        assert here.reputation.strikes(boaster.me) == 0


async def test_an_answer_about_other_blobs_than_those_asked_for_is_a_breach(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(tmp_path, 3) as (source, liar, here):
        says(liar, "held", "held")
        source.blobs.write(DATA)
        await bring(here, source)
        assert here.blobs.has(BLOB.digest)
        assert here.reputation.strikes(liar.me) == 1


async def test_a_peer_of_before_that_does_not_know_the_question_is_passed_over(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(tmp_path, 3) as (source, old, here):
        del old.rpc._handlers[AskPresence.__name__]
        old.blobs.write(DATA)
        source.blobs.write(DATA)
        await bring(here, source)
        assert here.blobs.has(BLOB.digest) and here.reputation.strikes(old.me) == 0


async def test_a_blob_that_nobody_has_is_said_to_be_unavailable(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(tmp_path, 3) as (source, _other, here):
        with pytest.raises(Unavailable, match="cannot fetch blob"):
            await bring(here, source)
        assert not here.exchange._wanted


def nobody(_peer: PeerId) -> bool:
    return False


def test_of_those_that_want_a_blob_one_goes_first_and_the_others_wait() -> None:
    assert not waits_for(BLOB, {SECOND: "wanted"}, FIRST, nobody, 0.0)
    assert waits_for(BLOB, {FIRST: "wanted"}, SECOND, nobody, 0.0)
    assert waits_for(BLOB, {SECOND: "coming"}, FIRST, nobody, 0.0)
    assert not waits_for(BLOB, {FIRST: "absent"}, SECOND, nobody, 0.0)
    assert not waits_for(BLOB, {FIRST: "wanted"}, SECOND, nobody, STRANGERS_PATIENCE)
