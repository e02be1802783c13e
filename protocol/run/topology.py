"""The grid: paths, modules, and the layout of a module's flat state (docs/method.md section 1).

A module is the unit of transfer and of the outer step:

    L{l}.E{e}   the shared blocks of expert e of level l (levels from 1, experts from 0)
    stem        embedding, final norm, output head if untied; shared by all paths
    p{p}        everything that path p owns alone

Path p takes one expert per level, mixed radix, level 1 most significant. A module's state is one
flat little-endian float32 array in the order of its layout. Tensor names are those of Hugging
Face's Llama, so an export renames nothing.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod

from dipaco.protocol.run.model_shape import Grid, Model
from dipaco.protocol.run.modules import ModuleId

STEM = ModuleId("stem")
FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Tensor:
    """One named tensor of a layout."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)

    @property
    def hidden(self) -> bool:
        """Whether it is a matrix of a block: embedding, norms and output head are not."""
        return len(self.shape) == 2 and self.name.startswith("model.layers.")


@dataclass(frozen=True)
class Topology:
    """The paths and modules of a run; `Manifest.topology` gives it."""

    paths: int
    modules: tuple[ModuleId, ...]
    """All modules: stem, then L{l}.E{e} by level and expert, then p{p}; empty ones left out."""
    path_modules: tuple[tuple[ModuleId, ...], ...]
    """Per path its modules, in the order of `modules`."""
    layouts: dict[ModuleId, tuple[Tensor, ...]]
    """Per module its tensors, in the order in which the flat state holds them."""

    def paths_through(self, module: ModuleId) -> tuple[int, ...]:
        """Return the paths that use `module`, ascending."""
        return self._users[module]

    @cached_property
    def _users(self) -> dict[ModuleId, tuple[int, ...]]:
        found: dict[ModuleId, list[int]] = {module: [] for module in self.modules}
        for path, used in enumerate(self.path_modules):
            for module in used:
                found[module].append(path)
        return {module: tuple(paths) for module, paths in found.items()}

    def elements(self, module: ModuleId) -> int:
        """Return the number of parameters of `module`."""
        return sum(tensor.size for tensor in self.layouts[module])

    def state_bytes(self, module: ModuleId) -> int:
        """Return the only valid length of `module`'s state, in bytes."""
        return FLOAT_BYTES * self.elements(module)

    def counterpart(self, module: ModuleId) -> ModuleId:
        """Return path 0's module that corresponds to `module`: the same layout, expert 0."""
        if module.startswith("L"):
            return ModuleId(module.split(".")[0] + ".E0")
        return ModuleId("p0") if module.startswith("p") else module

    def path_tensors(self, path: int) -> tuple[Tensor, ...]:
        """Return every tensor of one path's model, module after module."""
        return tuple(t for module in self.path_modules[path] for t in self.layouts[module])


def experts_of(grid: Grid, path: int) -> tuple[int, ...]:
    """Return the expert of `path` at each level (mixed radix, level 1 first)."""
    taken: list[int] = []
    for level in reversed(grid.levels):
        path, expert = divmod(path, level.experts)
        taken.append(expert)
    if path:
        raise ValueError("the path is not on the grid")
    return tuple(reversed(taken))


def modules_of_path(grid: Grid, path: int) -> tuple[ModuleId, ...]:
    """Return the modules of one path, in the topology's order, without building the topology."""
    shared = _shared_blocks(grid)
    names = [] if grid.path_specific_stem else [STEM]
    names += [_expert(level, e) for level, e in enumerate(experts_of(grid, path)) if shared[level]]
    if grid.path_specific_stem or grid.path_specific_blocks:
        names.append(ModuleId(f"p{path}"))
    return tuple(names)


def elements_of(grid: Grid, model: Model, vocabulary: int) -> tuple[int, int]:
    """Return the parameters of the largest module and of all modules, without the topology."""
    stem = sum(tensor.size for tensor in _stem(model, vocabulary))
    block = sum(tensor.size for tensor in _block(model, 0))
    own = block * len(grid.path_specific_blocks) + stem * grid.path_specific_stem
    shared = [block * len(blocks) for blocks in _shared_blocks(grid).values()]
    experts = [level.experts for level in grid.levels]
    all_ = grid.paths * own + sum(a * b for a, b in zip(shared, experts, strict=True))
    return max(stem, own, *shared), all_ + stem * (not grid.path_specific_stem)


@lru_cache(maxsize=16)  # at the bounds of a manifest one takes 1 MB
def topology(grid: Grid, model: Model, vocabulary: int) -> Topology:
    """Return the paths, modules and layouts of a grid of such models.

    vocabulary   token ids are 0 to vocabulary - 1.
    """
    layouts: dict[ModuleId, tuple[Tensor, ...]] = {}
    if not grid.path_specific_stem:
        layouts[STEM] = _stem(model, vocabulary)
    for level, blocks in _shared_blocks(grid).items():
        layout = _blocks(model, blocks)  # one for all experts: 256 copies would take 100 MB
        for expert in range(grid.levels[level].experts if blocks else 0):
            layouts[_expert(level, expert)] = layout
    own = _stem(model, vocabulary) if grid.path_specific_stem else ()
    own += _blocks(model, grid.path_specific_blocks)
    used = []
    for path in range(grid.paths):
        shared = [_expert(level, e) for level, e in enumerate(experts_of(grid, path))]
        used.append([STEM, *shared, ModuleId(f"p{path}")])
        if own:
            layouts[ModuleId(f"p{path}")] = own
    return Topology(
        paths=grid.paths,
        modules=tuple(layouts),
        path_modules=tuple(tuple(m for m in names if m in layouts) for names in used),
        layouts=layouts,
    )


def _expert(level: int, expert: int) -> ModuleId:
    return ModuleId(f"L{level + 1}.E{expert}")


def _shared_blocks(grid: Grid) -> dict[int, tuple[int, ...]]:
    """Return per level (from 0) the indices of its shared blocks."""
    shared, first = {}, 0
    for level, spec in enumerate(grid.levels):
        blocks = range(first, first + spec.blocks)
        shared[level] = tuple(i for i in blocks if i not in grid.path_specific_blocks)
        first += spec.blocks
    return shared


def _stem(model: Model, vocabulary: int) -> tuple[Tensor, ...]:
    table = (vocabulary, model.d_model)
    stem = (
        Tensor("model.embed_tokens.weight", table),
        Tensor("model.norm.weight", (model.d_model,)),
    )
    return stem if model.tied else (*stem, Tensor("lm_head.weight", table))


def _blocks(model: Model, indices: tuple[int, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor for index in indices for tensor in _block(model, index))


def _block(model: Model, index: int) -> tuple[Tensor, ...]:
    d, kv = model.d_model, model.d_model // model.heads * model.kv_heads
    shapes = {
        "input_layernorm": (d,),
        "self_attn.q_proj": (d, d),
        "self_attn.k_proj": (kv, d),
        "self_attn.v_proj": (kv, d),
        "self_attn.o_proj": (d, d),
        "post_attention_layernorm": (d,),
        "mlp.gate_proj": (model.d_ff, d),
        "mlp.up_proj": (model.d_ff, d),
        "mlp.down_proj": (d, model.d_ff),
    }
    return tuple(
        Tensor(f"model.layers.{index}.{name}.weight", shape) for name, shape in shapes.items()
    )
