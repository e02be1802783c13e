"""Decisions about rounds: the live paths, a path's next round, the outer steps that are due.

They are pure: they read the ledger's fold and the router specs that it adopted. Rounds are
synchronous per module (docs/method.md section 2): a path trains round t as soon as all its modules
stand at version t - 1, and a module takes its outer step of round t as soon as every live path
through it has a result, but those that missed the round (section 2.10). The only global barrier is
a re-sharding: later rounds begin when the new router is adopted.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import lru_cache

from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.work.kinds import Evaluated
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
        """Per epoch the live paths through every module, by these weights."""
        self._stated: tuple[int, dict[int, Mapping[ModuleId, tuple[int, ...]]]] = (-1, {})
        """The fold's count of changes, and by version the paths that it says make the steps."""
        self._lacking: dict[ModuleId, tuple[int, int]] = {}
        """Per module a path and round whose result it lacked when `due_steps` looked last."""
        self._evaluating: dict[int, tuple[int, tuple[int, ...], int, Mapping[int, int]]] = {}
        """Per epoch the fold's count of changes, its live paths, and what is to be evaluated."""
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
        evaluations = self._state.evaluations
        for epoch in range(self._manifest.epoch_of(self.last) + 1):
            begin, newest = self._to_evaluate(epoch)
            end = min(self._end_of(epoch), max(newest.values(), default=-1) - behind + 1)
            # begin is a version that some path lacks: few versions follow, not all of the run.
            for version in range(begin, end):
                for path, stands_at in newest.items():
                    if version <= stands_at - behind and (version, path) not in evaluations:
                        yield version, path

    def last_evaluated(self) -> tuple[Evaluated, ...]:
        """Return the evaluations of the newest version that every live path was evaluated at.

        Empty before there is such a version.
        """
        for epoch in range(self._state.epoch, -1, -1):
            begin, newest = self._to_evaluate(epoch)
            if newest and begin > self._manifest.first_version(epoch):
                return tuple(self._state.evaluations[begin - 1, path] for path in newest)
        return ()

    def _to_evaluate(self, epoch: int) -> tuple[int, Mapping[int, int]]:
        """Return the first version that a live path of an epoch lacks, and where they all stand."""
        state, first = self._state, self._manifest.first_version(epoch)
        paths = self.live_at(first)
        known = self._evaluating.get(epoch)
        if known is None or known[:2] != (state.changes, paths):
            begin = min((state.first_unevaluated(path, epoch) for path in paths), default=first)
            newest = {path: state.path_version(path) for path in paths}
            known = self._evaluating[epoch] = state.changes, paths, begin, newest
        return known[2:]

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
        lacking, paths_at = self._lacking, dict[int, Mapping[ModuleId, tuple[int, ...]]]()
        for module, version in self.next_versions() if arrived else ():
            if version not in paths_at:
                paths_at[version] = self.paths_at(version)  # which forgets what other routers made
            lacks = lacking.get(module)
            if lacks and lacks[1] == version and lacks not in arrived:
                continue  # it waits for the same path as at the last look
            paths = paths_at[version][module]
            missing = next((path for path in paths if (path, version) not in arrived), None)
            if missing is not None and not self._state.live:
                lacking[module] = missing, version
            elif missing is None and paths:
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
        return self.paths_at(version)[module]

    def paths_at(self, version: int) -> Mapping[ModuleId, tuple[int, ...]]:
        """Return, by module, the paths whose results make its step to `version`, ascending."""
        state, epoch = self._state, self._manifest.epoch_of(version)
        if state.live:
            return self._stated_at(version)
        weights, top = self.weights_at(version), state.topology
        if epoch not in self._through or self._through[epoch][0] is not weights:
            alive = {*live(weights)}
            found = {m: tuple(p for p in top.paths_through(m) if p in alive) for m in top.modules}
            self._through[epoch] = weights, found
            self._lacking.clear()
        return self._through[epoch][1]

    def _stated_at(self, version: int) -> Mapping[ModuleId, tuple[int, ...]]:
        """Return them by the live paths that the ledger states, without those that missed it."""
        state = self._state
        if self._stated[0] != state.changes:
            self._stated = state.changes, {}
        if version not in self._stated[1]:  # none, until the next router says which paths live
            known = self._manifest.epoch_of(version) <= state.epoch
            paths = {m: state.due_paths(m, version) if known else () for m in state.states}
            self._stated[1][version] = paths
        return self._stated[1][version]


@lru_cache(maxsize=64)
def live(weights: Weights) -> tuple[int, ...]:
    """Return the paths that have training data."""
    return tuple(path for path, weight in enumerate(weights) if weight)
