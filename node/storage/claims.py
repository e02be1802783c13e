"""Claims: which blobs of a store are still needed, and by whom.

Every run that this node works for claims the blobs that it needs. What the last claim on a blob
gives up is removed at once. What nobody ever claimed, such as the result of a process that was
killed, goes by its age (`stored.py`).
"""

import logging
from collections.abc import Callable, Collection

from dipaco.node.storage.blobs import BlobStore
from dipaco.protocol.errors import ConfigError, Unavailable
from dipaco.protocol.wire.digest import Digest

log = logging.getLogger(__name__)


class Claims:
    """The claims on the blobs of one store."""

    def __init__(
        self, blobs: BlobStore, pinned: Callable[[], Collection[Digest]] = frozenset
    ) -> None:
        """pinned   returns the blobs that are kept for the person: of run files, local results."""
        self._blobs, self._pinned = blobs, [pinned]
        self._held: dict[object, frozenset[Digest]] = {}

    def claimed(self) -> frozenset[Digest]:
        """Return the blobs that somebody needs; another thread may call this.

        Raises ConfigError and Unavailable if it cannot be known now.
        """
        pinned = (each() for each in self._pinned)
        return frozenset().union(*pinned, *tuple(self._held.values()))

    def pin(self, pinned: Callable[[], Collection[Digest]]) -> None:
        """Keep the blobs that `pinned` returns, too."""
        self._pinned.append(pinned)

    def claim(
        self, owner: object, needed: Collection[Digest], *, passed: Collection[Digest] = ()
    ) -> None:
        """Replace the claim of `owner`, and remove the blobs that nobody needs any more.

        passed   blobs that `owner` is done with, besides those that it claimed before.
        """
        before = self._held.get(owner, frozenset())
        held = self._held[owner] = frozenset(needed)
        self._remove((before | frozenset(passed)) - held)

    def _remove(self, given_up: frozenset[Digest]) -> None:
        """Remove blobs that nobody claims; if that cannot be known, they go by their age."""
        if not given_up:
            return
        try:
            gone = given_up - self.claimed()
        except (ConfigError, Unavailable) as error:
            log.warning("old blobs stay for now: %s", error)
            return
        for digest in gone:
            self._blobs.remove(digest)
