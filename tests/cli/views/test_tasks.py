"""Rules of this file: the tasks of a comparison are named and reported, none is done."""

from pathlib import Path

import msgspec
from rich.console import Console

from dipaco.cli.testnet.local_run import local_run
from dipaco.cli.views.progress import display
from dipaco.cli.views.tasks import TaskProgress
from dipaco.node.compare.folder import SeedFolder
from dipaco.node.compare.pool import StepsDone, Task
from dipaco.node.compare.results import write_result
from dipaco.protocol.run.manifest import run_id
from tests.node.compare.made_up import result, trial


def test_all_tasks_are_one_count_and_a_finished_method_tells_its_perplexity(tmp_path: Path) -> None:
    manifest = local_run(None, seed=0, rounds=1).run.manifest
    folder = SeedFolder(tmp_path, manifest)
    start, dense = Task(folder, None, "cpu"), Task(folder, trial("dense"), "cpu")
    console, time = Console(record=True, width=60, force_terminal=False), [0.0]
    with display("comparison", console, now=lambda: time[0]) as shown:
        tell = TaskProgress(shown)
        tell.expect([start])
        tell.expect([dense])
        tell(start, StepsDone("router", 0))
        time[0] = 30.0
        tell(start, StepsDone("seed", 12))
        tell(start, None)
        time[0] = 60.0
        tell(dense, StepsDone("round 1, path 0", 10))
        found = msgspec.structs.replace(result("dense", 0, 400.0), run=run_id(manifest).hex())
        write_result(folder.trial_file(trial("dense")), found)
        tell(dense, None)
    assert (start.steps, dense.steps) == (20, 28)
    assert console.export_text().splitlines() == [
        "seed 1, start: begins",
        "0:00  comparison: 0 of 48 steps, seed 1, start: router",
        "0:30  comparison: 12 of 48 steps, 1:30 left, seed 1, start: seed",
        "seed 1, start: finished",
        "seed 1, dense,lr=0.001: begins",
        "1:00  comparison: 30 of 48 steps, 0:36 left, seed 1, dense,lr=0.001: round 1",
        "seed 1, dense,lr=0.001: finished, perplexity 400.0",
    ]
