"""One blob fetched from several holders at once.

Owns the choice of the holders at work: those that were named, then those that are asked last, then
any peer that says it has the blob. A holder that sends nothing for a while is joined by another
one, and what it owes is asked of that one. The outlines of holders that work together are equal;
where two differ, one is followed, and the blob's digest decides which of them is false. A holder
gets a strike for a chunk that differs from its own outline (at once), and for an outline that
differs from the blob (at the end). Silence, slowness and a blob that is not there cost nothing.
"""

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Protocol, TypeVar

import trio

from dipaco.node.condition import Condition
from dipaco.node.network.blob_stream import (
    BLOB,
    Asker,
    Download,
    InThread,
    Readable,
    chunk_count,
)
from dipaco.node.network.gathering import AHEAD, Gathering
from dipaco.node.network.reputation import Reputation
from dipaco.node.network.rpc import Rpc
from dipaco.node.network.transport import Transport
from dipaco.node.network.turns import Turns
from dipaco.protocol.errors import DipacoError, RemoteProtocolError, Unavailable
from dipaco.protocol.wire.digest import Digest, short
from dipaco.protocol.wire.identity import PeerId, short_peer
from dipaco.protocol.wire.messages import AskHave, Have, Outline

log = logging.getLogger(__name__)

DOWNLOADS = 4  # streams of blobs at once from peers that are not known, and as many from known ones
SEVERAL = 3  # holders of one blob at once, while they send
MOST_AT_WORK = 6  # of one blob, those that send nothing for a while included
STALL = 10.0  # s without a byte that counts, after which another holder is called in
SEEK_SECONDS = 30.0  # between two rounds of asking everybody, while a holder is still at work
LOOK_SECONDS = 0.5  # between two looks whether a holder stalls
PULL_GRACE = 60.0  # s that any blob may take
LEAST_SPEED = 16 * 1024  # bytes per s, on average: eight at once on an uplink of 1 Mbit/s
ASK_TIMEOUT = 5.0  # s for a peer to say whether it has a blob
OUR_BUG = "a bug of this node (its log has the traceback)"

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
    """The part of the blob store that is used here; its errors reach the callers of a fetch."""

    def partial(self, digest: Digest, size: int) -> Draft:
        """Open the bytes received so far, by this process or an earlier one."""


class _HolderFailed(Exception):
    """The holder cannot give the blob, for the reason in the message; another one may."""


class Fetch:
    """One blob that at least one caller waits for."""

    def __init__(
        self,
        blob: Digest,
        length: int | None,
        limit: int,
        kind: str,
        several: Callable[[int], int] = lambda most: most,
    ) -> None:
        """several: returns how many of so many holders may send at once."""
        self.blob = blob
        self._several = several
        self.length = length
        self.limit = limit
        self.kind = kind
        self.hints: deque[PeerId] = deque()
        """Named holders that were not tried yet."""
        self.last: deque[PeerId] = deque()
        """Those that are asked when no other one sends."""
        self.tried: set[PeerId] = set()
        self.moved: dict[PeerId, float] = {}
        """The holders at work, each with the time of its last move, seconds."""
        self.queued: set[PeerId] = set()
        """Those of them that wait for a place of ours."""
        self.rivals: dict[PeerId, Outline] = {}
        """Holders whose outline differs from the one that is followed."""
        self.gathering: Gathering | None = None
        self.draft: Draft | None = None
        self.writing = trio.Lock()
        self.changed = Condition()
        self.settled = trio.Event()
        self.cause = "no connected peer has it"
        self.error: DipacoError | None = None
        # of the callers
        self.waiting = 0
        self.progress: list[Progress] = []
        self.scope = trio.CancelScope()
        self.done = trio.Event()

    def name(self, hints: Iterable[PeerId], last: Iterable[PeerId]) -> None:
        """Add holders that the callers know of."""
        self.last.extend(each for each in last if each not in self.last)
        self.hints.extend(each for each in hints if each not in self.hints)
        self.changed.notify()

    def fits(self, length: int) -> bool:
        """Return whether a blob of `length` bytes can be the one that is meant."""
        return length <= self.limit if self.length is None else length == self.length

    def moves(self, holder: PeerId) -> None:
        """Note that a holder at work got on."""
        self.moved[holder] = trio.current_time()
        self.changed.notify()

    def settle(self, error: DipacoError | None = None) -> None:
        """End the fetch, with the blob in the store or an error for the callers; once."""
        if not self.settled.is_set():
            self.error = error
            self.settled.set()

    @property
    def moving(self) -> int:
        """How many holders at work got on lately."""
        now = trio.current_time()
        return sum(now - moved < STALL for moved in self.moved.values())

    @property
    def wanted(self) -> int:
        """How many holders the missing chunks can keep at work."""
        if self.gathering is not None:
            missing = len(self.gathering.outline.digests) - self.gathering.written
        else:
            missing = 1 if self.length is None else chunk_count(self.length)
        return min(self._several(SEVERAL), max(1, -(-missing // AHEAD)))

    def next_named(self) -> PeerId | None:
        """Take the holder to be called in next out of those that are named."""
        if len(self.moved) >= MOST_AT_WORK:
            return None
        moving = self.moving
        if moving < self.wanted and (holder := self._untried(self.hints)):
            return holder
        if moving:
            return None
        if holder := self._untried(self.last):
            return holder
        return self.rivals.popitem()[0] if self.rivals else None

    def _untried(self, named: deque[PeerId]) -> PeerId | None:
        while named:
            if (holder := named.popleft()) not in self.tried:
                return holder
        return None

    def enter(self, holder: PeerId, outline: Outline, blobs: Blobs) -> Gathering:
        """Return the gathering in which `holder` sends; raises _HolderFailed for a rival."""
        present, now = self.gathering, trio.current_time()
        if present is None or (present.outline != outline and not self._is_moving(present, now)):
            self.draft = blobs.partial(self.blob, outline.length)
            self.gathering = present = _begun(self.draft, outline, present)
        elif present.outline != outline:
            self.rivals[holder] = outline
            raise _HolderFailed("two holders give two outlines: the blob's digest will decide")
        present.join(holder, now)
        self.moves(holder)
        return present

    def _is_moving(self, gathering: Gathering, now: float) -> bool:
        return any(now - self.moved.get(each, 0.0) < STALL for each in gathering.members)

    def leave(self, holder: PeerId) -> None:
        """Note that a holder is at work no more."""
        self.moved.pop(holder, None)
        if self.gathering is not None:
            self.gathering.leave(holder)
        self.changed.notify()


class Fetcher:
    """Fetches one blob after the other, several at once; all share its places."""

    def __init__(
        self,
        transport: Transport,
        rpc: Rpc,
        reputation: Reputation,
        blobs: Blobs,
        in_thread: InThread,
        *,
        asker: Callable[[PeerId], Asker],
        arrived: Callable[[PeerId, int, str], None],
    ) -> None:
        """Take the parts of the node.

        asker     returns how a peer is counted.
        arrived   is told of every chunk that was of use: its sender, its bytes, the blob's kind.
        """
        self._transport = transport
        self._guard = transport.guard
        self._rpc = rpc
        self._reputation = reputation
        self.blobs = blobs
        self._in_thread = in_thread
        self._asker = asker
        self._arrived = arrived
        self._places = {known: Turns(DOWNLOADS, per_group=3) for known in (False, True)}

    async def bring(self, fetch: Fetch) -> bool:
        """Bring the blob into the store; raises Unavailable, and what the store raises."""
        fetch.tried.add(self._transport.me)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_holders, fetch, nursery)
            await fetch.settled.wait()
            nursery.cancel_scope.cancel()
        if fetch.error is not None:
            raise fetch.error
        if fetch.gathering is not None and not fetch.gathering.inherited:
            for rival, outline in fetch.rivals.items():
                if outline != fetch.gathering.outline:
                    false = f"gave a false outline of blob {short(fetch.blob)}"
                    await self._reputation.blame(rival, false)
        return True

    async def _keep_holders(self, fetch: Fetch, nursery: trio.Nursery) -> None:
        """Have enough holders at work until the fetch is settled."""
        seek_at = trio.current_time()
        while True:
            holder = fetch.next_named()
            if holder is None and self._stuck(fetch) and trio.current_time() >= seek_at:
                seek_at = trio.current_time() + SEEK_SECONDS
                holder = await self._first_holder(fetch)
            if holder is not None:
                seek_at = trio.current_time()
                fetch.tried.add(holder)
                fetch.queued.add(holder)
                fetch.moves(holder)
                nursery.start_soon(self._tried, fetch, holder)
            elif not fetch.moved and not fetch.hints and not fetch.last:
                problem = f"cannot fetch blob {short(fetch.blob)}: {fetch.cause}"
                fetch.settle(Unavailable(problem))
                return
            else:
                with trio.move_on_after(LOOK_SECONDS):
                    await fetch.changed.wait()

    def _stuck(self, fetch: Fetch) -> bool:
        """Whether everybody is asked now: no holder sends, and none waits for us alone."""
        if not fetch.moved:
            return True
        return not fetch.moving and not fetch.queued and len(fetch.moved) < MOST_AT_WORK

    async def _first_holder(self, fetch: Fetch) -> PeerId | None:
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

    async def _tried(self, fetch: Fetch, holder: PeerId) -> None:
        """Let `holder` send as much as it can; what our own store raises ends the fetch."""
        asker = self._asker(holder)
        try:
            async with self._places[asker.known].turn(asker.group):
                fetch.queued.discard(holder)
                fetch.moves(holder)
                doing = "receiving a blob"
                ended = await self._guard.attempt(doing, holder, self._try, fetch, holder)
            if ended is None:
                fetch.cause = f"{OUR_BUG} met what {short_peer(holder)} sent"
        except DipacoError as error:
            fetch.settle(error)
        finally:
            fetch.leave(holder)

    async def _try(self, fetch: Fetch, holder: PeerId) -> bool:
        try:
            stream = await self._transport.open(holder, BLOB)
        except Unavailable as error:
            fetch.cause = str(error)
            return False
        try:
            await self._download(fetch, holder, Download(stream, fetch.blob))
        except _HolderFailed as failure:
            fetch.cause = str(failure)
            if isinstance(failure.__cause__, RemoteProtocolError):
                await self._reputation.blame(holder, fetch.cause)
            return False
        finally:
            await stream.reset()
        return True

    async def _download(self, fetch: Fetch, holder: PeerId, download: Download) -> None:
        """Take chunks of one holder until the blob is here; raises _HolderFailed."""
        began = trio.current_time()
        outline = await _of_holder(download.begin)
        if not fetch.fits(outline.length):
            raise _HolderFailed(f"a holder's blob has {outline.length} bytes: not the length asked")
        gathering = fetch.enter(holder, outline, self.blobs)
        with trio.move_on_at(began + PULL_GRACE + outline.length / LEAST_SPEED) as pull:
            await self._take_chunks(fetch, gathering, holder, download)
        if pull.cancelled_caught:  # what has arrived is kept: another goes on from there
            raise _HolderFailed(f"a holder sent it at less than {LEAST_SPEED} bytes/s")

    async def _take_chunks(
        self, fetch: Fetch, gathering: Gathering, holder: PeerId, download: Download
    ) -> None:
        while not fetch.settled.is_set():
            if gathering.verdict:
                raise _HolderFailed(gathering.verdict) from RemoteProtocolError(gathering.verdict)
            if fetch.gathering is not gathering:
                raise _HolderFailed("it stalled, and a holder with another outline took its place")
            if gathering.complete or gathering.next_to_write() is not None:
                await self._write(fetch, gathering)
                continue
            while (index := gathering.claim(holder, trio.current_time())) is not None:
                await _of_holder(partial(download.ask, index))
            if gathering.members[holder].owed:
                arrived, data = await _of_holder(download.receive)
                gathering.arrived(holder, arrived, data, trio.current_time())
                fetch.moves(holder)
            else:
                with trio.move_on_after(LOOK_SECONDS):
                    await fetch.changed.wait()

    async def _write(self, fetch: Fetch, gathering: Gathering) -> None:
        """Append the chunks whose turn it is, and finish a blob that is whole."""
        draft, outline = fetch.draft, gathering.outline
        assert draft is not None
        async with fetch.writing:
            while (chunk := gathering.next_to_write()) and fetch.gathering is gathering:
                offset = gathering.offset(gathering.written)
                await self._in_thread(partial(_append, fetch.blob, draft, offset, chunk.data))
                gathering.wrote()
                self._arrived(chunk.holder, len(chunk.data), fetch.kind)
                for progress in fetch.progress:
                    progress(draft.received, outline.length)
            if gathering.complete and fetch.gathering is gathering and not fetch.settled.is_set():
                await self._finish(fetch, gathering, draft)

    async def _finish(self, fetch: Fetch, gathering: Gathering, draft: Draft) -> None:
        try:
            await self._in_thread(partial(_finish, fetch.blob, draft, gathering.outline.length))
        except RemoteProtocolError as error:
            # A true outline agrees with no false chunk, so the holders that completed a false
            # blob gave a false outline: unless chunks of an earlier process were not checked.
            if gathering.inherited:
                gathering.start_over()
            else:
                gathering.verdict = f"{error}, though it matches its outline"
                fetch.gathering = None
            fetch.changed.notify()
        else:
            fetch.settle()


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


def _begun(draft: Draft, outline: Outline, before: Gathering | None) -> Gathering:
    """Return a gathering that goes on where the draft ends.

    A draft that `outline` contradicts, or that a crash cut inside a chunk, is discarded.
    """
    gathering = Gathering(outline)
    if before is None:
        whole, torn = divmod(draft.received, outline.chunk)
        last = draft.received == outline.length
        gathering.inherited = gathering.written = whole + (last and torn > 0)
        agrees = not torn or last
    else:
        gathering.inherited, gathering.written = before.inherited, before.written
        agrees = before.checked == gathering.checked
    if not agrees or draft.received > outline.length:
        draft.discard()
        gathering.start_over()
    return gathering


async def _of_holder(step: Callable[[], Awaitable[T]]) -> T:
    """Run a step that depends on the holder alone; its failure becomes _HolderFailed."""
    try:
        return await step()
    except (Unavailable, RemoteProtocolError) as error:
        raise _HolderFailed(str(error)) from error
