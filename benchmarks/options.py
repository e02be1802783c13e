"""The effect of each option of a node on the weights, and its speed.

All take steps on the embedded corpus from the same weights, on the CPU with one thread, in one
process. The effect is the distance of the last weights from those of the plain loop, relative to
the distance that the plain loop moved them. Moments of 8 bits are measured if bitsandbytes is
installed.
"""

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.loops import read_spec, run_of
from benchmarks.measure import Result, in_new_process
from benchmarks.runs import quiet

SHAPE, STEPS = "1.3M", 20
OPTIONS: dict[str, dict[str, Any]] = {
    "micro-batches of 1": {"max_batch": 1},
    "checkpointing": {"checkpointing": True},
    "compiled": {"compile": True},
    "moments of 8 bits": {"moment_bits": 8},
}
TOLERANCE = 1e-3  # for options that only change rounding: docs/fit.md
FREE = "moments of 8 bits"  # changes more than rounding, so it has no mark


def run() -> list[Result]:
    """Measure every option beside the plain loop."""
    with tempfile.TemporaryDirectory(prefix="dipaco-bench-") as folder:
        in_new_process("loops", "prepare", SHAPE, folder)
        found = in_new_process("options", "differences", folder)
    plain, results = found.pop("plain")["rate"], []
    for name, each in found.items():
        away = Result(
            name=f"{name}: distance / tolerance",
            ours=each["apart"],
            peer=TOLERANCE,
            ratio=each["apart"] / TOLERANCE,
            unit="of the plain move",
            samples={"ours": [each["apart"]]},
            better="lower",
        )
        if name != FREE:
            away["mark"] = 1.0
        speed = Result(
            name=f"{name}: speed / the plain loop",
            ours=each["rate"],
            peer=plain,
            ratio=each["rate"] / plain,
            unit="tokens/s",
            samples={"ours": [each["rate"]], "peer": [plain]},
        )
        results += [away, speed]
    return results


def differences(folder: str) -> dict[str, dict[str, float]]:
    """Return by option, and for the `plain` loop, tokens/s and the relative distance `apart`."""
    import numpy as np
    import torch

    from dipaco.node.jobs.settings import reproducible_settings
    from dipaco.node.training.compiled import compile_blocks
    from dipaco.node.training.inner_loop import PathState, Steps, make_deterministic, run_steps
    from dipaco.node.training.model import PathModel
    from dipaco.node.worker.performer import shards_of, tools_of
    from dipaco.protocol.run.batches import DENSE, RowOrder
    from dipaco.protocol.run.initial import initial_module
    from dipaco.protocol.wire.digest import Digest

    manifest, settings = run_of(SHAPE), reproducible_settings(Path(folder), "cpu")
    shards = shards_of(settings, tools_of(settings))
    shard = shards.training(manifest, read_spec(folder), 0, DENSE, quiet)
    start = {m: initial_module(manifest, m) for m in manifest.topology.path_modules[0]}
    make_deterministic(1)

    def weights(
        steps: int,
        max_batch: int = 0,
        checkpointing: bool = False,
        compile: bool = False,
        moment_bits: Any = 32,
    ) -> tuple[Any, float]:
        model = PathModel(manifest, torch.device("cpu"))
        model.model.checkpointing = checkpointing
        if compile:
            compile_blocks(model)
        end = run_steps(
            model,
            manifest,
            PathState(weights=start),
            shard,
            RowOrder(Digest(bytes(32)), shard.rows),
            Steps(count=steps, first_batch=0, first_rate=0),
            max_batch=max_batch,
            on_step=lambda report: None,
            moment_bits=moment_bits,
        )
        return np.concatenate(list(end.end.weights.values())), end.tokens / end.seconds

    began = np.concatenate(list(start.values()))
    plain, rate = weights(STEPS)
    found = {"plain": {"rate": rate, "apart": 0.0}}
    for name, options in OPTIONS.items():
        if name == FREE and find_spec("bitsandbytes") is None:
            continue
        weights(1, **options)  # one-time work
        ended, rate = weights(STEPS, **options)
        apart = np.linalg.norm(ended - plain) / np.linalg.norm(plain - began)
        found[name] = {"rate": rate, "apart": float(apart)}
    return found
