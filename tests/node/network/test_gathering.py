"""Which chunk is asked of which holder: pure, the test owns the clock."""

import random

from hypothesis import given
from hypothesis import strategies as st

from dipaco.node.network.gathering import AHEAD, PATIENCE, WINDOW, Gathering
from dipaco.protocol.wire.digest import sha256
from dipaco.protocol.wire.messages import Outline
from tests.node.network.peers import PEERS

ANNA, BERT, CARA = PEERS[:3]


def gathering(chunks: int, inherited: int = 0) -> Gathering:
    outline = Outline(length=chunks, chunk=1, digests=(sha256(b""),) * chunks)
    return Gathering(outline, inherited=inherited)


def test_holders_are_asked_for_different_chunks_the_lowest_first() -> None:
    now = gathering(5)
    now.join(ANNA, 0.0)
    now.join(BERT, 0.0)
    asked = [(who, now.claim(who, 0.0)) for who in (ANNA, BERT, ANNA, BERT, ANNA)]
    assert asked == [(ANNA, 0), (BERT, 1), (ANNA, 2), (BERT, 3), (ANNA, None)]


def test_what_a_holder_that_left_owed_is_asked_of_another() -> None:
    now = gathering(3)
    now.join(ANNA, 0.0)
    assert (now.claim(ANNA, 0.0), now.claim(ANNA, 0.0)) == (0, 1)
    now.leave(ANNA)
    now.join(BERT, 1.0)
    assert (now.claim(BERT, 1.0), now.claim(BERT, 1.0)) == (0, 1)


def test_an_overdue_chunk_is_asked_of_an_idle_holder_and_counts_once() -> None:
    now = gathering(1)
    now.join(ANNA, 0.0)
    now.join(BERT, 0.0)
    assert now.claim(ANNA, 0.0) == 0
    assert now.claim(BERT, PATIENCE - 0.1) is None
    assert now.claim(BERT, PATIENCE) == 0
    assert now.arrived(BERT, 0, b"x", PATIENCE + 1)
    now.wrote()
    assert now.complete
    assert not now.arrived(ANNA, 0, b"x", PATIENCE + 2)


def test_a_slow_holder_takes_over_from_none_that_is_as_slow() -> None:
    now = gathering(3)
    now.join(ANNA, 0.0)
    now.join(BERT, 0.0)
    assert (now.claim(ANNA, 0.0), now.claim(BERT, 0.0), now.claim(ANNA, 0.0)) == (0, 1, 2)
    now.arrived(BERT, 1, b"x", 5.0)  # Bert's own pace: 5 s
    assert now.claim(BERT, 14.9) is None
    assert now.claim(BERT, 15.0) == 0


@given(st.integers(0, 30), st.integers(0, 1 << 30), st.integers(0, 5))
def test_every_chunk_is_written_once_in_order_while_one_holder_sends(
    chunks: int, seed: int, inherited: int
) -> None:
    chance, inherited = random.Random(seed), min(inherited, chunks)
    now, time, written = gathering(chunks, inherited), 0.0, []
    silent = {ANNA: chance.random() < 0.5, BERT: chance.random() < 0.5, CARA: False}
    for who in silent:
        now.join(who, time)
    while not now.complete:
        time += chance.choice((0.1, 1.0, PATIENCE))
        assert time < 100 + 40 * chunks
        who = chance.choice(list(silent))
        while (index := now.claim(who, time)) is not None:
            assert now.written <= index < now.written + WINDOW
        owed = list(now.members[who].owed)
        assert len(owed) <= AHEAD
        if owed and not silent[who]:
            now.arrived(who, owed[0], bytes([owed[0]]), time)
        while (chunk := now.next_to_write()) is not None:
            written.append(chunk.data[0])
            now.wrote()
    assert written == list(range(inherited, chunks))
