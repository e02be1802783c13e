"""The inner steps of a run that one process trains: how many there are, and how many are done."""

from dipaco.node.jobs.values import Progress
from dipaco.protocol.run.manifest import Manifest


def steps_after_seed(manifest: Manifest) -> int:
    """Return the inner steps of all paths together, the seed model's left out."""
    return manifest.paths * manifest.training.rounds * manifest.training.inner_steps


def all_steps(manifest: Manifest) -> int:
    """Return the inner steps of the seed model and of all paths together."""
    return manifest.training.seed_steps + steps_after_seed(manifest)


class StepCount:
    """Counts the inner steps of job after job."""

    def __init__(self) -> None:
        self._job, self._before, self._here = "", 0, 0

    def add(self, job: str, progress: Progress) -> int:
        """Return the steps done so far; `job` names the one that `progress` is of."""
        if job != self._job:
            self._job, self._before, self._here = job, self._before + self._here, 0
        if progress.stage == "train":
            self._here = progress.done
        return self._before + self._here
