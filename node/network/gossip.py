"""Announcements on a topic, and the anti-entropy that heals whatever gossip loses."""

from typing import TYPE_CHECKING, Protocol

import trio

from dipaco.node.network.standing import Standing
from dipaco.node.network.transport import Transport
from dipaco.protocol.digest import Digest
from dipaco.protocol.messages import Item

if TYPE_CHECKING:
    from trio_typing import TaskStatus


class Catalogue(Protocol):
    """Whoever owns the values that are gossiped: manifests, specs, receipts, ledgers."""

    def inventory(self) -> tuple[Item, ...]:
        """Return all that is held, the most recent first; of a ledger its head and length."""

    def read(self, kind: str, run: Digest, digest: Digest) -> bytes | None:
        """Return one signed value verbatim, or None when it is gone."""

    def read_ledger(self, run: Digest, first: int, limit: int) -> tuple[bytes, ...]:
        """Return consecutive signed records from `first` on, of at most `limit` bytes in all."""

    def offer(self, kind: str, data: bytes) -> None:
        """Take a value from a peer.

        Raises RemoteProtocolError when it is invalid (its sender gets a strike), Refusal when it
        is valid and not wanted (it is not asked for again).
        """

    def offer_ledger(self, run: Digest, records: tuple[bytes, ...]) -> None:
        """Take records that follow our own; raises as `offer` does."""


class Gossip:
    """Keeps our catalogue and those of our peers the same."""

    def __init__(
        self, transport: Transport, standing: Standing, catalogue: Catalogue, *, seed: int
    ) -> None:
        raise NotImplementedError

    async def run(self, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Serve, listen and pull until cancelled."""

    async def announce(self, item: Item, size: int) -> None:
        """Tell all peers, at once and best effort, that our catalogue now holds `item`."""
