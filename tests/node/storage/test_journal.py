"""Rules of this file: a real SQLite file; a second connection or process sees what was saved."""

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dipaco.node.storage import journal as module
from dipaco.node.storage.files import DiskFull
from dipaco.node.storage.journal import (
    MIGRATIONS,
    VERSION,
    Journal,
    SavedLease,
    SavedProof,
    SavedResult,
)
from dipaco.protocol.errors import ConfigError, LocalProtocolError, Unavailable
from dipaco.protocol.wire.digest import Digest, sha256
from dipaco.protocol.wire.identity import PeerId

RUN, OTHER = sha256(b"run"), sha256(b"other run")
ANNA, BOB = PeerId("12D3KooWAnna"), PeerId("12D3KooWBob")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    opened = Journal.open(path)
    yield opened
    opened.close()


def d(number: int) -> Digest:
    return sha256(number.to_bytes(8, "little"))


def lease(token: bytes, *, peer: PeerId = ANNA) -> SavedLease:
    return SavedLease(run=RUN, token=token, peer=peer, data=b"lease")


def put(journal: Journal, key: str, value: str) -> None:
    """Save something small under a name: any kind of value would do."""
    journal.save_verdict(RUN, sha256(key.encode()), value.encode())


def got(journal: Journal, key: str) -> str | None:
    data = journal.verdict(RUN, sha256(key.encode()))
    return data.decode() if data is not None else None


def accepted(round_: int, path: int, *, peer: PeerId = ANNA) -> SavedResult:
    return SavedResult(run=RUN, round=round_, path=path, peer=peer, data=b"result")


def test_what_is_saved_outlives_the_process_that_saved_it(path: Path) -> None:
    code = (
        "import os, pathlib, sys\n"
        "from dipaco.node.storage.journal import Journal\n"
        "journal = Journal.open(pathlib.Path(sys.argv[1]))\n"
        "with journal.saving():\n"
        "    journal.save_verdict(bytes(32), b'saved', b'yes')\n"
        "journal._db.execute('BEGIN')\n"
        "journal._db.execute(\"INSERT INTO verdicts VALUES ('', 'unsaved', 'no')\")\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == -9
    journal = Journal.open(path)
    saved = journal._db.execute("SELECT spec FROM verdicts").fetchall()
    assert saved == [(b"saved",)]
    journal.close()


def test_every_commit_is_synced(journal: Journal) -> None:
    assert journal._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert journal._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_block_is_saved_whole_or_not_at_all(journal: Journal) -> None:
    journal.save_lease(lease(b"t"))
    with pytest.raises(RuntimeError), journal.saving():
        journal.save_result(accepted(1, 0))
        journal.drop_lease(b"t")
        raise RuntimeError
    assert journal.results(RUN) == []
    assert journal.leases(RUN) == [lease(b"t")]


def test_nothing_of_a_block_is_seen_before_its_end(journal: Journal, path: Path) -> None:
    reader = Journal.open(path)
    with journal.saving():
        put(journal, "key", "value")
        with journal.saving():
            put(journal, "other", "value")
        assert got(reader, "other") is None
    assert got(reader, "other") == "value"
    reader.close()


def test_threads_take_turns(journal: Journal) -> None:
    inside, seen = threading.Event(), []

    def read() -> None:
        inside.wait()
        seen.append(got(journal, "b"))

    thread = threading.Thread(target=read)
    thread.start()
    with journal.saving():
        put(journal, "a", "1")
        inside.set()
        put(journal, "b", "2")
    thread.join()
    assert seen == ["2"]


def test_signed_values_are_kept_verbatim_once_and_in_order(journal: Journal) -> None:
    assert journal.save_signed("manifest", RUN, RUN, b"first")
    assert not journal.save_signed("manifest", RUN, RUN, b"again")
    assert journal.save_signed("manifest", OTHER, OTHER, b"other")
    assert journal.save_signed("spec", RUN, d(1), b"spec")
    assert [value.data for value in journal.signed("manifest")] == [b"first", b"other"]
    assert [value.digest for value in journal.signed("manifest", OTHER)] == [OTHER]
    assert journal.one_signed("spec", d(1)) == b"spec"
    assert journal.one_signed("receipt", d(1)) is None


def test_proofs_and_dropped_runs_are_bounded_and_the_oldest_go(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PROOFS", 2)
    monkeypatch.setattr(module, "MAX_DROPPED", 3)
    for number in range(5):
        assert journal.save_proof(SavedProof(d(number), "two ledgers", b"one", b"other"))
        journal.save_signed("manifest", d(number), d(number), b"manifest")
        journal.bury(d(number))
    assert [proof.run for proof in journal.proofs()] == [d(3), d(4)]
    assert journal.buried() == {d(2), d(3), d(4)}
    assert journal.signed("manifest") == []
    assert not journal.save_proof(SavedProof(d(9), "large", b"", bytes(module.MAX_PROOF + 1)))


def test_a_ledger_grows_without_gaps_or_forks(journal: Journal) -> None:
    assert journal.ledger_length(RUN) == 0
    for seq in range(3):
        journal.append_ledger(RUN, seq, d(seq), bytes([seq]))
    for wrong in (2, 4):
        with pytest.raises(LocalProtocolError, match=f"record {wrong}"):
            journal.append_ledger(RUN, wrong, d(9), b"")
    assert journal.ledger_length(RUN) == 3
    assert [record.seq for record in journal.ledger(RUN, start=1)] == [1, 2]
    assert [record.data for record in journal.ledger(RUN, limit=1)] == [b"\x00"]
    assert journal.ledger(OTHER) == []


def test_a_verdict_replaces_the_one_before(journal: Journal) -> None:
    journal.save_verdict(RUN, d(1), b"unverifiable")
    journal.save_verdict(RUN, d(1), b"verified")
    assert journal.verdict(RUN, d(1)) == b"verified"
    assert journal.verdict(RUN, d(2)) is None


def test_a_lease_is_replaced_and_dropped(journal: Journal) -> None:
    journal.save_lease(lease(b"t"))
    journal.save_lease(lease(b"u"))
    journal.save_lease(lease(b"t", peer=BOB))
    assert journal.leases(RUN) == [lease(b"t", peer=BOB), lease(b"u")]
    journal.drop_lease(b"t")
    assert journal.leases(RUN) == [lease(b"u")]
    assert journal.leases(OTHER) == []


def test_the_first_accepted_result_of_a_piece_of_work_stays(journal: Journal) -> None:
    assert journal.save_result(accepted(1, 1))
    assert not journal.save_result(accepted(1, 1, peer=BOB))
    assert journal.save_result(accepted(1, 0, peer=BOB))
    assert journal.save_result(accepted(2, 0))
    assert journal.results(RUN) == [
        accepted(1, 0, peer=BOB),
        accepted(1, 1),
        accepted(2, 0),
    ]
    journal.drop_results(RUN, before_round=2)
    assert journal.results(RUN) == [accepted(2, 0)]


def test_a_journal_opens_again_and_is_migrated_once(path: Path) -> None:
    for value in ("1", "2"):
        journal = Journal.open(path)
        put(journal, "opened", value)
        journal.close()
    with sqlite3.connect(path) as plain:
        assert plain.execute("PRAGMA user_version").fetchone() == (VERSION,)
    plain.close()


def test_an_old_journal_gets_the_migrations_it_lacks(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Journal.open(path)
    put(old, "kept", "yes")
    old.close()
    monkeypatch.setattr(module, "MIGRATIONS", ("CREATE TABLE newer (a INTEGER)", *MIGRATIONS))
    monkeypatch.setattr(module, "VERSION", VERSION + 1)
    new = Journal.open(path)
    assert got(new, "kept") == "yes"
    assert new._db.execute("SELECT count(*) FROM newer").fetchone() == (0,)
    new.close()


def test_a_journal_of_a_newer_version_is_refused(path: Path) -> None:
    Journal.open(path).close()
    with sqlite3.connect(path) as plain:
        plain.execute("PRAGMA user_version = 99")
    plain.close()
    with pytest.raises(ConfigError, match="made by a newer version"):
        Journal.open(path)


def test_a_journal_of_an_earlier_day_is_refused_by_its_name(path: Path) -> None:
    Journal.open(path).close()
    with sqlite3.connect(path) as plain:
        plain.execute("PRAGMA user_version = 1")
    plain.close()
    with pytest.raises(ConfigError, match=r"journal.sqlite was made by another version.*move the"):
        Journal.open(path)


def test_a_file_that_is_no_journal_is_refused(path: Path) -> None:
    path.write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(
        ConfigError, match="file is not a database: stop the node and run `dipaco-node repair`"
    ):
        Journal.open(path)


def test_a_journal_in_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unable to open database file"):
        Journal.open(tmp_path / "gone" / "journal.sqlite")


def test_a_full_disk_is_said_and_nothing_of_the_block_is_kept(journal: Journal) -> None:
    put(journal, "before", "yes")
    pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
    journal._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(DiskFull, match="no space left"), journal.saving():
        put(journal, "small", "yes")
        put(journal, "large", "x" * 1_000_000)
    assert (got(journal, "before"), got(journal, "small")) == ("yes", None)


@pytest.mark.parametrize(
    ("limit", "late", "hidden"),
    [(16_384, False, "SQLITE_IOERR_SHMSIZE"), (40_000, True, "SQLITE_IOERR_WRITE")],
)
def test_a_lack_of_room_that_sqlite_calls_an_error_of_the_disk_is_called_by_its_name(
    path: Path, limit: int, late: bool, hidden: str
) -> None:
    code = (
        "import pathlib, resource, sys\n"
        "from dipaco.node.storage.journal import Journal\n"
        "path, limit, late = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == 'True'\n"
        "def bound(): resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
        "try:\n"
        "    late or bound()\n"
        "    journal = Journal.open(path)\n"
        "    bound()\n"
        "    for number in range(100):\n"
        "        journal.save_verdict(bytes(32), number.to_bytes(32, 'big'), bytes(3000))\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error.__cause__.sqlite_errorname)\n"
    )
    command = [sys.executable, "-c", code, str(path), str(limit), str(late)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == f"DiskFull {hidden}\n", done.stderr
    assert not list(path.parent.glob("probe*"))


@pytest.mark.parametrize("name", ["SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE", "SQLITE_CANTOPEN"])
@pytest.mark.parametrize("shortage", ["the disk quota is used up", ""])
def test_an_error_of_the_disk_is_a_full_disk_only_if_a_write_finds_no_room(
    path: Path, name: str, shortage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "probe_space", lambda folder: shortage)
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = name
    wanted, text = (DiskFull, shortage) if shortage else (ConfigError, "disk I/O error")
    with pytest.raises(wanted, match=text), module._translated(path):
        raise error


def test_a_folder_in_place_of_the_journal_is_called_that(path: Path) -> None:
    path.mkdir()
    with pytest.raises(ConfigError, match=r"journal\.sqlite is a folder.*move it away"):
        Journal.open(path)


def test_a_database_of_another_program_is_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as plain:
        plain.execute("CREATE TABLE theirs (a INTEGER)")
    plain.close()
    with pytest.raises(ConfigError, match=r"of another program.*move it away"):
        Journal.open(path)
    with sqlite3.connect(path) as plain:
        assert plain.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]
    plain.close()


def test_a_file_that_another_process_holds_is_unavailable(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUSY_SECONDS", 0.0)
    journal, other = Journal.open(path), sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="another process holds it"):
        put(journal, "key", "value")
    other.execute("ROLLBACK")
    put(journal, "key", "value")
    other.close()
    journal.close()
