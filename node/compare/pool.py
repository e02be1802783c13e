"""Processes that do the tasks of a comparison: several at once, each one task at a time.

A process has one torch thread and a low priority. It ends when its pipe is closed: if the command
that started it dies, sending its next progress fails and it ends.
"""

import os
import signal
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.context import SpawnProcess
from time import monotonic
from typing import Any, TypeAlias

from dipaco.node.compare.folder import SeedFolder
from dipaco.node.compare.trials import Trial
from dipaco.node.config import ComputeSection
from dipaco.node.jobs.runner import describe_death
from dipaco.node.jobs.settings import environment, safe_path
from dipaco.protocol.errors import DipacoError

REPORT_SECONDS = 0.2  # between reports of one piece of work
END_SECONDS = 2.0  # for a process to end after its pipe is closed

Pipe: TypeAlias = "connection.Connection[Any, Any]"


@dataclass(frozen=True)
class Task:
    """A seed to prepare, a trial to train from it, or a trained one to re-route."""

    folder: SeedFolder
    trial: Trial | None
    """None: the seed's start."""
    device: str
    windows: tuple[int, ...] = ()
    """Tokens between two choices of a path; empty: to be trained."""

    @property
    def name(self) -> str:
        """The name of the task in the display."""
        what = self.trial.key if self.trial else "start"
        again = " re-routed" if self.windows else ""
        return f"seed {self.folder.manifest.seed}, {what}{again}"

    @property
    def steps(self) -> int:
        """The number of its inner steps."""
        from dipaco.node.reference.inner_steps import steps_after_seed

        if self.windows:
            return 0
        if self.trial is None:
            return self.folder.manifest.training.seed_steps
        return steps_after_seed(self.trial.manifest(self.folder.manifest))

    def needs(self, other: "Task") -> bool:
        """Return whether `other` must be finished before this task."""
        if self.folder != other.folder or self.trial is None or other.windows:
            return False
        return other.trial is None or (bool(self.windows) and self.trial == other.trial)


@dataclass(frozen=True)
class StepsDone:
    """The progress of a task."""

    what: str
    steps: int
    """Inner steps taken."""


OnProgress = Callable[[Task, StepsDone | None], None]
"""None: the task is finished."""


def run_tasks(tasks: Iterable[Task], jobs: int, on_progress: OnProgress) -> None:
    """Do all `tasks` in order, at most `jobs` at once; a task must come after those it needs.

    Raises the DipacoError of the first task that fails; the results of finished tasks stay.
    """
    waiting = list(tasks)
    with _processes(min(jobs, len(waiting))) as processes:
        running: dict[Pipe, Task] = {}
        while waiting or running:
            for pipe in processes:
                task = None if pipe in running else _next(waiting, running.values())
                if task is not None:
                    waiting.remove(task)
                    running[pipe] = task
                    pipe.send(task)
            for pipe in _readable(running):
                progress = _receive(pipe, processes[pipe])
                on_progress(running[pipe], progress)
                if progress is None:
                    del running[pipe]


def _next(waiting: list[Task], running: Collection[Task]) -> Task | None:
    """Return the first task that needs none of the running ones."""
    ready = (task for task in waiting if not any(task.needs(each) for each in running))
    return next(ready, None)


def _readable(pipes: Collection[Pipe]) -> list[Pipe]:
    """Wait until a process reports or ends; return the pipes of all that do."""
    ready = connection.wait(list(pipes))
    return [pipe for pipe in pipes if pipe in ready]


def _receive(pipe: Pipe, process: SpawnProcess) -> StepsDone | None:
    try:
        progress = pipe.recv()
    except EOFError:
        process.join(END_SECONDS)
        raise DipacoError(
            f"{describe_death(process.exitcode, '')}; call again: finished results are kept"
        ) from None
    if isinstance(progress, DipacoError):
        raise progress
    assert progress is None or isinstance(progress, StepsDone)
    return progress


@contextmanager
def _processes(count: int) -> Iterator[dict[Pipe, SpawnProcess]]:
    """Start `count` processes, give them by their pipes, and end them with the block."""
    context = get_context("spawn")
    os.environ.update(environment(threads=1))  # inherited; torch reads it when it is imported
    processes: dict[Pipe, SpawnProcess] = {}
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,), daemon=True)
            with safe_path():
                process.start()
            theirs.close()
            processes[ours] = process
        yield processes
    finally:
        for pipe, process in processes.items():
            pipe.close()
            process.terminate()
            process.join()


def _work(pipe: Pipe) -> None:
    """Do one task after the other: the main function of a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command ends its processes
    os.nice(ComputeSection().nice)
    try:
        while True:
            task = pipe.recv()
            try:
                _do(task, _throttled(pipe))
            except DipacoError as error:
                pipe.send(error)
            else:
                pipe.send(None)
    except (EOFError, BrokenPipeError):
        pass  # the command is gone


def _do(task: Task, on_work: Callable[[str, int], None]) -> None:
    from dipaco.node.compare.rerouting import reroute_trial
    from dipaco.node.compare.work import prepare, train

    if task.windows and task.trial is not None:
        reroute_trial(task.folder, task.trial, task.windows, device=task.device, on_work=on_work)
    elif task.trial is None:
        prepare(task.folder, task.device, on_work)
    else:
        train(task.folder, task.trial, task.device, on_work)


def _throttled(pipe: Pipe) -> Callable[[str, int], None]:
    """Return a function that sends the first progress of each part, then a few a second."""
    sent: tuple[str, float] = ("", 0.0)

    def send(what: str, steps: int) -> None:
        nonlocal sent
        now = monotonic()
        if what != sent[0] or now >= sent[1] + REPORT_SECONDS:
            pipe.send(StepsDone(what, steps))
            sent = (what, now)

    return send
