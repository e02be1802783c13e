"""Every control differs from the run in what it controls for, and in nothing else."""

import numpy as np
import pytest
from msgspec.structs import asdict, replace

from dipaco.node.compare.variants import (
    ABLATIONS,
    METHODS,
    USUAL,
    check_comparable,
    method_named,
    ordered,
    parameters,
    place_of,
    recut,
    with_seed,
)
from dipaco.node.reference.inner_steps import steps_after_seed
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.routing.recipe import recipe_of, unfitted_spec
from dipaco.protocol.run.initial import initial_module
from dipaco.protocol.run.manifest import Capacity, Manifest, Reshard, Routing, run_id
from dipaco.protocol.run.model_shape import Grid, Level, Model
from dipaco.protocol.run.modules import ModuleDigest, ModuleId
from dipaco.protocol.run.training import Muon
from dipaco.protocol.tensors.outer_step import outer_step
from tests.values import digest, manifest

LEVELS = (Level(experts=2, blocks=2), Level(experts=3, blocks=1))
P = 6


def the_run(**changes: object) -> Manifest:
    """Return a run that uses what its controls change: overlap, capacity, path-specific parts."""
    plain = manifest(
        model=Model(d_model=16, heads=2, kv_heads=1, d_ff=24, context=48, tied=False),
        training=replace(manifest().training, deltas="int8", updates="int4"),
        grid=Grid(levels=LEVELS, path_specific_blocks=(1,), path_specific_stem=False),
        routing=Routing(
            featurizer="bag-sign-v1",
            sample=128,
            dimension=64,
            overlap=2,
            capacity=Capacity(num=5, den=4),
            router_bp=500,
            reshard=Reshard(after_round=1),
        ),
    )
    return replace(plain, **changes)


def differences(first: Manifest, second: Manifest) -> dict[str, tuple[object, object]]:
    """Return by dotted name the fields of two manifests that differ, two levels deep."""
    found = {}
    for name, value in asdict(first).items():
        other = getattr(second, name)
        if name in ("grid", "routing", "training"):
            for inner, each in asdict(value).items():
                if each != getattr(other, inner):
                    found[f"{name}.{inner}"] = (each, getattr(other, inner))
        elif value != other:
            found[name] = (value, other)
    return found


ROUND_ROBIN = {"routing.kind", "routing.overlap", "routing.capacity", "routing.reshard"}
DENSE = {
    *ROUND_ROBIN,
    "grid.levels",
    "grid.path_specific_blocks",
    "training.outer",
    "training.deltas",
    "training.updates",
}
DIFFER = {
    "dense": DENSE,
    "dense-compute": {*DENSE, "training.inner_steps"},
    "diloco": {*ROUND_ROBIN, "grid.levels", "grid.path_specific_blocks", "training.outer"},
    "flat-moe": {"grid.path_specific_blocks", "grid.path_specific_stem", "routing.reshard"},
    "dipaco": {"grid.path_specific_blocks", "routing.reshard"},
    "dipaco-ps": {"grid.path_specific_stem", "routing.reshard"},
    "dipaco-random": {*ROUND_ROBIN, "grid.path_specific_blocks"},
    "dipaco-reshard": {"grid.path_specific_blocks"},
}


def test_every_method_is_held_here() -> None:
    assert set(DIFFER) == set(METHODS)
    assert set(USUAL) < set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_differs_in_just_these_fields(method: str) -> None:
    run = the_run()
    assert set(differences(run, METHODS[method].manifest(run))) == DIFFER[method]


ABLATED = {
    "reset": {"training.inner_state"},
    "int8": {"training.deltas", "training.updates"},
    "int4": {"training.deltas", "training.updates"},
    "uniform": {"training.outer"},
    "no-root": {"training.outer"},
    "root": {"training.outer"},
    "no-capacity": {"routing.capacity"},
    "tokens": {"routing.capacity"},
    "idf-svd": {"routing.featurizer"},
    "muon": {"training.inner"},
    "absent": {"training.quorum"},
    "int2": {"training.deltas", "training.updates"},
    "topk": {"training.deltas", "training.updates"},
}


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_an_ablation_changes_just_these_fields(ablation: str) -> None:
    run = the_run(training=replace(the_run().training, deltas="f32", updates="f32"))
    base = "diloco" if ablation == "root" else "dipaco"
    plain, changed = method_named(base), method_named(f"{base}+{ablation}")
    assert set(differences(plain.manifest(run), changed.manifest(run))) == ABLATED[ablation]
    assert changed.title == f"{plain.title}, {ABLATIONS[ablation].title}"
    routes = ABLATIONS[ablation].routes
    assert changed.stream == ("own" if routes else plain.stream)


def test_muon_keeps_the_settings_that_it_shares_with_adamw() -> None:
    adam = replace(the_run().training.inner, lr=7e-3, weight_decay=0.2, warmup=3)
    run = the_run(training=replace(the_run().training, inner=adam))
    muon = method_named("dense+muon").manifest(run).training.inner
    assert isinstance(muon, Muon)
    assert (muon.lr, muon.adamw_lr, muon.weight_decay, muon.warmup) == (7e-3, 7e-3, 0.2, 3)


def test_ablations_of_a_method_have_one_name_and_a_place_behind_it() -> None:
    assert ordered("dipaco", ["int4", "reset", "int4"]) == "dipaco+reset+int4"
    names = ["dipaco", "dipaco+reset", "dipaco+reset+int4", "dipaco+int4", "dipaco-ps"]
    assert sorted(reversed(names), key=place_of) == names
    assert method_named("dense+no-capacity").stream == "dense", "it is not routed"


def test_resharding_is_after_half_of_the_rounds_unless_the_run_says_when() -> None:
    run = the_run()
    routing, training = replace(run.routing, reshard=None), replace(run.training, rounds=7)
    silent = METHODS["dipaco-reshard"].manifest(replace(run, routing=routing, training=training))
    assert silent.routing.reshard == Reshard(after_round=3)
    asked = replace(run.routing, reshard=Reshard(after_round=6, tolerance=9))
    found = METHODS["dipaco-reshard"].manifest(replace(run, routing=asked, training=training))
    assert found.routing.reshard == asked.reshard


def test_dense_is_one_path_whose_outer_step_gives_back_the_inner_steps() -> None:
    run = the_run()
    dense = METHODS["dense"].manifest(run)
    assert dense.paths == 1 and dense.grid.blocks == run.grid.blocks
    assert steps_after_seed(dense) * P == steps_after_seed(run)
    chance = np.random.default_rng(1)
    before = chance.normal(0, 1, 1000).astype(np.float32)
    inner = before + chance.normal(0, 0.01, 1000).astype(np.float32)
    momentum = None
    for _ in range(2):
        after, momentum = outer_step(before, momentum, [7], [before - inner], dense.training.outer)
        assert np.allclose(after, inner, rtol=1e-6, atol=0), "to the rounding of a float32"


def test_equal_compute_is_the_steps_of_all_paths_with_the_schedule_stretched() -> None:
    run = the_run()
    long = METHODS["dense-compute"].manifest(run)
    assert long.paths == 1
    assert steps_after_seed(long) == steps_after_seed(run)
    assert long.training.rounds == run.training.rounds, "as many looks at the loss"


def test_diloco_shares_every_module_among_as_many_workers_and_takes_a_plain_mean() -> None:
    diloco = METHODS["diloco"].manifest(the_run())
    top = diloco.topology
    assert diloco.paths == P
    assert all(len(top.paths_through(module)) == P for module in top.modules)
    assert diloco.training.outer.rescale == "none"
    assert parameters(diloco)[0] == parameters(diloco)[1]


def test_a_flat_mixture_shares_nothing() -> None:
    flat = METHODS["flat-moe"].manifest(the_run())
    top = flat.topology
    assert all(len(top.paths_through(module)) == 1 for module in top.modules)
    assert parameters(flat)[0] == P * parameters(flat)[1]


def test_every_method_has_the_path_model_of_the_run() -> None:
    run = the_run()
    assert len({parameters(each.manifest(run))[1] for each in METHODS.values()}) == 1


def test_a_warm_start_is_cut_anew_for_every_method() -> None:
    run = the_run()
    modules = run.topology.path_modules[0]
    start = tuple(ModuleDigest(module=module, digest=digest(module)) for module in modules)
    for seed in (0, 1):
        warm = with_seed(replace(run, start=start), seed)
        assert warm.start == start
        assert all(method.manifest(warm).start == () for method in METHODS.values())


def test_a_seed_changes_the_initial_model_and_the_router() -> None:
    first, second = with_seed(the_run(), 0), with_seed(the_run(), 1)
    assert run_id(first) != run_id(second)
    seeds = {unfitted_spec(recipe_of(each)).feat_seed for each in (first, second)}
    assert len(seeds) == 2
    module = first.topology.modules[0]
    assert not np.array_equal(initial_module(first, module), initial_module(second, module))


@pytest.mark.parametrize("method", METHODS)
def test_recutting_the_seed_model_gives_every_path_just_that_model(method: str) -> None:
    run = the_run()
    target = METHODS[method].manifest(run)
    states = {module: initial_module(run, module) for module in run.topology.path_modules[0]}
    cut = recut(states, run, target)
    seed = by_tensor(states, run)
    assert set(cut) == set(target.topology.modules)
    for modules in target.topology.path_modules:
        found = by_tensor({module: cut[module] for module in modules}, target)
        assert found.keys() == seed.keys()
        assert all(found[name].tobytes() == seed[name].tobytes() for name in seed)


def by_tensor(states: dict[ModuleId, np.ndarray], value: Manifest) -> dict[str, np.ndarray]:
    """Cut a path's states by their layouts, one tensor after the other."""
    tensors = {}
    for module, state in states.items():
        first = 0
        for tensor in value.topology.layouts[module]:
            tensors[tensor.name] = state[first : first + tensor.size]
            first += tensor.size
        assert first == len(state)
    return tensors


def one_path() -> Grid:
    return Grid(levels=(Level(experts=1, blocks=3),), path_specific_blocks=())


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("grid.levels: one path", {"grid": one_path(), "routing": Routing(sample=128)}),
        ("routing.kind", {"routing": Routing(kind="round_robin", sample=128)}),
        ("routing.validation_bp", {"routing": Routing(sample=128, validation_bp=0)}),
    ],
)
def test_what_cannot_be_compared_is_refused_by_its_field(
    field: str, changes: dict[str, object]
) -> None:
    check_comparable(the_run(), METHODS)
    with pytest.raises(ConfigError, match=field):
        check_comparable(the_run(**changes), USUAL)


def test_resharding_needs_documents_to_score_and_a_round_after_it() -> None:
    without = the_run(routing=Routing(sample=128))
    check_comparable(without, USUAL)
    with pytest.raises(ConfigError, match=r"routing\.router_bp: 0 keeps no document"):
        check_comparable(without, METHODS)
    kept = without.routing
    once = replace(
        without,
        routing=replace(kept, router_bp=500),
        training=replace(without.training, rounds=1),
    )
    with pytest.raises(ConfigError, match=r"training\.rounds"):
        check_comparable(once, ["dipaco-reshard"])
