"""The state of a run: the fold of its ledger's records, the same on every node.

Owns the rules for which entry may follow which; `ledger.append_checked` checks signatures and the
chain before.
"""

from collections.abc import Collection, Iterable, Iterator
from functools import cached_property

from msgspec import UNSET

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.routing.labels import MAX_SHEETS_PER_WINDOW
from dipaco.protocol.run.early_stopping import kept_version
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.run.topology import Topology
from dipaco.protocol.tensors.delta import encoded_bytes
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.bounds import wrong_evaluation, wrong_seed
from dipaco.protocol.work.kinds import Evaluated, MomentsReplaced, Scored, Seeded
from dipaco.protocol.work.ledger import (
    Contribution,
    Entry,
    ModuleUpdated,
    Quantised,
    RoundMissed,
    SpecAdopted,
    TermBegun,
    TermGranted,
)

MAX_REPLACED = (
    8  # entries about the moments of one path and round: its scheduler lost them so often
)


class RunState:
    """Specs, module versions, moments, evaluations and scores of one run, entry by entry."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.changes = 0
        """How often anything changed: what follows from the state stands as long as this does."""
        self.reset()

    @cached_property
    def topology(self) -> Topology:
        """The run's topology, made when it is first needed: a manifest of 1 kB can imply 100 MB."""
        return self.manifest.topology

    def reset(self) -> None:
        """Go back to before the first entry."""
        self.changes += 1
        self.specs: list[Digest] = []
        """The adopted spec of every epoch so far."""
        self.live: list[tuple[int, ...]] = []
        """Per epoch the paths that have training data; empty in a run without a quorum."""
        self._live_through: dict[tuple[int, ModuleId], tuple[int, ...]] = {}
        """By epoch and module those of them that go through it, once they were asked for."""
        self.missed: dict[int, set[int]] = {}
        """By round the paths that were late; empty in a run without a quorum."""
        self.states: dict[ModuleId, list[Digest]] = {}
        """Per module the digest of every version, 0 first; empty before the seed model."""
        self.momenta: dict[ModuleId, Digest] = {}
        """Per module its outer momentum; missing at version 0, where it is zero."""
        self.quantised: dict[ModuleId, dict[int, Quantised]] = {}
        """Per module and version the packed update that made it; empty without packing."""
        self.moments: dict[tuple[int, ModuleId], dict[int, Digest]] = {}
        """Per path and module the inner moments after each round; empty where none are carried."""
        self.steps: dict[int, dict[int, int]] = {}
        """Per path the inner steps that its moments have seen after each round."""
        self._replaced: dict[tuple[int, int], int] = {}
        """By path and round how often its moments were replaced."""
        self.evaluations: dict[tuple[int, int], Evaluated] = {}
        """Evaluations by (version, path)."""
        self._evaluated: dict[int, dict[int, Evaluated]] = {}
        """The same by path and version."""
        self._unevaluated: dict[tuple[int, int], int] = {}
        """By path and epoch, where it was advanced: see `first_unevaluated`."""
        self._path_versions: dict[int, int] = {}
        """Per path the newest version that all its modules have; empty before the seed model."""
        self.scored: dict[tuple[int, int], list[Scored]] = {}
        """Score sheets by (path, window), in the order in which they were recorded."""
        self.contributors: dict[int, PeerId] = {}
        """Per path the peer whose result was last used by an outer step."""

    def copy(self) -> "RunState":
        """Return a state of the same entries that goes its own way from here on.

        Lists and maps, and those within maps, are made anew; the values in them are frozen.
        """
        made = RunState.__new__(RunState)
        for name, held in vars(self).items():
            if isinstance(held, dict):
                inner = {
                    key: each.copy() if isinstance(each, dict | list | set) else each
                    for key, each in held.items()
                }
                setattr(made, name, inner)
            else:
                setattr(made, name, list(held) if isinstance(held, list) else held)
        return made

    def restore(
        self,
        specs: Iterable[Digest],
        states: dict[ModuleId, list[Digest]],
        evaluations: Iterable[Evaluated],
    ) -> None:
        """Take the end of a run that was trained without a ledger."""
        self.reset()
        self.specs, self.states = list(specs), states
        self._note_versions(range(self.topology.paths))
        for each in evaluations:
            self._note_evaluated(each)
        self.changes += 1

    @property
    def spec(self) -> Digest | None:
        """The spec that routes the newest rounds; None before the first."""
        return self.specs[-1] if self.specs else None

    @property
    def epoch(self) -> int:
        """The epoch of that spec; -1 before the first."""
        return len(self.specs) - 1

    @property
    def seeded(self) -> bool:
        """Whether version 0 exists."""
        return bool(self.states)

    def version(self, module: ModuleId) -> int:
        """Return the newest version of `module`; -1 before the seed model."""
        return len(self.states.get(module, ())) - 1

    def path_version(self, path: int) -> int:
        """Return the newest version that all modules of `path` have; -1 before the seed model."""
        return self._path_versions.get(path, -1)

    def first_unevaluated(self, path: int, epoch: int) -> int:
        """Return the first version that an epoch's router evaluates and `path` lacks."""
        return self._unevaluated.get((path, epoch), self.manifest.first_version(epoch))

    def last_round(self, path: int, before: int) -> int:
        """Return the newest round before `before` that `path` did not miss; 0 if there is none."""
        round_ = before - 1
        while path in self.missed.get(round_, ()):
            round_ -= 1
        return round_

    def path_states(self, path: int, version: int) -> tuple[tuple[ModuleId, Digest], ...]:
        """Return the modules of `path` and their states at `version`, in the topology's order."""
        return tuple((m, self.states[m][version]) for m in self.topology.path_modules[path])

    def path_moments(self, path: int, round_: int) -> tuple[tuple[ModuleId, Digest], ...]:
        """Return the moments that `path` starts `round_` from: its newest of earlier rounds.

        One per module in the topology's order; empty where there are none, as in round 1.
        """
        found = []
        for module in self.topology.path_modules[path]:
            known = self.moments.get((path, module), {})
            newest = next((v for v in reversed(known) if v < round_), None)
            if newest is None:
                return ()
            found.append((module, known[newest]))
        return tuple(found)

    def steps_before(self, path: int, round_: int) -> int:
        """Return the inner steps that the moments have seen with which `path` starts `round_`."""
        known = self.steps.get(path, {})
        return next((known[v] for v in reversed(known) if v < round_), 0)

    def residual(self, module: ModuleId) -> Digest | None:
        """Return the residual of the last packed update of `module`; None if there is none."""
        steps = self.quantised.get(module)
        return steps[next(reversed(steps))].residual if steps else None

    def back_from(self, module: ModuleId, version: int) -> Iterator[tuple[Digest, Digest]]:
        """Yield the packed update to `version` and the state before it, then the same one back.

        It stops when the updates together would be as long as a whole state, and yields nothing
        where updates are not packed.
        """
        length = encoded_bytes(self.manifest.training.updates, self.topology.elements(module))
        most = (self.topology.state_bytes(module) - 1) // length
        steps, states = self.quantised.get(module, {}), self.states[module]
        for made in range(version, max(0, version - most), -1):
            if made not in steps:
                return
            yield steps[made].update, states[made - 1]

    def kept_version(self, path: int) -> int:
        """Return the version that `path` is used with, its newest or its best; -1 before any."""
        newest = self.path_version(path)
        if not self.manifest.training.early_stopping:
            return newest
        found = {
            version: each.evaluation.nll / each.evaluation.tokens
            for version, each in self._evaluated.get(path, {}).items()
            if each.evaluation.tokens
        }
        return kept_version(self.manifest, newest, found)

    def sheets(self) -> tuple[Scored, ...]:
        """Return the scores of all paths and windows, in the ledger's order for each."""
        return tuple(entry for given in self.scored.values() for entry in given)

    def apply(self, entry: Entry) -> None:
        """Advance by one entry; raises RemoteProtocolError if it cannot follow."""
        self.changes += 1
        match entry:
            case SpecAdopted():
                self._adopt(entry)
            case Seeded():
                self._seed(entry)
            case ModuleUpdated():
                self._update(entry)
            case RoundMissed():
                self._miss(entry)
            case MomentsReplaced():
                self._replace_moments(entry)
            case Evaluated():
                self._evaluate(entry)
            case Scored():
                self._score(entry)
            case TermBegun() | TermGranted():
                pass  # it changes who schedules, and nothing of the run

    def _adopt(self, entry: SpecAdopted) -> None:
        if entry.epoch != len(self.specs):
            raise RemoteProtocolError(
                f"the ledger adopts a spec of epoch {entry.epoch}, where epoch {len(self.specs)} "
                "is next"
            )
        if entry.epoch > self.manifest.epoch_of(self.manifest.training.rounds):
            raise RemoteProtocolError(
                f"the ledger adopts a spec of epoch {entry.epoch}, which this run does not have"
            )
        live = self._live_of(entry)
        if entry.epoch:
            self._carry_over()
        self.specs.append(entry.spec)
        self.live += live

    def _live_of(self, entry: SpecAdopted) -> list[tuple[int, ...]]:
        """Return the live paths of an epoch, which a run with a quorum states; else nothing."""
        if (entry.live is UNSET) != (self.manifest.training.quorum is UNSET):
            raise RemoteProtocolError(
                "the ledger must state the live paths exactly where the manifest has a quorum"
            )
        if entry.live is UNSET:
            return []
        if list(entry.live) != sorted(set(entry.live)) or entry.live[-1] >= self.topology.paths:
            raise RemoteProtocolError("the ledger's live paths are not ascending, or not the run's")
        return [entry.live]

    def _carry_over(self) -> None:
        """Bring the modules that no live path went through to the version of the others.

        They were not trained, but under the new router their paths may be live.
        """
        reshard = self.manifest.routing.reshard
        assert reshard is not None
        newest = max(self.path_version(path) for path in range(self.topology.paths))
        if newest != reshard.after_round:
            raise RemoteProtocolError(
                f"the ledger adopts the second spec at version {newest}, where the manifest says "
                f"{reshard.after_round}"
            )
        for states in self.states.values():
            states += states[-1:] * (reshard.after_round + 1 - len(states))
        self._note_versions(range(self.topology.paths))

    def _seed(self, entry: Seeded) -> None:
        named = tuple(state.module for state in entry.states)
        if self.spec is None or self.seeded or named != self.topology.modules:
            raise RemoteProtocolError(
                "the ledger's seed model is out of place, or does not name every module in order"
            )
        if wrong := wrong_seed(self.manifest, entry):
            raise RemoteProtocolError(f"the ledger's seed model is impossible: {wrong}")
        self.states = {ModuleId(state.module): [state.digest] for state in entry.states}
        self._note_versions(range(self.topology.paths))

    def _check_update(self, module: ModuleId, entry: ModuleUpdated) -> None:
        training = self.manifest.training
        if module not in self.states or entry.version != self.version(module) + 1:
            raise RemoteProtocolError(f"module {module} cannot take version {entry.version}")
        if entry.version > training.rounds:
            raise RemoteProtocolError(f"module {module} is past the run's last round")
        if self.manifest.epoch_of(entry.version) != self.epoch:
            raise RemoteProtocolError(f"module {module} is updated out of its epoch")
        paths = [contribution.path for contribution in entry.contributions]
        through = self.topology.paths_through(module)
        if paths != sorted(set(paths)) or not set(paths) <= set(through):
            raise RemoteProtocolError(
                f"module {module} has contributions of other paths, or not in ascending order"
            )
        if self.live and tuple(paths) != self.due_paths(module, entry.version):
            raise RemoteProtocolError(
                f"module {module} must take version {entry.version} with the results of all live "
                "paths but those that missed the round"
            )
        carried = training.inner_state == "carry"
        if any((each.moments is not None) != carried for each in entry.contributions):
            raise RemoteProtocolError(
                f"module {module} must have moments exactly where training.inner_state is carry"
            )
        for each in entry.contributions:
            self._check_steps(each, entry.version)
        if (entry.quantised is None) != (training.updates == "f32"):
            raise RemoteProtocolError(
                f"module {module} must have a packed update exactly where training.updates is not "
                "f32"
            )

    def _check_steps(self, given: Contribution, version: int) -> None:
        before = self.steps_before(given.path, version)
        due = {before, before + self.manifest.training.inner_steps} if given.moments else {0}
        known = self.steps.get(given.path, {}).get(version)
        if given.steps not in due or known not in (None, given.steps):
            raise RemoteProtocolError(
                f"the moments of path {given.path} cannot have seen {given.steps} inner steps "
                f"after round {version}"
            )

    def _update(self, entry: ModuleUpdated) -> None:
        module = ModuleId(entry.module)
        self._check_update(module, entry)
        self.states[module].append(entry.state)
        self._note_versions(self.topology.paths_through(module))
        if entry.quantised is not None:
            self.quantised.setdefault(module, {})[entry.version] = entry.quantised
        self.momenta[module] = entry.momentum
        for each in entry.contributions:
            self.contributors[each.path] = each.peer
            if each.moments is not None:
                self.moments.setdefault((each.path, module), {})[entry.version] = each.moments
                self.steps.setdefault(each.path, {})[entry.version] = each.steps

    def live_through(self, module: ModuleId, round_: int) -> tuple[int, ...]:
        """Return the live paths of a round through `module`; the run has a quorum."""
        epoch = self.manifest.epoch_of(round_)
        if (epoch, module) not in self._live_through:
            live = {*self.live[epoch]}.intersection(self.topology.paths_through(module))
            self._live_through[epoch, module] = tuple(sorted(live))
        return self._live_through[epoch, module]

    def due_paths(self, module: ModuleId, round_: int) -> tuple[int, ...]:
        """Return those of them that did not miss the round: their results make the outer step."""
        live, late = self.live_through(module, round_), self.missed.get(round_)
        return tuple(path for path in live if path not in late) if late else live

    def why_not_miss(self, paths: Collection[int], round_: int) -> str:
        """Say why `paths` cannot all miss a round; empty if they can.

        Each stands at the version before with all its modules, and every module that has other
        live paths keeps its quorum. So a result counts in all modules of its path or in none.
        """
        quorum = self.manifest.training.quorum
        if quorum is UNSET or not self.seeded:
            return "the run has no quorum, or no seed model yet"
        if round_ > self.manifest.training.rounds or self.manifest.epoch_of(round_) != self.epoch:
            return f"round {round_} is out of place"
        if not set(paths) <= set(self.live[-1]):
            return "it has no training data"
        if self.missed.get(round_, set()).intersection(paths):
            return "it is in the ledger twice"
        for module in dict.fromkeys(m for p in paths for m in self.topology.path_modules[p]):
            if self.version(module) != round_ - 1:
                return f"module {module} stands at version {self.version(module)}"
            live = self.live_through(module, round_)
            left = [path for path in self.due_paths(module, round_) if path not in paths]
            if len(live) > 1 and not quorum.reached(len(left), len(live)):
                return f"module {module} would have {len(left)} results of {len(live)}"
        return ""

    def _miss(self, entry: RoundMissed) -> None:
        path, round_ = entry.path, entry.round
        if wrong := self.why_not_miss((path,), round_):
            raise RemoteProtocolError(f"path {path} cannot miss round {round_}: {wrong}")
        self.missed.setdefault(round_, set()).add(path)
        for module in self.topology.path_modules[path]:
            if not self.due_paths(module, round_):
                self.states[module].append(self.states[module][-1])
                self._note_versions(self.topology.paths_through(module))

    def may_replace(self, path: int, round_: int) -> bool:
        """Return whether the moments of a path after a round may be replaced once more."""
        return self._replaced.get((path, round_), 0) < MAX_REPLACED

    def _replace_moments(self, entry: MomentsReplaced) -> None:
        named = tuple(ModuleId(each.module) for each in entry.moments)
        path = entry.path
        if path >= self.topology.paths or named != self.topology.path_modules[path]:
            raise RemoteProtocolError(f"the moments of path {path} do not name all its modules")
        if any(entry.round not in self.moments.get((path, module), ()) for module in named):
            raise RemoteProtocolError(
                f"the moments of path {path} are of round {entry.round}, which it has not ended"
            )
        if not self.may_replace(path, entry.round):
            raise RemoteProtocolError(
                f"the moments of path {path} after round {entry.round} were replaced "
                f"{MAX_REPLACED} times before"
            )
        self._replaced[path, entry.round] = self._replaced.get((path, entry.round), 0) + 1
        for module, each in zip(named, entry.moments, strict=True):
            self.moments[path, module][entry.round] = each.digest

    def _evaluate(self, entry: Evaluated) -> None:
        place = (entry.version, entry.path)
        named = f"the evaluation of version {entry.version} of path {entry.path}"
        if entry.path >= self.topology.paths or entry.version > self.path_version(entry.path):
            raise RemoteProtocolError(f"{named}: that version does not exist")
        if place in self.evaluations:
            raise RemoteProtocolError(f"{named} is in the ledger twice")
        if wrong := wrong_evaluation(self.manifest, entry.evaluation):
            raise RemoteProtocolError(f"{named}: {wrong}")
        self._note_evaluated(entry)

    def _note_evaluated(self, entry: Evaluated) -> None:
        self.evaluations[entry.version, entry.path] = entry
        found = self._evaluated.setdefault(entry.path, {})
        found[entry.version] = entry
        epoch = self.manifest.epoch_of(entry.version)
        first = self.first_unevaluated(entry.path, epoch)
        while first in found:
            first += 1
        self._unevaluated[entry.path, epoch] = first

    def _note_versions(self, paths: Iterable[int]) -> None:
        """Take in that a module of `paths` has another newest version."""
        for path in paths:
            modules = self.topology.path_modules[path]
            self._path_versions[path] = min(len(self.states[module]) for module in modules) - 1

    def _score(self, entry: Scored) -> None:
        reshard, place = self.manifest.routing.reshard, (entry.path, entry.window)
        named = f"the score sheet of path {entry.path}, window {entry.window}"
        if reshard is None or self.epoch or entry.window >= reshard.windows:
            raise RemoteProtocolError(f"{named}: the run asks for no such scores now")
        if entry.path >= self.topology.paths:
            raise RemoteProtocolError(f"{named}: the path does not exist")
        if self.path_version(entry.path) != reshard.after_round:
            raise RemoteProtocolError(f"{named}: the path is not at version {reshard.after_round}")
        if entry.sheet.documents > self.manifest.most_scored:
            raise RemoteProtocolError(f"{named}: it has more documents than a window may have")
        given = self.scored.get(place, [])
        if any(each.peer == entry.peer for each in given):
            raise RemoteProtocolError(f"{named}: {entry.peer} gave one before")
        if len(given) >= MAX_SHEETS_PER_WINDOW:
            raise RemoteProtocolError(f"{named}: {MAX_SHEETS_PER_WINDOW} peers gave one before")
        self.scored[place] = [*given, entry]
