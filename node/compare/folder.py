"""The folder of a comparison, with its results and the methods in training.

seed-{n}/                         a home: a seed's shards, router and final models
seed-{n}/start.json               the common start of its methods
seed-{n}/{method}.json            the result of a finished method
seed-{n}/{method}.rerouted.json   the result of re-routing it, if that was asked for
seed-{n}/{method}.work/           the blobs of a method in training; deleted when it is finished
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
    """The folder of one seed of a comparison."""

    root: Path
    manifest: Manifest
    """The run with this seed."""

    @property
    def start_file(self) -> Path:
        """The file of the methods' common start."""
        return self.root / "start.json"

    def method_file(self, method: str) -> Path:
        """Return the file of a method's result."""
        return self.root / f"{method}.json"

    def rerouted_file(self, method: str) -> Path:
        """Return the file of the result of re-routing a method."""
        return self.root / f"{method}.rerouted.json"

    def work(self, method: str) -> Path:
        """Return the folder in which a method is trained."""
        return self.root / f"{method}.work"

    def start(self) -> Start | None:
        """Return the common start, None before it is made; raises ConfigError for another run."""
        return self._read(self.start_file, Start)

    def result(self, method: str) -> MethodResult | None:
        """Return a method's result, None before it is there; raises ConfigError for another run."""
        return self._read(self.method_file(method), MethodResult)

    def rerouted(self, method: str) -> Rerouted | None:
        """Return the result of re-routing, None before; raises ConfigError for another run."""
        return self._read(self.rerouted_file(method), Rerouted)

    def clear_work(self, method: str) -> None:
        """Delete the files of a training, finished or not."""
        shutil.rmtree(self.work(method), ignore_errors=True)

    def _read(self, path: Path, kind: type[R]) -> R | None:
        if not path.exists():
            return None
        found = read_result(path, kind)
        if found.run != run_id(self.manifest).hex():
            raise ConfigError(
                f"--out: {path} is of another run ({found.run[:8]}); choose another folder"
            )
        return found


def seed_folder(out: Path, manifest: Manifest) -> SeedFolder:
    """Return the folder of one seed. manifest: of the run with this seed, `variants.with_seed`."""
    return SeedFolder(out / f"seed-{manifest.seed}", manifest)
