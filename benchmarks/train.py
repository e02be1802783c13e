"""Tokens per second and peak memory of a worker process, compared with PyTorch and transformers.

Each side has one thread, and they alternate; every sample is a process of its own that counts all
its steps, also the first. The worker does a whole seed lease over the pipes; shards are in its
cache. Marks apply to clock time; on a busy machine tokens per second of CPU time are more reliable.
"""

import tempfile

from benchmarks.loops import SHAPES, Inner, Sample, parameters, run_of
from benchmarks.measure import Result, in_new_process, in_turns, versus

SAMPLES = {"1.3M": 5, "20M": 3}
TURNS = {"1.3M": 8, "20M": 3}
PYTORCH_MARK, TRANSFORMERS_MARK = 0.97, 1.0


def run() -> list[Result]:
    """Measure both shapes."""
    return [result for name in SAMPLES for result in measure(name)]


def measure(name: str) -> list[Result]:
    """Measure one shape."""
    with tempfile.TemporaryDirectory(prefix="dipaco-bench-") as folder:
        in_new_process("loops", "prepare", name, folder)
        found: dict[str, list[Sample]] = in_turns(
            f"train {name}",
            SAMPLES[name],
            {
                "worker": ("loops", "worker", name, folder),
                "bare": ("loops", "bare", name, "cpu", "f32"),
                "transformers": ("loops", "transformers", name, "cpu", "f32"),
            },
        )
    return [*_results(name, found), *_in_turns(name, "adamw"), *_in_turns(name, "muon")]


def _in_turns(name: str, inner: Inner) -> list[Result]:
    """Compare the loops alone, a few steps each in turns in one process, by its CPU time."""
    shape = SHAPES[name]
    seconds = in_new_process("loops", "in_turns", name, TURNS[name], inner)
    rates = {
        side: [shape.batch * shape.context / each for each in series]
        for side, series in seconds.items()
    }
    with_muon = ", both with Muon" if inner == "muon" else ""
    what = f"{name}: per CPU second, loop alone / a bare loop"
    line = versus(f"{what}{with_muon}", rates["ours"], rates["bare"], "tokens/s")
    line["mark"] = PYTORCH_MARK
    if inner == "adamw":
        return [line]
    other = versus(f"{what} with torch.optim.Muon", rates["ours"], rates["torch"], "tokens/s")
    other["note"] = "torch's multiplies in bf16, ours in float32"
    return [line, other]


def _results(name: str, found: dict[str, list[Sample]]) -> list[Result]:
    def series(side: str, what: str, scale: float = 1.0) -> list[float]:
        return [each[what] / scale for each in found[side]]

    shape = SHAPES[name]
    results = []
    for other, mark in (("bare", PYTORCH_MARK), ("transformers", TRANSFORMERS_MARK)):
        words = "a bare PyTorch loop" if other == "bare" else "transformers' Llama"
        speed = versus(
            f"{name}: worker process / {words}",
            series("worker", "rate"),
            series(other, "rate"),
            "tokens/s",
        )
        speed["mark"] = mark
        memory = versus(
            f"{name}: peak memory / {words}",
            series("worker", "peak", 1e6),
            series(other, "peak", 1e6),
            "MB",
        )
        memory["better"] = "lower"
        work = versus(
            f"{name}: per CPU second, whole job / {words}",
            series("worker", "work"),
            series(other, "work"),
            "tokens/s",
        )
        results += [speed, work, memory]
    whole = versus(
        f"{name}: the whole job / a bare PyTorch loop",
        series("worker", "job"),
        series("bare", "rate"),
        "tokens/s",
    )
    whole["note"] = (
        f"{parameters(run_of(name)):,} parameters, context {shape.context}, batch {shape.batch}, "
        f"{shape.steps} steps; the whole job reads the shard, computes first weights, writes blobs"
    )
    return [*results, whole]
