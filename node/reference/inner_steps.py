"""The inner steps of a run in one process: their number, and the number of those done."""

from dipaco.node.jobs.values import Progress
from dipaco.protocol.run.manifest import Manifest


def steps_after_seed(manifest: Manifest) -> int:
    """Return the number of inner steps of all paths together, without the seed model's."""
    return manifest.paths * manifest.training.rounds * manifest.training.inner_steps


def all_steps(manifest: Manifest) -> int:
    """Return the number of inner steps of the seed model and of all paths together."""
    return manifest.training.seed_steps + steps_after_seed(manifest)


class StepCount:
    """Counts the inner steps of consecutive jobs."""

    def __init__(self) -> None:
        self._job, self._before, self._here = "", 0, 0

    def add(self, job: str, progress: Progress) -> int:
        """Add the progress of `job`; returns the number of steps done by all jobs so far."""
        if job != self._job:
            self._job, self._before, self._here = job, self._before + self._here, 0
        if progress.stage == "train":
            self._here = progress.done
        return self._before + self._here
