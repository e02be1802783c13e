"""A small run whose shards are made up on the spot: what the tests of this folder train."""

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from dipaco.node.training.jobs import Progress
from dipaco.protocol.digest import Digest
from dipaco.protocol.initial import initial_module
from dipaco.protocol.lease import Lease, LeaseKind
from dipaco.protocol.manifest import Manifest
from dipaco.protocol.model_shape import Grid, Model
from dipaco.protocol.modules import ModuleDigest, ModuleId
from dipaco.protocol.routing.recipe import recipe_of, unfitted_spec
from dipaco.protocol.source import Tokenizer
from dipaco.protocol.spec import RouterSpec
from dipaco.protocol.training import Adam, Nesterov, Training
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
        ),
    )
    return msgspec.structs.replace(plain, **changes)


def one_block() -> Grid:
    """Return a grid of one path with one block."""
    from dipaco.protocol.model_shape import Level

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


def lease(
    value: Manifest, kind: LeaseKind, path: int, round_: int, states: dict[ModuleId, Digest]
) -> Lease:
    """Return a lease of `path` that starts from `states`."""
    modules = () if kind == "seed" else value.topology.path_modules[path]
    return Lease(
        run=digest("run"),
        token=bytes(16),
        kind=kind,
        path=path,
        round=round_,
        window=0,
        spec=digest("spec"),
        modules=tuple(ModuleDigest(module=m, digest=states[m]) for m in modules),
        ttl=20,
    )


class Reports:
    """Notes progress."""

    def __init__(self) -> None:
        self.all: list[Progress] = []

    def __call__(self, progress: Progress) -> None:
        self.all.append(progress)
