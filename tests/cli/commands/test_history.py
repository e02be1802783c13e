"""Rules of this file: the ledger of a run with keepers and two terms, with outer steps as they were
taken, in a file and beside the blobs of a home; then with one thing changed."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from dipaco.cli.exits import Exit
from dipaco.node.aggregation.outer import take_outer_step
from dipaco.node.jobs.values import OuterStep
from dipaco.node.runs.files import keep_run, sign_manifest
from dipaco.node.runs.ledger_file import Told, read_ledger, write_ledger
from dipaco.node.runs.store import RunStore
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.files import Home
from dipaco.node.storage.journal import Journal
from dipaco.protocol.run.manifest import Manifest, run_id
from dipaco.protocol.run.modules import ModuleDigest, ModuleId
from dipaco.protocol.tensors.delta import encode_delta
from dipaco.protocol.wire.canonical import decode, encode
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.signed import Signed, open_signed, sign
from dipaco.protocol.work.kinds import Seeded
from dipaco.protocol.work.ledger import (
    Contribution,
    Entry,
    LedgerRecord,
    ModuleUpdated,
    SpecAdopted,
    TermBegun,
    TermGranted,
)
from dipaco.protocol.work.terms import NO_RECORD, Head, OwnersGrant, Promise
from tests.cli.shell import Shell
from tests.kept import KEEPERS, certificate, kept_manifest
from tests.values import digest, key, manifest, peer

SCHEDULERS = ("scheduler", "second")


def the_run() -> Manifest:
    training = structs.replace(manifest().training, inner_state="reset")
    return kept_manifest(schedulers=SCHEDULERS, training=training)


MANIFEST = the_run()
RUN = run_id(MANIFEST)
TOP = MANIFEST.topology


@dataclass
class Ledger:
    """A chain that grows."""

    records: tuple[Signed, ...] = ()
    term: int = 0

    @property
    def head(self) -> Head:
        return Head(term=self.term, length=len(self.records), digest=self.records[-1].body_digest)

    def add(self, entry: Entry, *, term: int | None = None, by: str = "") -> "Ledger":
        self.term = self.term if term is None else term
        previous = self.records[-1].body_digest if self.records else NO_RECORD
        record = LedgerRecord(
            run=RUN, term=self.term, seq=len(self.records), previous=previous, entry=entry
        )
        self.records += (sign(record, key(by or SCHEDULERS[self.term % 2])),)
        return self

    def begin(self, promises: Sequence[Signed]) -> "Ledger":
        ordered = tuple(sorted(promises, key=lambda each: each.signer))
        return self.add(TermBegun(promises=ordered), term=1)

    def promise(self, name: str, *, by: str = "", head: Head | None = None) -> Signed:
        promise = Promise(run=RUN, term=1, keeper=peer(name), head=head or self.head)
        return sign(promise, key(by or name))


def steps(blobs: BlobStore, states: Mapping[ModuleId, Digest]) -> list[ModuleUpdated]:
    """Return the outer steps of round 1, from deltas that are drawn."""
    chance, made = np.random.default_rng(1), []
    for module in TOP.modules:
        elements = TOP.elements(module)
        contributions = tuple(
            Contribution(
                path=path,
                peer=peer("anna"),
                delta=blobs.write(
                    encode_delta(chance.standard_normal(elements).astype(np.float32), "f32")
                ),
                weight=path + 1,
            )
            for path in TOP.paths_through(module)
        )
        job = OuterStep(
            manifest=MANIFEST,
            module=module,
            state=states[module],
            momentum=None,
            contributions=contributions,
        )
        found = take_outer_step(blobs, job)
        made.append(
            ModuleUpdated(
                module=module,
                version=1,
                contributions=contributions,
                state=found.state,
                momentum=found.momentum,
            )
        )
    return made


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("history") / "home"
    folder.mkdir()
    keep_run(folder, sign_manifest(MANIFEST, key("owner")))
    return folder


@pytest.fixture(scope="module")
def entries(home: Path) -> list[Entry]:
    """The spec, the seed model, and round 1."""
    blobs = BlobStore(Home.at(home).blobs)
    states = {
        m: blobs.write_array(np.full(TOP.elements(m), 0.5, dtype=np.float32)) for m in TOP.modules
    }
    listed = tuple(ModuleDigest(module=m, digest=states[m]) for m in TOP.modules)
    seeded = Seeded(peer=peer("anna"), states=listed)
    return [SpecAdopted(epoch=0, spec=digest("spec")), seeded, *steps(blobs, states)]


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, capsys)


def honest(entries: Sequence[Entry]) -> Ledger:
    """Return the ledger: the second scheduler takes over before round 1."""
    made = Ledger()
    for entry in entries[:2]:
        made.add(entry)
    made.begin([made.promise("kim"), made.promise("kay")])
    for entry in entries[2:]:
        made.add(entry)
    return made


def told(ledger: Ledger, signers: Sequence[str] = KEEPERS[:2]) -> Told:
    proof = certificate(RUN, signers, ledger.head) if signers else ()
    run = sign_manifest(MANIFEST, key("owner"))
    return Told(run, [encode(each) for each in ledger.records], proof)


def written(shell: Shell, what: Told) -> str:
    path = shell.folder / "tiny.ledger"
    write_ledger(path, what)
    return str(path)


def check(shell: Shell, what: Told, home: Path) -> tuple[int, str, str]:
    return shell("verify", "--history", written(shell, what), "--home", str(home))


def test_a_whole_history_is_checked_and_its_outer_steps_are_taken_again(
    shell: Shell, home: Path, entries: list[Entry]
) -> None:
    before = sorted(Home.at(home).blobs.rglob("*"))
    code, said, _ = check(shell, told(honest(entries)), home)
    assert code == Exit.OK
    lines = said.splitlines()
    assert lines[0].startswith(f"tiny (run {RUN.hex()}): {len(entries) + 1} records, each signed")
    assert lines[1:-1] == [
        f"term 0, from record 0: {peer('scheduler')}",
        f"term 1, from record 2: {peer('second')}, with the promises of 2 keepers",
        f"final: the first {len(entries) + 1} records, signed by 2 keepers",
        f"{len(TOP.modules)} outer steps taken again: all give the ledger's digests",
    ]
    assert sorted(Home.at(home).blobs.rglob("*")) == before, "nothing is written"


def test_a_file_keeps_what_it_is_told(shell: Shell, entries: list[Entry]) -> None:
    for signers in (KEEPERS[:2], ()):
        what = told(honest(entries), signers)
        assert read_ledger(Path(written(shell, what))) == what


def test_what_cannot_be_checked_is_said(shell: Shell, tmp_path: Path, entries: list[Entry]) -> None:
    empty = tmp_path / "home"
    code, said, _ = check(shell, told(honest(entries), ()), empty)
    assert code == Exit.UNVERIFIABLE
    last, modules = len(entries), len(TOP.modules)
    assert f"not checked: whether records 0 to {last} are final: no certificate" in said
    assert f"not checked: {modules} of {modules} outer steps: their blobs are not here" in said


def test_a_ledger_that_goes_on_after_its_certificate_is_final_up_to_it(
    shell: Shell, home: Path, entries: list[Entry]
) -> None:
    short = honest(entries[:-1])
    long = told(honest(entries))
    code, said, _ = check(shell, replace(long, certificate=told(short).certificate), home)
    last = len(entries)
    assert code == Exit.UNVERIFIABLE
    assert f"final: the first {last} records, signed by 2 keepers" in said
    assert f"whether records {last} to {last} are final" in said


def test_another_outer_step_than_the_contributions_give_is_found(
    shell: Shell, home: Path, entries: list[Entry]
) -> None:
    step = entries[3]
    assert isinstance(step, ModuleUpdated)
    for changed in (
        structs.replace(step, state=digest("another")),
        structs.replace(step, momentum=digest("another")),
        structs.replace(
            step, contributions=tuple(structs.replace(c, weight=9) for c in step.contributions)
        ),
        structs.replace(
            step, contributions=tuple(structs.replace(c, weight=0) for c in step.contributions)
        ),
    ):
        ledger = honest([*entries[:3], changed])
        code, _, err = check(shell, told(ledger), home)
        if code == Exit.OK:
            assert len(step.contributions) == 1, "one path alone has the whole weight"
            continue
        assert code == Exit.REFUSED and err.count("\n") == 1
        assert "record 4: the outer step of module" in err or "have weight 0" in err


def begun_by(*names: str, by: str = "") -> Callable[[Ledger], Ledger]:
    return lambda made: made.begin([made.promise(name, by=by) for name in names])


@pytest.mark.parametrize(
    ("begin", "words"),
    [
        (begun_by("kim"), "1 of 3 keepers signed, 2 must"),
        (begun_by("kim", "kim"), "each once"),
        (begun_by("kim", "eve"), "is not a keeper of the run"),
        (begun_by("kim", "kay", by="eve"), "is signed by"),
        (lambda made: made.add(SpecAdopted(epoch=1, spec=RUN), term=1), "does not begin it"),
        (lambda made: made.add(SpecAdopted(epoch=1, spec=RUN), by="second"), "not the scheduler"),
        (
            lambda made: made.begin(
                [
                    made.promise("kim"),
                    made.promise("kay", head=Head(term=0, length=1, digest=digest("fork"))),
                ]
            ),
            "of which neither has the other",
        ),
        (
            lambda made: made.add(
                TermGranted(
                    grant=sign(OwnersGrant(run=RUN, term=1, head=made.head), key("second"))
                ),
                term=1,
            ),
            "not signed by the run's owner",
        ),
    ],
)
def test_a_term_that_begins_without_right_is_found(
    begin: Callable[[Ledger], Ledger],
    words: str,
    shell: Shell,
    home: Path,
    entries: list[Entry],
) -> None:
    made = begin(Ledger().add(entries[0]).add(entries[1]))
    said = shell.fails(
        Exit.REFUSED, "verify", "--history", written(shell, told(made)), "--home", str(home)
    )
    assert "record 2: " in said and words in said


def test_a_term_that_the_owner_granted_is_told(
    shell: Shell, home: Path, entries: list[Entry]
) -> None:
    made = Ledger().add(entries[0]).add(entries[1])
    grant = sign(OwnersGrant(run=RUN, term=1, head=made.head), key("owner"))
    before = told(made).certificate
    made.add(TermGranted(grant=grant), term=1).add(entries[2])
    code, said, _ = check(shell, replace(told(made), certificate=before), home)
    assert code == Exit.OK and f"{peer('second')}, granted by the run's owner" in said
    assert "final: the first 4 records" in said  # from there on without keepers
    code, said, _ = check(shell, told(made, ()), home)
    assert code == Exit.UNVERIFIABLE and "whether records 0 to 3 are final" in said


def test_a_certificate_of_another_ledger_or_of_too_few_is_found(
    shell: Shell, home: Path, entries: list[Entry]
) -> None:
    right = told(honest(entries))
    fork = Ledger()
    for entry in (SpecAdopted(epoch=0, spec=digest("fork")), entries[1]):
        fork.add(entry)
    cases = (
        (replace(right, certificate=told(fork).certificate), "is of another ledger"),
        (replace(right, certificate=right.certificate[:1]), "1 of 3 keepers signed"),
        (replace(right, certificate=right.certificate[:1] * 2), "each once"),
        (replace(right, records=right.records[:3]), "it is cut off"),
    )
    for wrong, words in cases:
        file = written(shell, wrong)
        assert words in shell.fails(Exit.REFUSED, "verify", "--history", file, "--home", str(home))


def test_files_that_are_cut_damaged_or_of_another_run_are_named(
    shell: Shell, home: Path, entries: list[Entry]
) -> None:
    right = told(honest(entries))
    data = Path(written(shell, right)).read_bytes()
    other = sign_manifest(structs.replace(MANIFEST, name="other"), key("owner"))
    middle = decode(right.records[1], Signed)
    assert isinstance(open_signed(middle, LedgerRecord).entry, Seeded)
    damaged = structs.replace(middle, signature=bytes(64))
    foreign = Path(written(shell, replace(right, run=other))).read_bytes()
    forged = Path(
        written(shell, replace(right, records=[right.records[0], encode(damaged)]))
    ).read_bytes()
    for wrong, words in (
        (data[:-1], "damaged, or cut off"),
        (data[:20], "damaged, or cut off"),
        (data[:16], "ends before the manifest"),
        (foreign, "record 0: the record belongs to another run"),
        (forged, "record 1: the signature of this LedgerRecord is wrong"),
    ):
        file = shell.write("wrong.ledger", wrong)
        assert words in shell.fails(Exit.REFUSED, "verify", "--history", file, "--home", str(home))


def test_the_history_of_a_home_is_named_by_its_run(shell: Shell, home: Path) -> None:
    said = shell.fails(Exit.USAGE, "verify", "--history", "tiny", "--home", str(home))
    assert "has no ledger of tiny" in said
    [file] = (home / "runs").iterdir()
    said = shell.fails(Exit.USAGE, "verify", "--history", str(file), "--home", str(home))
    assert "has no ledger of tiny" in said
    code, _, err = shell("verify", "--history", "tiny", "--labels", "3", "--home", str(home))
    assert code == Exit.USAGE and "--history excludes" in err


def test_a_home_tells_its_own_ledger_and_writes_it_to_a_file(
    shell: Shell, tmp_path: Path, entries: list[Entry]
) -> None:
    right, home = told(honest(entries)), tmp_path / "own"
    home.mkdir()
    keep_run(home, right.run)
    journal = Journal.open(Home.at(home).journal)
    run_store = RunStore(journal)
    run_store.publish("manifest", right.run.signed)
    run_store.append_final(RUN, tuple(right.records), right.certificate)
    journal.close()
    code, said, _ = shell("verify", "--history", "tiny", "--home", str(home), "--json")
    report = json.loads(said)
    assert code == Exit.UNVERIFIABLE, "its blobs are not there"
    assert (report["records"], report["final"]) == (len(right.records), len(right.records))
    assert report["terms"] == [0, 1] and report["redone"] == 0
    assert report["unchecked"] == [
        f"{len(TOP.modules)} of {len(TOP.modules)} outer steps: their blobs are not here"
    ]
    out = tmp_path / "copy.ledger"
    shell("run", "ledger", "tiny", "--out", str(out), "--home", str(home))
    assert read_ledger(out) == right
