"""Which keepers hold a blob, for any keepers and losses of them."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from dipaco.protocol.wire.digest import sha256
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.placement import holders, order, share
from tests.values import peer

KEEPERS = tuple(peer(f"keeper {number}") for number in range(7))
BLOBS = tuple(sha256(bytes([number])) for number in range(64))
alive_sets = st.sets(st.sampled_from(KEEPERS))
copies_of = st.integers(1, len(KEEPERS))


@given(alive_sets, copies_of)
def test_a_blob_has_its_copies_as_long_as_so_many_keepers_are_alive(
    alive: set[PeerId], copies: int
) -> None:
    for blob in BLOBS[:8]:
        found = holders(blob, KEEPERS, copies, alive)
        assert len(set(found)) == len(found) == min(copies, len(alive))
        assert set(found) <= alive


@given(st.sampled_from(KEEPERS), copies_of, st.permutations(KEEPERS))
def test_the_loss_of_a_keeper_moves_its_blobs_alone_each_to_one_other(
    lost: PeerId, copies: int, listed: list[PeerId]
) -> None:
    left = set(KEEPERS) - {lost}
    for blob in BLOBS[:8]:
        before = set(holders(blob, KEEPERS, copies, KEEPERS))
        after = set(holders(blob, listed, copies, left))
        assert before - {lost} <= after
        assert len(after - before) == (1 if lost in before and copies < len(KEEPERS) else 0)


@given(alive_sets, copies_of)
def test_the_shares_of_those_alive_are_what_has_to_be_held(alive: set[PeerId], copies: int) -> None:
    blobs = BLOBS[:8]
    shares = {me: share(me, blobs, KEEPERS, copies, alive) for me in KEEPERS if me in alive}
    for blob in blobs:
        assert {me for me, has in shares.items() if blob in has} == set(
            holders(blob, KEEPERS, copies, alive)
        )


def test_a_keeper_that_hears_of_nobody_holds_everything() -> None:
    assert share(KEEPERS[0], BLOBS, KEEPERS, 2, ()) == set(BLOBS)


def test_blobs_are_spread_over_the_keepers() -> None:
    first = Counter(order(sha256(b"%d" % number), KEEPERS)[0] for number in range(700))
    assert len(first) == len(KEEPERS) and max(first.values()) < 150
