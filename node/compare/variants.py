"""The controls of a run as manifests: each function turns the run's manifest into a method's.

Every variant keeps the run's tokenizer, source, path model, batch, seed steps and (except for dense
at equal compute) steps per path. It differs in the modules that paths share, or in the router. An
ablation is one further change of a method: `dipaco+int4`. Source: docs/method.md, section 9. A new
method is one more entry of `METHODS`, a new ablation one of `ABLATIONS`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from dipaco.node.compare.absent import QUORUM, a_quarter, nobody
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.run.exactness import IDF_SVD, MAX_COLUMNS
from dipaco.protocol.run.manifest import Capacity, Manifest, Reshard
from dipaco.protocol.run.model_shape import Grid, Level
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.run.training import Adam, Muon, Nesterov
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
    documents, or its shard by a router of the method's own."""
    has_outer_rate: bool = True
    """Whether its outer step has a rate to choose; dense keeps the result of its inner steps."""
    missed: Callable[[Manifest, int, Sequence[int]], Collection[int]] = nobody
    """Gives the paths, of the live ones, that miss a round."""

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
    if any(name.split(JOIN)[0] == "dipaco-reshard" for name in methods):
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


def dipaco_reshard(manifest: Manifest) -> Manifest:
    """Return `dipaco` with re-sharding, by default after half of the rounds."""
    plain, reshard = dipaco(manifest), manifest.routing.reshard
    if reshard is None:
        reshard = Reshard(after_round=manifest.training.rounds // 2)
    routing = msgspec.structs.replace(plain.routing, reshard=reshard)
    return msgspec.structs.replace(plain, routing=routing)


METHODS: Final[Mapping[str, Method]] = {
    "dense": Method(
        title="dense at equal steps", manifest=dense, stream="dense", has_outer_rate=False
    ),
    "dense-compute": Method(
        title="dense at equal compute", manifest=dense_compute, stream="dense", has_outer_rate=False
    ),
    "diloco": Method(title="DiLoCo", manifest=diloco, stream="round_robin"),
    "dipaco-random": Method(
        title="DiPaCo, random shards", manifest=dipaco_random, stream="round_robin"
    ),
    "flat-moe": Method(title="flat MoE", manifest=flat_moe, stream="routed"),
    "dipaco": Method(title="DiPaCo, shared stem", manifest=dipaco, stream="routed"),
    "dipaco-ps": Method(title="DiPaCo, path-specific stem", manifest=dipaco_ps, stream="routed"),
    "dipaco-reshard": Method(title="DiPaCo, re-sharded", manifest=dipaco_reshard, stream="own"),
}
"""By name, in the order of the table."""
USUAL: Final = (
    *("dense", "dense-compute", "diloco", "dipaco-random", "flat-moe", "dipaco", "dipaco-ps"),
)
JOIN: Final = "+"  # between a method and its ablations


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """One change of a method, in nothing else."""

    title: str
    manifest: Callable[[Manifest], Manifest]
    routes: bool = False
    """Whether the change gives a routed method another router."""
    missed: Callable[[Manifest, int, Sequence[int]], Collection[int]] | None = None
    """Gives the paths that miss a round, if it is the change."""


def _training(**changes: Any) -> Callable[[Manifest], Manifest]:
    return lambda manifest: _changed(manifest, **changes)


def _outer(**changes: Any) -> Callable[[Manifest], Manifest]:
    def changed(manifest: Manifest) -> Manifest:
        return _changed(manifest, outer=msgspec.structs.replace(manifest.training.outer, **changes))

    return changed


def _routing(**changes: Any) -> Callable[[Manifest], Manifest]:
    def changed(manifest: Manifest) -> Manifest:
        routing = msgspec.structs.replace(manifest.routing, **changes)
        return msgspec.structs.replace(manifest, routing=routing)

    return changed


def _muon(manifest: Manifest) -> Manifest:
    """Return the run with Muon in AdamW's place, at the same rates, decay and warm-up."""
    adam = manifest.training.inner
    shared = {name: getattr(adam, name) for name in Adam.__struct_fields__}
    return _changed(manifest, inner=Muon(**shared, adamw_lr=adam.lr))


def _in_tokens(manifest: Manifest) -> Manifest:
    """Return the run whose capacity, 5/4 where it has none, is measured in tokens."""
    capacity = manifest.routing.capacity or Capacity(num=5, den=4)
    return _routing(capacity=msgspec.structs.replace(capacity, unit="tokens"))(manifest)


def _idf_svd(manifest: Manifest) -> Manifest:
    return _routing(featurizer=IDF_SVD, dimension=MAX_COLUMNS)(manifest)


ABLATIONS: Final[Mapping[str, Ablation]] = {
    "muon": Ablation(title="Muon", manifest=_muon),
    "reset": Ablation(title="inner moments reset", manifest=_training(inner_state="reset")),
    **{
        encoding: Ablation(
            title=f"{encoding} both ways", manifest=_training(deltas=encoding, updates=encoding)
        )
        for encoding in ("int8", "int4")
    },
    "int2": Ablation(title="int2 up, int4 down", manifest=_training(deltas="int2", updates="int4")),
    "topk": Ablation(
        title="top-k up, int4 down", manifest=_training(deltas="topk", updates="int4")
    ),
    "uniform": Ablation(title="alpha uniform", manifest=_outer(weights="uniform")),
    "no-root": Ablation(title="without the root", manifest=_outer(rescale="none")),
    "root": Ablation(title="with the root", manifest=_outer(rescale="sqrt")),
    "no-capacity": Ablation(
        title="without capacity", manifest=_routing(capacity=None), routes=True
    ),
    "tokens": Ablation(title="capacity in tokens", manifest=_in_tokens, routes=True),
    "idf-svd": Ablation(title="idf-svd-v1", manifest=_idf_svd, routes=True),
    "absent": Ablation(
        title="1 path of 4 absent", manifest=_training(quorum=QUORUM), missed=a_quarter
    ),
}
"""By name, in the order in which they follow a method's name."""


def method_named(name: str) -> Method:
    """Return a method, with the ablations that follow its name; KeyError for an unknown part."""
    base, *changes = name.split(JOIN)
    method = METHODS[base]
    for change in changes:
        method = _ablated(method, ABLATIONS[change])
    return method


def _ablated(method: Method, ablation: Ablation) -> Method:
    return replace(
        method,
        title=f"{method.title}, {ablation.title}",
        manifest=lambda manifest: ablation.manifest(method.manifest(manifest)),
        stream="own" if ablation.routes and method.stream == "routed" else method.stream,
        missed=ablation.missed or method.missed,
    )


def ordered(base: str, changes: Iterable[str]) -> str:
    """Return the one name of a method with these ablations."""
    return JOIN.join([base, *sorted(set(changes), key=list(ABLATIONS).index)])


def place_of(name: str) -> tuple[int, ...]:
    """Return the place of a method's row in a table."""
    base, *changes = name.split(JOIN)
    order = list(ABLATIONS)
    return (list(METHODS).index(base), *(order.index(change) for change in changes))


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
