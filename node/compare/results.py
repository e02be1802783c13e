"""The results of a comparison: one file for each start and trial.

A file is written whole at the end of a training, so a comparison that was interrupted continues
with the missing ones. Losses are sums in nats, with the number of tokens; all other figures are
computed from them, those of the tables in `summary.py`.
"""

from collections.abc import Iterable, Sequence
from math import fsum, inf
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from dipaco.node.compare.trials import Trial
from dipaco.node.storage.files import read_file, write_file
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.work import losses

MAX_FILE = 64 << 20  # bytes
Half = Literal["choice", "score"]
"""Of the held-out documents: the one that chooses rates, and the one that tables show."""


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """Held-out loss on the documents that the router sends to one shard."""

    shard: int
    documents: int
    tokens: int
    """Scored positions: those from the manifest's first scored position on."""
    nll: float
    """Summed, in nats."""

    @property
    def perplexity(self) -> float:
        """The exponential of the mean; infinity where nothing was scored."""
        return perplexity([self])


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One evaluation of the held-out loss."""

    steps: int
    """Inner steps of one path, those of the seed model included."""
    tokens: int
    """Tokens that all paths together trained on, those of the seed model included."""
    losses: tuple[Loss, ...]
    """Per shard, ascending."""

    @property
    def perplexity(self) -> float:
        """The routed perplexity: every held-out document once, token-weighted."""
        return perplexity(self.losses)


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of one shard in the router spec."""

    shard: int
    documents: int
    tokens: int


class HeldOutDocument(msgspec.Struct, frozen=True):
    """One held-out document, and how much of it is scored."""

    index: int
    """In the source."""
    tokens: int
    """Scored positions: the prefix that routing sees is left out."""
    bytes: int
    """Bytes of text that these tokens stand for."""
    half: Half


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """The common start of all trials of one seed: router, shards, seed model."""

    run: str
    """Run id of the manifest with this seed, hex."""
    seed: int
    vocabulary: int
    """Of the tokenizer, which a perplexity is a figure of."""
    spec: str
    """SHA-256 of the router spec, canonical, hex."""
    states: dict[str, str]
    """The seed model: module of path 0 to the SHA-256 of its state, hex."""
    shards: tuple[Shard, ...]
    documents: tuple[HeldOutDocument, ...]
    """All held-out documents, ascending by index; the same for every seed."""
    nlls: tuple[float, ...]
    """The seed model's summed loss on each, in nats."""
    point: Point


class TrialResult(msgspec.Struct, frozen=True, kw_only=True):
    """One trial, trained from one seed's start to its end."""

    run: str
    """Run id of its start, hex."""
    method: str
    lr: float
    outer_lr: float | None
    seed: int
    repeat: int
    """The number of its order of batches."""
    compute: float
    """Inner steps after the seed model, as a multiple of those of dense at equal steps."""
    parameters: int
    """Number of parameters of all modules together."""
    path_parameters: int
    """Number of parameters of one path's model."""
    seconds: float
    """Time of training and evaluation, on a machine that may have been busy."""
    points: tuple[Point, ...]
    """The seed model's first, then one after each round, over the half that is shown."""
    nlls: tuple[float, ...]
    """The last version's summed loss on every held-out document of the start, in nats."""
    choice_nll: float
    """Their sum over the half that chooses rates."""
    states: dict[str, str]
    """The last version: module to the SHA-256 of its state, hex."""
    spec: str = ""
    """SHA-256 of its own last router spec, canonical, hex; empty if it keeps the start's."""
    shards: tuple[Shard, ...] = ()
    """The shards of that router."""

    @property
    def trial(self) -> Trial:
        """The trial that this is the result of."""
        return Trial(self.method, self.lr, self.outer_lr, self.repeat)

    @property
    def perplexity(self) -> float:
        """The routed perplexity of the last version."""
        return self.points[-1].perplexity


class Rerouted(msgspec.Struct, frozen=True, kw_only=True):
    """The losses of a trained method whose path is chosen anew within each document."""

    run: str
    """Run id of its start, hex."""
    trial: str
    """`Trial.key`."""
    seed: int
    windows: dict[int, tuple[Loss, ...]]
    """By W, the tokens between two choices: per path the loss on the tokens that it scored.
    `documents` counts those that begin with the path."""


def perplexity(scored: Iterable[Loss]) -> float:
    """Return exp of the token-weighted mean loss; infinity where nothing was scored."""
    found = list(scored)
    tokens = sum(loss.tokens for loss in found)
    return losses.perplexity(sum(loss.nll for loss in found), tokens) or inf


def sum_over(half: Half, documents: Sequence[HeldOutDocument], nlls: Sequence[float]) -> float:
    """Return the loss over the documents of one half, in nats."""
    return fsum(nll for each, nll in zip(documents, nlls, strict=True) if each.half == half)


def chosen(results: Iterable[TrialResult]) -> TrialResult:
    """Return the result whose rates are chosen: the least loss on the half that chooses."""
    return min(results, key=lambda each: (each.choice_nll, each.lr, each.outer_lr or 0.0))


S = TypeVar("S", bound=msgspec.Struct)


def write_result(path: Path, value: msgspec.Struct) -> None:
    """Write a value as JSON, whole or not at all."""
    write_file(path, msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n")


def read_result(path: Path, kind: type[S]) -> S:
    """Read a value back; raises ConfigError for a file of another content."""
    try:
        return msgspec.json.decode(read_file(path, limit=MAX_FILE), type=kind)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path}: not a result of a comparison: {error}") from None
