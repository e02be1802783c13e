"""Runs to measure with: a grid of sixteen paths, a router of 256 dimensions."""

from dipaco.node.data.derivation import Tools, derive
from dipaco.node.data.embedded_tokenizer import embedded_tokenizer
from dipaco.node.data.sources.synthetic import REVISION
from dipaco.node.training.jobs import Progress
from dipaco.protocol.manifest import Grid, Level, Manifest, Model, Routing, Source
from dipaco.protocol.spec import RouterSpec
from tests.values import manifest


def quiet(progress: Progress) -> None:
    """Hear nothing."""


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
        routing=Routing(sample=sample, dimension=256),
    )


def synthetic(documents: int, window: int) -> Source:
    """Return a source of made-up documents."""
    return Source(kind="synthetic", revision=REVISION, files=(), documents=documents, window=window)


def derived(run: Manifest, tools: Tools) -> RouterSpec:
    """Return the router of a run whose source is here."""
    answer = derive(run, tools, quiet)
    if answer.spec is None:
        raise SystemExit(f"no router: {answer.reason}")
    return answer.spec
