"""Rules of this file: pure values; the ledger of two rounds, and entries that are made by hand."""

from msgspec import structs

from dipaco.protocol.run.modules import ModuleDigest
from dipaco.protocol.work.credits import credits_of
from dipaco.protocol.work.kinds import Evaluated, MomentsReplaced, Scored, Sheet
from dipaco.protocol.work.ledger import Entry
from tests.two_rounds import entries, whole_run
from tests.values import digest, peer

RUN = whole_run()
ANNA, BERT, CARL = peer("anna"), peer("bert"), peer("carl")


def test_each_round_of_a_path_counts_once_whatever_the_number_of_its_modules() -> None:
    anna, bert = credits_of(RUN, entries(RUN, 2))
    assert (anna.peer, anna.rounds, anna.steps) == (ANNA, 6, 6 * 2 + 2)  # and the seed model's
    assert (bert.peer, bert.rounds, bert.steps) == (BERT, 2, 2 * 2)
    assert anna.tokens == anna.steps * 2 * 48 and (anna.evaluations, bert.evaluations) == (0, 12)
    assert anna.improvement == 3 * (2.0 + 1.0) and bert.improvement == 2.0 + 1.0


def test_a_peer_that_only_scores_or_trains_again_is_on_the_board() -> None:
    moments = (ModuleDigest(module=RUN.topology.modules[0], digest=digest("m")),)
    more: list[Entry] = [
        MomentsReplaced(path=0, round=1, peer=CARL, moments=moments),
        Scored(path=0, window=0, peer=CARL, sheet=Sheet(digest=digest("s"), documents=3)),
    ]
    *_, carl = credits_of(RUN, [*entries(RUN, 1), *more])
    assert (carl.peer, carl.again, carl.scores, carl.steps, carl.improvement) == (CARL, 1, 1, 0, 0)


def test_losses_of_two_texts_are_not_compared() -> None:
    changed: list[Entry] = [
        structs.replace(each, evaluation=structs.replace(each.evaluation, documents=11))
        if isinstance(each, Evaluated) and each.version == 1
        else each
        for each in entries(RUN, 2)
    ]
    assert [each.improvement for each in credits_of(RUN, changed)] == [0.0, 0.0]


def test_an_empty_ledger_has_an_empty_board() -> None:
    assert credits_of(RUN, []) == ()
