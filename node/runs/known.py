"""The runs that a home knows: its own run files, and the runs of other nodes in its journal."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dipaco.node.runs.files import RunFile, find_run, kept_runs, open_run, read_run
from dipaco.node.runs.record import RunRecord
from dipaco.node.runs.store import RunStore
from dipaco.node.storage.files import Home
from dipaco.node.storage.journal import Journal, SavedProof
from dipaco.protocol.errors import Refusal
from dipaco.protocol.wire.digest import Digest


@contextmanager
def _journal(home: Path) -> Iterator[Journal | None]:
    """Open the journal of `home`, a running daemon's too; None if there is none."""
    path = Home(home).journal
    if not path.exists():
        yield None
        return
    journal = Journal.open(path)
    try:
        yield journal
    finally:
        journal.close()


def known_runs(home: Path) -> tuple[RunFile, ...]:
    """Return the runs that the node of `home` offers or has pulled; none if there is no home."""
    found = {run.id: run for run in kept_runs(home)}
    with _journal(home) as journal:
        if journal is not None:
            for saved in journal.signed("manifest"):
                run = _open(journal, saved.data)
                found.setdefault(run.id, run)
    return tuple(sorted(found.values(), key=lambda run: (run.manifest.name, run.id)))


def _open(journal: Journal, data: bytes) -> RunFile:
    try:
        return open_run(data, "journal")
    except Refusal as error:
        raise journal.foreign(error) from error


def named_run(name: str, home: Path) -> RunFile:
    """Return the run of a run file, or of an id or name that the node of `home` knows."""
    if name.endswith(".run") or Path(name).is_file():
        return read_run(Path(name))
    return find_run(known_runs(home), name)


def record_of(run: Digest, home: Path) -> RunRecord | None:
    """Return the record of a run's specs and ledger in `home`; None if the journal has none."""
    with _journal(home) as journal:
        return RunStore(journal).runs.get(run) if journal is not None else None


def proofs_of(run: Digest, home: Path) -> list[SavedProof]:
    """Return the proofs about a run's schedulers that the node of `home` keeps."""
    with _journal(home) as journal:
        saved = journal.proofs() if journal is not None else []
    return [each for each in saved if each.run == run]


def read_records(run: Digest, home: Path) -> list[bytes]:
    """Return the signed records of a run's ledger in `home`; none if the journal has none."""
    with _journal(home) as journal:
        return [saved.data for saved in journal.ledger(run)] if journal is not None else []
