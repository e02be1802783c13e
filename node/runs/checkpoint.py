"""Checkpoints: the versions of a run's modules, as one value that evaluation and export read.

A checkpoint has, for every path, the version of its modules that the path uses, and the place of
their states: the blob store of a home, or an exported folder. It uses neither torch nor the
network; `missing` lists the states that are not here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dipaco.node.runs.files import RunFile
from dipaco.node.runs.local_result import kept_local_result
from dipaco.node.runs.record import RunRecord
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.files import Home
from dipaco.protocol.errors import ConfigError, Unavailable
from dipaco.protocol.numbers import count
from dipaco.protocol.routing.spec import RouterSpec
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.run.topology import Topology, experts_of
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.work.run_state import RunState

Float32 = NDArray[np.float32]


class States(Protocol):
    """Reads module states by digest; `BlobStore` is one implementation."""

    def has(self, digest: Digest, length: int | None = None) -> bool:
        """Return whether the state, of `length` bytes, is here."""
        ...

    def read_array(self, digest: Digest, elements: int) -> Float32:
        """Return the state flat, (elements,), its digest checked; raises BlobMissing."""
        ...


@dataclass(frozen=True)
class ModuleState:
    """One module at one version."""

    module: ModuleId
    version: int
    digest: Digest


@dataclass(frozen=True)
class Checkpoint:
    """The states that each path of a run is used with, and the router."""

    run: RunFile
    spec: RouterSpec
    """The router of this version's documents."""
    paths: tuple[tuple[ModuleState, ...], ...]
    """Per path its modules, in the topology's order, at the version that the path is used with."""
    newest: Mapping[ModuleId, int]
    """Per module its last version."""
    states: States

    @property
    def manifest(self) -> Manifest:
        """The run's manifest."""
        return self.run.manifest

    @property
    def topology(self) -> Topology:
        """The run's topology."""
        return self.manifest.topology

    def version(self, path: int) -> int:
        """Return the version that `path` is used with."""
        return self.paths[path][0].version

    def modules(self, paths: Iterable[int] | None = None) -> tuple[ModuleState, ...]:
        """Return the states of `paths` (None: of all), each once, in the topology's order."""
        chosen = range(len(self.paths)) if paths is None else paths
        found = {state for path in chosen for state in self.paths[path]}
        order = {module: place for place, module in enumerate(self.topology.modules)}
        return tuple(sorted(found, key=lambda state: (order[state.module], state.version)))

    def missing(self, paths: Iterable[int] | None = None) -> tuple[ModuleState, ...]:
        """Return those of the states that are not here."""
        return tuple(
            each
            for each in self.modules(paths)
            if not self.states.has(each.digest, self.topology.state_bytes(each.module))
        )

    def read(self, state: ModuleState) -> Float32:
        """Return one module's state, flat; raises BlobMissing."""
        return self.states.read_array(state.digest, self.topology.elements(state.module))

    def path_states(self, path: int) -> dict[ModuleId, Float32]:
        """Return the states of all modules of a path, as `model.load` takes them."""
        return {each.module: self.read(each) for each in self.paths[path]}


def checkpoint_of(
    run: RunFile,
    specs: Sequence[RouterSpec],
    view: RunState,
    states: States,
    *,
    version: int | None = None,
) -> Checkpoint:
    """Return the newest checkpoint of a ledger, or the one with all modules at `version`.

    specs   of every epoch so far. The newest checkpoint has the newest router, as the next round
            does; one at `version` has the router that this version was trained and evaluated by.

    Raises Unavailable before the seed model is trained, and for a version that is not trained yet;
    ConfigError for a version beyond the run's last round.
    """
    name, top, rounds = run.manifest.name, run.manifest.topology, run.manifest.training.rounds
    if version is not None and version > rounds:
        raise ConfigError(f"--at: {name} ends at version {rounds}, there is no {version}")
    if not view.seeded:
        raise Unavailable(f"{name}: the seed model is not trained yet, so there is no checkpoint")
    epoch = view.epoch if version is None else min(run.manifest.epoch_of(version), view.epoch)
    spec, chosen = specs[epoch], []
    for path in range(top.paths):
        newest = view.path_version(path)
        if version is not None and spec.tokens[path] and version > newest:
            raise Unavailable(f"{name}: path {path} stands at version {newest}, not {version} yet")
        kept = view.kept_version(path) if version is None else min(version, newest)
        chosen.append(
            tuple(ModuleState(m, kept, digest) for m, digest in view.path_states(path, kept))
        )
    newest_of = {module: view.version(module) for module in top.modules}
    return Checkpoint(run, spec, tuple(chosen), newest_of, states)


def checkpoint_in(
    home: Path, run: RunFile, record: RunRecord | None, *, version: int | None = None
) -> Checkpoint:
    """Return the checkpoint of a run by the ledger in `home`, else by its local result.

    record   of the run, from the journal of `home`.
    Raises Unavailable if `home` has neither, or no states yet.
    """
    routers = record.routers() if record is not None else []
    if record is not None and routers and record.state.seeded:
        return checkpoint_of(run, routers, record.state, _blobs(home), version=version)
    result = kept_local_result(home, run.manifest)
    if result is not None:
        return checkpoint_of(run, *result, _blobs(home), version=version)
    if routers:
        raise Unavailable(f"{run.manifest.name}: the seed model is not trained yet")
    raise Unavailable(
        f"{run.manifest.name}: {home} has no ledger of this run: join it with dipaco-node start, "
        "or train it with dipaco-node reference --home"
    )


def _blobs(home: Path) -> BlobStore:
    """Return the store of a home that is there: only that is known to have a ledger or a result."""
    return BlobStore(Home.at(home).blobs)


def path_named(manifest: Manifest, text: str) -> int:
    """Return the path with this index, or with experts such as `2,0`; raises ConfigError."""
    levels = manifest.grid.levels
    parts = text.strip("() ").split(",")
    if not all(part.strip().isdecimal() and len(part) < 8 for part in parts):
        raise ConfigError(f"--path: {text!r} is neither an index nor experts such as 0,1")
    numbers = [int(part) for part in parts]
    if len(numbers) == 1 and numbers[0] < manifest.paths:
        return numbers[0]
    for path in range(manifest.paths):
        if len(levels) > 1 and list(experts_of(manifest.grid, path)) == numbers:
            return path
    raise ConfigError(
        f"--path: {text} is not on the grid of {manifest.name}: {count(manifest.paths, 'path')}, "
        f"{' x '.join(str(level.experts) for level in levels)} experts"
    )
