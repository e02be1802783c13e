"""The held-out documents of a comparison, and the loss of each.

Methods with different routers score the same documents, so a document is known by its index in the
source. One half of the documents chooses rates, and the other is all that any table shows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dipaco.node.compare.results import Half, HeldOutDocument
from dipaco.node.data.sources.dispatch import rows
from dipaco.node.data.text_bytes import IdBytes, text_bytes
from dipaco.node.data.tokenizers import load_tokenizer
from dipaco.node.jobs.values import Progress
from dipaco.node.routing.derive import SourceDeps
from dipaco.node.routing.documents import document_batches
from dipaco.node.routing.shards import Ids
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.training.evaluation import score, whole
from dipaco.node.training.model import PathModel, load
from dipaco.protocol.routing.assign import Router
from dipaco.protocol.routing.documents import prefix_of
from dipaco.protocol.routing.recipe import recipe_of
from dipaco.protocol.routing.seeds import Split
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.wire.digest import Digest, tagged, u64

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class HeldOutTexts:
    """The held-out documents of a run's first window, ascending by index."""

    documents: tuple[HeldOutDocument, ...]
    ids: tuple[Ids, ...]
    """(n,) each, n at most the context."""
    prefixes: NDArray[np.int64]
    """(documents, F), the ids that route them."""
    id_bytes: IdBytes
    """By token id, the bytes of text that it stands for."""

    def by_path(self, router: Router) -> dict[int, list[int]]:
        """Return by path the places of the documents that `router` sends there."""
        indices = np.array([each.index for each in self.documents], dtype=np.int64)
        found: dict[int, list[int]] = {path: [] for path in range(router.spec.paths)}
        for place, path in enumerate(router.route(self.prefixes, indices)[:, 0].tolist()):
            found[path].append(place)
        return found


def read_held_out(manifest: Manifest, deps: SourceDeps, on_progress: OnProgress) -> HeldOutTexts:
    """Read the held-out documents of the source's first window; raises the errors of its source."""
    source, recipe = manifest.source, recipe_of(manifest)
    encoder = load_tokenizer(manifest.tokenizer, deps.blobs)
    per_id = encoder.bytes_per_id
    prefix, context = manifest.routing.prefix, manifest.model.context
    first = manifest.routing.first_scored
    documents, kept, prefixes = [], [], []
    dataset = rows(
        source,
        start=0,
        stop=min(source.window, source.documents),
        access=deps.access,
        on_progress=on_progress,
    )
    for batch in document_batches(
        dataset, recipe, encoder, splits={Split.VALIDATION}, place=source.place
    ):
        for each in batch:
            if each.split is not Split.VALIDATION or not each.eligible:
                continue
            assert each.tokens is not None and each.head is not None
            ids = np.array(each.tokens[:context], dtype=np.int64)
            documents.append(
                HeldOutDocument(
                    index=each.index,
                    tokens=max(0, len(ids) - first),
                    bytes=text_bytes(per_id, ids[first:]),
                    half=half_of(recipe.source, each.index),
                )
            )
            kept.append(ids)
            prefixes.append(prefix_of(each.head, prefix))
    return HeldOutTexts(
        tuple(documents),
        tuple(kept),
        np.array(prefixes, dtype=np.int64).reshape(-1, prefix),
        per_id,
    )


def half_of(source: Digest, index: int) -> Half:
    """Return the half of a held-out document: it follows from the source alone, as its split."""
    return "score" if tagged("dipaco/1/compare-half", source, u64(index))[0] & 1 else "choice"


class Scorer:
    """Scores held-out documents with the path models of one manifest."""

    def __init__(self, manifest: Manifest, blobs: BlobStore, device: torch.device) -> None:
        self._manifest, self._blobs = manifest, blobs
        self._model = PathModel(manifest, device)

    def nlls(self, path: int, states: dict[ModuleId, Digest], texts: Sequence[Ids]) -> list[float]:
        """Return the summed loss of each document, in nats; 0 for one without a token to score.

        states   by module of the path the digest of its state.
        """
        top, first = self._manifest.topology, self._manifest.routing.first_scored
        weights = {
            module: self._blobs.read_array(states[module], top.elements(module))
            for module in top.path_modules[path]
        }
        load(self._model, self._manifest, weights)
        due = [place for place, ids in enumerate(texts) if len(ids) > first]
        found = score(
            self._model,
            [whole(texts[place], first) for place in due],
            max_batch=0,
            on_batch=lambda done: None,
        )
        losses = [0.0] * len(texts)
        for place, nll in zip(due, found, strict=True):
            losses[place] = nll
        return losses
