"""The training settings of a run: rounds and steps, the inner and the outer optimizer."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from dipaco.protocol.wire.canonical import Wire
from dipaco.protocol.wire.digest import DigestField

Positive = Annotated[float, Meta(gt=0, le=1e3)]
Fraction = Annotated[float, Meta(ge=0, lt=1)]


class Adam(Wire, frozen=True, kw_only=True):
    """The inner optimizer: AdamW, warm-up then cosine over the whole run (docs/method.md 2.1)."""

    lr: Positive = 1e-3
    """The largest learning rate."""
    floor: Fraction = 0.1
    """The last learning rate, as a share of `lr`."""
    warmup: Annotated[int, Meta(ge=0, le=1 << 30)] = 20
    """Steps of linear warm-up."""
    weight_decay: Fraction = 0.1
    """Decoupled, on matrices only."""
    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    eps: Positive = 1e-8
    clip: Positive = 1.0
    """The largest norm of the gradient."""


class Muon(Wire, frozen=True, kw_only=True):
    """The inner optimizer: Muon for the blocks' matrices; AdamW for embedding, norms and head.

    An update of Muon is scaled to the size of an AdamW update (2502.16982), so rates and weight
    decays of AdamW fit (docs/method.md 2.1).
    """

    lr: Positive = 1e-3
    """The largest learning rate of Muon; warm-up and cosine are those of `Adam`."""
    adamw_lr: Positive = 1e-3
    """The largest learning rate of AdamW; it follows the same course."""
    floor: Fraction = 0.1
    """The last learning rates, as a share of the largest."""
    warmup: Annotated[int, Meta(ge=0, le=1 << 30)] = 20
    """Steps of linear warm-up."""
    weight_decay: Fraction = 0.1
    """Decoupled, on matrices only, at the rate of each."""
    momentum: Fraction = 0.95
    """Of Muon: the share of the last momentum in the next one."""
    nesterov: bool = True
    """Whether Muon orthogonalises the momentum with the gradient counted once more."""
    beta1: Fraction = 0.9
    """Of AdamW, as `beta2` and `eps`."""
    beta2: Fraction = 0.95
    eps: Positive = 1e-8
    clip: Positive = 1.0
    """The largest norm of the gradient of all tensors together."""


Inner = Adam | Muon


class Nesterov(Wire, frozen=True, kw_only=True):
    """The outer optimizer of every module."""

    lr: Positive = 0.7
    momentum: Fraction = 0.9
    rescale: Literal["sqrt", "none"] = "sqrt"
    """The outer gradient is the mean over c paths times sqrt(c), or (DiLoCo) the mean itself."""
    weights: Literal["tokens", "uniform"] = "tokens"
    """A path's weight in the mean: the tokens of its shard, or the same for every path."""


class Quorum(Wire, frozen=True, kw_only=True):
    """When a module steps without the paths that are late (docs/method.md 2.10).

    A share and not a number, since the modules of one run have different numbers of paths.
    """

    num: Annotated[int, Meta(ge=1, le=1000)]
    """A module with c live paths steps with at least num / den of c results."""
    den: Annotated[int, Meta(ge=2, le=1000)]
    grace: Annotated[int, Meta(ge=0, le=86400)]
    """Seconds for which the module still waits for the others, once it has these."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num >= self.den:
            raise ValueError("num: not below den; leave the quorum out to wait for all paths")

    def reached(self, results: int, paths: int) -> bool:
        """Return whether so many results are enough for a module of so many live paths."""
        return results * self.den >= self.num * paths


class Training(Wire, frozen=True, kw_only=True):
    """Rounds, steps, optimizers and encodings."""

    seed_steps: Annotated[int, Meta(ge=0, le=1 << 30)]
    """k0: dense steps before the grid begins."""
    rounds: Annotated[int, Meta(ge=1, le=1 << 20)]
    """T: number of rounds."""
    inner_steps: Annotated[int, Meta(ge=1, le=1 << 20)]
    """tau: steps of one path in one round."""
    batch: Annotated[int, Meta(ge=1, le=65536)]
    """B: sequences of one step."""
    inner: Inner = Adam()
    outer: Nesterov = Nesterov()
    inner_state: Literal["carry", "reset"] = "carry"
    """The moments of the inner optimizer are carried from round to round, or are zero at the start
    of each."""
    precision: Literal["f32", "bf16"] = "f32"
    """Precision of the inner steps' matrix products; weights, moments and sums are float32."""
    early_stopping: bool = False
    """Whether a path is used at the version of its lowest held-out loss, not at the newest."""
    deltas: Literal["f32", "bf16", "int8", "int4", "int2", "topk"] = "int4"
    """How pseudo-gradients are encoded on the way to the outer step."""
    updates: Literal["f32", "int8", "int4"] = "int4"
    """How a state advances: by the float32 update, or by a packed one that is sent in its place."""
    batch_order: DigestField | UnsetType = UNSET
    """The run id that the order of batches follows from, if it is not the run's own: two runs that
    differ in one choice then train on the same batches."""
    quorum: Quorum | UnsetType = UNSET
    """The share of a module's paths that is enough for its outer step; all, if left out."""
