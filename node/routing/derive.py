"""Deriving the router spec of a run from its public source, as author and verifier alike do.

Streams rows to the fit, all of the run's or until the sample is full; holds the sample's features
and one batch of text. What stands in the way is said as a stage: the verdict is made elsewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from dipaco.node.data.sources.dispatch import is_authenticated, rows
from dipaco.node.data.sources.interface import Access
from dipaco.node.data.tokenizers import TextEncoder, load_tokenizer
from dipaco.node.jobs.meter import Meter, OnProgress
from dipaco.node.routing.documents import document_batches, token_count
from dipaco.node.storage.blobs import BlobStore
from dipaco.protocol.errors import ConfigError, DipacoError, Refusal, Unavailable
from dipaco.protocol.routing.fit import RouterFit
from dipaco.protocol.routing.recipe import RouterRecipe, recipe_of, unfitted_spec
from dipaco.protocol.routing.reshard import Resharded
from dipaco.protocol.routing.seeds import Split
from dipaco.protocol.routing.spec import COUNT_DOCUMENTS, RouterSpec
from dipaco.protocol.routing.verdict import Derivation, Derived, SourceFailure
from dipaco.protocol.run.manifest import Manifest

MAX_REASON = 1024  # characters; a verdict has fewer


@dataclass(frozen=True)
class SourceDeps:
    """What a pass over the source needs of this node."""

    blobs: BlobStore
    """Holds tokenizer files that are not the embedded one."""
    access: Access = field(default_factory=Access)
    """What a source may ask of this node."""


def derive(manifest: Manifest, tools: SourceDeps, on_progress: OnProgress) -> Derivation:
    """Return the spec of epoch 0 that `manifest` and its source imply, or why there is none."""
    recipe = recipe_of(manifest)
    if recipe.kind == "round_robin":  # asked for by the manifest: no document decides it
        return Derived(spec=unfitted_spec(recipe), authenticated=True)
    return derived_by(
        manifest, tools, lambda encoder: fitted(manifest, recipe, encoder, tools, on_progress)
    )


def derived_by(
    manifest: Manifest, tools: SourceDeps, fit: Callable[[TextEncoder], RouterSpec]
) -> Derivation:
    """Return what `fit` makes with the run's tokenizer, or what of its inputs was away.

    A later try may find what is away; but not what this node's settings forbid, nor a source that
    was read and cannot be what the manifest says of it.
    """
    try:
        encoder = load_tokenizer(manifest.tokenizer, tools.blobs)
    except Refusal as error:
        return SourceFailure(stage="source", reason=reason_of(error), lasting=True)
    except (Unavailable, ConfigError) as error:
        return SourceFailure(stage="tokenizer", reason=reason_of(error))
    try:
        spec = fit(encoder)
    except (ConfigError, Refusal) as error:
        return SourceFailure(stage="source", reason=reason_of(error), lasting=True)
    except Unavailable as error:
        return SourceFailure(stage="source", reason=reason_of(error))
    return Derived(spec=spec, authenticated=is_authenticated(manifest.source, tools.access))


def fitted(
    manifest: Manifest,
    recipe: RouterRecipe,
    encoder: TextEncoder,
    tools: SourceDeps,
    on_progress: OnProgress,
    relabelled: Resharded | None = None,
) -> RouterSpec:
    """Read the source and fit the router; `relabelled`: by the means of what was labelled."""
    source = manifest.source
    dataset = rows(
        source, start=0, stop=source.documents, access=tools.access, on_progress=on_progress
    )
    fit = RouterFit(recipe, relabelled=relabelled)
    everything = recipe.counts == COUNT_DOCUMENTS
    meter = Meter(on_progress, "read", source.documents if everything else recipe.params.sample)
    splits = {Split.TRAINING}
    batches = document_batches(
        dataset,
        recipe,
        encoder,
        splits=splits,
        heads_only=not everything,
        due=lambda: source.documents if everything else recipe.params.sample - fit.sampled,
    )
    for batch in batches:
        for document in batch:
            if not fit.done:
                tokens = token_count(document, recipe.params)
                fit.feed(document.index, document.text, document.head, tokens, split=document.split)
        meter.at(fit.rows if everything else fit.sampled)
        if fit.done:
            break
    if fit.sampled == 0:
        raise Refusal(
            f"source: none of its {fit.rows} documents can be trained on: each has less than "
            f"routing.min_tokens = {recipe.params.min_tokens} tokens in its first "
            f"{recipe.params.prefix_bytes} bytes, or is held out"
        )
    return fit.finish()


def reason_of(error: DipacoError) -> str:
    """Return the words of an error, as a failed derivation has them."""
    return str(error)[:MAX_REASON]
