"""Known peers on disk: signed records, kept over a restart, replaced whole."""

import logging
import os
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from dipaco.node.storage.files import read_file, set_aside, write_file
from dipaco.protocol.errors import ConfigError, RemoteProtocolError
from dipaco.protocol.wire.canonical import Wire, decode, encode
from dipaco.protocol.wire.signed import Signed

log = logging.getLogger(__name__)

MAX_BYTES = 16 << 20  # a full directory has 6 MB


class _Saved(Wire, frozen=True, kw_only=True):
    format: Literal[1] = 1
    records: Annotated[tuple[Signed, ...], Meta(max_length=1 << 14)]


class Roster:
    """One file of peers' records. Its loss does no harm, so a file that cannot be read is replaced.

    The old one is set aside, for a person to look at.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> tuple[Signed, ...]:
        """Return the records that were saved last, if any."""
        if not os.path.lexists(self._path):
            return ()
        try:
            return decode(read_file(self._path, limit=MAX_BYTES), _Saved, limit=MAX_BYTES).records
        except (ConfigError, RemoteProtocolError) as error:
            aside = set_aside(self._path)
            log.warning(
                "%s is damaged, or of another version (%s): set aside as %s and made again",
                self._path,
                error,
                aside.name if aside else "nothing, for it cannot be renamed",
            )
            return ()

    def save(self, records: tuple[Signed, ...]) -> None:
        """Replace the saved records; raises DiskFull and ConfigError, and the old ones stay."""
        write_file(self._path, encode(_Saved(records=records)))
