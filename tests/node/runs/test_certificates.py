"""A run with keepers: records enter with the certificate of their head, and with nothing less."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dipaco.node.runs import certificates as module
from dipaco.node.runs.store import RunStore
from dipaco.node.storage.journal import Journal
from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.run.manifest import run_id
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.signed import Signed, sign
from dipaco.protocol.work.kinds import Evaluated, Evaluation
from dipaco.protocol.work.ledger import Entry, SpecAdopted
from dipaco.protocol.work.terms import Head
from tests.kept import certificate, cosigned, encoded, head, kept_chain, kept_manifest, seeded_of
from tests.values import digest, key, manifest, peer

VALUE = kept_manifest()
RUN = run_id(VALUE)
ADOPTED = SpecAdopted(epoch=0, spec=digest("spec"))


def evaluated(path: int) -> Evaluated:
    found = Evaluation(documents=1, tokens=2, nll=3.0)
    return Evaluated(path=path, version=0, peer=peer("anna"), evaluation=found)


ENTRIES: tuple[Entry, ...] = (ADOPTED, seeded_of(VALUE), *map(evaluated, range(4)))
CHAIN = kept_chain(VALUE, *ENTRIES)
HEAD = head(CHAIN[:2])
FINAL = certificate(RUN, ("kim", "ken"), HEAD)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal.open(tmp_path / "journal.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def store(journal: Journal) -> RunStore:
    made = RunStore(journal)
    made.offer("manifest", encode(sign(VALUE, key("owner"))))
    made.keep(RUN)
    return made


def length(store: RunStore) -> int:
    return store.runs[RUN].length


def test_records_with_their_certificate_are_final_over_a_restart_too(
    store: RunStore, journal: Journal
) -> None:
    store.offer_ledger(RUN, encoded(CHAIN[:2]), certificate=FINAL)
    assert length(store) == 2 and store.certificate(RUN) == FINAL
    store.offer_ledger(RUN, encoded(CHAIN[:2]), certificate=FINAL)  # once more
    again = RunStore(journal)
    assert length(again) == 2 and again.certificate(RUN) == FINAL
    assert again.runs[RUN].state.seeded


BAD: dict[str, Callable[[], tuple[Signed, ...]]] = {
    "without their certificate": tuple,
    "must": lambda: certificate(RUN, ("kim",), HEAD),
    "each once": lambda: (cosigned(RUN, "kim", HEAD),) * 2,
    "should have signed": lambda: tuple(
        cosigned(RUN, name, HEAD, by="mallory") for name in sorted(("kim", "ken"), key=peer)
    ),
    "is not a keeper": lambda: certificate(RUN, ("kim", "mallory"), HEAD),
    "of another run": lambda: certificate(run_id(manifest()), ("kim", "ken"), HEAD),
    "do not end where": lambda: certificate(RUN, ("kim", "ken"), head(CHAIN[:3])),
    "different heads": lambda: tuple(
        cosigned(RUN, name, head(CHAIN[: 2 + (name == "ken")]))
        for name in sorted(("kim", "ken"), key=peer)
    ),
}


@pytest.mark.parametrize("words", BAD)
def test_whoever_sends_records_with_a_bad_certificate_answers_for_it(
    store: RunStore, words: str
) -> None:
    with pytest.raises(RemoteProtocolError, match=words):
        store.offer_ledger(RUN, encoded(CHAIN[:2]), certificate=BAD[words]())
    assert length(store) == 0 and store.certificate(RUN) == ()


def test_a_bent_cosignature_makes_nothing_final(store: RunStore) -> None:
    bent = bytearray(FINAL[1].signature)
    bent[0] ^= 1
    other = Signed(body=FINAL[1].body, public_key=FINAL[1].public_key, signature=bytes(bent))
    with pytest.raises(RemoteProtocolError, match="signature"):
        store.offer_ledger(RUN, encoded(CHAIN[:2]), certificate=(FINAL[0], other))
    assert length(store) == 0


def test_records_beyond_the_certified_head_are_not_taken_in(store: RunStore) -> None:
    with pytest.raises(RemoteProtocolError, match="do not end where"):
        store.offer_ledger(RUN, encoded(CHAIN[:3]), certificate=FINAL)
    assert length(store) == 0


def test_a_head_of_another_term_certifies_no_record(store: RunStore) -> None:
    other = Head(term=1, length=2, digest=HEAD.digest)
    with pytest.raises(RemoteProtocolError, match="do not end where"):
        store.offer_ledger(
            RUN, encoded(CHAIN[:2]), certificate=certificate(RUN, ("kim", "ken"), other)
        )


def test_a_run_without_keepers_takes_no_certificate(journal: Journal) -> None:
    plain, store = manifest(), RunStore(journal)
    store.offer("manifest", encode(sign(plain, key("owner"))))
    records = kept_chain(plain, ADOPTED)
    made = certificate(run_id(plain), ("kim", "ken"), head(records))
    with pytest.raises(RemoteProtocolError, match="without keepers"):
        store.offer_ledger(run_id(plain), encoded(records), certificate=made)


@pytest.mark.parametrize(("most", "parts"), [(128, [6]), (2, [2, 2, 2]), (3, [3, 3])])
def test_every_part_that_is_read_ends_at_a_head_that_is_final(
    tmp_path: Path,
    store: RunStore,
    monkeypatch: pytest.MonkeyPatch,
    most: int,
    parts: list[int],
) -> None:
    monkeypatch.setattr(module, "MAX_FINAL", most)
    for upto in range(1, len(CHAIN) + 1):
        made = certificate(RUN, ("kay", "ken"), head(CHAIN[:upto]))
        store.offer_ledger(RUN, encoded(CHAIN[upto - 1 : upto]), certificate=made)
    other = Journal.open(tmp_path / "other.sqlite")
    late = RunStore(other)
    late.offer("manifest", encode(sign(VALUE, key("owner"))))
    late.keep(RUN)
    read = []
    while length(late) < len(CHAIN):
        part = store.read_part(RUN, length(late), 1 << 18)
        assert isinstance(part.certificate, tuple)
        late.offer_ledger(RUN, part.records, first=length(late), certificate=part.certificate)
        read.append(len(part.records))
    assert read == parts
    assert store.read_part(RUN, len(CHAIN), 1 << 18).records == ()
    other.close()


def test_a_part_of_too_many_records_is_refused_unread(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_FINAL", 1)
    with pytest.raises(RemoteProtocolError, match="at most 1"):
        store.offer_ledger(RUN, encoded(CHAIN[:2]), certificate=FINAL)
