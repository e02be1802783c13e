"""Versions: which one the runs of a home need, and the newest that peers said they have.

Peers tell their version in the receipts that they sign. What they say proves nothing: it is shown
to a person, and nothing follows from it.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from dipaco.node.runs.files import SUFFIX, format_of
from dipaco.node.storage.journal import Journal
from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.routing.verdict import Receipt
from dipaco.protocol.run.manifest import FORMAT
from dipaco.protocol.wire.canonical import decode
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.signed import Signed

SOFTWARE = re.compile(r"dipaco-node ([0-9]{1,6}(?:\.[0-9]{1,6}){0,3})")


def newer_runs(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Return the run files whose manifests have a newer format than this program reads."""
    return tuple(path for path in paths if (format_of(path) or 0) > FORMAT)


def run_files(home: Path) -> list[Path]:
    """Return the run files of a home."""
    return sorted((home / "runs").glob(f"*{SUFFIX}"))


def reported(journal: Journal) -> dict[PeerId, tuple[int, ...]]:
    """Return the newest version that each peer reported, as numbers."""
    found: dict[PeerId, tuple[int, ...]] = {}
    for saved in journal.signed("receipt"):
        try:
            signed = decode(saved.data, Signed)
            receipt = decode(signed.body, Receipt)
        except RemoteProtocolError:  # of another version
            continue
        if version := numbers(receipt.software):
            found[signed.signer] = max(version, found.get(signed.signer, ()))
    return found


def numbers(software: str) -> tuple[int, ...]:
    """Return the version in `dipaco-node 0.1.0` as numbers; nothing for another text."""
    version = SOFTWARE.fullmatch(software)
    return tuple(map(int, version[1].split("."))) if version else ()
