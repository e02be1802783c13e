"""The records of known peers on disk: written when they have changed, off the event loop."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Protocol

import trio

from dipaco.node.network.blob_stream import InThread
from dipaco.node.network.paced import Paced
from dipaco.protocol.errors import ConfigError, RemoteProtocolError, Unavailable
from dipaco.protocol.numbers import count
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

    def recall(self, take: Callable[[Signed], object]) -> None:
        """Give the records that were saved last to `take`; those that it refuses are dropped.

        take   raises RemoteProtocolError for a bad record, such as one of an older version.
        """
        faults = list[str]()
        for signed in self._store.load():
            try:
                take(signed)
            except RemoteProtocolError as error:
                faults.append(str(error))
        if faults:
            log.warning("%s of peers dropped: %s", count(len(faults), "saved record"), faults[0])

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
