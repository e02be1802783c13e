"""Rules of this file: every verdict under every policy; what strangers say decides nothing else."""

from itertools import product
from typing import get_args

import pytest

from dipaco.protocol.routing.decision import (
    Decision,
    ReceiptTally,
    decide,
    may_pass,
    tally_receipts,
)
from dipaco.protocol.routing.policy import Policy
from dipaco.protocol.routing.verdict import LocalFailure, Outcome, SourceFailure, Stage, Verdict
from dipaco.protocol.wire.identity import PeerId
from tests.values import peer

TRAIN, WAIT, STOP = Decision.TRAIN, Decision.WAIT, Decision.STOP
V, R, U = Outcome.VERIFIED, Outcome.REFUTED, Outcome.UNVERIFIABLE
REQUIRE, WARN, THREE = map(Policy.parse, ("require", "warn", "receipts:3"))
STAGES: tuple[Stage, ...] = get_args(Stage)
HEARD = [ReceiptTally(verified=v, refuted=r) for v, r in product((0, 2, 3, 999), (0, 1))]


def verdict(outcome: Outcome, stage: Stage = "source") -> Verdict:
    return Verdict(outcome=outcome, stage=stage, reason="because")


@pytest.mark.parametrize("policy", [REQUIRE, WARN, THREE], ids=str)
def test_no_policy_and_no_receipts_train_on_a_refuted_spec_or_doubt_a_verified_one(
    policy: Policy,
) -> None:
    for stage, heard, passing in product(STAGES, HEARD, (True, False)):
        assert decide(verdict(R, stage), policy, heard, passing=passing) is STOP
        assert decide(verdict(V, stage), policy, heard, passing=passing) is TRAIN


@pytest.mark.parametrize("policy", [REQUIRE, WARN, THREE], ids=str)
def test_what_cannot_be_materialised_is_trained_by_no_policy(policy: Policy) -> None:
    for heard in HEARD:
        assert decide(verdict(U, "unknown-kind"), policy, heard, passing=False) is STOP


@pytest.mark.parametrize("heard", HEARD)
def test_require_waits_for_what_may_pass_and_stops_at_what_will_not(heard: ReceiptTally) -> None:
    assert decide(verdict(U), REQUIRE, heard, passing=True) is WAIT
    for stage in ("source", "source-differs", "too-few-documents", "no-fit", "local"):
        assert decide(verdict(U, stage), REQUIRE, heard, passing=False) is STOP


def test_warn_trains_on_whatever_else_cannot_be_verified() -> None:
    for stage, passing in product(set(STAGES) - {"unknown-kind"}, (True, False)):
        assert decide(verdict(U, stage), WARN, ReceiptTally(refuted=9), passing=passing) is TRAIN


@pytest.mark.parametrize("passing", [True, False])
@pytest.mark.parametrize(
    ("heard", "expected"),
    [
        (ReceiptTally(), WAIT),
        (ReceiptTally(verified=2), WAIT),
        (ReceiptTally(verified=3), TRAIN),
        (ReceiptTally(verified=4), TRAIN),
    ],
)
def test_receipts_trains_when_enough_others_verified_and_waits_for_them_till_then(
    heard: ReceiptTally, expected: Decision, passing: bool
) -> None:
    assert decide(verdict(U), THREE, heard, passing=passing) is expected


def test_a_single_refutation_outweighs_every_receipt() -> None:
    heard = ReceiptTally(verified=999, refuted=1)
    assert decide(verdict(U), THREE, heard, passing=False) is STOP
    assert decide(verdict(U), THREE, heard, passing=True) is WAIT  # for our own derivation


def test_nobody_honest_can_have_verified_a_spec_without_a_fit() -> None:
    assert decide(verdict(U, "no-fit"), THREE, ReceiptTally(verified=9), passing=False) is STOP


def said(**outcomes: Outcome) -> dict[PeerId, Outcome]:
    return {peer(name): outcome for name, outcome in outcomes.items()}


def test_the_word_of_the_author_and_our_own_are_no_second_opinion() -> None:
    heard = tally_receipts(
        said(anna=V, scheduler=V, me=V, bert=R, cara=V),
        apart={peer("scheduler"), peer("me")},
        members=(),
    )
    assert heard == ReceiptTally(verified=2, refuted=1)


def test_where_members_are_listed_strangers_can_neither_vouch_nor_veto() -> None:
    heard = tally_receipts(
        said(anna=V, bert=V, sybil1=V, sybil2=V, mallory=R),
        apart=(),
        members=(peer("anna"), peer("bert"), peer("cara")),
    )
    assert heard == ReceiptTally(verified=2)


def test_what_is_away_or_broke_may_pass_and_what_the_pinned_files_hold_does_not() -> None:
    assert may_pass(SourceFailure(stage="source", reason="503"))
    assert may_pass(SourceFailure(stage="tokenizer", reason="nobody has it"))
    assert may_pass(LocalFailure(reason="out of memory"))
    assert not may_pass(SourceFailure(stage="source", reason="no text column", lasting=True))


@pytest.mark.parametrize("text", ["require", "warn", "receipts:1", "receipts:999"])
def test_a_policy_reads_as_it_is_written(text: str) -> None:
    assert str(Policy.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "never", "receipts", "receipts:", "receipts:0", "receipts:1000", "receipts:3\n"]
)
def test_another_policy_is_no_policy(text: str) -> None:
    with pytest.raises(ValueError, match="is not require, warn or receipts:Q"):
        Policy.parse(text)
