"""The router spec of the epoch after re-sharding, from the source and the ledger's score sheets.

There are two passes. The first reads the windows whose router documents were scored, and sums the
features of the labelled documents. The second is the derivation of every epoch, with the class
means in the place of k-means. Memory holds the sheets of one path and window, all labels, and the
sample's features. Author and verifier run the same code. Source: docs/method.md, section 5.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from dipaco.node.data.sources.dispatch import is_authenticated, rows
from dipaco.node.data.tokenizers import TextEncoder
from dipaco.node.jobs.meter import Meter, OnProgress
from dipaco.node.jobs.values import Derive
from dipaco.node.routing.derive import SourceDeps, derived_by, fitted, reason_of
from dipaco.node.routing.documents import Document, document_batches
from dipaco.node.routing.shards import candidates_of
from dipaco.node.routing.sheets import read_scores, standing_sheet
from dipaco.node.storage.blobs import BlobStore
from dipaco.protocol.errors import LocalProtocolError, RemoteProtocolError, Unavailable
from dipaco.protocol.routing.assign import Router
from dipaco.protocol.routing.documents import prefix_of
from dipaco.protocol.routing.labels import Labels, Scores, label_bytes, labels_of
from dipaco.protocol.routing.recipe import recipe_of
from dipaco.protocol.routing.reshard import ClassMeans, Resharded
from dipaco.protocol.routing.seeds import Split
from dipaco.protocol.routing.spec import ROUND_ROBIN, RouterSpec
from dipaco.protocol.routing.verdict import Derivation, FalseLabels, SourceFailure
from dipaco.protocol.run.manifest import Manifest, Reshard
from dipaco.protocol.work.kinds import Scored, Sheet


def derive_resharded(
    job: Derive, previous: RouterSpec, deps: SourceDeps, on_progress: OnProgress
) -> Derivation:
    """Return the spec of the epoch after `previous`, or the reason for its lack.

    Writes the label sheet into the blob store.
    """
    manifest = job.manifest
    reshard = manifest.routing.reshard
    if reshard is None:
        raise LocalProtocolError("a run without re-sharding has one epoch")
    sheets = LedgerSheets(deps.blobs, reshard, job.sheets)
    live = [path for path, tokens in enumerate(previous.tokens) if tokens]
    try:
        windows = [sheets.window(live, window) for window in range(reshard.windows)]
    except Unavailable as error:
        return SourceFailure(stage="labels", reason=reason_of(error))
    except RemoteProtocolError as error:
        return FalseLabels(reason=reason_of(error))
    recipe = recipe_of(manifest, epoch=previous.epoch + 1)

    def fit(encoder: TextEncoder) -> RouterSpec:
        means = LabelledMeans(manifest, windows, previous)
        stop = min(reshard.windows * manifest.source.window, manifest.source.documents)
        meter = Meter(on_progress, "reshard", stop)
        dataset = rows(
            manifest.source, start=0, stop=stop, access=deps.access, on_progress=on_progress
        )
        batches = document_batches(
            dataset, recipe, encoder, splits={Split.ROUTER}, place=manifest.source.place
        )
        for batch in batches:
            means.take(batch)
            meter.at(batch[-1].index + 1)
        found = means.finish(deps.blobs, stop)
        return fitted(manifest, recipe, encoder, deps, on_progress, found)

    try:
        return derived_by(manifest, deps, fit)
    except FalseSheets as error:
        # Documents that no digest pins may themselves be the wrong ones.
        if is_authenticated(manifest.source, deps.access):
            return FalseLabels(reason=reason_of(error))
        return SourceFailure(stage="source", reason=reason_of(error))


class FalseSheets(RemoteProtocolError):
    """A sheet of the ledger scores other documents than the source has in its window."""


@dataclass(frozen=True)
class ScoredWindow:
    """The router documents of one window, as the ledger's sheets score them."""

    labels: Labels
    paths: tuple[int, ...]
    """The live paths, ascending."""
    scored: NDArray[np.bool_]
    """(paths, documents): whether the path's sheet has a score of the document."""


@dataclass(frozen=True)
class LedgerSheets:
    """The ledger's sheets, each read when it is needed."""

    blobs: BlobStore
    reshard: Reshard
    entries: tuple[Scored, ...]

    def window(self, paths: Sequence[int], window: int) -> ScoredWindow:
        """Return one window's labels, and which path scored which document.

        paths   all live paths; each must have a sheet that stands.

        Raises Unavailable for a sheet that is not here, RemoteProtocolError for sheets that an
        honest scheduler would not have used.
        """
        places = [(path, self._standing(path, window)) for path in paths]
        documents = places[0][1].documents
        if any(sheet.documents != documents for _, sheet in places):
            raise RemoteProtocolError(f"the sheets of window {window} differ in length")
        scored = np.zeros((len(places), documents), dtype=np.bool_)

        def scores() -> Iterator[tuple[int, Scores]]:
            for row, (path, sheet) in enumerate(places):
                found = read_scores(self.blobs, sheet)
                scored[row] = found >= 0
                yield path, found

        labels = labels_of(scores(), documents, margin=self.reshard.margin)
        return ScoredWindow(labels, tuple(paths), scored)

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
    """The pass over the scored windows: sums class means, and checks which documents were scored.

    The source and the previous router determine exactly which documents a path scores. A sheet of
    other documents is false, whatever its scores are.
    """

    def __init__(
        self, manifest: Manifest, windows: Sequence[ScoredWindow], previous: RouterSpec
    ) -> None:
        """windows: all scored windows, beginning with the source's first."""
        self._window, self._prefix = manifest.source.window, manifest.routing.prefix
        self._first_scored = manifest.routing.first_scored
        self._candidates = candidates_of(manifest)
        self._previous, self._router = previous, Router(previous)
        self._windows = windows
        self._found = [0] * len(windows)
        self._means = ClassMeans(previous)

    def take(self, batch: list[Document]) -> None:
        """Add the next documents of the source; raises FalseSheets."""
        for window, documents in groupby(batch, lambda document: document.index // self._window):
            chosen = [d for d in documents if d.eligible and d.split is Split.ROUTER]
            if not chosen:
                continue
            first, claimed = self._found[window], self._windows[window]
            last = self._found[window] = first + len(chosen)
            prefixes = np.array([prefix_of(d.head or [], self._prefix) for d in chosen])
            due = self._due(claimed.paths, chosen, prefixes)
            if not np.array_equal(claimed.scored[:, first:last], due):
                raise FalseSheets(
                    f"the sheets of window {window} score other documents than the source has there"
                )
            if self._previous.kind != ROUND_ROBIN:
                self._means.add(prefixes, claimed.labels[first:last])

    def _due(
        self, paths: tuple[int, ...], chosen: list[Document], prefixes: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Return (paths, documents): whether a path scores a document.

        The rule is that of `RouterDocuments.scored_by`.
        """
        indices = np.array([each.index for each in chosen], dtype=np.int64)
        routed = self._router.route(prefixes, indices, top=self._candidates)
        long = np.array([len(each.tokens or ()) > self._first_scored for each in chosen])
        return np.stack([(routed == path).any(axis=1) & long for path in paths])

    def finish(self, blobs: BlobStore, rows_read: int) -> Resharded:
        """Return labels and class means; raises FalseSheets for sheets of a wrong length."""
        for window, (claimed, found) in enumerate(zip(self._windows, self._found, strict=True)):
            if len(claimed.labels) != found:
                raise FalseSheets(
                    f"the sheets of window {window} have {len(claimed.labels)} scores for {found} "
                    f"router documents"
                )
        sheet = b"".join(label_bytes(each.labels) for each in self._windows)
        return Resharded(
            labels=blobs.write(sheet), centroids=self._means.centroids(), rows=rows_read
        )
