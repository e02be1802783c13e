"""Known peers on disk: signed records, kept over a restart, replaced whole."""

import logging
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from dipaco.node.storage.files import read_file, write_file
from dipaco.protocol.errors import ConfigError, RemoteProtocolError, Unavailable
from dipaco.protocol.wire.canonical import Wire, decode, encode
from dipaco.protocol.wire.signed import Signed

log = logging.getLogger(__name__)

MAX_BYTES = 16 << 20  # a full directory has 6 MB


class _Saved(Wire, frozen=True, kw_only=True):
    records: Annotated[tuple[Signed, ...], Meta(max_length=1 << 14)]


class Roster:
    """One file of peers' records. Its loss does no harm, so a damaged file counts as empty."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> tuple[Signed, ...]:
        """Return the records that were saved last, if any."""
        try:
            return decode(read_file(self._path, limit=MAX_BYTES), _Saved, limit=MAX_BYTES).records
        except (ConfigError, RemoteProtocolError, Unavailable):
            return ()

    def save(self, records: tuple[Signed, ...]) -> None:
        """Replace the saved records; if that fails for now the old ones stay."""
        try:
            write_file(self._path, encode(_Saved(records=records)))
        except Unavailable as away:
            log.warning("the known peers are not saved: %s", away)
