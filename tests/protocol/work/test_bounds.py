"""The bounds on figures that are handed in.

1. Whatever honest work can give is within them.
2. The next value beyond a bound is refused, with the reason.
3. The fold of a ledger refuses the same figures.
"""

import math
from typing import Any

import msgspec
import pytest

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.run.modules import ModuleDigest
from dipaco.protocol.work.bounds import (
    ASLEEP_SECONDS,
    most_nats,
    wrong_evaluation,
    wrong_figures,
    wrong_seconds,
    wrong_seed,
)
from dipaco.protocol.work.kinds import Evaluated, Evaluation, Seeded, SeedResult
from dipaco.protocol.work.ledger import SpecAdopted
from dipaco.protocol.work.run_state import RunState
from tests.values import digest, manifest, peer

RUN = manifest()
LONGEST = RUN.model.context - RUN.routing.prefix
DUE = 2 * RUN.training.batch * RUN.model.context
UNIFORM = math.log(RUN.tokenizer.vocabulary)


def evaluation(documents: int, tokens: int, nll: float) -> str:
    found = Evaluation(documents=documents, tokens=tokens, nll=nll)
    return wrong_evaluation(RUN, found)


def with_bytes(tokens: int, size: int) -> Evaluation:
    documents = -(-tokens // LONGEST)
    return Evaluation(documents=documents, tokens=tokens, nll=UNIFORM * tokens, bytes=size)


def seed_result(**changes: Any) -> SeedResult:
    plain = SeedResult(
        token=bytes(16), states=(), tokens=DUE, seconds=5.0, loss_first=9.0, loss_last=4.0
    )
    return msgspec.structs.replace(plain, **changes)


def seeded(**changes: str) -> Seeded:
    """Return the entry of a seed model; `changes` give modules another state."""
    top = RUN.topology
    names = {module: changes.get(module, top.counterpart(module)) for module in top.modules}
    return Seeded(
        peer=peer("anna"),
        states=tuple(ModuleDigest(module=m, digest=digest(name)) for m, name in names.items()),
    )


@pytest.mark.parametrize(
    ("documents", "tokens", "nll"),
    [(0, 0, 0.0), (1, 1, UNIFORM), (3, 3 * LONGEST, 1e-3), (20, 100, 100 * most_nats(RUN))],
)
def test_what_held_out_documents_can_have_passes(documents: int, tokens: int, nll: float) -> None:
    assert evaluation(documents, tokens, nll) == ""


@pytest.mark.parametrize(
    ("documents", "tokens", "nll", "why"),
    [
        (0, 1, 0.0, "1 tokens of 0 documents"),
        (1, 1, 0.0, "0 nats is none that 1 tokens"),
        (2, 1, 1.0, "1 tokens of 2 documents"),
        (1, LONGEST + 1, 1.0, "of 1 documents"),
        (0, 0, 1.0, "none that 0 tokens can have"),
        (1, 1, most_nats(RUN) * 1.001, "none that 1 tokens can have"),
        (RUN.most_held_out + 1, 10**4, 1e4, "a window holds out at most"),
    ],
)
def test_no_other_evaluation_passes(documents: int, tokens: int, nll: float, why: str) -> None:
    assert why in evaluation(documents, tokens, nll)


def test_positions_before_the_first_scored_one_are_not_scored() -> None:
    first = RUN.routing.prefix + 8
    later = msgspec.structs.replace(RUN.routing, scored_from=first, min_tokens=first + 8)
    run = msgspec.structs.replace(RUN, routing=later)
    most = Evaluation(documents=1, tokens=LONGEST - 8, nll=10.0)
    assert wrong_evaluation(run, most) == ""
    more = msgspec.structs.replace(most, tokens=LONGEST - 7)
    assert "of 1 documents" in wrong_evaluation(run, more)


def test_a_run_without_held_out_documents_evaluates_none() -> None:
    routing = msgspec.structs.replace(RUN.routing, validation_bp=0)
    bare = msgspec.structs.replace(RUN, routing=routing)
    assert wrong_evaluation(bare, Evaluation(documents=0, tokens=0, nll=0.0)) == ""
    assert wrong_evaluation(bare, Evaluation(documents=1, tokens=1, nll=1.0))


def test_inner_steps_have_the_tokens_that_the_manifest_implies() -> None:
    assert wrong_figures(RUN, seed_result(), steps=2, idle=False) == ""
    for tokens in (0, DUE - 1, DUE + 1, 1 << 40):
        assert "train on" in wrong_figures(RUN, seed_result(tokens=tokens), steps=2, idle=True)


def test_only_a_path_without_a_document_takes_no_step() -> None:
    nothing = seed_result(tokens=0, seconds=0.0, loss_first=0.0, loss_last=0.0)
    assert wrong_figures(RUN, nothing, steps=2, idle=True) == ""
    assert wrong_figures(RUN, nothing, steps=2, idle=False)


@pytest.mark.parametrize("field", ["loss_first", "loss_last"])
def test_a_loss_has_the_bound_of_the_vocabulary(field: str) -> None:
    most = most_nats(RUN)
    assert wrong_figures(RUN, seed_result(**{field: most}), steps=2, idle=False) == ""
    beyond = seed_result(**{field: most * 1.001})
    assert "nats per token" in wrong_figures(RUN, beyond, steps=2, idle=False)


def test_inner_steps_take_no_longer_than_their_lease_is_old() -> None:
    assert wrong_seconds(seed_result(seconds=5.0), elapsed=5.0) == ""
    assert wrong_seconds(seed_result(seconds=5.0 + ASLEEP_SECONDS), elapsed=5.0) == ""
    assert "5 s old" in wrong_seconds(seed_result(seconds=6.0 + ASLEEP_SECONDS), elapsed=5.0)


def test_version_zero_of_a_module_is_that_of_its_counterpart() -> None:
    assert wrong_seed(RUN, seeded()) == ""
    assert "version 0 of L1.E1" in wrong_seed(RUN, seeded(**{"L1.E1": "other"}))


def test_a_ledger_with_an_impossible_figure_is_refused() -> None:
    ledger = RunState(RUN)
    ledger.apply(SpecAdopted(epoch=0, spec=digest("spec")))
    with pytest.raises(RemoteProtocolError, match="seed model is impossible"):
        ledger.apply(seeded(**{"L2.E1": "other"}))
    ledger.apply(seeded())
    free = Evaluation(documents=1, tokens=1, nll=0.0)
    with pytest.raises(RemoteProtocolError, match=r"version 0 of path 0: .* 1 tokens can have"):
        ledger.apply(Evaluated(path=0, version=0, peer=peer("anna"), evaluation=free))
    assert not ledger.evaluations


@pytest.mark.parametrize("tokens", [0, 1, 200])
def test_tokens_stand_for_no_more_bytes_than_the_tokenizers_file_has_for_each(tokens: int) -> None:
    most = tokens * RUN.tokenizer.size
    assert not wrong_evaluation(RUN, with_bytes(tokens, 0))
    assert not wrong_evaluation(RUN, with_bytes(tokens, most))
    wrong = wrong_evaluation(RUN, with_bytes(tokens, most + 1))
    assert wrong == f"the evaluation's {most + 1} bytes are more than {tokens} tokens stand for"
    with pytest.raises(ValueError, match="bytes: "):
        with_bytes(tokens, -1)
