"""The router spec of a run, derived from its public source. Author and verifier run the same code.

The rows are streamed to the fit: all rows of the run, or those until the sample is full. Memory
holds the sample's features and one batch of text. A failure names its stage; the verdict on a spec
is made in `protocol/routing/verdict.py`.
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
    """The parts of this node that a pass over the source uses."""

    blobs: BlobStore
    """The store of tokenizer files other than the embedded one."""
    access: Access = field(default_factory=Access)
    """The permissions and folders that this node gives to a source."""


def derive(manifest: Manifest, deps: SourceDeps, on_progress: OnProgress) -> Derivation:
    """Return the spec of epoch 0 that manifest and source imply, or the reason for its lack."""
    recipe = recipe_of(manifest)
    if recipe.kind == "round_robin":  # the manifest alone determines the spec
        return Derived(spec=unfitted_spec(recipe), authenticated=True)
    return derived_by(
        manifest, deps, lambda encoder: fitted(manifest, recipe, encoder, deps, on_progress)
    )


def derived_by(
    manifest: Manifest, deps: SourceDeps, fit: Callable[[TextEncoder], RouterSpec]
) -> Derivation:
    """Return the spec that `fit` makes with the run's tokenizer, or the failure of an input.

    A failure is `lasting` where a later try cannot succeed: this node's settings forbid the source,
    or the source was read and contradicts the manifest.
    """
    try:
        encoder = load_tokenizer(manifest.tokenizer, deps.blobs)
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
    return Derived(spec=spec, authenticated=is_authenticated(manifest.source, deps.access))


def fitted(
    manifest: Manifest,
    recipe: RouterRecipe,
    encoder: TextEncoder,
    deps: SourceDeps,
    on_progress: OnProgress,
    resharded: Resharded | None = None,
) -> RouterSpec:
    """Read the source and fit the router; the means of `resharded` take the place of k-means."""
    source = manifest.source
    dataset = rows(
        source, start=0, stop=source.documents, access=deps.access, on_progress=on_progress
    )
    fit = RouterFit(recipe, resharded=resharded)
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
        place=source.place,
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
    """Return the message of an error, cut to the length that a failed derivation may have."""
    return str(error)[:MAX_REASON]
