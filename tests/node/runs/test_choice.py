"""The choice of a run: pure, from made-up offers."""

from typing import Any

import pytest

from dipaco.node.runs.choice import Choice, RunOffer, choose, missing_text, next_text, offers_text
from dipaco.protocol.run.invitation import Invitation
from dipaco.protocol.wire.address import Address
from dipaco.protocol.wire.digest import Digest, sha256, short
from dipaco.protocol.wire.identity import fingerprint_bytes
from tests.values import peer


def run(name: str, number: int = 0) -> Digest:
    return sha256(f"{name} {number}".encode())


def offer(name: str, number: int = 0, **facts: Any) -> RunOffer:
    return RunOffer(run=run(name, number), name=name, signer=peer(f"owner {number}"), **facts)


AA, BB = offer("aa"), offer("bb")
SEEDS_AA = offer("aa", of_seed=True, answers=True)
OLD_AA = offer("aa", over=True)


@pytest.mark.parametrize(
    ("offers", "chosen"),
    [
        ([], None),
        ([AA], "aa"),
        ([AA, BB], None),  # never a silent choice
        ([BB, SEEDS_AA], "aa"),  # a run that is only handed on keeps nobody from the seed's own
        ([offer("bb", of_seed=True), SEEDS_AA], None),
        ([OLD_AA, BB], "bb"),
        ([offer("aa", over=True, of_seed=True), BB], "bb"),
        ([OLD_AA], "aa"),  # to say that it is over
        ([offer("bb", over=True), offer("aa", over=True, of_seed=True)], "aa"),
    ],
)
def test_the_seeds_own_run_is_chosen_else_the_only_one(
    offers: list[RunOffer], chosen: str | None
) -> None:
    assert choose(offers).run == (run(chosen) if chosen else None)


def test_several_are_told_without_those_that_are_over() -> None:
    assert choose([AA, offer("old", over=True), BB]) == Choice(among=(AA, BB))


@pytest.mark.parametrize("last", [AA, OLD_AA])
def test_the_run_of_last_time_goes_before_all_others(last: RunOffer) -> None:
    assert choose([last, offer("bb", of_seed=True)], last=last.run).run == last.run
    assert choose([BB], last=last.run).run == BB.run  # it is not on offer here


def test_what_is_named_goes_before_the_run_of_last_time() -> None:
    assert choose([SEEDS_AA, BB], wanted=["bb"], last=SEEDS_AA.run).run == BB.run
    assert choose([SEEDS_AA, BB], wanted=[BB.run.hex()]).run == BB.run


def test_namesakes_are_told_apart_and_never_chosen_from() -> None:
    one, other = offer("aa", 1, of_seed=True, answers=True), offer("aa", 2)
    choice = choose([one, other, BB], wanted=["aa"])
    assert choice == Choice(among=(one, other))
    text = offers_text(choice.among)
    for each in (one, other):
        assert short(each.run) in text and each.signer[-4:] in text
    assert text.endswith("(its scheduler is away)") and "(its scheduler is connected)" in text
    assert choose([one, other], wanted=["aa"], last=other.run).run == other.run
    assert choose([one, other], wanted=[other.run.hex()[:12]]).run == other.run


def test_what_nobody_offers_is_told_with_what_is_on_offer() -> None:
    choice = choose([AA, BB], wanted=["nosuch"])
    assert choice == Choice(missing="nosuch")
    text = missing_text(choice.missing, [AA, BB])
    assert text.startswith(f"no run nosuch; on offer: aa {short(AA.run)}")
    assert "did you mean bb" in missing_text("bbb", [AA, BB])
    assert missing_text("nosuch", []) == "no run nosuch; on offer: none"


def test_of_a_list_the_first_that_is_not_over_is_chosen() -> None:
    wanted = ["nosuch", "aa", "bb"]
    assert choose([AA, BB], wanted=wanted).run == AA.run
    assert choose([OLD_AA, BB], wanted=wanted, last=OLD_AA.run).run == BB.run
    assert choose([OLD_AA], wanted=wanted) == Choice(OLD_AA.run, missing="nosuch")


def test_a_run_that_is_over_names_the_others() -> None:
    assert next_text(AA.run, [AA, offer("old", over=True)]) == "no other run is on offer"
    assert f"bb {short(BB.run)}" in next_text(AA.run, [AA, BB])
    many = [offer("cc", number) for number in range(11)]
    assert "3 more" in next_text(AA.run, many)


def invitation(offered: RunOffer) -> Invitation:
    address = Address.parse(f"/ip4/10.0.0.1/tcp/1/p2p/{peer('seed')}")
    return Invitation((address,), offered.run[:4], fingerprint_bytes(offered.signer))


def test_of_an_invitation_its_run_alone_is_chosen() -> None:
    invited = invitation(AA)
    assert choose([BB, AA], invited=invited) == Choice(AA.run)
    assert choose([BB, AA], last=BB.run, invited=invited) == Choice(AA.run)
    assert choose([SEEDS_AA, BB], invited=invitation(BB)) == Choice(BB.run)
    assert choose([OLD_AA, BB], invited=invited) == Choice(OLD_AA.run)  # to say that it is over
    assert choose([BB], invited=invited) == Choice(missing=AA.run[:4].hex())


def test_a_run_of_another_owner_with_the_same_beginning_is_not_the_invited_one() -> None:
    twin = RunOffer(run=AA.run, name="aa", signer=peer("mallory"))
    assert choose([twin], invited=invitation(AA)) == Choice(missing=AA.run[:4].hex())


def test_an_invitation_does_not_stand_for_the_signer_of_a_name() -> None:
    other = offer("aa", pinned=peer("the first"))
    assert choose([other], invited=invitation(other)).of_others == (other,)
    signers = (other.signer,)
    assert choose([other], invited=invitation(other), signers=signers) == Choice(other.run)
