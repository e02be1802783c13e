"""The run manifest: everything that all nodes of a run agree on, signed by the run's owner.

It holds no settings of a single node; these are in `NodeConfig` (node/config.py). The manifest is
public and complete: with it and the public source anybody derives the router, the shards, the
order of the batches and the initial model again. Its identity is the SHA-256 of its canonical
encoding, the *run id*. Terms and defaults: docs/method.md.
"""

from typing import Annotated, ClassVar, Final, Literal

from msgspec import UNSET, Meta, UnsetType

from dipaco.protocol.run.exactness import (
    BAG_SIGN,
    BASIS_POINTS,
    EXACT_FLOAT64,
    IDF_SVD,
    MAX_COLUMNS,
    max_score,
)
from dipaco.protocol.run.model_shape import Grid, Model
from dipaco.protocol.run.modules import ModuleDigests, ModuleId
from dipaco.protocol.run.source import Source, Tokenizer
from dipaco.protocol.run.topology import Topology, elements_of, modules_of_path, topology
from dipaco.protocol.run.training import Muon, Training
from dipaco.protocol.wire.canonical import Wire, encode
from dipaco.protocol.wire.digest import Digest, sha256
from dipaco.protocol.wire.identity import PeerId, PeerIdField
from dipaco.protocol.wire.messages import MAX_KEEPERS

FORMAT: Final = 2
MAX_NODES_LISTED = 1024  # members named one by one
MAX_SHEETS = 4096  # score sheets: paths times windows; the ledger names each
MAX_MODULE_ELEMENTS = 3_900_000_000  # of 8 bytes, AdamW's moments: the largest blob, 31 GB
MAX_RUN_ELEMENTS = 1 << 40  # of all modules: 4 TB of states; the paper's largest run has 2^35
MAX_SCORED = 1 << 22  # router documents; the paper's 0.5 % of C4 are 1.8 million

Name = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        pattern=r"^[a-z0-9][a-z0-9._-]*\Z",
        description="a name of at most 64 characters: lower-case letters, digits, '.', '_' and "
        "'-'; it begins with a letter or digit",
    ),
]


class Capacity(Wire, frozen=True, kw_only=True):
    """The capacity rule: the largest shard is at most num / den of the mean."""

    num: Annotated[int, Meta(ge=1, le=1000)]
    den: Annotated[int, Meta(ge=1, le=1000)]
    unit: Literal["tokens"] | UnsetType = UNSET
    """Measure of a shard's size: its tokens; its documents, if left out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num < self.den:
            raise ValueError("num: below den, the largest shard would be below the mean")


class Reshard(Wire, frozen=True, kw_only=True):
    """Discriminative re-sharding between two rounds: docs/method.md section 5."""

    after_round: Annotated[int, Meta(ge=1, le=1 << 20)]
    """The paths score the router documents at this version; later rounds use the new router."""
    tolerance: Annotated[int, Meta(ge=1, le=1024)] = 4
    """The most by which an honest score may differ from the true one, in 1/1024 nat."""
    scorers: Annotated[int, Meta(ge=1, le=3)] = 1
    """Distinct peers that must agree on the scores of a path in a window."""
    candidates: Annotated[int, Meta(ge=2, le=64)] = 8
    """Number of paths that score one document: the current router's best, or all paths where
    there are fewer."""
    windows: Annotated[int, Meta(ge=1, le=MAX_SHEETS)] = 1
    """Number of windows of the source, from the first, whose router documents are scored."""

    @property
    def margin(self) -> int:
        """M: a document gets a label if its second best score is worse by more than this."""
        return 4 * self.tolerance


class Routing(Wire, frozen=True, kw_only=True):
    """The rule that routes documents to paths: docs/method.md section 4."""

    kind: Literal["kmeans", "round_robin"] = "kmeans"
    featurizer: Literal["bag-sign-v1", "idf-svd-v1"] = "idf-svd-v1"
    """What turns the prefix into features: random signs, or a basis fitted to the sample."""
    sample: Annotated[int, Meta(ge=1, le=1 << 20)]
    """N: number of eligible training documents, from the first, that the router is fitted on."""
    prefix: Annotated[int, Meta(ge=1, le=1024)] = 32
    """F: number of tokens of a document that routing reads."""
    prefix_bytes: Annotated[int, Meta(ge=64, le=16384)] = 256
    """Bytes of a document, cut at a character boundary, that these tokens are taken from."""
    dimension: Annotated[int, Meta(ge=8, le=256, multiple_of=8)] = MAX_COLUMNS
    """D: features; of `idf-svd-v1` at most 64, of `bag-sign-v1` 256 if a TOML file names none."""
    norm_bits: Annotated[int, Meta(ge=4, le=12)] = 10
    """nu: features are at most 2^nu."""
    scale_bits: Annotated[int, Meta(ge=0, le=10)] = 8
    """s: centroids are scaled by 2^s."""
    max_updates: Annotated[int, Meta(ge=1, le=1024)] = 64
    """T_max: the most updates of one restart."""
    restarts: Annotated[int, Meta(ge=1, le=64)] = 4
    max_bytes: Annotated[int, Meta(ge=64, le=16 << 20)] = 1 << 20
    """Bytes that a document's text is cut to, at a character boundary, before it is tokenised."""
    min_tokens: Annotated[int, Meta(ge=1, le=16384)] = 40
    """A document with fewer tokens in its first `prefix_bytes` bytes takes no part."""
    max_tokens: Annotated[int, Meta(ge=1, le=16 << 20)] = 1 << 20
    """The most tokens of one document that are trained on; the rest is cut off."""
    validation_bp: Annotated[int, Meta(ge=0, le=5000)] = 500
    """Share of documents held out, in 1/10,000."""
    router_bp: Annotated[int, Meta(ge=0, le=5000)] = 0
    """Share of documents kept for re-sharding, in 1/10,000."""
    overlap: Annotated[int, Meta(ge=1, le=8)] = 1
    """Paths that train on one document (top-n); evaluation is always top-1."""
    capacity: Capacity | None = None
    counts: Literal["documents", "sample"] = "documents"
    """The documents that the paths' weights are counted over: all of the run, or the router's
    sample alone, for corpora that are too large for every verifier to read."""
    beacon: Annotated[bytes, Meta(max_length=64)] = b""
    """A public value fixed after the rest of the manifest, or empty."""
    reshard: Reshard | None = None
    scored_from: Annotated[int, Meta(ge=2, le=16384)] | UnsetType = UNSET
    """Position of a document's first scored token, counted from 0; F, the first token that
    routing does not read, if left out. So runs of different F can be scored alike."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scored_from is not UNSET and self.scored_from <= self.prefix:
            raise ValueError(
                f"scored_from: {self.scored_from}, not above prefix ({self.prefix}), from which on "
                "tokens are scored if it is left out"
            )
        if self.min_tokens < self.first_scored + 8:
            name = "prefix" if self.scored_from is UNSET else "scored_from"
            raise ValueError(
                f"min_tokens: {self.min_tokens}, below {name} + 8 ({self.first_scored + 8}): "
                "nothing would be left to score"
            )
        if self.min_tokens > self.prefix_bytes:
            raise ValueError("min_tokens: above prefix_bytes, no document would take part")
        if self.max_tokens < self.min_tokens:
            raise ValueError("max_tokens: below min_tokens")
        if self.max_bytes < self.prefix_bytes:
            raise ValueError("max_bytes: below prefix_bytes")
        if self.validation_bp + self.router_bp >= BASIS_POINTS:
            raise ValueError("validation_bp, router_bp: together they leave no training documents")
        if self.reshard is not None and (self.kind != "kmeans" or not self.router_bp):
            raise ValueError("reshard: needs kind kmeans, and a router_bp above 0 to score")
        self._check_exactness()

    @property
    def first_scored(self) -> int:
        """Position of the first scored token of every document (docs/method.md 2.5)."""
        return self.prefix if self.scored_from is UNSET else self.scored_from

    def _check_exactness(self) -> None:
        """Source: docs/method.md, 4.8; `RouterParams` checks the other bounds too."""
        if self.featurizer == IDF_SVD and self.dimension > MAX_COLUMNS:
            raise ValueError(
                f"dimension: {self.dimension}, at most {MAX_COLUMNS} with featurizer {IDF_SVD}; "
                f"{BAG_SIGN} has up to 256"
            )
        if max_score(self.dimension, self.norm_bits, self.scale_bits) >= EXACT_FLOAT64:
            raise ValueError(
                f"norm_bits, scale_bits: {self.norm_bits} and {self.scale_bits} leave exact "
                f"arithmetic at a dimension of {self.dimension}"
            )


class Scheduling(Wire, frozen=True, kw_only=True):
    """The peers that grant leases, the peers that may get them, and how long a lease lasts."""

    schedulers: Annotated[tuple[PeerIdField, ...], Meta(min_length=1, max_length=16)]
    """In the order in which they take over."""
    members: Annotated[tuple[PeerIdField, ...], Meta(max_length=MAX_NODES_LISTED)] = ()
    """The only peers that may join; empty: any peer may."""
    lease_ttl: Annotated[int, Meta(ge=5, le=3600)] = 20
    """Seconds without a heartbeat after which a lease ends."""
    keepers: (
        Annotated[tuple[PeerIdField, ...], Meta(min_length=1, max_length=MAX_KEEPERS)] | UnsetType
    ) = UNSET
    """The peers that store the ledger and sign where it stands (protocol.md, Keepers and terms);
    none, if left out: then a record is final when its scheduler has signed it."""
    quorum: Annotated[int, Meta(ge=1, le=MAX_KEEPERS)] | UnsetType = UNSET
    """Number of keepers that make a record final; the least that is more than half of them, if
    left out."""
    copies: Annotated[int, Meta(ge=1, le=MAX_KEEPERS)] | UnsetType = UNSET
    """Number of keepers that hold a blob before the record that names it is final; 2, or the one
    keeper there is, if left out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        keepers = self.named_keepers
        if len(set(keepers)) != len(keepers):
            raise ValueError("keepers: a peer is named twice")
        for name in ("quorum", "copies"):
            given = getattr(self, name)
            if given is UNSET:
                continue
            if not keepers:
                raise ValueError(f"{name}: the run has no keepers")
            if given > len(keepers):
                raise ValueError(f"{name}: {given}, above the number of keepers, {len(keepers)}")
            if given == self._default(name):  # one value, one encoding
                raise ValueError(
                    f"{name}: {given} is what {len(keepers)} keepers have if it is left out"
                )
        if self.quorum is not UNSET and 2 * self.quorum <= len(keepers):
            raise ValueError(
                f"quorum: {self.quorum} of {len(keepers)} keepers, not more than half of them: two "
                "quorums could decide differently"
            )

    def _default(self, name: str) -> int:
        """Return the effective number of a field that is left out."""
        keepers = len(self.named_keepers)
        return keepers // 2 + 1 if name == "quorum" else min(2, keepers)

    @property
    def named_keepers(self) -> tuple[PeerId, ...]:
        """The keepers; empty where the manifest names none."""
        return () if self.keepers is UNSET else self.keepers

    @property
    def keeper_quorum(self) -> int:
        """The number of keepers that make a record final; of a run without keepers 0."""
        if not self.named_keepers:
            return 0
        return self._default("quorum") if self.quorum is UNSET else self.quorum

    @property
    def blob_copies(self) -> int:
        """The number of keepers that hold a blob before its record is final; without keepers 0."""
        return self._default("copies") if self.copies is UNSET else self.copies


class Manifest(Wire, frozen=True, kw_only=True):
    """The whole definition of one run."""

    MOST_BYTES: ClassVar = 1 << 20  # 2,048 files with names of 255 ASCII letters have 0.8 MB

    format: Literal[2] = FORMAT
    name: Name
    owner: PeerIdField
    source: Source
    tokenizer: Tokenizer
    model: Model
    grid: Grid
    routing: Routing
    training: Training
    schedule: Scheduling
    seed: Annotated[int, Meta(ge=0, le=1 << 53)]
    """Seed of the initial model. The router's seeds are derived, so that nobody chooses them."""
    start: ModuleDigests = ()
    """States of path 0's modules, in the topology's order, that the seed phase starts from;
    empty: the initial model."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_elements()
        if self.model.context <= (first := self.routing.first_scored):
            name = "prefix" if self.routing.scored_from is UNSET else "scored_from"
            raise ValueError(
                f"model.context: {self.model.context}, not longer than routing.{name}, {first}"
            )
        if self.routing.kind == "kmeans" and self.routing.sample < self.paths:
            raise ValueError(
                f"routing.sample: {self.routing.sample}, below the number of paths, {self.paths}"
            )
        if self.training.early_stopping and not self.routing.validation_bp:
            raise ValueError(
                "training.early_stopping: needs held-out documents, a routing.validation_bp above 0"
            )
        if self.training.deltas == "topk" and self.training.inner_state != "carry":
            raise ValueError(
                "training.deltas: topk carries what it leaves out beside the moments, so "
                "training.inner_state must be carry"
            )
        if self.routing.overlap > self.paths:
            raise ValueError(f"routing.overlap: above the number of paths, {self.paths}")
        if self.routing.reshard is not None:
            self._check_reshard(self.routing.reshard)
        if self.start:
            self._check_start()

    def _check_elements(self) -> None:
        largest, all_ = elements_of(self.grid, self.model, self.tokenizer.vocabulary)
        if largest > MAX_MODULE_ELEMENTS:
            raise ValueError(
                f"model: a module has {largest} parameters, at most {MAX_MODULE_ELEMENTS}"
            )
        if all_ > MAX_RUN_ELEMENTS:
            raise ValueError(
                f"model: all modules have {all_} parameters, at most {MAX_RUN_ELEMENTS}"
            )

    def _check_reshard(self, reshard: Reshard) -> None:
        where = "routing.reshard"
        if self.paths < 2:
            raise ValueError(f"{where}: needs at least 2 paths")
        if reshard.after_round >= self.training.rounds:
            raise ValueError(f"{where}.after_round: no round of {self.training.rounds} follows it")
        if reshard.windows > self.source.windows:
            raise ValueError(f"{where}.windows: the source has {self.source.windows}")
        if self.paths * reshard.windows > MAX_SHEETS:
            raise ValueError(
                f"{where}.windows: {reshard.windows} windows times {self.paths} paths are more "
                f"than {MAX_SHEETS} score sheets"
            )
        if self.most_scored * reshard.windows > MAX_SCORED:
            raise ValueError(
                f"{where}.windows: with routing.router_bp they may have "
                f"{self.most_scored * reshard.windows} router documents, more than {MAX_SCORED}"
            )

    @property
    def most_scored(self) -> int:
        """The most router documents that a window may have: twice their share plus 256.

        A hash selects them, so no window comes near; a longer sheet is refused unread.
        """
        return self._most_split(self.routing.router_bp)

    @property
    def most_held_out(self) -> int:
        """The most documents that a window may hold out: twice their share plus 256 as well."""
        return self._most_split(self.routing.validation_bp) if self.routing.validation_bp else 0

    def _most_split(self, share_bp: int) -> int:
        share = self.source.window * share_bp // BASIS_POINTS
        return min(self.source.window, 2 * share + 256)

    def by_muon(self, module: ModuleId) -> int:
        """Return the number of elements of `module` that Muon steps: none in a run of AdamW."""
        if not isinstance(self.training.inner, Muon):
            return 0
        return sum(tensor.size for tensor in self.topology.layouts[module] if tensor.hidden)

    def epoch_of(self, round_: int) -> int:
        """Return the epoch of the router of round `round_` and of evaluating version `round_`."""
        reshard = self.routing.reshard
        return int(reshard is not None and round_ > reshard.after_round)

    def first_version(self, epoch: int) -> int:
        """Return the first version that is evaluated by the router of `epoch`."""
        reshard = self.routing.reshard
        return 0 if epoch == 0 or reshard is None else reshard.after_round + 1

    def _check_start(self) -> None:
        # Manifests of strangers are checked, too: no topology is built for that.
        if tuple(each.module for each in self.start) != modules_of_path(self.grid, 0):
            raise ValueError("start: not the modules of path 0, in their order")

    @property
    def paths(self) -> int:
        """P, the number of paths."""
        return self.grid.paths

    @property
    def topology(self) -> Topology:
        """The paths, modules and layouts that grid, model and vocabulary imply."""
        return topology(self.grid, self.model, self.tokenizer.vocabulary)


def run_id(manifest: Manifest) -> Digest:
    """Return the identity of the run: SHA-256 of the manifest's canonical encoding."""
    return sha256(encode(manifest))
