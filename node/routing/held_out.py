"""Held-out documents by the path of their prefix: those of the run, or those of any file.

Both follow the same document rule, so a figure for a file is comparable with the run's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dipaco.node.data.readers import count_rows, file_format, read_rows
from dipaco.node.data.sources.interface import SourceRow
from dipaco.node.data.sources.labels import Labels
from dipaco.node.data.text_bytes import IdBytes
from dipaco.node.data.tokenizers import TextEncoder
from dipaco.node.jobs.meter import Meter, OnProgress
from dipaco.node.routing.documents import Document, document_batches
from dipaco.node.routing.shards import Ids, Shards
from dipaco.protocol.errors import ConfigError, Refusal
from dipaco.protocol.routing.assign import Router
from dipaco.protocol.routing.documents import prefix_of
from dipaco.protocol.routing.recipe import recipe_of
from dipaco.protocol.routing.seeds import Split
from dipaco.protocol.routing.spec import RouterSpec
from dipaco.protocol.run.manifest import Manifest

WINDOW = 0  # of the source; it has the run's held-out documents


@dataclass(frozen=True)
class HeldOutDocuments:
    """Documents to score."""

    by_path: dict[int, Sequence[Ids]]
    """Per path, ids (n,) each, n at most the context."""
    indices: dict[int, Sequence[int]]
    """Per path, the row of each document, in the run's source or in the file."""
    id_bytes: IdBytes
    """By token id, the bytes of text that it stands for, (vocabulary,)."""
    left_out: int
    """The number of documents that are too short for the router."""

    def rows(self) -> set[int]:
        """Return the rows of all documents."""
        return {row for own in self.indices.values() for row in own}

    def labelled(self, labels: Labels) -> dict[int, list[str]]:
        """Return per path the label of each document."""
        return {path: [labels[row] for row in own] for path, own in self.indices.items()}


def of_run(
    manifest: Manifest, spec: RouterSpec, shards: Shards, on_progress: OnProgress
) -> HeldOutDocuments:
    """Return the run's held-out documents; raises the errors of reading its source."""
    found = [
        shards.validation(manifest, spec, WINDOW, path, on_progress)
        for path in range(manifest.paths)
    ]
    return HeldOutDocuments(
        by_path={path: own for path, own in enumerate(found) if len(own)},
        indices={path: own.indices.tolist() for path, own in enumerate(found) if len(own)},
        id_bytes=found[0].id_bytes,
        left_out=0,
    )


def of_file(
    file: Path,
    field: str | None,
    manifest: Manifest,
    spec: RouterSpec,
    encoder: TextEncoder,
    on_progress: OnProgress,
) -> HeldOutDocuments:
    """Return all rows of a parquet, JSON lines or txt file as documents.

    field   the column or key of the text; None: the run's `text_field`.
    Raises ConfigError for a file that cannot be read, or has no document to score.
    """
    try:
        if field is None:
            field = "text" if file_format(file.name) == "txt" else manifest.source.text_field
        rows = count_rows(file)
        meter = Meter(on_progress, "read", rows)
        router, recipe = Router(spec), recipe_of(manifest)
        by_path: dict[int, list[Ids]] = {}
        indices: dict[int, list[int]] = {}
        batches = document_batches(
            _rows(file, field),
            recipe,
            encoder,
            splits=set(Split),
            place=lambda index: f"{file}: row {index}",
        )
        for batch in batches:
            chosen = [each for each in batch if each.eligible]
            for document, path in zip(chosen, _paths(chosen, router), strict=True):
                assert document.tokens is not None
                kept = document.tokens[: manifest.model.context]
                by_path.setdefault(path, []).append(np.array(kept, dtype=np.int64))
                indices.setdefault(path, []).append(document.index)
            meter.at(batch[-1].index + 1)
    except Refusal as error:
        raise ConfigError(f"--data: {str(error).removeprefix('source.files: ')}") from error
    if not by_path:
        raise ConfigError(f"--data: {file}: none of its rows ({rows}) is long enough to be routed")
    return HeldOutDocuments(
        by_path=dict(sorted(by_path.items())),
        indices=dict(sorted(indices.items())),
        id_bytes=encoder.bytes_per_id,
        left_out=rows - sum(map(len, by_path.values())),
    )


def _rows(file: Path, field: str) -> Iterator[SourceRow]:
    for index, text in read_rows(file, field):
        yield {"index": index, "text": text}


def _paths(documents: list[Document], router: Router) -> list[int]:
    if not documents:
        return []
    length = router.spec.prefix
    prefixes = np.array([prefix_of(each.head or [], length) for each in documents])
    indices = np.array([each.index for each in documents], dtype=np.int64)
    paths: list[int] = router.route(prefixes, indices)[:, 0].tolist()
    return paths
