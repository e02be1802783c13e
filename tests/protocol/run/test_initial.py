"""The initial model: the same bytes for everybody, whatever the cut into modules.

Golden digests were taken once from this code; a change of them changes every run.
"""

import hashlib

import msgspec
import numpy as np
import pytest

from dipaco.protocol.run.initial import initial_module, initial_tensor
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.model_shape import Grid, Level
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.run.topology import STEM, Tensor
from dipaco.protocol.wire.digest import sha256, tagged, u64
from tests.values import manifest

LEVELS = (Level(experts=2, blocks=1), Level(experts=2, blocks=1))
GOLDEN = {
    "stem": "6edbaadf6e8b77e0ec1e5f164cef0b9f09d77a19dbc5ee2d93cf71c1ab7749a4",
    "L1.E0": "0343e06bb32faf7c57d5e92c1edbb933fdfc855b09d5ce80771cf66d0eb45b7c",
    "L1.E1": "0343e06bb32faf7c57d5e92c1edbb933fdfc855b09d5ce80771cf66d0eb45b7c",
    "L2.E0": "a4c474f53b3fd0d67fe2ce679ae9ca8952dc1b8f72d16afb6b9373f3840f7fee",
    "L2.E1": "a4c474f53b3fd0d67fe2ce679ae9ca8952dc1b8f72d16afb6b9373f3840f7fee",
}


def all_tensors(value: Manifest, path: int) -> dict[str, bytes]:
    """Return the bytes of every tensor of one path's initial model, by name."""
    top, found = value.topology, {}
    for module in top.path_modules[path]:
        state, offset = initial_module(value, module), 0
        for tensor in top.layouts[module]:
            found[tensor.name] = state[offset : offset + tensor.size].tobytes()
            offset += tensor.size
    return found


def test_the_initial_modules_have_the_golden_digests() -> None:
    found = {
        m: sha256(initial_module(manifest(), m).tobytes()).hex()
        for m in manifest().topology.modules
    }
    assert found == GOLDEN


def test_a_matrix_follows_the_recipe_in_plain_python() -> None:
    tensor = Tensor("model.layers.0.self_attn.q_proj.weight", (16, 16))
    seed = tagged("dipaco/1/initial", u64(0), tensor.name.encode())
    stream = hashlib.shake_256(seed).digest(4 * tensor.size)
    for i, value in enumerate(initial_tensor(manifest(), tensor).tolist()):
        u = int.from_bytes(stream[4 * i : 4 * i + 4], "little") >> 8
        assert value == (2 * u + 1 - 2**24) / 2**24 / 4  # 1/4: the power below sqrt(3/16)


@pytest.mark.parametrize(
    "grid",
    [
        Grid(levels=(Level(experts=1, blocks=2),), path_specific_blocks=()),
        Grid(levels=LEVELS, path_specific_blocks=(0,), path_specific_stem=True),
        Grid(levels=LEVELS, path_specific_blocks=(0, 1), path_specific_stem=True),
    ],
)
def test_values_do_not_depend_on_how_the_model_is_cut_into_modules(grid: Grid) -> None:
    whole = all_tensors(manifest(), 0)
    cut = manifest(grid=grid)
    for path in range(cut.paths):
        assert all_tensors(cut, path) == whole


def test_all_experts_of_a_level_begin_equal_and_tensors_differ_from_each_other() -> None:
    value = manifest()
    first, second = (initial_module(value, ModuleId(f"L1.E{e}")) for e in (0, 1))
    assert first.tobytes() == second.tobytes()
    matrices = [t for name, t in all_tensors(value, 0).items() if "norm" not in name]
    assert len(set(matrices)) == len(matrices)


def test_another_seed_gives_another_model() -> None:
    other = manifest(seed=1)
    assert initial_module(manifest(), STEM).tobytes() != initial_module(other, STEM).tobytes()


def test_values_fill_their_range_evenly_and_norms_are_one() -> None:
    embedding = initial_tensor(manifest(), Tensor("model.embed_tokens.weight", (4096, 16)))
    assert np.abs(embedding).max() < 1 / 32
    assert abs(embedding.mean()) < 1e-4
    assert embedding.std() == pytest.approx(1 / 32 / 3**0.5, rel=0.01)
    assert initial_tensor(manifest(), Tensor("model.norm.weight", (16,))).tolist() == [1.0] * 16


def test_what_is_added_to_the_stream_is_smaller_in_a_deeper_model() -> None:
    deep = msgspec.structs.replace(
        manifest(), grid=Grid(levels=(Level(experts=1, blocks=8),), path_specific_blocks=())
    )
    tensor = Tensor("model.layers.0.mlp.down_proj.weight", (16, 32))
    assert np.abs(initial_tensor(manifest(), tensor)).max() > 1 / 16 * 0.9
    assert np.abs(initial_tensor(deep, tensor)).max() < 1 / 16
