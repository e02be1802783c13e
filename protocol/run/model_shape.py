"""The shape of the model: one path's transformer, and the grid of paths that share its blocks."""

from math import prod
from typing import Annotated

from msgspec import Meta

from dipaco.protocol.wire.canonical import Wire

MAX_PATHS = 1024  # the paper's largest grid has 256
MAX_BLOCKS = 256  # of one path's model; the deepest models in use have 126


class Model(Wire, frozen=True, kw_only=True):
    """One path's transformer: Llama-style (RMSNorm, rotary embedding, SwiGLU, no biases)."""

    d_model: Annotated[int, Meta(ge=8, le=16384)]
    heads: Annotated[int, Meta(ge=1, le=256)]
    kv_heads: Annotated[int, Meta(ge=1, le=256)]
    d_ff: Annotated[int, Meta(ge=8, le=65536)]
    context: Annotated[int, Meta(ge=8, le=65536)]
    """Tokens of one training sequence."""
    rope_theta: Annotated[float, Meta(ge=1, le=1e9)] = 10000.0
    norm_eps: Annotated[float, Meta(gt=0, le=1e-2)] = 1e-5
    tied: bool = True
    """Whether the output head is the embedding."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d_model % self.heads:
            raise ValueError(f"heads: {self.heads} do not divide d_model {self.d_model}")
        if self.d_model // self.heads % 2:
            raise ValueError("heads: rotary embedding needs an even d_model / heads")
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads: {self.kv_heads} do not divide heads {self.heads}")


class Level(Wire, frozen=True, kw_only=True):
    """One level of the grid: a contiguous run of blocks with so many experts."""

    experts: Annotated[int, Meta(ge=1, le=256)]
    blocks: Annotated[int, Meta(ge=0, le=256)]
    """0: the level splits the data but no parameters (DiLoCo: such a level and a shared one)."""


class Grid(Wire, frozen=True, kw_only=True):
    """The levels, and the parts that every path owns alone (DiPaCo section 2.6.2)."""

    levels: Annotated[tuple[Level, ...], Meta(min_length=1, max_length=8)]
    path_specific_blocks: Annotated[
        tuple[Annotated[int, Meta(ge=0)], ...], Meta(max_length=256)
    ] = ()
    """Indices over all blocks, ascending."""
    path_specific_stem: bool = False
    """Stem: embedding, final norm, and output head if untied."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blocks < 1:
            raise ValueError("levels: together they have no block")
        if self.blocks > MAX_BLOCKS:
            raise ValueError(f"levels: {self.blocks} blocks, at most {MAX_BLOCKS}")
        specific = self.path_specific_blocks
        if list(specific) != sorted(set(specific)) or any(i >= self.blocks for i in specific):
            raise ValueError(
                f"path_specific_blocks: not ascending indices of blocks, 0 to {self.blocks - 1}"
            )
        if self.paths > MAX_PATHS:
            raise ValueError(f"levels: {self.paths} paths, at most {MAX_PATHS}")

    @property
    def paths(self) -> int:
        """P, the number of paths."""
        return prod(level.experts for level in self.levels)

    @property
    def blocks(self) -> int:
        """Blocks of one path's model."""
        return sum(level.blocks for level in self.levels)
