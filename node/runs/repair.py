"""`repair`: a home whose files were damaged or lost, brought to where its node can go on.

The journal is read row by row into a new one, and the damaged file is kept beside it. Blobs are
held against their digests, and damaged ones removed: a blob has one content, which a peer sends
again. Nothing is made up: what is gone is told, with where it comes back from.
"""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from dipaco.node.runs.files import read_run
from dipaco.node.runs.remembered import FILE as LAST_RUN
from dipaco.node.runs.remembered import last_run
from dipaco.node.runs.signers import pinned_signers
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.files import (
    Home,
    remove_path,
    set_aside,
    sync_folder,
    temporary_name,
    translated,
)
from dipaco.node.storage.journal import Journal
from dipaco.node.storage.mark import check_mark, keep_mark
from dipaco.node.storage.roster import Roster
from dipaco.node.storage.salvage import Salvaged, salvage
from dipaco.protocol.errors import ConfigError, Refusal
from dipaco.protocol.numbers import count
from dipaco.protocol.wire.digest import Digest, short

BACK = {  # by table where its rows come back from
    "signed": "manifests, specs and receipts come back from peers",
    "ledger": "ledger records come back from peers and keepers",
    "verdicts": "routers are derived and compared again",
    "leases": "leases in hand are lost: their work is given out again",
    "results": "accepted results that no outer step took in are lost: they are trained again",
    "promised": "as a keeper this node votes again once the others have gone on without it",
    "totals": "sums of work and traffic begin anew",
    "proofs": "proofs of two ledgers come back if the records meet again",
}
ROSTERS = ("peers.cbor", "directory.cbor")


def repair(home: Home) -> Iterator[str]:
    """Repair a home that no daemon holds, and yield what was found and done, line by line.

    Raises ConfigError for what has no cure here, such as a journal of a newer version, and
    DiskFull.
    """
    yield from _repair_journal(home)
    yield from _tell_ledgers(home)
    yield from _check_blobs(home)
    yield from _check_small_files(home)


def _repair_journal(home: Home) -> Iterator[str]:
    missing = not home.journal.exists()
    try:
        with closing(Journal.open(home.journal)) as journal:
            check_mark(home, journal)
            held = sum(journal.sizes().values())
            yield "journal: new" if missing else f"journal: whole, {count(held, 'row')}"
            return
    except ConfigError as error:
        if home.journal.is_dir() or not _repairable(error):
            raise
        problem = str(error)
    yield f"journal: {problem}"
    aside, told = _replace_journal(home)
    yield f"journal: the file as it was is kept as {aside.name}"
    yield from _tell_salvaged(told)


def _repairable(error: ConfigError) -> bool:
    """Return whether the error names this command as the cure."""
    return "dipaco-node repair" in str(error)


def _replace_journal(home: Home) -> tuple[Path, Salvaged]:
    """Put a new journal in the place of a damaged one, with what can be read of it.

    Killed at any moment it leaves the old file, or the new one whole, and the old one beside it.
    """
    fresh, aside = home.root / temporary_name("journal.sqlite"), _free_name(home.journal)
    with translated(home.root, "write"):
        for tail in ("", "-wal"):
            if (part := Path(f"{home.journal}{tail}")).exists():
                os.link(part, f"{aside}{tail}")
        try:
            with closing(Journal.open(fresh)) as journal:
                told = salvage(home.journal, journal)
                keep_mark(home, journal)
            for tail in ("-wal", "-shm"):  # of the damaged file: they must not go into the new one
                remove_path(Path(f"{home.journal}{tail}"))
            fresh.replace(home.journal)
            sync_folder(home.root)
        finally:
            remove_path(fresh)
    return aside, told


def _free_name(path: Path) -> Path:
    """Return a name for a damaged file: an earlier one stays."""
    number = 1
    while (free := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    return free


def _tell_salvaged(told: Salvaged) -> Iterator[str]:
    yield f"journal: {count(sum(told.rows.values()), 'row')} read into a new one"
    for table in sorted(told.unread | told.lost.keys()):
        lost = told.lost.get(table, 0)
        amount = "some rows" if table in told.unread else count(lost, "row")
        yield f"journal: {amount} of {table} lost: {BACK.get(table, 'they do not come back')}"


def _tell_ledgers(home: Home) -> Iterator[str]:
    with closing(Journal.open(home.journal)) as journal:
        runs: list[Digest] = [value.run for value in journal.signed("manifest")]
        for run in runs:
            if length := journal.ledger_length(run):
                yield f"run {short(run)}: {count(length, 'ledger record')} here"


def _check_blobs(home: Home) -> Iterator[str]:
    sound, damaged = BlobStore(home.blobs).check_all()
    yield f"blobs: {count(sound, 'sound blob')}"
    for digest in damaged:
        yield f"blobs: {short(digest)} was damaged, and is removed: a peer that has it sends it"


def _check_small_files(home: Home) -> Iterator[str]:
    """Check what a person or a start would find one by one; lists of peers are made again."""
    for name in ROSTERS:
        before = (home.root / name).exists()
        Roster(home.root / name).load()
        if before and not (home.root / name).exists():
            yield f"{name}: was damaged, kept as {name}.damaged, and is made again"
    if (home.root / LAST_RUN).exists() and last_run(home.root) is None:
        set_aside(home.root / LAST_RUN)
        yield f"{LAST_RUN}: was damaged, kept as {LAST_RUN}.damaged: name the run with --run"
    try:
        pinned_signers(home.root)
    except ConfigError as error:
        yield f"not repaired: {error}"
    for path in sorted(home.runs.glob("*.run")):
        try:
            read_run(path)
        except (ConfigError, Refusal) as error:
            yield f"not repaired: {error}; get the run file again from its owner"
