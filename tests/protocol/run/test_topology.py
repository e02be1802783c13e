"""Rules of this file: paths, modules and layouts of small grids are written out by hand."""

import tracemalloc
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from dipaco.protocol.run.model_shape import Grid, Level, Model
from dipaco.protocol.run.modules import MAX_RUN_MODULES, ModuleId
from dipaco.protocol.run.topology import (
    FLOAT_BYTES,
    STEM,
    elements_of,
    experts_of,
    modules_of_path,
    topology,
)
from tests.values import manifest


def grid(*experts: int, blocks: int = 1, own: tuple[int, ...] = (), stem: bool = False) -> Grid:
    return Grid(
        levels=tuple(Level(experts=e, blocks=blocks) for e in experts),
        path_specific_blocks=own,
        path_specific_stem=stem,
    )


GRIDS = st.builds(
    lambda experts, own, stem: grid(
        *experts, blocks=2, own=tuple(i for i in own if i < 2 * len(experts)), stem=stem
    ),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.sets(st.integers(0, 5)).map(sorted),
    st.booleans(),
)


def test_paths_count_in_mixed_radix_with_level_1_first() -> None:
    assert [experts_of(grid(2, 3), path) for path in range(6)] == [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 0),
        (1, 1),
        (1, 2),
    ]


@pytest.mark.parametrize("path", [6, 100, -1])
def test_a_path_off_the_grid_has_no_experts(path: int) -> None:
    with pytest.raises(ValueError, match="not on the grid"):
        experts_of(grid(2, 3), path)


def test_two_by_two_shares_its_stem_and_every_expert() -> None:
    top = manifest().topology
    assert top.modules == ("stem", "L1.E0", "L1.E1", "L2.E0", "L2.E1")
    assert top.path_modules == (
        ("stem", "L1.E0", "L2.E0"),
        ("stem", "L1.E0", "L2.E1"),
        ("stem", "L1.E1", "L2.E0"),
        ("stem", "L1.E1", "L2.E1"),
    )
    assert top.paths_through(STEM) == (0, 1, 2, 3)
    assert top.paths_through(ModuleId("L1.E1")) == (2, 3)
    assert top.paths_through(ModuleId("L2.E1")) == (1, 3)


def test_a_path_specific_stem_and_block_make_a_module_of_each_path() -> None:
    top = manifest(grid=grid(2, 1, own=(1,), stem=True)).topology
    assert top.modules == ("L1.E0", "L1.E1", "p0", "p1")  # level 2 has nothing left to share
    assert top.path_modules == (("L1.E0", "p0"), ("L1.E1", "p1"))
    names = [tensor.name for tensor in top.layouts[ModuleId("p1")]]
    assert names[:2] == ["model.embed_tokens.weight", "model.norm.weight"]
    assert all(name.startswith("model.layers.1.") for name in names[2:])
    assert top.layouts[ModuleId("p0")] == top.layouts[ModuleId("p1")]


def test_dense_is_a_grid_of_one() -> None:
    top = manifest(grid=grid(1)).topology
    assert top.modules == ("stem", "L1.E0") and top.paths == 1


def test_layouts_follow_from_the_model() -> None:
    """d_model 16, 2 heads of 8, 2 of them for keys, d_ff 32, 4096 words."""
    top = manifest().topology
    assert [(t.name.removeprefix("model.layers.1."), t.shape) for t in top.layouts["L2.E0"]] == [  # type: ignore[index]
        ("input_layernorm.weight", (16,)),
        ("self_attn.q_proj.weight", (16, 16)),
        ("self_attn.k_proj.weight", (16, 16)),
        ("self_attn.v_proj.weight", (16, 16)),
        ("self_attn.o_proj.weight", (16, 16)),
        ("post_attention_layernorm.weight", (16,)),
        ("mlp.gate_proj.weight", (32, 16)),
        ("mlp.up_proj.weight", (32, 16)),
        ("mlp.down_proj.weight", (16, 32)),
    ]
    assert top.elements(STEM) == 4096 * 16 + 16
    assert top.state_bytes(STEM) == FLOAT_BYTES * (4096 * 16 + 16)


def test_shared_keys_and_an_untied_head_change_their_tensors_alone() -> None:
    model = replace(manifest().model, kv_heads=1, tied=False)
    top = manifest(model=model).topology
    shapes = {tensor.name: tensor.shape for tensor in top.path_tensors(0)}
    assert shapes["model.layers.0.self_attn.k_proj.weight"] == (8, 16)
    assert shapes["model.layers.0.self_attn.v_proj.weight"] == (8, 16)
    assert shapes["lm_head.weight"] == shapes["model.embed_tokens.weight"] == (4096, 16)


@given(GRIDS)
def test_every_path_is_one_whole_model(given_grid: Grid) -> None:
    """Whatever is shared: each path has every tensor of the model, once."""
    top = manifest(grid=given_grid, routing=replace(manifest().routing, overlap=1)).topology
    dense = manifest(grid=grid(1, blocks=given_grid.blocks)).topology
    whole = sorted(dense.path_tensors(0), key=lambda tensor: tensor.name)
    for path in range(top.paths):
        mine = sorted(top.path_tensors(path), key=lambda tensor: tensor.name)
        assert mine == whole


@given(GRIDS)
def test_paths_and_modules_name_each_other(given_grid: Grid) -> None:
    top = manifest(grid=given_grid).topology
    assert top.paths == prod(level.experts for level in given_grid.levels)
    assert len({experts_of(given_grid, path) for path in range(top.paths)}) == top.paths
    for module in top.modules:
        through = top.paths_through(module)
        assert through == tuple(p for p in range(top.paths) if module in top.path_modules[p])
        assert through and list(through) == sorted(through)
        first = top.counterpart(module)
        assert 0 in top.paths_through(first) and top.layouts[first] == top.layouts[module]


@given(GRIDS)
def test_the_modules_of_a_path_are_known_without_the_topology(given_grid: Grid) -> None:
    top = manifest(grid=given_grid).topology
    for path in range(top.paths):
        assert modules_of_path(given_grid, path) == top.path_modules[path]


def test_a_manifest_of_a_kilobyte_implies_a_topology_of_a_megabyte() -> None:
    """The widest and deepest grid: 256 experts of one level, 256 blocks, a part of every path."""
    levels = (Level(experts=256, blocks=249), *(Level(experts=e, blocks=1) for e in (4, *[1] * 6)))
    widest = Grid(levels=levels, path_specific_blocks=(0, 255))
    model = Model(d_model=16, heads=2, kv_heads=2, d_ff=32, context=48)
    assert widest.paths == 1024 and widest.blocks == 256
    small = topology(widest, replace(model, d_ff=48), 64)  # before counting: names are interned
    tracemalloc.start()
    top = topology(widest, model, 64)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert small.modules == top.modules and len(top.modules) <= MAX_RUN_MODULES
    assert size < 2 << 20
    distinct = {id(layout): layout for layout in top.layouts.values()}
    assert sum(map(len, distinct.values())) < 9 * 256 + 10


@pytest.mark.parametrize("stem", [False, True])
@pytest.mark.parametrize("specific", [(), (0, 2)])
def test_parameters_are_counted_without_a_topology(stem: bool, specific: tuple[int, ...]) -> None:
    levels = (Level(experts=3, blocks=2), Level(experts=2, blocks=1))
    some = Grid(levels=levels, path_specific_blocks=specific, path_specific_stem=stem)
    model = Model(d_model=16, heads=4, kv_heads=2, d_ff=32, context=48, tied=False)
    top = topology(some, model, 100)
    counts = [top.elements(module) for module in top.modules]
    assert elements_of(some, model, 100) == (max(counts), sum(counts))
