"""The held-out documents of a comparison, and the loss of each.

Methods with different routers score the same documents, so a document is known by its index in the
source. One half of the documents chooses rates, and the other is all that any table shows.
"""

from collections.abc import Sequence

import torch

from dipaco.node.compare.results import Half, HeldOutDocument
from dipaco.node.data.text_bytes import text_bytes
from dipaco.node.routing.held_out import HeldOutDocuments
from dipaco.node.routing.shards import Ids
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.training.evaluation import score, whole
from dipaco.node.training.model import PathModel, load
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.wire.digest import Digest, tagged, u64


def described(
    held_out: HeldOutDocuments, source: Digest, first: int
) -> tuple[HeldOutDocument, ...]:
    """Return the documents ascending by index, whatever router sent them to their paths.

    source   identity of the source, `seeds.source_digest`.
    first    position of the first token that is scored.
    """
    found = [
        HeldOutDocument(
            index=index,
            tokens=max(0, len(ids) - first),
            bytes=text_bytes(held_out.id_bytes, ids[first:]),
            half=half_of(source, index),
        )
        for path, texts in held_out.by_path.items()
        for index, ids in zip(held_out.indices[path], texts, strict=True)
    ]
    return tuple(sorted(found, key=lambda each: each.index))


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
