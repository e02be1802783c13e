"""Blobs by digest from any holder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import trio

from dipaco.node.network.rpc import Rpc
from dipaco.node.network.standing import Standing
from dipaco.node.network.transport import Transport
from dipaco.protocol.digest import Digest
from dipaco.protocol.identity import PeerId

if TYPE_CHECKING:
    from trio_typing import TaskStatus

Progress = Callable[[int, int], None]
"""Called with the bytes that are here and the bytes in all."""


class Blobs(Protocol):
    """What the exchange needs of the blob store."""

    def size(self, digest: Digest) -> int | None:
        """Return the length of a whole blob, or None when it is not here."""

    def read(self, digest: Digest, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`; raises Unavailable when the blob is gone."""

    def adopt(self, path: Path, digest: Digest) -> None:
        """Take over the file, whose SHA-256 is `digest`, by renaming it into the store."""


class Exchange:
    """Serves blobs to peers and fetches them.

    folder  where partial files lie; they outlive a restart.
    """

    def __init__(
        self, transport: Transport, rpc: Rpc, standing: Standing, blobs: Blobs, folder: Path
    ) -> None:
        raise NotImplementedError

    async def run(self, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; `fetch` works only meanwhile."""

    async def fetch(
        self,
        digest: Digest,
        *,
        length: int | None = None,
        limit: int = 1 << 32,
        holders: Sequence[PeerId] = (),
        progress: Progress | None = None,
    ) -> None:
        """Bring the blob into the store, from `holders` first, else from whoever has it.

        length  the only right length in bytes, where it is known.
        limit   the largest that is taken, where it is not.

        Several callers share one fetch. Raises Unavailable when nobody connected has the blob in
        that length: back off and try again; what has arrived is kept.
        """
