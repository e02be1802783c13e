"""The folder of a comparison: what is finished, and where the rest is done.

seed-{n}/                         a home: a seed's shards, router and final models
seed-{n}/start.json               what its methods share, once it is there
seed-{n}/{method}.json            a finished method
seed-{n}/{method}.rerouted.json   what re-routing it came to, if that was asked for
seed-{n}/{method}.work/           the blobs of one that is being trained; goes when it is finished
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dipaco.node.compare.results import MethodResult, Rerouted, Start, read_result
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.run.manifest import Manifest, run_id

R = TypeVar("R", Start, MethodResult, Rerouted)


@dataclass(frozen=True)
class SeedFolder:
    """Where one seed of a comparison lies."""

    root: Path
    manifest: Manifest
    """The run with this seed."""

    @property
    def start_file(self) -> Path:
        """What all methods share."""
        return self.root / "start.json"

    def method_file(self, method: str) -> Path:
        """What a method came to."""
        return self.root / f"{method}.json"

    def rerouted_file(self, method: str) -> Path:
        """What re-routing a finished method came to."""
        return self.root / f"{method}.rerouted.json"

    def work(self, method: str) -> Path:
        """Where a method is trained."""
        return self.root / f"{method}.work"

    def start(self) -> Start | None:
        """Return what was prepared, None before; raises ConfigError for another run's."""
        return self._read(self.start_file, Start)

    def result(self, method: str) -> MethodResult | None:
        """Return a finished method, None before; raises ConfigError for another run's."""
        return self._read(self.method_file(method), MethodResult)

    def rerouted(self, method: str) -> Rerouted | None:
        """Return what re-routing came to, None before; raises ConfigError for another run's."""
        return self._read(self.rerouted_file(method), Rerouted)

    def clear_work(self, method: str) -> None:
        """Remove what a training left, ended well or not."""
        shutil.rmtree(self.work(method), ignore_errors=True)

    def _read(self, path: Path, kind: type[R]) -> R | None:
        if not path.exists():
            return None
        found = read_result(path, kind)
        if found.run != run_id(self.manifest).hex():
            raise ConfigError(
                f"out: {path} is of another run ({found.run[:8]}); choose another folder"
            )
        return found


def seed_folder(out: Path, manifest: Manifest) -> SeedFolder:
    """Return the folder of the run of a seed (`variants.with_seed`)."""
    return SeedFolder(out / f"seed-{manifest.seed}", manifest)
