"""The journal's number, in the journal and beside it: a journal that was lost is noticed.

SQLite makes an empty file where there is none, and a node would begin anew in a home full of blobs:
its leases, its accepted results and the runs that it joined would be forgotten without a word.
"""

import secrets

from dipaco.node.storage.files import Home, read_file, write_file
from dipaco.node.storage.journal import Journal
from dipaco.protocol.errors import ConfigError

MAX_BYTES = 32  # of the file: a number of 31 bits and a line's end


def check_mark(home: Home, journal: Journal) -> None:
    """Hold the journal of a home against the number beside it, and give a new one its number.

    Raises ConfigError for an empty journal, or another home's, where a node has worked before.
    """
    beside = _beside(home)
    if beside and beside != journal.mark and _has_worked(home):
        if journal.mark:
            raise ConfigError(
                f"{journal.path} is another home's: restore this home's own from a copy, or move "
                "it away; its runs are then joined or created anew"
            )
        raise ConfigError(
            f"{journal.path} is empty in a home that has worked: the journal was lost or cut; "
            "restore it from a copy, or run `dipaco-node repair` to go on with what peers hold"
        )
    keep_mark(home, journal)


def keep_mark(home: Home, journal: Journal) -> None:
    """Give a new journal its number, and write it beside the journal."""
    if not journal.mark:
        journal.set_mark(1 + secrets.randbelow(2**31 - 1))
    if _beside(home) != journal.mark:
        write_file(home.journal_mark, b"%d\n" % journal.mark)


def _beside(home: Home) -> int:
    """Return the number beside the journal; 0: there is none that can be read."""
    if not home.journal_mark.exists():
        return 0
    try:
        return int(read_file(home.journal_mark, limit=MAX_BYTES))
    except (ConfigError, ValueError):
        return 0


def _has_worked(home: Home) -> bool:
    """Return whether there is anything that the journal told of: runs, or blobs."""
    return any(home.runs.glob("*.run")) or any(home.blobs.glob("[0-9a-f][0-9a-f]/*"))
