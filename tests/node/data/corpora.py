"""Small corpora and manifests for the tests of the data folder."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from dipaco.node.data.embedded_tokenizer import embedded_tokenizer
from dipaco.node.data.sources.synthetic import REVISION, synthetic_text
from dipaco.node.jobs.values import Progress
from dipaco.protocol.routing.spec import RouterSpec
from dipaco.protocol.routing.verdict import Derivation, Derived
from dipaco.protocol.run.manifest import Manifest, Routing
from dipaco.protocol.run.model_shape import Model
from dipaco.protocol.run.source import Source
from tests.values import manifest


def no_progress(progress: Progress) -> None:
    """Hear nothing."""


def spec_in(found: Derivation) -> RouterSpec:
    """Return the spec of a derivation that came to an end."""
    assert isinstance(found, Derived), found
    return found.spec


def texts(count: int) -> list[str]:
    """Return documents with topics, long enough to take part."""
    return [synthetic_text(index) for index in range(count)]


def write_parquet(path: Path, column: Sequence[str | None], *, rows_per_group: int = 10) -> Path:
    """Write a parquet file of a text column and one more."""
    table = pa.table({"id": range(len(column)), "text": pa.array(column, pa.string())})
    pq.write_table(table, path, row_group_size=rows_per_group)
    return path


def write_jsonl(path: Path, column: Sequence[str]) -> Path:
    """Write a jsonl file of objects with a text and one more field."""
    lines = (json.dumps({"id": i, "text": text}) for i, text in enumerate(column))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def synthetic(documents: int, window: int | None = None) -> Source:
    """Return a synthetic source."""
    return Source(
        kind="synthetic",
        revision=REVISION,
        files=(),
        documents=documents,
        window=window or documents,
    )


def small_manifest(source: Source, **changes: object) -> Manifest:
    """Return a 2x2 run on `source` with the embedded tokenizer; `changes` replace whole fields."""
    given: dict[str, object] = {
        "source": source,
        "tokenizer": embedded_tokenizer(),
        "model": Model(d_model=16, heads=2, kv_heads=2, d_ff=32, context=64),
        "routing": Routing(
            sample=64, featurizer="bag-sign-v1", dimension=64, validation_bp=1000, router_bp=500
        ),
    }
    return manifest(**(given | changes))
