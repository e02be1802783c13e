"""Blobs by digest, from the connected peers that hold them: the digest proves the content.

Serves the blobs of the store, and fetches missing ones (`fetching`). Several callers share one
fetch, and received bytes outlive a restart.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from dipaco.node.network.blob_stream import BLOB, Asker, InThread, Uploads
from dipaco.node.network.fetching import OUR_BUG, Blobs, Fetch, Fetcher, Progress
from dipaco.node.network.reputation import Reputation
from dipaco.node.network.rpc import Rpc
from dipaco.node.network.transport import Stream, Traffic, Transport
from dipaco.protocol.errors import DipacoError, RemoteProtocolError, Unavailable
from dipaco.protocol.wire.digest import Digest, short
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.messages import AskHave, AskPresence, Have, Presence, PresenceIs

if TYPE_CHECKING:
    from trio_typing import TaskStatus

LARGEST = 1 << 32  # bytes of a blob when the caller names no limit


class Exchange:
    """Serves the blobs of a store to peers, and fetches missing blobs into it."""

    def __init__(
        self,
        transport: Transport,
        rpc: Rpc,
        reputation: Reputation,
        blobs: Blobs,
        *,
        in_thread: InThread = trio.to_thread.run_sync,
        prefix: Callable[[PeerId], str] = lambda peer: "",
    ) -> None:
        """prefix: returns the IP prefix by which a peer is counted; empty: it is not counted."""
        self.quiet: Callable[[], bool] = lambda: False
        """Whether no blobs are sent and fetched now; small calls are answered all the same."""
        self._guard = transport.guard
        self._caps = transport.caps
        self._reputation = reputation
        self._blobs = blobs
        self._prefix = prefix
        self._uploads = Uploads(
            blobs, in_thread, self._asker, self._count_sent, quiet=lambda: self.quiet()
        )
        self._fetches: dict[Digest, Fetch] = {}
        self._fetcher = Fetcher(
            transport,
            rpc,
            reputation,
            blobs,
            in_thread,
            asker=self._asker,
            arrived=self._count,
        )
        self._nursery: trio.Nursery | None = None
        self.traffic = Traffic()
        """Bytes of blobs: chunks sent, and those received that were checked and of use."""
        self.received_by_kind: Counter[str] = Counter()
        self._wanted: Counter[Digest] = Counter()
        rpc.handle(AskHave, self._have)
        rpc.handle(AskPresence, self._presence)
        transport.serve(BLOB, self._serve)

    @property
    def sent(self) -> int:
        """Bytes of blobs sent."""
        return self.traffic.sent

    @property
    def received(self) -> int:
        """Bytes of blobs received and checked."""
        return self.traffic.received

    @property
    def fetching(self) -> frozenset[Digest]:
        """The blobs that are being fetched: their received bytes must stay on the disk."""
        return frozenset(self._fetches)

    def holds(self, blob: Digest) -> bool:
        """Return whether the blob is in the store."""
        return self._blobs.has(blob)

    @contextmanager
    def wanting(self, blobs: Collection[Digest]) -> Iterator[None]:
        """Tell whoever asks that this node is about to have these blobs, for the block."""
        self._wanted.update(blobs)
        try:
            yield
        finally:
            self._wanted.subtract(blobs)
            self._wanted += Counter()  # drop those that nobody wants now

    async def run(self, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Fetch until cancelled."""
        async with trio.open_nursery() as self._nursery:
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None  # late callbacks start nothing

    async def fetch(
        self,
        digest: Digest,
        *,
        length: int | None = None,
        limit: int = LARGEST,
        holders: Sequence[PeerId] = (),
        last: Sequence[PeerId] = (),
        progress: Progress | None = None,
        kind: str = "other",
    ) -> None:
        """Bring the blob into the store, from `holders` first, else from any peer that has it.

        length   the blob's length in bytes, if it is known.
        limit    the largest length that is accepted if it is not known.
        holders  several of them send at once.
        last     holders that are asked only while none of `holders` sends.
        kind     of blob, for the counts of bytes.

        Several callers share one fetch; it ends when the last of them is cancelled. Raises
        Unavailable when no connected peer has the blob in that length: back off and ask again, the
        received bytes are kept.
        """
        if not self._blobs.has(digest, length):
            if self.quiet():
                raise Unavailable("this node fetches no blobs now: see its reason in the status")
            await self._share(digest, length, limit, holders, last, progress, kind)
        size = self._blobs.size(digest)
        if size > limit or (length is not None and size != length):
            wanted = f"at most {limit}" if length is None else str(length)
            raise Unavailable(f"blob {short(digest)} has {size} bytes where {wanted} are expected")

    async def _share(
        self,
        digest: Digest,
        length: int | None,
        limit: int,
        holders: Sequence[PeerId],
        last: Sequence[PeerId],
        progress: Progress | None,
        kind: str,
    ) -> None:
        fetch = self._fetches.get(digest)
        if fetch is None:
            if self._nursery is None:
                raise Unavailable("the exchange of blobs is not running")
            fetch = self._fetches[digest] = Fetch(digest, length, limit, kind, self._caps.holders)
            self._nursery.start_soon(self._run_fetch, fetch)
        fetch.name(holders, last)
        if progress is not None:
            fetch.progress.append(progress)
        fetch.waiting += 1
        try:
            await fetch.done.wait()
        finally:
            fetch.waiting -= 1
            if progress is not None:
                fetch.progress.remove(progress)
            if not fetch.waiting:
                fetch.scope.cancel()
                self._forget(fetch)
        if fetch.error is not None:
            raise type(fetch.error)(str(fetch.error)) from fetch.error

    def _forget(self, fetch: Fetch) -> None:
        if self._fetches.get(fetch.blob) is fetch:
            del self._fetches[fetch.blob]

    async def _run_fetch(self, fetch: Fetch) -> None:
        with fetch.scope:
            try:
                found = await self._guard.attempt(
                    "fetching a blob", None, self._fetcher.bring, fetch
                )
                if not found:
                    fetch.error = Unavailable(f"{OUR_BUG} kept it from fetching a blob")
            except RemoteProtocolError as error:  # no caller sent it, and none can answer for it
                fetch.error = Unavailable(str(error))
            except DipacoError as error:
                fetch.error = error
        self._forget(fetch)
        fetch.done.set()

    def _count(self, peer: PeerId, received: int, kind: str) -> None:
        self.traffic.count(peer, received=received)
        self.received_by_kind[kind] += received

    def _count_sent(self, peer: PeerId, sent: int) -> None:
        self.traffic.count(peer, sent=sent)

    # ---------------------------------------------------------------- serving

    def _asker(self, peer: PeerId) -> Asker:
        return Asker(peer, self._prefix(peer), self._reputation.known(peer))

    async def _serve(self, stream: Stream) -> None:
        try:
            await self._uploads.serve(stream)
        except RemoteProtocolError as error:
            await self._reputation.blame(stream.peer, str(error))

    async def _have(self, _peer: PeerId, ask: AskHave) -> Have:
        return Have(held=self.holds(ask.blob) and not self.quiet())

    async def _presence(self, _peer: PeerId, ask: AskPresence) -> PresenceIs:
        return PresenceIs(blobs=tuple(self._present(blob) for blob in ask.blobs))

    def _present(self, blob: Digest) -> Presence:
        if self.quiet():
            return "absent"
        if self.holds(blob):
            return "held"
        if blob in self._fetches:
            return "coming"
        return "wanted" if blob in self._wanted else "absent"
