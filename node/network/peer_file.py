"""Peers remembered over a restart: one file of signed records.

What is read is judged like what a stranger sends. A damaged file costs a warning and is replaced:
the peers come back by themselves.
"""

import logging
from pathlib import Path
from typing import Annotated

import msgspec

from dipaco.node.storage.files import read_file, write_file
from dipaco.protocol.canonical import Wire, decode, encode
from dipaco.protocol.errors import ConfigError, RemoteProtocolError
from dipaco.protocol.signed import Signed

log = logging.getLogger(__name__)

LIMIT = 16 << 20  # bytes: a full directory has 6 MB


class SavedPeers(Wire, frozen=True, kw_only=True):
    """The content of the file."""

    records: Annotated[tuple[Signed, ...], msgspec.Meta(max_length=3 * 4096)]
    """Signed `PeerRecord`s."""


class PeerFile:
    """A `directory.PeerStore` in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> tuple[Signed, ...]:
        """Return what was saved last; nothing when there is no file or it is damaged."""
        if not self._path.exists():
            return ()
        try:
            return decode(read_file(self._path, limit=LIMIT), SavedPeers, limit=LIMIT).records
        except (ConfigError, RemoteProtocolError) as error:
            log.warning("%s is not used: %s", self._path, error)
            return ()

    def save(self, records: tuple[Signed, ...]) -> None:
        """Replace the file; raises DiskFull and ConfigError."""
        write_file(self._path, encode(SavedPeers(records=records)))
