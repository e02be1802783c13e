"""A proof that a scheduler signed two ledgers goes from node to node, and convicts nobody else."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dipaco.node.runs.proofs import PROOF
from dipaco.node.runs.store import RunStore
from dipaco.node.storage.journal import MAX_PROOF, Journal
from dipaco.protocol.errors import Refusal, RemoteProtocolError, SignerFault, Unavailable
from dipaco.protocol.run.manifest import run_id
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.digest import sha256
from dipaco.protocol.wire.messages import Item
from dipaco.protocol.wire.signed import Signed, sign
from dipaco.protocol.work.kinds import Evaluated, Evaluation
from dipaco.protocol.work.ledger import Equivocation, SpecAdopted
from tests.kept import encoded, kept_chain, kept_manifest, seeded_of
from tests.values import digest, key, manifest, peer

VALUE = manifest()
RUN = run_id(VALUE)
ADOPTED = SpecAdopted(epoch=0, spec=digest("spec"))


def evaluated(nll: float) -> Evaluated:
    found = Evaluation(documents=1, tokens=2, nll=nll)
    return Evaluated(path=0, version=0, peer=peer("anna"), evaluation=found)


CHAIN = kept_chain(VALUE, ADOPTED, seeded_of(VALUE), evaluated(3.0))
OTHER = kept_chain(VALUE, ADOPTED, seeded_of(VALUE), evaluated(4.0))
PROVEN = encode(Equivocation(one=CHAIN[2], other=OTHER[2]))


@pytest.fixture
def journals(tmp_path: Path) -> Iterator[list[Journal]]:
    opened = [Journal.open(tmp_path / f"{name}.sqlite") for name in ("one", "two")]
    yield opened
    for journal in opened:
        journal.close()


def store_of(journal: Journal) -> RunStore:
    store = RunStore(journal, peer("anna"))
    store.offer("manifest", encode(sign(VALUE, key("owner"))))
    store.keep(RUN)
    return store


def proofs(store: RunStore) -> list[Item]:
    return [item for item in store.inventory() if item.kind == PROOF]


def test_a_proof_that_one_node_finds_convicts_at_all_and_over_restarts(
    journals: list[Journal],
) -> None:
    finder, other = map(store_of, journals)
    finder.offer_ledger(RUN, encoded(CHAIN))
    with pytest.raises(SignerFault):
        finder.offer_ledger(RUN, encoded(OTHER))
    (item,) = proofs(finder)
    assert other.lacks(item) and not finder.lacks(item)
    data = finder.read(PROOF, RUN, item.digest)
    assert data is not None and sha256(data) == item.digest
    other.offer(PROOF, data, run=RUN)
    other.offer(PROOF, data, run=RUN)  # once more
    assert other.runs[RUN].faulty == {peer("scheduler")} and other.runs[RUN].fault
    assert proofs(other) == [item] and not other.lacks(item)
    again = RunStore(journals[1], peer("anna"))
    assert again.runs[RUN].faulty == {peer("scheduler")} and proofs(again) == [item]


def bent() -> Signed:
    signature = bytes(64)
    return Signed(body=OTHER[2].body, public_key=OTHER[2].public_key, signature=signature)


BAD: dict[str, tuple[bytes, type[Exception], str]] = {
    "one record twice": (
        encode(Equivocation(one=CHAIN[2], other=CHAIN[2])),
        RemoteProtocolError,
        "do not contradict",
    ),
    "records that follow each other": (
        encode(Equivocation(one=CHAIN[1], other=CHAIN[2])),
        RemoteProtocolError,
        "do not contradict",
    ),
    "a forged signature": (
        encode(Equivocation(one=CHAIN[2], other=bent())),
        RemoteProtocolError,
        "signature",
    ),
    "records of another signer": (
        encode(
            Equivocation(
                one=kept_chain(VALUE, ADOPTED, by="mallory")[0],
                other=kept_chain(VALUE, evaluated(1.0), by="mallory")[0],
            )
        ),
        RemoteProtocolError,
        "did not sign both",
    ),
    "garbage": (b"\xa1", RemoteProtocolError, "."),
    "another run": (
        encode(
            Equivocation(
                one=kept_chain(kept_manifest(), ADOPTED)[0],
                other=kept_chain(kept_manifest(), evaluated(1.0))[0],
            )
        ),
        Unavailable,
        "not known",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_what_proves_nothing_convicts_nobody(journals: list[Journal], what: str) -> None:
    store, (data, error, words) = store_of(journals[0]), BAD[what]
    with pytest.raises(error, match=words):
        store.offer(PROOF, data)
    assert not store.runs[RUN].faulty and store.runs[RUN].fault is None and not proofs(store)


def test_a_proof_that_is_too_large_to_keep_is_not_taken_in(journals: list[Journal]) -> None:
    store, whole = store_of(journals[0]), CHAIN[2]
    large = Signed(body=bytes(MAX_PROOF), public_key=whole.public_key, signature=whole.signature)
    with pytest.raises(Refusal, match="at most"):
        store.offer(PROOF, encode(Equivocation(one=whole, other=large)))


def test_a_proof_listed_under_another_run_is_the_messengers_fault(
    journals: list[Journal],
) -> None:
    with pytest.raises(RemoteProtocolError, match="another run"):
        store_of(journals[0]).offer(PROOF, PROVEN, run=run_id(kept_manifest()))
