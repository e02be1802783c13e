"""The controls of a run as manifests: each function turns the run's manifest into a method's.

Every variant keeps the run's tokenizer, source, path model, batch, seed steps and (except for dense
at equal compute) steps per path. It differs in the modules that paths share, or in the router.
Source: docs/method.md, section 9. A new method is one more entry of `METHODS`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from dipaco.protocol.errors import ConfigError
from dipaco.protocol.run.manifest import Manifest, Reshard
from dipaco.protocol.run.model_shape import Grid, Level
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.run.training import Nesterov
from dipaco.protocol.wire.digest import u64

Float32 = NDArray[np.float32]
MAX_PATHS: Final = 256  # experts of one level, which are the workers of DiLoCo
Stream = Literal["routed", "round_robin", "dense", "own"]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row of the table."""

    title: str
    manifest: Callable[[Manifest], Manifest]
    """Turns the manifest of a seed's run, `with_seed`, into the method's own."""
    stream: Stream
    """The training data of a path: its shard by the run's router, every P-th document, all
    documents, or its shard by a router that the method re-shards."""

    @property
    def is_routed(self) -> bool:
        """Whether the router chooses a path by the text; otherwise re-routing changes nothing."""
        return self.stream in ("routed", "own")


def with_seed(manifest: Manifest, seed: int) -> Manifest:
    """Return the run with this seed: another initial model, router and order of batches."""
    routing = msgspec.structs.replace(manifest.routing, beacon=u64(seed))
    return msgspec.structs.replace(manifest, seed=seed, routing=routing)


def check_comparable(manifest: Manifest, methods: Iterable[str]) -> None:
    """Raise ConfigError, naming the field, for a run that does not differ from its controls."""
    if manifest.paths < 2:
        raise ConfigError("grid.levels: one path is the dense model itself; nothing to compare")
    if manifest.paths > MAX_PATHS:
        raise ConfigError(
            f"grid.levels: {manifest.paths} paths, a comparison takes at most {MAX_PATHS}"
        )
    if manifest.routing.kind != "kmeans":
        raise ConfigError("routing.kind: a comparison needs kmeans; round_robin is one of its rows")
    if not manifest.routing.validation_bp:
        raise ConfigError("routing.validation_bp: 0 holds no document out; nothing to compare by")
    if "dipaco-reshard" in methods:
        if not manifest.routing.router_bp:
            raise ConfigError(
                "routing.router_bp: 0 keeps no document that dipaco-reshard could score"
            )
        if manifest.training.rounds < 2:
            raise ConfigError("training.rounds: dipaco-reshard needs 2: one before and one after")


def round_robin(manifest: Manifest) -> Manifest:
    """Return the run in which a path gets every P-th document: all shards are alike."""
    routing = msgspec.structs.replace(
        manifest.routing, kind="round_robin", overlap=1, capacity=None, reshard=None
    )
    return msgspec.structs.replace(manifest, routing=routing)


def dense(manifest: Manifest) -> Manifest:
    """Return the run of one path that trains on all documents, with as many steps as a path.

    Its outer step keeps the result of the inner steps, so a round only adds an evaluation. Nothing
    is averaged, so nothing is packed either.
    """
    levels = (Level(experts=1, blocks=manifest.grid.blocks),)
    return _changed(
        round_robin(manifest),
        grid=Grid(levels=levels, path_specific_blocks=()),
        outer=Nesterov(lr=1.0, momentum=0.0),
        deltas="f32",
        updates="f32",
    )


def dense_compute(manifest: Manifest) -> Manifest:
    """Return `dense` with as many steps as all paths together; its schedule spans all of them."""
    return _changed(dense(manifest), inner_steps=manifest.paths * manifest.training.inner_steps)


def diloco(manifest: Manifest) -> Manifest:
    """Return DiLoCo (2311.08105): P workers on equal shards share every module; a plain mean."""
    levels = (
        Level(experts=manifest.paths, blocks=0),
        Level(experts=1, blocks=manifest.grid.blocks),
    )
    return _changed(
        round_robin(manifest),
        grid=Grid(levels=levels, path_specific_blocks=()),
        outer=msgspec.structs.replace(manifest.training.outer, rescale="none"),
    )


def flat_moe(manifest: Manifest) -> Manifest:
    """Return the flat mixture of experts: every path owns all its parameters."""
    everything = tuple(range(manifest.grid.blocks))
    return _grid(manifest, path_specific_blocks=everything, path_specific_stem=True)


def dipaco(manifest: Manifest) -> Manifest:
    """Return DiPaCo with the manifest's levels and nothing path-specific."""
    return _grid(manifest, path_specific_blocks=(), path_specific_stem=False)


def dipaco_ps(manifest: Manifest) -> Manifest:
    """Return DiPaCo with a path-specific stem, and the path-specific blocks of the manifest."""
    return _grid(manifest, path_specific_stem=True)


def dipaco_random(manifest: Manifest) -> Manifest:
    """Return `dipaco` in which a path gets every P-th document: the control for routing."""
    return round_robin(dipaco(manifest))


def dipaco_reset(manifest: Manifest) -> Manifest:
    """Return `dipaco` with fresh inner moments in every round."""
    return _changed(dipaco(manifest), inner_state="reset")


def dipaco_reshard(manifest: Manifest) -> Manifest:
    """Return `dipaco` with re-sharding, by default after half of the rounds."""
    plain, reshard = dipaco(manifest), manifest.routing.reshard
    if reshard is None:
        reshard = Reshard(after_round=manifest.training.rounds // 2)
    routing = msgspec.structs.replace(plain.routing, reshard=reshard)
    return msgspec.structs.replace(plain, routing=routing)


METHODS: Final[Mapping[str, Method]] = {
    "dense": Method(title="dense at equal steps", manifest=dense, stream="dense"),
    "dense-compute": Method(title="dense at equal compute", manifest=dense_compute, stream="dense"),
    "diloco": Method(title="DiLoCo", manifest=diloco, stream="round_robin"),
    "flat-moe": Method(title="flat MoE", manifest=flat_moe, stream="routed"),
    "dipaco": Method(title="DiPaCo, shared stem", manifest=dipaco, stream="routed"),
    "dipaco-ps": Method(title="DiPaCo, path-specific stem", manifest=dipaco_ps, stream="routed"),
    "dipaco-reset": Method(
        title="DiPaCo, inner moments reset", manifest=dipaco_reset, stream="routed"
    ),
    "dipaco-random": Method(
        title="DiPaCo, random shards", manifest=dipaco_random, stream="round_robin"
    ),
    "dipaco-reshard": Method(title="DiPaCo, re-sharded", manifest=dipaco_reshard, stream="own"),
}
"""By name, in the order of the table."""
USUAL: Final = ("dense", "dense-compute", "diloco", "flat-moe", "dipaco", "dipaco-ps")


def parameters(manifest: Manifest) -> tuple[int, int]:
    """Return the number of parameters of all modules together, and of one path's model."""
    top = manifest.topology
    path = sum(top.elements(module) for module in top.path_modules[0])
    return sum(top.elements(module) for module in top.modules), path


def recut(
    states: Mapping[ModuleId, Float32], manifest: Manifest, target: Manifest
) -> dict[ModuleId, Float32]:
    """Cut the model of one path into the modules of `target`; all its paths begin as this model.

    states   per module of path 0 of `manifest` its flat state, in its layout.
    Returns  per module of `target` its flat state.
    """
    tensors: dict[str, Float32] = {}
    for module, state in states.items():
        layout = manifest.topology.layouts[module]
        ends = np.cumsum([tensor.size for tensor in layout])
        parts = np.split(state, ends[:-1])
        tensors |= {tensor.name: part for tensor, part in zip(layout, parts, strict=True)}
    return {
        module: np.concatenate([tensors[tensor.name] for tensor in layout])
        for module, layout in target.topology.layouts.items()
    }


def _grid(manifest: Manifest, **changes: Any) -> Manifest:
    """Return the run with another grid, and without re-sharding."""
    grid = msgspec.structs.replace(manifest.grid, **changes)
    routing = msgspec.structs.replace(manifest.routing, reshard=None)
    return msgspec.structs.replace(manifest, grid=grid, routing=routing, start=())


def _changed(manifest: Manifest, *, grid: Grid | None = None, **training: Any) -> Manifest:
    return msgspec.structs.replace(
        manifest,
        grid=grid or manifest.grid,
        start=(),  # `recut` makes its start
        training=msgspec.structs.replace(manifest.training, **training),
    )
