"""The progress of a comparison: one count of the inner steps of all its tasks."""

from collections.abc import Sequence

from dipaco.cli.views.progress import Display, Work
from dipaco.node.compare.pool import StepsDone, Task


class TaskProgress:
    """Shows the reports of `run_tasks`; prints a line when a task begins and when it ends."""

    def __init__(self, shown: Display) -> None:
        self._shown = shown
        self._total = 0
        self._done: dict[Task, int] = {}

    def expect(self, tasks: Sequence[Task]) -> None:
        """Count the steps of tasks that are about to be done."""
        self._total += sum(task.steps for task in tasks)

    def __call__(self, task: Task, progress: StepsDone | None) -> None:
        """Show the progress of `task`; None: it is finished."""
        if task not in self._done:
            self._shown.say(f"{task.name}: begins")
        self._done[task] = task.steps if progress is None else progress.steps
        if progress is None:
            self._shown.say(f"{task.name}: finished{_perplexity(task)}")
            return
        part = f"{task.name}: {progress.what.split(',')[0]}"
        self._shown.show(
            Work(
                title="comparison",
                done=sum(self._done.values()),
                total=self._total,
                unit="steps",
                part=part,
            )
        )


def _perplexity(task: Task) -> str:
    """Return the perplexity of a trained trial as text, empty for another task."""
    if task.trial is None or task.windows:
        return ""
    found = task.folder.result(task.trial)
    return f", perplexity {found.perplexity:.1f}" if found else ""
