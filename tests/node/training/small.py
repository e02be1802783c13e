"""A small run whose shards are made up on the spot: what the tests of this folder train."""

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dipaco.node.jobs.values import PerformLease, Progress
from dipaco.protocol.routing.recipe import recipe_of, unfitted_spec
from dipaco.protocol.routing.spec import RouterSpec
from dipaco.protocol.run.initial import initial_module
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.model_shape import Grid, Model
from dipaco.protocol.run.modules import ModuleDigest, ModuleId
from dipaco.protocol.run.source import Tokenizer
from dipaco.protocol.run.training import Adam, Nesterov, Training
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.work.kinds import EvaluateLease, Lease, ScoreLease, SeedLease, TrainLease
from tests.values import digest, manifest

VOCABULARY = 64
CONTEXT = 48


def small_manifest(**changes: object) -> Manifest:
    """Return a 2x2 run of a model that trains in milliseconds; `changes` replace fields."""
    plain = manifest(
        tokenizer=Tokenizer(
            sha256=digest("tokenizer"), size=1000, vocabulary=VOCABULARY, end_of_text=0
        ),
        model=Model(d_model=16, heads=4, kv_heads=2, d_ff=32, context=CONTEXT),
        training=Training(
            seed_steps=3,
            rounds=2,
            inner_steps=4,
            batch=4,
            inner=Adam(lr=0.01, warmup=2),
            outer=Nesterov(),
            deltas="f32",
            updates="f32",
        ),
    )
    return msgspec.structs.replace(plain, **changes)


def one_block() -> Grid:
    """Return a grid of one path with one block."""
    from dipaco.protocol.run.model_shape import Level

    return Grid(levels=(Level(experts=1, blocks=1),), path_specific_blocks=())


def any_spec(value: Manifest) -> RouterSpec:
    """Return a spec for jobs that do not look into it."""
    return unfitted_spec(recipe_of(value))


@dataclass(frozen=True)
class ArrayShard:
    """A shard in memory."""

    data: NDArray[np.int64]

    @property
    def rows(self) -> int:
        return len(self.data)

    def row(self, index: int) -> NDArray[np.int64]:
        found: NDArray[np.int64] = self.data[index]
        return found


def shard(seed: int, rows: int = 12) -> ArrayShard:
    """Return rows that can be learnt: each counts upwards from a token, by `seed` + 1."""
    starts = np.arange(rows)[:, None] * 7
    return ArrayShard((starts + np.arange(CONTEXT + 1)[None] * (seed + 1)) % VOCABULARY)


def initial_states(value: Manifest, path: int = 0) -> dict[ModuleId, NDArray[np.float32]]:
    """Return the states in which a path begins without a seed phase."""
    return {m: initial_module(value, m) for m in value.topology.path_modules[path]}


def _shared(modules: tuple[ModuleId, ...], states: dict[ModuleId, Digest]) -> dict[str, Any]:
    return {
        "run": digest("run"),
        "token": bytes(16),
        "window": 0,
        "spec": digest("spec"),
        "modules": tuple(ModuleDigest(module=m, digest=states[m]) for m in modules),
        "ttl": 20,
    }


def seed_lease() -> SeedLease:
    """Return a lease of the seed model that starts from the initial model."""
    return SeedLease(**_shared((), {}))


def train_lease(
    value: Manifest, path: int, round_: int, states: dict[ModuleId, Digest]
) -> TrainLease:
    """Return a lease of `path` that starts from `states` and zero moments."""
    shared = _shared(value.topology.path_modules[path], states)
    return TrainLease(**shared, path=path, round=round_, moments=())


def evaluate_lease(
    value: Manifest, path: int, version: int, states: dict[ModuleId, Digest]
) -> EvaluateLease:
    """Return a lease to evaluate `path` at `states`."""
    shared = _shared(value.topology.path_modules[path], states)
    return EvaluateLease(**shared, path=path, version=version)


def score_lease(
    value: Manifest, path: int, version: int, states: dict[ModuleId, Digest]
) -> ScoreLease:
    """Return a lease to score window 0's router documents by `path` at `states`."""
    shared = _shared(value.topology.path_modules[path], states)
    return ScoreLease(**shared, path=path, version=version)


def job_of(value: Manifest, lease: Lease, spec: RouterSpec | None = None) -> PerformLease:
    """Return the job of a lease; without `spec`, with one that nobody looks into."""
    return PerformLease(manifest=value, spec=spec or any_spec(value), lease=lease)


class Reports:
    """Notes progress."""

    def __init__(self) -> None:
        self.all: list[Progress] = []

    def __call__(self, progress: Progress) -> None:
        self.all.append(progress)
