"""The runs of the benchmarks: a grid of sixteen paths, a router of 256 dimensions."""

from dipaco.node.data.embedded_tokenizer import embedded_tokenizer
from dipaco.node.data.sources.synthetic import REVISION
from dipaco.node.jobs.values import Progress
from dipaco.node.routing.derive import SourceDeps, derive
from dipaco.protocol.routing.spec import RouterSpec
from dipaco.protocol.routing.verdict import Derived
from dipaco.protocol.run.manifest import Manifest, Routing
from dipaco.protocol.run.model_shape import Grid, Level, Model
from dipaco.protocol.run.source import Source
from tests.values import manifest


def quiet(progress: Progress) -> None:
    """Ignore the progress."""


def sixteen_paths(source: Source, *, sample: int) -> Manifest:
    """Return a 4x4 run on `source` with the embedded tokenizer."""
    return manifest(
        source=source,
        tokenizer=embedded_tokenizer(),
        model=Model(d_model=64, heads=2, kv_heads=2, d_ff=128, context=256),
        grid=Grid(
            levels=(Level(experts=4, blocks=1), Level(experts=4, blocks=1)),
            path_specific_blocks=(),
        ),
        routing=Routing(sample=sample, featurizer="bag-sign-v1", dimension=256),
    )


def synthetic(documents: int, window: int) -> Source:
    """Return a source of artificial documents."""
    return Source(kind="synthetic", revision=REVISION, files=(), documents=documents, window=window)


def derived(run: Manifest, deps: SourceDeps) -> RouterSpec:
    """Return the router of a run whose source is available."""
    found = derive(run, deps, quiet)
    if not isinstance(found, Derived):
        raise SystemExit(f"no router: {found.reason}")
    return found.spec
