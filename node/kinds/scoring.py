"""The scoring phase of a re-sharding: what is to be scored, by how many, and which sheets stand.

Pure: it reads the ledger's view, and is told which sheets agree by whoever can read them. Source:
docs/method.md, section 5.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dipaco.protocol.routing.labels import MAX_SHEETS_PER_WINDOW, standing
from dipaco.protocol.run.manifest import Reshard
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.kinds import Scored
from dipaco.protocol.work.run_state import RunState


@dataclass(frozen=True)
class Vacancy:
    """A path and window whose scores want so many further sheets."""

    path: int
    window: int
    places: int


class Scoring:
    """What the sheets that the ledger names add up to."""

    def __init__(self, reshard: Reshard, view: RunState) -> None:
        self._reshard, self._view = reshard, view
        self._alike: set[frozenset[Digest]] = set()

    def note_alike(self, ours: Digest, theirs: Digest) -> None:
        """Take in that two sheets of one path and window agree."""
        self._alike.add(frozenset((ours, theirs)))

    def given(self, path: int, window: int) -> list[Scored]:
        """Return the sheets of a path and window, as recorded."""
        return self._view.scored.get((path, window), [])

    def standing(self, path: int, window: int) -> tuple[Scored, ...] | None:
        """Return those that stand, the one that counts first; None: not decided."""
        given = self.given(path, window)
        digests = [each.sheet.digest for each in given]
        stand = standing(
            len(given),
            lambda i, j: (
                digests[i] == digests[j] or frozenset((digests[i], digests[j])) in self._alike
            ),
            scorers=self._reshard.scorers,
        )
        return None if stand is None else tuple(given[i] for i in stand)

    def refuted(self, path: int, window: int) -> tuple[Scored, ...]:
        """Return those that contradict the ones that stand."""
        stand = self.standing(path, window)
        return tuple(each for each in self.given(path, window) if stand and each not in stand)

    def vacancies(self, live_paths: Iterable[int]) -> Iterator[Vacancy]:
        """Yield what is still to be scored, and by how many peers."""
        for path in live_paths:
            for window in range(self._reshard.windows):
                count = len(self.given(path, window))
                if count < MAX_SHEETS_PER_WINDOW and self.standing(path, window) is None:
                    yield Vacancy(path, window, max(1, self._reshard.scorers - count))

    def undecided(self, live_paths: Iterable[int]) -> Iterator[tuple[int, int]]:
        """Yield each path and window that has all the sheets it may have, of which none stands."""
        for path in live_paths:
            for window in range(self._reshard.windows):
                count = len(self.given(path, window))
                if count >= MAX_SHEETS_PER_WINDOW and self.standing(path, window) is None:
                    yield path, window

    def gave(self, peer: PeerId, path: int, window: int) -> bool:
        """Return whether a peer's word on this is recorded already: another one's is wanted."""
        return any(each.peer == peer for each in self.given(path, window))

    def complete(self, live_paths: Iterable[int]) -> bool:
        """Return whether every live path has a sheet that stands for every window."""
        return all(
            self.standing(path, window)
            for path in live_paths
            for window in range(self._reshard.windows)
        )
