"""The records of known peers on disk: written when they have changed, off the event loop."""

import logging
from functools import partial
from typing import Protocol

import trio

from dipaco.node.network.blob_stream import InThread
from dipaco.node.network.paced import Paced
from dipaco.protocol.errors import ConfigError, Unavailable
from dipaco.protocol.wire.signed import Signed

log = logging.getLogger(__name__)


class PeerStore(Protocol):
    """Keeps signed records over a restart."""

    def load(self) -> tuple[Signed, ...]:
        """Return the records that were saved last, if any."""

    def save(self, records: tuple[Signed, ...]) -> None:
        """Replace the saved records; raises DiskFull and ConfigError, and the old ones stay."""


class KnownPeers:
    """A `PeerStore` whose failures do no harm: the node goes on, and its peers register again."""

    def __init__(self, store: PeerStore, in_thread: InThread = trio.to_thread.run_sync) -> None:
        self._store = store
        self._in_thread = in_thread
        self._saved: tuple[Signed, ...] | None = None
        self._paced = Paced(log)

    def load(self) -> tuple[Signed, ...]:
        """Return the records that were saved last, if any."""
        return self._store.load()

    async def save(self, records: tuple[Signed, ...]) -> None:
        """Replace the saved records if these are others."""
        if records == self._saved:
            return
        try:
            await self._in_thread(partial(self._store.save, records))
        except (ConfigError, Unavailable) as error:
            self._paced.say("save", f"the known peers are not saved: {error}")
        else:
            self._saved = records
