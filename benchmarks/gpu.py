"""A path of 150 M parameters on one GPU: tokens/s, model FLOPs utilisation, peak memory.

    python -m benchmarks gpu                                  on the GPU that torch sees, if any
    python -m benchmarks.gpu --device cpu --shape tiny        the same script without a GPU

Our loop is compared with a bare PyTorch loop of the same model and with transformers, with bf16
products, in turns, each sample in a process of its own. Our options follow: compiled,
checkpointing, 8-bit moments.
"""

import argparse
import json
import os
from typing import Any

from benchmarks.loops import SHAPES, Sample, parameters, run_of
from benchmarks.measure import Result, in_new_process, in_turns, versus

SHAPE, PRECISION, SAMPLES = "150M", "bf16", 3
OPTIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "compiled": {"compile": True},
    "checkpointing": {"checkpointing": "on"},
    "moments of 8 bits": {"moment_bits": 8},
}
PEAK_VARIABLE = "DIPACO_BENCH_PEAK"
PEAKS = {  # dense bf16 FLOP/s by the makers' data sheets; the longest name that matches is used
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "RTX 4090": 165.2e12,
    "RTX 4080": 97.5e12,
    "RTX 3090": 71e12,
    "RTX 3060": 25.5e12,
}
MARK = 0.97


def run() -> list[Result]:
    """Measure on this machine's GPU; return no result if there is none."""
    device = in_new_process("gpu", "name")
    if not device:
        print("gpu: torch sees no CUDA device here, so nothing was measured")
        return []
    return measure("cuda", SHAPE, SAMPLES, list(OPTIONS))


def name() -> str:
    """Return the GPU's name; empty if torch sees none."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


def measure(device: str, shape: str, samples: int, options: list[str]) -> list[Result]:
    """Measure one shape on a device: our loop in each of `options`, and the two others."""
    given = (shape, device, PRECISION)
    found: dict[str, list[Sample]] = in_turns(
        f"{shape} on {device}",
        samples,
        {option: ("loops", "ours", *given, OPTIONS[option]) for option in options}
        | {other: ("loops", other, *given) for other in ("bare", "transformers")},
    )
    results = []
    for option in options:
        for other in ("bare", "transformers"):
            for what, unit, scale in (("rate", "tokens/s", 1.0), ("peak", "MB", 1e6)):
                ours, theirs = ([s[what] / scale for s in found[k]] for k in (option, other))
                line = versus(
                    f"{shape} on {device}, {option} / {other}, {what}", ours, theirs, unit
                )
                if what == "rate" and other == "bare" and option == "as it is":
                    line["mark"] = MARK
                if what == "peak":
                    line["better"] = "lower"
                results.append(line)
        results += _utilisation(device, shape, option, found[option])
    return results


def flops_per_token(shape: str) -> float:
    """Return FLOPs of forward and backward: 6 per parameter, and attention (2204.02311, B)."""
    size = SHAPES[shape]
    return 6.0 * parameters(run_of(shape)) + 12.0 * size.blocks * size.d_model * size.context


def _utilisation(device: str, shape: str, option: str, found: list[Sample]) -> list[Result]:
    peak = float(os.environ.get(PEAK_VARIABLE, "0")) or _peak_of(in_new_process("gpu", "name"))
    if not peak:
        return []
    reached = [each["rate"] * flops_per_token(shape) / 1e12 for each in found]
    line = versus(
        f"{shape} on {device}, {option}, model FLOPs utilisation",
        reached,
        [peak / 1e12] * len(reached),
        "TFLOP/s",
    )
    line["note"] = f"the peer is the device's peak in bf16; ${PEAK_VARIABLE} sets another"
    return [line]


def _peak_of(gpu: str) -> float:
    known = [key for key in PEAKS if key in gpu]
    return PEAKS[max(known, key=len)] if known else 0.0


def main() -> None:
    """Measure with the options of the command line and print JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shape", default=SHAPE, choices=SHAPES)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--options", nargs="*", default=list(OPTIONS), choices=OPTIONS)
    given = parser.parse_args()
    found = measure(given.device, given.shape, given.samples, given.options)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
