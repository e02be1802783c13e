"""The settings of a router that its manifest fixes, before any document is read.

The only module of the routing code that depends on the manifest.
"""

from dataclasses import dataclass

from dipaco.protocol.errors import Refusal
from dipaco.protocol.routing.params import RouterParams
from dipaco.protocol.routing.seeds import (
    Split,
    featurizer_seed,
    kmeans_seed,
    router_root,
    source_digest,
    split_of,
)
from dipaco.protocol.routing.spec import (
    CAPACITY_BIAS,
    CAPACITY_TOKENS,
    NO_CAPACITY,
    ROUND_ROBIN,
    RouterSpec,
)
from dipaco.protocol.run.manifest import Manifest, run_id
from dipaco.protocol.wire.digest import Digest


@dataclass(frozen=True, kw_only=True)
class RouterRecipe:
    """All that a router's derivation needs besides the documents."""

    kind: str
    """The kind that the manifest asks for: `kmeans` or `round_robin`."""
    manifest: Digest
    """The run id."""
    source: Digest
    """Identity of the pinned source: `seeds.source_digest`."""
    tokenizer: Digest
    """SHA-256 of the tokenizer file."""
    vocabulary: int
    """Token ids are below it."""
    beacon: bytes
    documents: int
    """Rows of the source that belong to the run."""
    counts: str
    """The documents that the paths' weights are counted over: all (`documents`), or `sample`."""
    params: RouterParams

    @property
    def root(self) -> Digest:
        """The seed that all other seeds are derived from."""
        return router_root(self.source, self.tokenizer, self.params, self.beacon)

    @property
    def feat_seed(self) -> Digest:
        """The seed of the sign rows."""
        return featurizer_seed(self.root)

    @property
    def restart_seeds(self) -> list[Digest]:
        """One seed per restart of k-means."""
        root = self.root
        return [
            kmeans_seed(root, self.params.epoch, restart) for restart in range(self.params.restarts)
        ]

    def split(self, document: int) -> Split:
        """Return the split of a document, which is counted from 0 over every row of the source."""
        return split_of(
            self.source,
            document,
            validation_bp=self.params.validation_bp,
            router_bp=self.params.router_bp,
        )


def recipe_of(manifest: Manifest, *, epoch: int = 0) -> RouterRecipe:
    """Return the recipe that a manifest implies; raises Refusal if its router cannot be exact."""
    routing, source = manifest.routing, manifest.source
    capacity = routing.capacity
    try:
        params = RouterParams(
            paths=manifest.paths,
            sample=routing.sample,
            prefix=routing.prefix,
            prefix_bytes=routing.prefix_bytes,
            dimension=routing.dimension,
            norm_bits=routing.norm_bits,
            scale_bits=routing.scale_bits,
            max_updates=routing.max_updates,
            restarts=routing.restarts,
            max_bytes=routing.max_bytes,
            min_tokens=routing.min_tokens,
            max_tokens=routing.max_tokens,
            validation_bp=routing.validation_bp,
            router_bp=routing.router_bp,
            overlap=routing.overlap,
            capacity=None if capacity is None else (capacity.num, capacity.den),
            capacity_in_tokens=capacity is not None and capacity.unit == "tokens",
            epoch=epoch,
            featurizer=routing.featurizer,
        )
    except ValueError as error:
        raise Refusal(f"routing: {error}") from error
    files = [(file.name, file.size, file.sha256) for file in source.files]
    return RouterRecipe(
        kind=routing.kind,
        manifest=run_id(manifest),
        source=source_digest(source.kind, source.revision, files),
        tokenizer=manifest.tokenizer.sha256,
        vocabulary=manifest.tokenizer.vocabulary,
        beacon=routing.beacon,
        documents=source.documents,
        counts=routing.counts,
        params=params,
    )


def unfitted_spec(recipe: RouterRecipe) -> RouterSpec:
    """Return the spec of a manifest that asks for round_robin, which depends on no document.

    It states equal shares: all paths have the same weight.
    """
    params = recipe.params
    return RouterSpec(
        kind=ROUND_ROBIN,
        featurizer=params.featurizer,
        capacity=_capacity_rule(params),
        counts=recipe.counts,
        manifest=recipe.manifest,
        epoch=params.epoch,
        paths=params.paths,
        vocabulary=recipe.vocabulary,
        prefix=params.prefix,
        prefix_bytes=params.prefix_bytes,
        dimension=params.dimension,
        norm_bits=params.norm_bits,
        scale_bits=params.scale_bits,
        tokenizer=recipe.tokenizer,
        feat_seed=recipe.feat_seed,
        mean=b"",
        centroids=b"",
        bias=b"",
        fit=None,
        documents=(1,) * params.paths,
        tokens=(1,) * params.paths,
    )


def _capacity_rule(params: RouterParams) -> str:
    if params.capacity is None:
        return NO_CAPACITY
    return CAPACITY_TOKENS if params.capacity_in_tokens else CAPACITY_BIAS
