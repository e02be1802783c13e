"""Rules of this file: the progress of jobs is made up."""

from dipaco.node.jobs.values import Progress
from dipaco.node.reference.inner_steps import StepCount, all_steps, steps_after_seed
from tests.node.reference.test_run import resharding


def progress(stage: str, done: int) -> Progress:
    return Progress(stage=stage, done=done, total=10)


def test_steps_are_counted_over_jobs_and_other_stages_are_not() -> None:
    count = StepCount()
    assert count.add("router", progress("read", 7)) == 0
    assert [count.add("seed", progress("train", done)) for done in (1, 4)] == [1, 4]
    assert count.add("evaluation 0, path 0", progress("evaluate", 9)) == 4
    assert count.add("round 1, path 0", progress("wait", 0)) == 4
    assert [count.add("round 1, path 0", progress("train", done)) for done in (2, 3)] == [6, 7]
    assert count.add("round 1, path 1", progress("train", 3)) == 10


def test_all_steps_are_those_of_the_seed_model_and_of_every_path() -> None:
    manifest = resharding()
    training = manifest.training
    expected = manifest.paths * training.rounds * training.inner_steps
    assert steps_after_seed(manifest) == expected > 0
    assert all_steps(manifest) == expected + training.seed_steps
