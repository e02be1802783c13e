"""The folder of a comparison, with its results and the trials in training.

seed-{n}/                        a home: a seed's shards, router and final models
seed-{n}/start.json              the common start of its trials
seed-{n}/{trial}.json            the result of a finished trial, by `Trial.key`
seed-{n}/{trial}.rerouted.json   the result of re-routing it, if that was asked for
seed-{n}/{trial}.work/           the blobs of a trial in training; deleted when it is finished
labels.json                      the documents' labels, if a column of them was named
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dipaco.node.compare.results import Rerouted, Start, TrialResult, read_result
from dipaco.node.compare.trials import Trial
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.run.manifest import Manifest, run_id

R = TypeVar("R", Start, TrialResult, Rerouted)

START, REROUTED = "start.json", ".rerouted.json"


@dataclass(frozen=True)
class SeedFolder:
    """The folder of one seed of a comparison."""

    root: Path
    manifest: Manifest
    """The run with this seed."""

    @property
    def start_file(self) -> Path:
        """The file of the trials' common start."""
        return self.root / START

    def trial_file(self, trial: Trial) -> Path:
        """Return the file of a trial's result."""
        return self.root / f"{trial.key}.json"

    def rerouted_file(self, trial: Trial) -> Path:
        """Return the file of the result of re-routing a trial."""
        return self.root / f"{trial.key}{REROUTED}"

    def work(self, trial: Trial) -> Path:
        """Return the folder in which a trial is trained."""
        return self.root / f"{trial.key}.work"

    def start(self) -> Start | None:
        """Return the common start, None before it is made; raises ConfigError for another run."""
        return self._read(self.start_file, Start)

    def result(self, trial: Trial) -> TrialResult | None:
        """Return a trial's result, None before it is there; raises ConfigError for another run."""
        return self._read(self.trial_file(trial), TrialResult)

    def results(self) -> list[TrialResult]:
        """Return the results of all finished trials; raises ConfigError as `result` does."""
        files = sorted(self.root.glob("*.json")) if self.root.is_dir() else []
        found = [
            self._read(file, TrialResult)
            for file in files
            if file.name != START and not file.name.endswith(REROUTED)
        ]
        return [each for each in found if each is not None]

    def rerouted(self, trial: Trial) -> Rerouted | None:
        """Return the result of re-routing, None before; raises ConfigError for another run."""
        return self._read(self.rerouted_file(trial), Rerouted)

    def clear_work(self, trial: Trial) -> None:
        """Delete the files of a training, finished or not."""
        shutil.rmtree(self.work(trial), ignore_errors=True)

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
