"""Rules of this file: a home that keeps a proof, its file, and files that prove nothing; no
network."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from dipaco.cli.exits import Exit
from dipaco.node.runs.files import keep_run, sign_manifest, write_run
from dipaco.node.storage.files import Home
from dipaco.node.storage.journal import Journal, SavedProof
from dipaco.node.verification.proofs import ProofFile
from dipaco.protocol.wire.canonical import decode, encode
from dipaco.protocol.wire.signed import Signed, sign
from dipaco.protocol.work.ledger import Equivocation, LedgerRecord, SpecAdopted
from dipaco.protocol.work.terms import NO_RECORD
from tests.cli.shell import Shell
from tests.values import digest, key, manifest, peer

RUN = sign_manifest(manifest(), key("owner"))


def record(seq: int = 0, spec: str = "spec", who: str = "scheduler", **changes: object) -> Signed:
    entry = SpecAdopted(epoch=0, spec=digest(spec))
    made = LedgerRecord(run=RUN.id, term=0, seq=seq, previous=NO_RECORD, entry=entry)
    return sign(replace(made, **changes), key(who))


ONE, OTHER = record(), record(spec="another spec")


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, capsys)


def proof(shell: Shell, one: Signed = ONE, other: Signed = OTHER, name: str = "p") -> str:
    content = ProofFile(manifest=RUN.signed, proof=Equivocation(one=one, other=other))
    return shell.write(name, encode(content))


def keeping(home: Path, one: bytes = encode(ONE)) -> None:
    """Make a home whose journal has a proof about the run."""
    home.mkdir()
    keep_run(home, RUN)
    journal = Journal.open(Home.at(home).journal)
    journal.save_proof(SavedProof(RUN.id, "the scheduler signed two ledgers", one, encode(OTHER)))
    journal.close()


def test_a_proof_is_written_and_holds_with_nothing_but_its_file(shell: Shell) -> None:
    home, out = shell.folder / "home", str(shell.folder / "tiny.proof")
    keeping(home)
    code, said, _ = shell("proof", "export", "tiny", "--out", out, "--home", str(home))
    assert (code, said) == (Exit.OK, f"{out}: the scheduler signed two ledgers\n")
    code, said, _ = shell("proof", "check", out)
    assert code == Exit.OK
    assert said == (
        f"tiny (run {RUN.id.hex()}): {peer('scheduler')}, the scheduler of term 0, signed two "
        "records of number 0: two ledgers\n"
    )


def test_a_record_that_follows_another_one_is_a_proof_too(shell: Shell) -> None:
    later = record(seq=1, previous=OTHER.body_digest)
    code, said, _ = shell("proof", "check", proof(shell, ONE, later))
    assert code == Exit.OK
    assert "signed record 0, and a record 1 that follows another one: two ledgers" in said


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (ONE, ONE, "the records do not contradict each other"),
        (ONE, record(seq=1, previous=ONE.body_digest), "do not contradict"),
        (ONE, record(seq=2), "do not contradict"),
        (OTHER, record(who="second"), "the scheduler of term 0 did not sign both"),
        (ONE, record(term=1), "of two terms, 0 and 1"),
        (ONE, record(run=digest("another run")), "belongs to another run"),
        (ONE, replace(OTHER, signature=bytes(64)), "the signature of this LedgerRecord is wrong"),
    ],
)
def test_what_proves_nothing_is_refused_in_one_line(
    shell: Shell, one: Signed, other: Signed, words: str
) -> None:
    assert words in shell.fails(Exit.REFUSED, "proof", "check", proof(shell, one, other))


def test_a_proof_of_another_run_is_none_of_this_one(shell: Shell) -> None:
    other = sign_manifest(manifest(name="other"), key("owner"))
    write_run(shell.folder / "other.run", other)
    write_run(shell.folder / "tiny.run", RUN)
    file = proof(shell)
    said = shell.fails(Exit.USAGE, "proof", "check", file, "--run", str(shell.folder / "other.run"))
    assert f"is of run {RUN.id.hex()} (tiny), not of {other.id.hex()}" in said
    assert shell("proof", "check", file, "--run", str(shell.folder / "tiny.run"))[0] == Exit.OK


def test_files_that_are_no_proof_are_named(shell: Shell) -> None:
    data = Path(proof(shell)).read_bytes()
    for name, wrong in (
        ("cut", data[:-1]),
        ("empty", b""),
        ("longer", data + b"\0"),
        ("large", bytes(ProofFile.MOST_BYTES)),
        ("run", encode(RUN.signed)),
    ):
        said = shell.fails(Exit.REFUSED, "proof", "check", shell.write(name, wrong))
        assert f"{name}: not a proof, or damaged" in said
    assert "no such file" in shell.fails(Exit.USAGE, "proof", "check", "away").lower()
    content = decode(data, ProofFile)
    unowned = replace(content, manifest=sign(manifest(), key("scheduler")))
    said = shell.fails(Exit.REFUSED, "proof", "check", shell.write("unowned", encode(unowned)))
    assert "not by its owner" in said


def test_a_node_without_a_proof_that_stands_alone_says_so(shell: Shell) -> None:
    out, home = str(shell.folder / "x"), shell.folder / "home"
    keeping(home, one=b"")
    said = shell.fails(Exit.REFUSED, "proof", "export", "tiny", "--out", out, "--home", str(home))
    assert "shows only with the ledger" in said
    empty = shell.folder / "empty"
    empty.mkdir()
    keep_run(empty, RUN)
    said = shell.fails(Exit.USAGE, "proof", "export", "tiny", "--out", out, "--home", str(empty))
    assert "keeps no proof about tiny" in said
