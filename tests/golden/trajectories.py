"""Golden training trajectories: where a tiny run came to, version by version.

Bits of torch differ between processors and its releases, so losses and norms are compared within a
tolerance. That of f32 is far below what another order of rows, rate, start, weight or precision
would change (`tests/node/training/test_trajectories.py` holds that).

It is wide enough: one processor that is kept to older instructions (ATEN_CPU_CAPABILITY=default or
avx2, ONEDNN_MAX_CPU_ISA=SSE41, AVX2 or AVX512_CORE) comes up to 1.2e-6 away from itself in f32. In
bf16, whose products keep 8 bits and which other kernels round elsewhere, it is 2.8e-3; so the
trajectory in bf16 shows that its products are not broken, and that in f32 what the method is. With
Muon, in f32, it is up to 2.4e-6. Packed into 4 bits, where the smallest difference may round an
element to the next step, it is 6e-5. That changed constants of Muon are found is tested against
exact arithmetic (`tests/node/training/test_muon.py`).
"""

import json
import tempfile
from pathlib import Path
from typing import Final

import numpy as np
from msgspec.structs import replace

from dipaco.node.data.embedded_tokenizer import embedded_tokenizer
from dipaco.node.reference.run import run_reference
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.files import Home
from dipaco.protocol.run.manifest import Manifest, Routing
from dipaco.protocol.run.model_shape import Grid, Level, Model
from dipaco.protocol.run.source import Source
from dipaco.protocol.run.training import Adam, Muon, Nesterov, Training
from tests.settings import settings
from tests.values import manifest

FILE: Final = Path(__file__).with_name("trajectories.json")
TOLERANCES: Final = {
    "f32": 2e-5,
    "bf16": 6e-3,
    "muon": 2e-5,
    "int4": 5e-4,
}  # of a loss or a norm, relative
MUON: Final = Muon(lr=0.01, adamw_lr=0.01, warmup=2, clip=0.5)

Trajectory = dict[str, list[float]]
"""Per path its held-out loss, and per module the norm of its state, at every version from 0."""


def tiny(**training: object) -> Manifest:
    """Return a 2x2 run with uneven shards, carried moments and path-specific parts."""
    plain = Training(
        seed_steps=4,
        rounds=3,
        inner_steps=6,
        batch=4,
        inner=Adam(lr=0.01, warmup=2, clip=0.5),
        outer=Nesterov(),
        early_stopping=True,
        deltas="f32",
        updates="f32",
    )
    return manifest(
        source=Source(kind="synthetic", revision="1", files=(), documents=200, window=200),
        tokenizer=embedded_tokenizer(),
        model=Model(d_model=16, heads=2, kv_heads=1, d_ff=32, context=48),
        grid=Grid(
            levels=(Level(experts=2, blocks=2), Level(experts=2, blocks=1)),
            path_specific_blocks=(1,),
            path_specific_stem=True,
        ),
        routing=Routing(
            sample=64, featurizer="bag-sign-v1", dimension=64, validation_bp=1500, overlap=2
        ),
        training=replace(plain, **training),
    )


def runs() -> dict[str, Manifest]:
    """Return the runs whose trajectories are kept."""
    return {
        "f32": tiny(),
        "bf16": tiny(precision="bf16"),
        "muon": tiny(inner=MUON),
        "int4": tiny(deltas="int4", updates="int4"),
    }


def trajectory(value: Manifest) -> Trajectory:
    """Train the run in one process; returns where it came to."""
    with tempfile.TemporaryDirectory(prefix="dipaco-golden-") as folder:
        home = Path(folder)
        result = run_reference(value, settings(home), lambda what, progress: None)
        blobs = BlobStore(Home.at(home).blobs)
        found: Trajectory = {}
        for (_, path), each in sorted(result.evaluations.items()):
            found.setdefault(f"path {path}", []).append(each.nll / each.tokens)
        for module, digests in result.states.items():
            size = value.topology.elements(module)
            states = (blobs.read_array(digest, size) for digest in digests)
            found[f"module {module}"] = [
                float(np.linalg.norm(state.astype(np.float64))) for state in states
            ]
    return found


def saved() -> dict[str, Trajectory]:
    """Return the committed trajectories."""
    found: dict[str, Trajectory] = json.loads(FILE.read_text("utf-8"))
    return found


def write() -> None:
    """Train again and keep what comes of it."""
    found = {
        name: {what: [round(x, 6) for x in values] for what, values in trajectory(run).items()}
        for name, run in runs().items()
    }
    FILE.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
