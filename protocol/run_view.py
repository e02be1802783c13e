"""A run as its ledger tells it: the fold of all records, the same on every node.

Owns the rules by which one record may follow another; signatures and the chain are checked before
(`ledger.append_checked`).
"""

from collections.abc import Iterable, Iterator

from dipaco.protocol.delta import encoded_bytes
from dipaco.protocol.digest import Digest
from dipaco.protocol.early_stopping import kept_version
from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.ledger import (
    Entry,
    Evaluated,
    ModuleUpdated,
    MomentsReplaced,
    Quantised,
    Seeded,
    SpecAdopted,
)
from dipaco.protocol.manifest import Manifest
from dipaco.protocol.topology import ModuleId, topology


class RunView:
    """Spec, module versions, moments and evaluations of one run, advanced entry by entry."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.topology = topology(manifest)
        self.spec: Digest | None = None
        self.states: dict[ModuleId, list[Digest]] = {}
        """Per module the digest of every version, 0 first; empty before the seed model."""
        self.momenta: dict[ModuleId, Digest] = {}
        """Per module its outer momentum; none at version 0, where it is zero."""
        self.quantised: dict[ModuleId, list[Quantised]] = {}
        """Per module how it came to every version from 1 on; none where updates are not packed."""
        self.moments: dict[tuple[int, ModuleId], dict[int, Digest]] = {}
        """Per path and module the inner moments after each round; none where they are not kept."""
        self.evaluations: dict[tuple[int, int], Evaluated] = {}
        """By (version, path)."""

    @property
    def seeded(self) -> bool:
        """Whether version 0 exists."""
        return bool(self.states)

    def version(self, module: ModuleId) -> int:
        """Return the newest version of `module`; -1 before the seed model."""
        return len(self.states.get(module, ())) - 1

    def path_version(self, path: int) -> int:
        """Return the version at which all modules of `path` stand, at least; -1 before the seed."""
        return min(self.version(module) for module in self.topology.path_modules[path])

    def path_states(self, path: int, version: int) -> tuple[tuple[ModuleId, Digest], ...]:
        """Return the modules of `path` and their states at `version`, in the topology's order."""
        return tuple((m, self.states[m][version]) for m in self.topology.path_modules[path])

    def path_moments(self, path: int, round_: int) -> tuple[tuple[ModuleId, Digest], ...]:
        """Return what `path` goes on from in `round_`: its newest moments of earlier rounds.

        Module by module in the topology's order; nothing where there are none, as in round 1.
        """
        found = []
        for module in self.topology.path_modules[path]:
            earlier = [v for v in self.moments.get((path, module), ()) if v < round_]
            if not earlier:
                return ()
            found.append((module, self.moments[path, module][max(earlier)]))
        return tuple(found)

    def residual(self, module: ModuleId) -> Digest | None:
        """Return what the last packed update of `module` left out; None: nothing."""
        steps = self.quantised.get(module)
        return steps[-1].residual if steps else None

    def back_from(self, module: ModuleId, version: int) -> Iterator[tuple[Digest, Digest]]:
        """Yield the packed update to `version` and the state before it, then one further back.

        As far as the updates together are less than a whole state; nothing where none are packed.
        """
        length = encoded_bytes(self.manifest.training.updates, self.topology.elements(module))
        most = (self.topology.state_bytes(module) - 1) // length
        steps, states = self.quantised.get(module, []), self.states[module]
        for before in range(version - 1, max(-1, version - 1 - most), -1):
            if before < len(steps):
                yield steps[before].update, states[before]

    def kept_version(self, path: int) -> int:
        """Return the version that `path` is used with, its newest or its best; -1 before any."""
        found = {
            version: each.nll / each.tokens
            for (version, evaluated), each in self.evaluations.items()
            if evaluated == path and each.tokens
        }
        return kept_version(self.manifest, self.path_version(path), found)

    def finished(self, live_paths: Iterable[int]) -> bool:
        """Whether every live path stands at the last version and all its versions are evaluated."""
        rounds = self.manifest.training.rounds
        return all(
            self.path_version(path) == rounds
            and all((version, path) in self.evaluations for version in range(rounds + 1))
            for path in live_paths
        )

    def apply(self, entry: Entry) -> None:
        """Advance by one entry; raises RemoteProtocolError if it cannot follow."""
        match entry:
            case SpecAdopted():
                if self.spec is not None:
                    raise RemoteProtocolError("the ledger adopts a second spec")
                self.spec = entry.spec
            case Seeded():
                self._seed(entry)
            case ModuleUpdated():
                self._update(entry)
            case MomentsReplaced():
                self._replace_moments(entry)
            case Evaluated():
                self._evaluate(entry)

    def _seed(self, entry: Seeded) -> None:
        named = tuple(state.module for state in entry.states)
        if self.spec is None or self.seeded or named != self.topology.modules:
            raise RemoteProtocolError("the ledger's seed model is out of place or incomplete")
        self.states = {ModuleId(state.module): [state.digest] for state in entry.states}

    def _update(self, entry: ModuleUpdated) -> None:
        module = ModuleId(entry.module)
        if module not in self.states or entry.version != self.version(module) + 1:
            raise RemoteProtocolError(f"module {entry.module} cannot take version {entry.version}")
        if entry.version > self.manifest.training.rounds:
            raise RemoteProtocolError(f"module {entry.module} is past the run's last round")
        paths = [contribution.path for contribution in entry.contributions]
        through = self.topology.paths_through(module)
        if paths != sorted(set(paths)) or not set(paths) <= set(through):
            raise RemoteProtocolError(f"module {entry.module} has contributions of other paths")
        carried = self.manifest.training.inner_state == "carry"
        if any((each.moments is not None) != carried for each in entry.contributions):
            raise RemoteProtocolError(f"module {entry.module} lacks moments, or has unasked ones")
        if (entry.quantised is None) != (self.manifest.training.updates == "f32"):
            raise RemoteProtocolError(f"module {entry.module} lacks a packed update, or has one")
        self.states[module].append(entry.state)
        if entry.quantised is not None:
            self.quantised.setdefault(module, []).append(entry.quantised)
        self.momenta[module] = entry.momentum
        for each in entry.contributions:
            if each.moments is not None:
                self.moments.setdefault((each.path, module), {})[entry.version] = each.moments

    def _replace_moments(self, entry: MomentsReplaced) -> None:
        named = tuple(ModuleId(each.module) for each in entry.moments)
        path = entry.path
        if path >= self.topology.paths or named != self.topology.path_modules[path]:
            raise RemoteProtocolError(f"moments of path {path} that are not of all its modules")
        if any(entry.round not in self.moments.get((path, module), ()) for module in named):
            raise RemoteProtocolError(f"moments of path {path} of a round that it has not ended")
        for module, each in zip(named, entry.moments, strict=True):
            self.moments[path, module][entry.round] = each.digest

    def _evaluate(self, entry: Evaluated) -> None:
        place = (entry.version, entry.path)
        if entry.path >= self.topology.paths or entry.version > self.path_version(entry.path):
            raise RemoteProtocolError(f"evaluation {place} of a version that does not exist")
        if place in self.evaluations:
            raise RemoteProtocolError(f"evaluation {place} stands in the ledger twice")
        self.evaluations[place] = entry
