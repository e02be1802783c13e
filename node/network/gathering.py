"""Which chunks of one blob are here, and which holder owes which: pure, it takes `now`.

Chunks are asked of several holders at once, the lowest first, and written in order: so the received
bytes are always the first ones, and outlive a restart without a list. A chunk that one holder has
owed for long is asked of another one that has nothing else to do, and the first answer counts: so
no holder can keep the last chunk to itself.
"""

from dataclasses import dataclass, field

from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.messages import Outline

AHEAD = 2  # chunks asked of one holder and not yet received: hides one round trip
WINDOW = 8  # chunks beyond the first that is missing: as many of 1 MiB may wait in memory
PATIENCE = 2.0  # s that a chunk is owed at least before another holder is asked for it, too
SLOWER = 3.0  # times as long as the other holder's own last chunk took


@dataclass(frozen=True)
class Chunk:
    """A chunk that arrived, and the holder that sent it."""

    holder: PeerId
    data: bytes


@dataclass
class Member:
    """A holder that sends chunks by the present outline."""

    moved: float
    """When its last chunk came, or when it began; seconds."""
    pace: float = 0.0
    """Seconds between its last two chunks; 0.0: it sent none."""
    owed: dict[int, float] = field(default_factory=dict)
    """The chunks that it was asked for, with the times."""


class Gathering:
    """One blob on its way, by one outline that all its members gave."""

    def __init__(self, outline: Outline, *, inherited: int = 0) -> None:
        """inherited   chunks of an earlier process, which nobody has checked in this one."""
        self.outline = outline
        self.inherited = inherited
        self.written = inherited
        """Chunks that are on the disk: the first ones."""
        self.members: dict[PeerId, Member] = {}
        self.verdict = ""
        """Why the blob is not what the outline says; empty: nothing is known against it."""
        self._waiting: dict[int, Chunk] = {}

    @property
    def checked(self) -> tuple[Digest, ...]:
        """The digests of the written chunks that were checked against the outline."""
        return self.outline.digests[self.inherited : self.written]

    @property
    def complete(self) -> bool:
        """Whether all chunks are on the disk."""
        return self.written == len(self.outline.digests)

    def offset(self, index: int) -> int:
        """Return where chunk `index` begins, in bytes."""
        return index * self.outline.chunk

    def join(self, holder: PeerId, now: float) -> None:
        """Take in a holder whose outline is this one."""
        self.members[holder] = Member(now)

    def leave(self, holder: PeerId) -> None:
        """Ask a holder for nothing more: what it owes is asked of others."""
        self.members.pop(holder, None)

    def claim(self, holder: PeerId, now: float) -> int | None:
        """Return the chunk to ask `holder` for next; None: there is none for it now."""
        mine = self.members[holder]
        if len(mine.owed) >= AHEAD:
            return None
        index = self._unasked()
        if index is None and not mine.owed:
            index = self._overdue(mine, now)
        if index is not None:
            mine.owed[index] = now
        return index

    def arrived(self, holder: PeerId, index: int, data: bytes, now: float) -> bool:
        """Take in a chunk that was checked; returns whether it is of use: another may have come."""
        mine = self.members[holder]
        mine.owed.pop(index, None)
        mine.pace, mine.moved = now - mine.moved, now
        if index < self.written or index in self._waiting:
            return False
        self._waiting[index] = Chunk(holder, data)
        return True

    def next_to_write(self) -> Chunk | None:
        """Return the chunk that follows the written ones, if it is here."""
        return self._waiting.get(self.written)

    def wrote(self) -> None:
        """Note that the chunk that `next_to_write` returned is on the disk."""
        del self._waiting[self.written]
        self.written += 1

    def start_over(self) -> None:
        """Forget all chunks: those of an earlier process were wrong."""
        self.inherited = self.written = 0
        self._waiting.clear()

    def _missing(self) -> range:
        return range(self.written, min(len(self.outline.digests), self.written + WINDOW))

    def _unasked(self) -> int | None:
        asked = set(self._waiting).union(*(each.owed for each in self.members.values()))
        return next((index for index in self._missing() if index not in asked), None)

    def _overdue(self, mine: Member, now: float) -> int | None:
        """Return the lowest chunk that others owe, all for longer than they may."""
        least = max(PATIENCE, SLOWER * mine.pace)
        for index in self._missing():
            since = [each.owed[index] for each in self.members.values() if index in each.owed]
            if since and now - max(since) >= least:
                return index
        return None
