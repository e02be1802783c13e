"""Decisions about rounds: the live paths, a path's next round, the outer steps that are due.

They are pure: they read the ledger's fold and the router specs that it adopted. Rounds are
synchronous per module (docs/method.md section 2): a path trains round t as soon as all its modules
stand at version t - 1, and a module takes its outer step of round t as soon as every live path
through it has a result, but those that missed the round (section 2.10). The only global barrier is
a re-sharding: later rounds begin when the new router is adopted.
"""

from collections.abc import Callable, Collection, Iterator
from functools import lru_cache

from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.work.run_state import RunState

Weights = tuple[int, ...]
"""n_p per path: its training tokens as a router spec counts them; 0: the path is not trained."""


def base_version(round_: int) -> int:
    """Return the version that round `round_` starts from; it makes version `round_`."""
    return round_ - 1


class Rounds:
    """The decisions of one run; it holds nothing that a restart would have to restore."""

    def __init__(self, state: RunState, weights: Callable[[Digest], Weights | None]) -> None:
        """weights: gives a router spec's weights by its digest, None while that spec is missing."""
        self._manifest = state.manifest
        self._state = state
        self._weights = weights
        self._unknown = (1,) * self._manifest.paths
        self._through: dict[int, tuple[Weights, dict[ModuleId, tuple[int, ...]]]] = {}
        """Per epoch the live paths through the modules that were asked for, by these weights."""
        self._done: tuple[int, tuple[int, ...], int] = (-1, (), -1)
        """The fold's count of changes, the live paths, and `done` as it was then."""

    # ------------------------------------------------------------------ weights, live paths

    def weights_at(self, round_: int) -> Weights:
        """Return n_p per path in a round, by the newest router that is known for it.

        While no router is known, every path has the weight 1.
        """
        adopted = self._state.specs[: self._manifest.epoch_of(round_) + 1]
        for spec in reversed(adopted):
            found = self._weights(spec)
            if found is not None:
                return found
        return self._unknown

    def live_at(self, round_: int) -> tuple[int, ...]:
        """Return the paths that train in a round, and are evaluated at that version."""
        stated = self._state.live[: self._manifest.epoch_of(round_) + 1]
        return stated[-1] if stated else live(self.weights_at(round_))

    def live_by(self, spec: Digest) -> tuple[int, ...]:
        """Return the paths that have training data by a router spec; all, while it is unknown."""
        return live(self._weights(spec) or self._unknown)

    @property
    def live_paths(self) -> tuple[int, ...]:
        """The paths with training data by the newest router."""
        return self.live_at(self.last)

    # ------------------------------------------------------------------ rounds

    @property
    def last(self) -> int:
        """T, the run's last round."""
        return self._manifest.training.rounds

    @property
    def done(self) -> int:
        """The newest version that all live paths have; -1 before the seed model."""
        changes, paths = self._state.changes, self.live_paths
        if self._done[:2] != (changes, paths):
            self._done = changes, paths, min(map(self._state.path_version, paths), default=-1)
        return self._done[2]

    def has_begun(self, round_: int) -> bool:
        """Return whether the router of a round is adopted."""
        return self._manifest.epoch_of(round_) <= self._state.epoch

    @property
    def finished(self) -> bool:
        """Whether every live path stands at the last version and every version is evaluated."""
        return self.done == self.last and next(self.due_evaluations(), None) is None

    def due_evaluations(self, *, behind: int = 0) -> Iterator[tuple[int, int]]:
        """Yield every (version, path) that is not evaluated yet.

        behind   leave out versions that are fewer than `behind` before the path's newest.
        """
        state = self._state
        for epoch in range(self._manifest.epoch_of(self.last) + 1):
            first = self._manifest.first_version(epoch)
            live_paths = self.live_at(first)
            begin = min((state.first_unevaluated(p, epoch) for p in live_paths), default=first)
            end = self._end_of(epoch)
            # begin is a version that some path lacks: few versions follow, not all of the run.
            due = {path: state.path_version(path) - behind for path in live_paths}
            for version in range(begin, min(end, max(due.values(), default=-1) + 1)):
                for path, newest in due.items():
                    if version <= newest and (version, path) not in state.evaluations:
                        yield version, path

    def _end_of(self, epoch: int) -> int:
        """Return the version after the last one that the router of `epoch` evaluates."""
        if epoch == self._manifest.epoch_of(self.last):
            return self.last + 1
        return self._manifest.first_version(epoch + 1)

    # ------------------------------------------------------------------ outer steps

    def due_steps(
        self, arrived: Collection[tuple[int, int]]
    ) -> Iterator[tuple[ModuleId, int, tuple[int, ...]]]:
        """Yield (module, version, paths) of every outer step whose results are complete.

        arrived   (path, round) of the results that count.
        version   that the step makes.
        paths     that contribute, ascending.
        """
        for module, version in self.next_versions() if arrived else ():
            paths = self.step_paths(module, version)
            if paths and all((path, version) in arrived for path in paths):
                yield module, version, paths

    def next_versions(self) -> Iterator[tuple[ModuleId, int]]:
        """Yield every module and the version that it takes next, if it takes one."""
        states, last = self._state.states, self.last
        for module in self._state.topology.modules if states else ():
            version = len(states[module])
            if version <= last:
                yield module, version

    def step_paths(self, module: ModuleId, version: int) -> tuple[int, ...]:
        """Return the paths whose results make a module's step to `version`, ascending."""
        if self._state.live:
            if self._manifest.epoch_of(version) > self._state.epoch:
                return ()  # the next router says which paths live
            return self._state.due_paths(module, version)
        weights = self.weights_at(version)
        epoch = self._manifest.epoch_of(version)
        if (known := self._through.get(epoch)) is None or known[0] is not weights:
            known = self._through[epoch] = (weights, {})
        found = known[1].get(module)
        if found is None:
            through = self._state.topology.paths_through(module)
            found = known[1][module] = tuple(path for path in through if weights[path])
        return found


@lru_cache(maxsize=64)
def live(weights: Weights) -> tuple[int, ...]:
    """Return the paths that have training data."""
    return tuple(path for path, weight in enumerate(weights) if weight)
