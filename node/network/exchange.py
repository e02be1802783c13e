"""Blobs by digest, from any connected peer that holds them: the digest proves the content.

Owns the choice of the holder, and the change to the next one when it fails: the next one goes on
where the last one stopped. Several callers share one fetch, and received bytes outlive a restart. A
holder gets a strike for a chunk that differs from its own outline (at once), and for an outline
that differs from the blob (at the end, by the blob's digest).
"""

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

import trio

from dipaco.node.network.blob_stream import BLOB, Asker, Download, InThread, Readable, Uploads
from dipaco.node.network.reputation import Reputation
from dipaco.node.network.rpc import Rpc
from dipaco.node.network.transport import Stream, Transport
from dipaco.node.network.turns import Turns
from dipaco.protocol.errors import DipacoError, RemoteProtocolError, Unavailable
from dipaco.protocol.wire.digest import Digest, short
from dipaco.protocol.wire.identity import PeerId, short_peer
from dipaco.protocol.wire.messages import AskHave, Have, Outline

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = logging.getLogger(__name__)

DOWNLOADS = 4  # blobs fetched at once from peers that are not known, and as many from known ones
PULL_GRACE = 60.0  # s that any blob may take
LEAST_SPEED = 16 * 1024  # bytes per s, on average: eight at once on an uplink of 1 Mbit/s
ASK_TIMEOUT = 5.0  # s for a peer to say whether it has a blob
OUR_BUG = "a bug of this node (its log has the traceback)"
LARGEST = 1 << 32  # bytes of a blob when the caller names no limit

T = TypeVar("T")

Progress = Callable[[int, int], None]
"""Called with the bytes received so far and the blob's length."""


class Draft(Protocol):
    """The first bytes of a blob that is being received."""

    @property
    def received(self) -> int:
        """The number of these bytes."""

    def append(self, data: bytes) -> None:
        """Add the bytes at `received`."""

    def finish(self) -> None:
        """Put the blob into the store; raises RemoteProtocolError when its digest is another."""

    def discard(self) -> None:
        """Delete the received bytes."""


class Blobs(Readable, Protocol):
    """The part of the blob store that the exchange uses; its errors reach `fetch`'s caller."""

    def partial(self, digest: Digest, size: int) -> Draft:
        """Open the bytes received so far, by this process or an earlier one."""


class _HolderFailed(Exception):
    """The holder cannot give the blob, for the reason in the message; another one may."""


class _Fetch:
    """One blob that at least one caller waits for."""

    def __init__(self, blob: Digest, length: int | None, limit: int) -> None:
        self.blob = blob
        self.length = length
        self.limit = limit
        self.hints: deque[PeerId] = deque()
        self.tried: set[PeerId] = set()
        self.waiting = 0
        self.progress: list[Progress] = []
        self.scope = trio.CancelScope()
        self.done = trio.Event()
        self.error: DipacoError | None = None
        self.cause = "no connected peer has it"
        self.inherited = 0  # chunks of an earlier process, checked against no outline in this one
        self.checked: list[Digest] | None = None  # of the chunks after those; None: not started

    def fits(self, length: int) -> bool:
        return length <= self.limit if self.length is None else length == self.length


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
        self._transport = transport
        self._guard = transport.guard
        self._rpc = rpc
        self._reputation = reputation
        self._blobs = blobs
        self._in_thread = in_thread
        self._prefix = prefix
        self._uploads = Uploads(blobs, in_thread, self._asker)
        self._fetches: dict[Digest, _Fetch] = {}
        self._places = {known: Turns(DOWNLOADS, per_group=3) for known in (False, True)}
        self._nursery: trio.Nursery | None = None
        self._received = 0
        rpc.handle(AskHave, self._have)
        transport.serve(BLOB, self._serve)

    @property
    def sent(self) -> int:
        """Bytes of blobs sent."""
        return self._uploads.sent

    @property
    def received(self) -> int:
        """Bytes of blobs received and checked."""
        return self._received

    @property
    def fetching(self) -> frozenset[Digest]:
        """The blobs that are being fetched: their received bytes must stay on the disk."""
        return frozenset(self._fetches)

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
        progress: Progress | None = None,
    ) -> None:
        """Bring the blob into the store, from `holders` first, else from any peer that has it.

        length  the blob's length in bytes, if it is known.
        limit   the largest length that is accepted if it is not known.

        Several callers share one fetch; it ends when the last of them is cancelled. Raises
        Unavailable when no connected peer has the blob in that length: back off and ask again, the
        received bytes are kept.
        """
        if not self._blobs.has(digest, length):
            await self._share(digest, length, limit, holders, progress)
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
        progress: Progress | None,
    ) -> None:
        fetch = self._fetches.get(digest)
        if fetch is None:
            if self._nursery is None:
                raise Unavailable("the exchange of blobs is not running")
            fetch = self._fetches[digest] = _Fetch(digest, length, limit)
            self._nursery.start_soon(self._run_fetch, fetch)
        fetch.hints.extend(holder for holder in holders if holder not in fetch.hints)
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

    def _forget(self, fetch: _Fetch) -> None:
        if self._fetches.get(fetch.blob) is fetch:
            del self._fetches[fetch.blob]

    # ---------------------------------------------------------------- fetching

    async def _run_fetch(self, fetch: _Fetch) -> None:
        with fetch.scope:
            try:
                found = await self._guard.attempt("fetching a blob", None, self._find, fetch)
                if not found:
                    fetch.error = Unavailable(f"{OUR_BUG} kept it from fetching a blob")
            except RemoteProtocolError as error:  # no caller sent it, and none can answer for it
                fetch.error = Unavailable(str(error))
            except DipacoError as error:
                fetch.error = error
        self._forget(fetch)
        fetch.done.set()

    async def _find(self, fetch: _Fetch) -> bool:
        """Try the hinted holders, then any peer that says it has the blob; raises Unavailable."""
        while fetch.hints:
            if await self._tried(fetch, fetch.hints.popleft()):
                return True
        while (holder := await self._first_holder(fetch)) is not None:
            if await self._tried(fetch, holder):
                return True
        raise Unavailable(f"cannot fetch blob {short(fetch.blob)}: {fetch.cause}")

    async def _first_holder(self, fetch: _Fetch) -> PeerId | None:
        """Return the first peer that says it has the blob: it is near, and not too busy."""
        found: list[PeerId] = []
        async with trio.open_nursery() as nursery:

            async def ask(peer: PeerId) -> None:
                doing = "asking for a blob"
                if await self._guard.attempt(doing, peer, self._says_it_has, peer, fetch.blob):
                    found.append(peer)
                    nursery.cancel_scope.cancel()

            for peer in self._rpc.ready() - fetch.tried:
                nursery.start_soon(ask, peer)
        return found[0] if found else None

    async def _says_it_has(self, peer: PeerId, blob: Digest) -> bool:
        try:
            return (await self._rpc.call(peer, AskHave(blob=blob), Have, timeout=ASK_TIMEOUT)).held
        except DipacoError as error:
            log.debug("peer=%s does not say whether it has a blob: %s", short_peer(peer), error)
            return False

    async def _tried(self, fetch: _Fetch, holder: PeerId) -> bool:
        """Return whether `holder` completed the blob; each is tried once."""
        if holder in fetch.tried or holder == self._transport.me:
            return False
        fetch.tried.add(holder)
        asker = self._asker(holder)
        async with self._places[asker.known].turn(asker.group):
            done = await self._guard.attempt("receiving a blob", holder, self._try, fetch, holder)
        if done is None:
            fetch.cause = f"{OUR_BUG} met what {short_peer(holder)} sent"
        return bool(done)

    async def _try(self, fetch: _Fetch, holder: PeerId) -> bool:
        """Return whether `holder` completed the blob."""
        try:
            stream = await self._transport.open(holder, BLOB)
        except Unavailable as error:
            fetch.cause = str(error)
            return False
        try:
            await self._download(fetch, Download(stream, fetch.blob))
        except _HolderFailed as failure:
            fetch.cause = str(failure)
            if isinstance(failure.__cause__, RemoteProtocolError):
                await self._reputation.blame(holder, fetch.cause)
            return False
        finally:
            await stream.reset()
        return True

    async def _download(self, fetch: _Fetch, download: Download) -> None:
        """Append the missing chunks to the draft and finish it; raises _HolderFailed."""
        began = trio.current_time()
        outline = await _of_holder(download.begin)
        if not fetch.fits(outline.length):
            raise _HolderFailed(f"a holder's blob has {outline.length} bytes: not the length asked")
        draft = self._blobs.partial(fetch.blob, outline.length)
        while True:
            _discard_if_contradicted(fetch, draft, outline)
            with trio.move_on_at(began + PULL_GRACE + outline.length / LEAST_SPEED) as pull:
                await self._append_chunks(fetch, draft, download)
            if pull.cancelled_caught:  # what has arrived is kept: another goes on from there
                raise _HolderFailed(f"a holder sent it at less than {LEAST_SPEED} bytes/s")
            try:
                return await self._in_thread(partial(_finish, fetch.blob, draft, outline.length))
            except RemoteProtocolError as error:
                # A true outline agrees with no false chunk, so the holder that completed a false
                # blob gave a false outline: unless chunks of an earlier process were not checked.
                on_trust, fetch.inherited, fetch.checked = fetch.inherited, 0, []
                if not on_trust:
                    raise _HolderFailed(f"{error}, though it matches its outline") from error

    async def _append_chunks(self, fetch: _Fetch, draft: Draft, download: Download) -> None:
        outline = download.outline
        assert fetch.checked is not None
        download.start_at(fetch.inherited + len(fetch.checked))
        while (data := await _of_holder(download.next_chunk)) is not None:
            offset = (fetch.inherited + len(fetch.checked)) * outline.chunk
            await self._in_thread(partial(_append, fetch.blob, draft, offset, data))
            fetch.checked.append(outline.digests[fetch.inherited + len(fetch.checked)])
            self._received += len(data)
            for progress in fetch.progress:
                progress(draft.received, outline.length)

    # ---------------------------------------------------------------- serving

    def _asker(self, peer: PeerId) -> Asker:
        return Asker(peer, self._prefix(peer), self._reputation.known(peer))

    async def _serve(self, stream: Stream) -> None:
        try:
            await self._uploads.serve(stream)
        except RemoteProtocolError as error:
            await self._reputation.blame(stream.peer, str(error))

    async def _have(self, _peer: PeerId, ask: AskHave) -> Have:
        return Have(held=self._blobs.has(ask.blob))


def _append(blob: Digest, draft: Draft, offset: int, data: bytes) -> None:
    """Add the bytes at `offset`; raises Unavailable if the draft does not end there."""
    _check_length(blob, draft, offset)
    draft.append(data)


def _finish(blob: Digest, draft: Draft, length: int) -> None:
    """Put a draft of `length` bytes into the store; one of another digest is deleted."""
    _check_length(blob, draft, length)
    draft.finish()


def _check_length(blob: Digest, draft: Draft, expected: int) -> None:
    """Raise Unavailable if someone changed the draft: no holder is to blame for that."""
    if draft.received != expected:
        raise Unavailable(f"the received bytes of blob {short(blob)} were changed on this disk")


def _discard_if_contradicted(fetch: _Fetch, draft: Draft, outline: Outline) -> None:
    """Discard a draft that `outline` contradicts, or that a crash cut inside a chunk."""
    if fetch.checked is None:
        whole, torn = divmod(draft.received, outline.chunk)
        last = draft.received == outline.length
        fetch.inherited, fetch.checked = whole + (last and torn > 0), []
        agrees = not torn or last
    else:
        start = fetch.inherited
        agrees = outline.digests[start : start + len(fetch.checked)] == tuple(fetch.checked)
    if not agrees or draft.received > outline.length:
        draft.discard()
        fetch.inherited, fetch.checked = 0, []


async def _of_holder(step: Callable[[], Awaitable[T]]) -> T:
    """Run a step that depends on the holder alone; its failure becomes _HolderFailed."""
    try:
        return await step()
    except (Unavailable, RemoteProtocolError) as error:
        raise _HolderFailed(str(error)) from error
