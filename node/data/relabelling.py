"""The router spec of the epoch after a re-sharding: from the source and the ledger's score sheets.

Two passes. The first reads the windows whose router documents were scored and sums the features of
those with a label; the second is the derivation that every epoch has, with the class means in the
place of k-means. In memory are the sheets of one path and window, all labels, and the sample's
features. Author and verifier run the same code. Source: docs/method.md, section 5.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from dipaco.node.data.derivation import Tools, derived_by, failed, fitted
from dipaco.node.data.documents import Document, document_batches
from dipaco.node.data.progress import Meter, OnProgress
from dipaco.node.data.shards import RouterDocuments
from dipaco.node.data.sheets import read_scores, standing_sheet
from dipaco.node.data.sources import rows
from dipaco.node.data.tokenizers import TextEncoder
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.training.jobs import Derive, Derived, Inspected, InspectSheet
from dipaco.protocol.errors import LocalProtocolError, RemoteProtocolError, Unavailable
from dipaco.protocol.lease import Sheet
from dipaco.protocol.ledger import Scored
from dipaco.protocol.manifest import Reshard
from dipaco.protocol.routing.documents import prefix_of
from dipaco.protocol.routing.labels import NO_LABEL, Labels, label_bytes, labels_of
from dipaco.protocol.routing.recipe import recipe_of
from dipaco.protocol.routing.relabel import ClassMeans, Relabelled
from dipaco.protocol.routing.seeds import Split
from dipaco.protocol.spec import ROUND_ROBIN, RouterSpec

MAX_WRONG = 512  # characters of an `Inspected`


def rederive(job: Derive, previous: RouterSpec, tools: Tools, on_progress: OnProgress) -> Derived:
    """Return the spec of the epoch after `previous`, or what stood in the way.

    Leaves the label sheet in the store. Raises Refusal as `derive` does.
    """
    manifest = job.manifest
    reshard = manifest.routing.reshard
    if reshard is None:
        raise LocalProtocolError("a run without re-sharding has one epoch")
    sheets = LedgerSheets(tools.blobs, reshard, job.sheets)
    live = [path for path, tokens in enumerate(previous.tokens) if tokens]
    try:
        labels = [sheets.labels(live, window) for window in range(reshard.windows)]
    except Unavailable as error:
        return failed("sheets", error)
    except RemoteProtocolError as error:
        return failed("labels", error)
    recipe = recipe_of(manifest, epoch=previous.epoch + 1)

    def fit(encoder: TextEncoder) -> RouterSpec:
        means = LabelledMeans(manifest.source.window, recipe.params.prefix, labels, previous)
        stop = min(reshard.windows * manifest.source.window, manifest.source.documents)
        meter = Meter(on_progress, "relabel", stop)
        dataset = rows(
            manifest.source, start=0, stop=stop, access=tools.access, on_progress=on_progress
        )
        for batch in document_batches(
            dataset, recipe, encoder, splits={Split.ROUTER}, heads_only=True
        ):
            means.take(batch)
            meter.at(batch[-1].index + 1)
        found = means.finish(tools.blobs, stop)
        return fitted(manifest, recipe, encoder, tools, on_progress, found)

    return derived_by(manifest, tools, fit)


@dataclass(frozen=True)
class LedgerSheets:
    """The ledger's sheets, each read when it is needed."""

    blobs: BlobStore
    reshard: Reshard
    entries: tuple[Scored, ...]

    def labels(self, paths: Sequence[int], window: int) -> Labels:
        """Return one window's labels.

        paths   all live ones: each must have a sheet that stands.

        Raises Unavailable for a sheet that is not here, RemoteProtocolError for sheets that no
        honest scheduler goes on from.
        """
        places = [(path, self._standing(path, window)) for path in paths]
        documents = places[0][1].documents
        if any(sheet.documents != documents for _, sheet in places):
            raise RemoteProtocolError(f"the sheets of window {window} differ in length")
        scores = ((path, read_scores(self.blobs, sheet)) for path, sheet in places)
        return labels_of(scores, documents, margin=self.reshard.margin)

    def _standing(self, path: int, window: int) -> Sheet:
        """Return the sheet of a path and window whose scores count."""
        given = [each for each in self.entries if (each.path, each.window) == (path, window)]
        found = standing_sheet(self.blobs, self.reshard, given)
        if found is None:
            raise RemoteProtocolError(
                f"path {path} has no {self.reshard.scorers} sheets of window {window} that agree"
            )
        return found.sheet


class LabelledMeans:
    """The pass over the scored windows: class means, and which labels fit the documents there."""

    def __init__(
        self, window: int, prefix: int, labels: list[Labels], previous: RouterSpec
    ) -> None:
        """window: documents of one; labels: of every window that was scored."""
        self._window, self._prefix, self._previous = window, prefix, previous
        self._labels = labels
        self._found = [0] * len(labels)
        self._means = [ClassMeans(previous) for _ in labels]

    def take(self, batch: list[Document]) -> None:
        """Take the next documents of the source."""
        for window, documents in groupby(batch, lambda document: document.index // self._window):
            chosen = [d for d in documents if d.eligible and d.split is Split.ROUTER]
            first = self._found[window]
            self._found[window] += len(chosen)
            labels = self._labels[window][first : self._found[window]]
            # More documents than labels: these are no labels of this window, so none counts.
            if chosen and len(labels) == len(chosen) and self._previous.kind != ROUND_ROBIN:
                prefixes = np.array([prefix_of(d.head or [], self._prefix) for d in chosen])
                self._means[window].add(prefixes, labels)

    def finish(self, blobs: BlobStore, rows_read: int) -> Relabelled:
        """Return what the labels came to; where they do not fit their window, it has none."""
        total = ClassMeans(self._previous)
        sheet = b""
        for labels, found, means in zip(self._labels, self._found, self._means, strict=True):
            fits = len(labels) == found
            if fits:
                total.absorb(means)
            sheet += label_bytes(labels if fits else np.full(found, NO_LABEL, dtype=np.uint16))
        return Relabelled(labels=blobs.write(sheet), centroids=total.centroids(), rows=rows_read)


def inspect_sheet(blobs: BlobStore, job: InspectSheet, scored: RouterDocuments) -> Inspected:
    """Check that a sheet scores just the documents that it is to score.

    Which these are is exact; how high the scores are is not. Raises Unavailable if the blob is
    missing: that is not the submitter's fault.
    """
    try:
        scores = read_scores(blobs, job.sheet)
    except RemoteProtocolError as error:
        return Inspected(wrong=f"score sheet: {error}"[:MAX_WRONG])
    due = scored.scored_by(job.lease.path, job.manifest.routing.prefix)
    if len(scores) != len(scored.documents) or not np.array_equal(np.flatnonzero(scores >= 0), due):
        return Inspected(wrong="score sheet: scores other documents than the window has for it")
    return Inspected(wrong="")
