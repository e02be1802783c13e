"""Bytes per trained token and idle share of a round, by encoding and line; two paths of 20 M.

Measured, in processor seconds of one core, on blobs of the shape `20m` of `round`: an inner step,
making and reading pseudo-gradients, of their inspection, the outer steps, and the states
that are made from packed updates. Computed from these and from the lengths of the blobs: a lease of
so many steps, and a line that carries its rate and nothing else. So packets, the ledger, waiting
for other volunteers and evaluation are left out; `round` measures a network with all of them, at
one line and encoding (DIPACO_BENCH_LINE, DIPACO_BENCH_DELTAS).

A lease waits for the upload of its pseudo-gradients, work that follows, and the download of
updates. Moments are uploaded during the next inner steps; where the line cannot carry all bytes of
a lease in its time, the line sets the pace.

DIPACO_BENCH_LEASE sets the seconds of a lease's inner steps.
"""

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from benchmarks.measure import Result, in_new_process
from benchmarks.round import shape_manifest
from dipaco.node.aggregation.inspection import wrong_deltas
from dipaco.node.aggregation.outer import advance_state, take_outer_step
from dipaco.node.jobs.values import Advance, OuterStep
from dipaco.node.storage.blobs import BlobStore
from dipaco.protocol.run.initial import initial_module
from dipaco.protocol.run.manifest import Manifest, run_id
from dipaco.protocol.run.modules import ModuleDigest, ModuleId
from dipaco.protocol.tensors.delta import Encoding, encode_delta, encoded_bytes
from dipaco.protocol.tensors.feedback import carried_bytes
from dipaco.protocol.wire.digest import Digest, sha256
from dipaco.protocol.work.kinds import TOKEN_BYTES, TrainLease
from dipaco.protocol.work.ledger import Contribution

RATES = (1, 5, 20, 100)  # Mbit/s, each way
ENCODINGS: tuple[tuple[Encoding, str], ...] = (
    ("f32", "f32"),
    ("f32", "int4"),
    ("bf16", "int4"),
    ("int8", "int4"),
    ("int4", "int4"),
    ("int2", "int4"),
    ("topk", "int4"),
)
"""Of pseudo-gradients, and of updates."""
LEASE_SECONDS = float(os.environ.get("DIPACO_BENCH_LEASE", "66"))
MARK = 5.0  # % of a round
TURNS = 1


@dataclass(frozen=True, kw_only=True)
class Parts:
    """One path's lease and the work that a round waits for."""

    step: float
    """Seconds of an inner step."""
    tokens: int
    """Tokens of an inner step."""
    work: float
    """Seconds from the last inner step to the next first one, without the line."""
    up: int
    """Bytes of pseudo-gradients."""
    moments: int
    """Bytes of moments; 0 if they are reset."""
    down: int
    """Bytes of updates."""

    def period(self, inner: float, rate: float) -> float:
        """Return the seconds from lease to lease; rate: bytes per second."""
        waits = inner + self.work + (self.up + self.down) / rate
        return max(waits, (self.up + self.moments) / rate)

    def idle(self, inner: float, rate: float) -> float:
        """Return the percentage of a round that is not spent in inner steps."""
        return 100 * (1 - inner / self.period(inner, rate))

    def lease_for(self, share: float, rate: float) -> float:
        """Return the seconds of inner steps at which a lease idles `share` %."""
        waits = (self.work + (self.up + self.down) / rate) * (100 / share - 1)
        return max(waits, (self.up + self.moments) / rate * (1 - share / 100))

    def bytes_per_token(self, inner: float) -> float:
        """Return the bytes up and down of a lease, by trained token."""
        return (self.up + self.moments + self.down) / (self.tokens * inner / self.step)


def run() -> list[Result]:
    """Measure the parts, then compute the table."""
    step = in_new_process("round", "step_seconds", "20m", "process_time")
    work: dict[str, list[float]] = {f"{up}, {down}": [] for up, down in ENCODINGS}
    for _ in range(TURNS):
        for up, down in ENCODINGS:
            work[f"{up}, {down}"].append(in_new_process("lines", "seconds_of_work", up, down))
            print(f"{up}, {down}: {work[f'{up}, {down}'][-1]:.2f} s", flush=True)
    return [
        result
        for up, down in ENCODINGS
        for carried in ((True,) if up == "topk" else (True, False))
        for result in _rows(up, down, step, work[f"{up}, {down}"], carried=carried)
    ]


def _rows(
    up: Encoding, down: str, step: float, work: list[float], *, carried: bool
) -> Iterator[Result]:
    parts = parts_of(up, down, step=step, work=min(work), carried=carried)
    for rate in RATES:
        line = rate * 1e6 / 8
        idle = parts.idle(LEASE_SECONDS, line)
        yield Result(
            name=f"deltas {up}, updates {down}, moments {'carried' if carried else 'reset'}, "
            f"{rate} Mbit/s",
            ours=idle,
            peer=MARK,
            ratio=idle / MARK,
            unit="% idle",
            samples={"ours": [idle], "peer": [MARK], "work": work, "step": [step]},
            note=f"{parts.bytes_per_token(LEASE_SECONDS):.0f} bytes/token; up {parts.up / 1e6:.1f} "
            f"+ {parts.moments / 1e6:.1f} MB, down {parts.down / 1e6:.1f} MB; {MARK:.0f} % with "
            f"leases of {parts.lease_for(MARK, line):.0f} s",
        )


def parts_of(up: Encoding, down: str, *, step: float, work: float, carried: bool) -> Parts:
    """Return the parts of path 0 of the shape."""
    run = _run(up, down)
    top = run.topology
    sizes = [top.elements(module) for module in top.path_modules[0]]
    return Parts(
        step=step,
        tokens=run.training.batch * run.model.context,
        work=work,
        up=sum(encoded_bytes(run.training.deltas, size) for size in sizes),
        moments=sum(carried_bytes(up, size) for size in sizes) if carried else 0,
        down=sum(encoded_bytes(run.training.updates, size) for size in sizes),
    )


def _run(up: Encoding, down: str) -> Manifest:
    run = shape_manifest("20m")
    return replace(run, training=replace(run.training, deltas=up, updates=down))


def seconds_of_work(up: Encoding, down: str) -> float:
    """Return the processor seconds between two leases: one round of two paths.

    The maker encodes its pseudo-gradients; the scheduler inspects those of both paths and takes the
    outer steps of all modules; the maker makes its next states from packed updates, or reads them.
    """
    run, draw = _run(up, down), np.random.default_rng(0)
    top, lr = run.topology, run.training.inner.lr
    with tempfile.TemporaryDirectory(prefix="dipaco-bench-") as folder:
        blobs = BlobStore(Path(folder))
        states = {module: blobs.write_array(initial_module(run, module)) for module in top.modules}
        moved = [
            {
                module: draw.normal(0, lr, top.elements(module)).astype(np.float32)
                for module in top.path_modules[path]
            }
            for path in range(run.paths)
        ]
        deltas, encoding = [], []
        for each in moved:
            began = time.process_time()
            deltas.append({m: blobs.write(encode_delta(delta, up)) for m, delta in each.items()})
            encoding.append(time.process_time() - began)
        began = time.process_time()
        for path, found in enumerate(deltas):
            _inspect(run, blobs, states, path, found)
        for module in top.modules:
            _step(run, blobs, states, module, deltas, again=module in top.path_modules[0])
        return encoding[0] + time.process_time() - began


def _inspect(
    run: Manifest,
    blobs: BlobStore,
    states: Mapping[ModuleId, Digest],
    path: int,
    deltas: Mapping[ModuleId, Digest],
) -> None:
    lease = TrainLease(
        run=run_id(run),
        token=bytes(TOKEN_BYTES),
        spec=sha256(b""),
        window=0,
        modules=tuple(ModuleDigest(module=m, digest=states[m]) for m in deltas),
        ttl=60,
        path=path,
        round=1,
        moments=(),
    )
    named = tuple(ModuleDigest(module=m, digest=digest) for m, digest in deltas.items())
    fault = wrong_deltas(blobs, run, lease, named, steps=run.training.inner_steps)
    if fault:
        raise SystemExit(fault)


def _step(
    run: Manifest,
    blobs: BlobStore,
    states: Mapping[ModuleId, Digest],
    module: ModuleId,
    deltas: Sequence[Mapping[ModuleId, Digest]],
    *,
    again: bool,
) -> None:
    """Take the outer step of a module; `again`: make its state once more, as a volunteer does."""
    stepped = take_outer_step(
        blobs,
        OuterStep(
            manifest=run,
            module=module,
            state=states[module],
            momentum=None,
            contributions=tuple(
                Contribution(path=path, peer=run.owner, delta=found[module], weight=1)
                for path, found in enumerate(deltas)
                if module in found
            ),
        ),
    )
    if again and stepped.quantised:
        updates = (stepped.quantised.update,)
        advance_state(
            blobs, Advance(manifest=run, module=module, state=states[module], updates=updates)
        )
