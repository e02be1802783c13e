"""Homes whose files are damaged, lost, or another user's: real files, real SQLite.

Each is told in one line with the cure, and `repair` saves what can be read.
"""

import errno
import fcntl
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dipaco.cli.exits import Exit
from dipaco.cli.main import run
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.files import Home
from dipaco.node.storage.journal import Journal
from dipaco.node.storage.mark import check_mark
from dipaco.node.storage.salvage import salvage
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.digest import Digest, sha256
from dipaco.protocol.wire.signed import sign
from dipaco.protocol.work.ledger import LedgerRecord, SpecAdopted
from dipaco.protocol.work.terms import NO_RECORD
from tests.values import digest, key

RUN = digest("run")
RECORDS = 120  # so many that they fill some ten pages
PAGE = 4096


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home whose journal holds a ledger of `RECORDS` records, closed."""
    made = Home.at(tmp_path / "home")
    with closing(Journal.open(made.journal)) as journal:
        check_mark(made, journal)
        append(journal, RECORDS)
    BlobStore(made.blobs).write(b"a blob")
    return made


def append(journal: Journal, count: int) -> None:
    previous = NO_RECORD
    with journal.saving():
        for seq in range(count):
            entry = SpecAdopted(epoch=0, spec=digest(f"spec {seq}"))
            record = LedgerRecord(run=RUN, term=0, seq=seq, previous=previous, entry=entry)
            signed = sign(record, key("scheduler"))
            previous = signed.body_digest
            journal.append_ledger(RUN, seq, previous, encode(signed))


def length(home: Home) -> int:
    with closing(Journal.open(home.journal)) as journal:
        return journal.ledger_length(RUN)


def overwrite(path: Path, page: int, data: bytes = b"\xa5" * PAGE) -> None:
    with path.open("r+b") as file:
        file.seek(page * PAGE)
        file.write(data)


def repaired(home: Home, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert run(["repair", "--home", str(home.root)]) == Exit.OK
    return capsys.readouterr().out.splitlines()


def start_line(home: Home, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what `start` says of a home that it refuses, before it opens any socket."""
    assert run(["start", "--home", str(home.root), "--rendezvous"]) == Exit.USAGE
    (line,) = capsys.readouterr().err.splitlines()
    return line


def damaged_pages(home: Home) -> Iterator[int]:
    yield from range(1, home.journal.stat().st_size // PAGE)


def test_any_damaged_page_is_told_with_its_cure_and_repair_keeps_what_stands_before_it(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, kept = tmp_path / "copy.sqlite", []
    shutil.copy(home.journal, copy)
    pages = list(damaged_pages(home))
    for page in pages:
        shutil.copy(copy, home.journal)
        overwrite(home.journal, page)
        damaged = home.journal.read_bytes()
        try:
            kept.append(length(home))
            continue  # a page that holds nothing yet
        except ConfigError as error:
            assert "dipaco-node repair" in str(error) and "\n" not in str(error)
        lines = repaired(home, capsys)
        asides = sorted(home.root.glob("journal.sqlite.damaged-*"), key=lambda p: p.stat().st_mtime)
        assert asides[-1].read_bytes() == damaged
        kept.append(length(home))
        told = any("ledger lost: ledger records come back" in line for line in lines)
        assert told == (kept[-1] < RECORDS), lines
        assert "journal: whole" in repaired(home, capsys)[0]
    assert len(pages) > 8 and min(kept) < RECORDS and sum(kept) > RECORDS * len(kept) / 4


@pytest.mark.parametrize("damage", ["no database", "cut to nothing", "removed"])
def test_a_journal_that_was_lost_is_refused_by_name_and_repair_begins_a_new_one(
    home: Home, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if damage == "no database":
        overwrite(home.journal, 0)
    elif damage == "cut to nothing":
        home.journal.write_bytes(b"")
    else:
        home.journal.unlink()
    for _ in range(2):  # the first start makes no difference
        line = start_line(home, capsys)
        assert str(home.journal) in line and "dipaco-node repair" in line
    repaired(home, capsys)
    assert length(home) == 0
    with closing(Journal.open(home.journal)) as journal:
        check_mark(home, journal)


def test_the_journal_of_another_home_is_refused(home: Home, tmp_path: Path) -> None:
    other = Home.at(tmp_path / "other")
    with closing(Journal.open(other.journal)) as journal:
        check_mark(other, journal)
    shutil.copy(other.journal, home.journal)
    with (
        closing(Journal.open(home.journal)) as journal,
        pytest.raises(ConfigError, match="another home's: restore"),
    ):
        check_mark(home, journal)


def test_a_home_that_has_not_worked_loses_nothing_with_its_journal(tmp_path: Path) -> None:
    home = Home.at(tmp_path / "home")
    for _ in range(2):
        with closing(Journal.open(home.journal)) as journal:
            check_mark(home, journal)
        home.journal.unlink()


def test_a_log_that_is_lost_costs_the_last_records_alone(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal.sqlite")
    previous, most = NO_RECORD, 400
    for seq in range(most):
        entry = SpecAdopted(epoch=0, spec=digest(f"spec {seq}"))
        record = LedgerRecord(run=RUN, term=0, seq=seq, previous=previous, entry=entry)
        signed = sign(record, key("scheduler"))
        previous = signed.body_digest
        journal.append_ledger(RUN, seq, previous, encode(signed))
    copy = tmp_path / "copy.sqlite"
    shutil.copy(journal.path, copy)  # without its -wal
    journal.close()
    with closing(Journal.open(copy)) as opened:
        assert most - 64 <= opened.ledger_length(RUN) <= most


def test_a_damaged_blob_is_removed_and_told(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    blobs = BlobStore(home.blobs)
    sound, damaged = Digest(sha256(b"a blob")), blobs.write(b"another one")
    blobs.path(damaged).write_bytes(b"another ONE")
    lines = repaired(home, capsys)
    assert "blobs: 1 sound blob" in lines
    assert any(damaged.hex()[:8] in line and "removed" in line for line in lines)
    assert BlobStore(home.blobs).has(sound) and not blobs.path(damaged).exists()


@pytest.mark.parametrize("name", ["peers.cbor", "directory.cbor", "last-run"])
@pytest.mark.parametrize("content", [b"", b"\xff\x00damaged"])
def test_what_can_be_made_again_is_set_aside(
    home: Home, name: str, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (home.root / name).write_bytes(content)
    lines = repaired(home, capsys)
    assert any(line.startswith(f"{name}: was damaged") for line in lines)
    assert (home.root / f"{name}.damaged").read_bytes() == content
    assert not (home.root / name).exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [("signers.toml", b"\xff"), ("runs/damaged.run", b""), ("identity.key", b"")],
)
def test_what_only_a_person_can_mend_is_named_and_left(
    home: Home, name: str, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = home.root / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o600)
    assert run(["repair", "--home", str(home.root)]) in (Exit.ERROR, Exit.USAGE)
    told = capsys.readouterr()
    assert str(path) in told.out + told.err and path.read_bytes() == content


def test_repair_leaves_a_home_alone_that_a_daemon_holds_or_a_newer_version_made(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    with home.held():
        assert run(["repair", "--home", str(home.root)]) == Exit.HOME_TAKEN
    with closing(Journal.open(home.journal)) as journal:
        journal._db.execute("PRAGMA user_version = 99")
    before = home.journal.read_bytes()
    assert run(["repair", "--home", str(home.root)]) == Exit.USAGE
    assert "made by a newer version" in capsys.readouterr().err
    assert home.journal.read_bytes() == before


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(
    home: Home, error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, kind: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(ConfigError, match=r"file system without locks.*choose a --home"),
        home.held(),
    ):
        pass


@pytest.mark.parametrize("name", ["/journal.sqlite", "/identity.key"])
def test_a_place_of_another_user_is_called_that(name: str) -> None:
    code = (
        "import os, pathlib, sys\n"
        "from dipaco.node.storage.files import write_file\n"
        "from dipaco.node.storage.journal import Journal\n"
        "os.geteuid() or os.seteuid(65534)\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "try:\n"
        "    Journal.open(path) if path.suffix == '.sqlite' else write_file(path, b'')\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    command = [sys.executable, "-c", code, name]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.startswith("ConfigError cannot"), done.stderr
    assert ": / belongs to root (user 0), and this process is" in done.stdout


@pytest.mark.parametrize("damaged", [False, True])
def test_a_keepers_promises_are_kept_only_if_all_else_was_read(
    home: Home, tmp_path: Path, damaged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = "CREATE TABLE IF NOT EXISTS promised (run BLOB PRIMARY KEY, term INTEGER, data BLOB)"
    prepare = Journal._prepare

    def with_promises(journal: Journal) -> None:
        prepare(journal)
        journal._db.execute(extra)

    monkeypatch.setattr(Journal, "_prepare", with_promises)
    with closing(Journal.open(home.journal)) as journal:
        journal.insert_row("promised", {"run": RUN, "term": 7, "data": b""})
    if damaged:
        with closing(sqlite3.connect(home.journal)) as plain, plain:
            plain.execute("UPDATE ledger SET data = x'00' WHERE seq = 90")
    with closing(Journal.open(tmp_path / "new.sqlite")) as fresh:
        told = salvage(home.journal, fresh)
        assert fresh.sizes()["promised"] == (0 if damaged else 1)
        assert fresh.ledger_length(RUN) == (90 if damaged else RECORDS)
    assert told.lost == ({"ledger": RECORDS - 90, "promised": 1} if damaged else {})
