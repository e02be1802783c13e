"""Rules of this file: processes are real, and what they do is what a comparison does.

Nothing waits for a time: progress is waited for, or a process's end.
"""

import os
import signal
from multiprocessing import active_children
from pathlib import Path

import pytest

from dipaco.node.compare.folder import SeedFolder, seed_folder
from dipaco.node.compare.pool import OnProgress, StepsDone, Task, run_tasks
from dipaco.node.compare.results import write_result
from dipaco.node.compare.trials import Trial, own_trial
from dipaco.node.compare.variants import with_seed
from dipaco.node.reference.inner_steps import steps_after_seed
from dipaco.protocol.errors import ConfigError, DipacoError
from dipaco.protocol.run.manifest import Manifest
from tests.node.compare.made_up import start
from tests.node.reference.test_run import tiny

RUN = with_seed(tiny(), 0)
ONE, OTHER = SeedFolder(Path("one"), RUN), SeedFolder(Path("other"), RUN)


def task(method: str | None, folder: SeedFolder = ONE, *, windows: tuple[int, ...] = ()) -> Task:
    trial = None if method is None else own_trial(method, RUN)
    return Task(folder, trial, "cpu", windows)


PREPARE, DENSE, DILOCO = task(None), task("dense"), task("diloco")
REROUTE = task("dipaco", windows=(16,))


@pytest.mark.parametrize(
    ("later", "earlier", "needed"),
    [
        (DENSE, PREPARE, True),
        (REROUTE, PREPARE, True),
        (REROUTE, task("dipaco"), True),
        (REROUTE, DENSE, False),
        (DENSE, DILOCO, False),
        (PREPARE, DENSE, False),
        (DENSE, REROUTE, False),
        (DENSE, task(None, OTHER), False),
        (REROUTE, task("dipaco", OTHER), False),
    ],
)
def test_a_task_waits_for_what_it_begins_with(later: Task, earlier: Task, needed: bool) -> None:
    assert later.needs(earlier) is needed


def test_a_task_says_what_it_is_and_how_many_steps_it_takes() -> None:
    assert (PREPARE.name, PREPARE.steps) == ("seed 0, start", RUN.training.seed_steps)
    own = own_trial("dense", RUN)
    assert (DENSE.name, DENSE.steps) == (
        f"seed 0, {own.key}",
        steps_after_seed(own.manifest(RUN)),
    )
    assert REROUTE.name == f"seed 0, {own_trial('dipaco', RUN).key} re-routed"
    assert REROUTE.steps == 0


def test_nothing_to_do_starts_no_process() -> None:
    run_tasks([], 2, unheard)
    assert active_children() == []


def unheard(task: Task, progress: StepsDone | None) -> None:
    pytest.fail(f"{task.name} was reported")


def made(folder: Path, run: Manifest = RUN) -> SeedFolder:
    found = seed_folder(folder, run)
    found.root.mkdir()
    return found


def test_tasks_end_after_those_they_need_and_leave_their_results(tmp_path: Path) -> None:
    folder, ended = made(tmp_path), list[Trial | None]()
    most: dict[Trial | None, int] = {}

    def hear(task: Task, progress: StepsDone | None) -> None:
        if progress is None:
            ended.append(task.trial)
            assert (folder.result(task.trial) if task.trial else folder.start()) is not None
        else:
            assert most.get(task.trial, 0) <= progress.steps <= task.steps
            most[task.trial] = progress.steps

    run_tasks([task(None, folder), task("dense", folder), task("diloco", folder)], 2, hear)
    both = {own_trial("dense", RUN), own_trial("diloco", RUN)}
    assert ended[0] is None and set(ended[1:]) == both
    assert most.keys() == {None, *both}
    assert active_children() == []


def test_the_error_of_a_task_is_raised_as_it_is_and_ends_all_processes(tmp_path: Path) -> None:
    folder = made(tmp_path)
    write_result(folder.start_file, start(0))  # of a run called abab...
    with pytest.raises(ConfigError, match="is of another run"):
        run_tasks([task("dense", folder), task("diloco", folder)], 2, lambda task, progress: None)
    assert active_children() == []


def killing() -> OnProgress:
    def kill(task: Task, progress: StepsDone | None) -> None:
        for process in active_children():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)

    return kill


def test_a_process_that_is_killed_is_said_and_what_is_finished_is_kept(tmp_path: Path) -> None:
    folder = made(tmp_path)
    with pytest.raises(DipacoError, match=r"SIGKILL.*finished results are kept"):
        run_tasks([task(None, folder)], 1, killing())
    assert folder.start() is None and active_children() == []
