"""The router spec of the epoch after a re-sharding: from the source and the ledger's score sheets.

Two passes. The first reads the windows whose router documents were scored and sums the features of
those with a label; the second is the derivation that every epoch has, with the class means in the
place of k-means. In memory are the sheets of one path and window, all labels, and the sample's
features. Author and verifier run the same code. Source: docs/method.md, section 5.
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
    job: Derive, previous: RouterSpec, tools: SourceDeps, on_progress: OnProgress
) -> Derivation:
    """Return the spec of the epoch after `previous`, or why there is none.

    Leaves the label sheet in the store.
    """
    manifest = job.manifest
    reshard = manifest.routing.reshard
    if reshard is None:
        raise LocalProtocolError("a run without re-sharding has one epoch")
    sheets = LedgerSheets(tools.blobs, reshard, job.sheets)
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
        meter = Meter(on_progress, "relabel", stop)
        dataset = rows(
            manifest.source, start=0, stop=stop, access=tools.access, on_progress=on_progress
        )
        for batch in document_batches(dataset, recipe, encoder, splits={Split.ROUTER}):
            means.take(batch)
            meter.at(batch[-1].index + 1)
        found = means.finish(tools.blobs, stop)
        return fitted(manifest, recipe, encoder, tools, on_progress, found)

    try:
        return derived_by(manifest, tools, fit)
    except FalseSheets as error:  # or our documents are not the manifest's, where nobody can tell
        if is_authenticated(manifest.source, tools.access):
            return FalseLabels(reason=reason_of(error))
        return SourceFailure(stage="source", reason=reason_of(error))


class FalseSheets(RemoteProtocolError):
    """The ledger's sheets score other documents than the source has for them."""


@dataclass(frozen=True)
class ScoredWindow:
    """What the ledger's sheets say of one window's router documents."""

    labels: Labels
    paths: tuple[int, ...]
    """The live ones, ascending."""
    scored: NDArray[np.bool_]
    """(paths, documents): whether the path's sheet has a score of the document."""


@dataclass(frozen=True)
class LedgerSheets:
    """The ledger's sheets, each read when it is needed."""

    blobs: BlobStore
    reshard: Reshard
    entries: tuple[Scored, ...]

    def window(self, paths: Sequence[int], window: int) -> ScoredWindow:
        """Return one window's labels, and who scored what.

        paths   all live ones: each must have a sheet that stands.

        Raises Unavailable for a sheet that is not here, RemoteProtocolError for sheets that no
        honest scheduler goes on from.
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
    """The pass over the scored windows: class means, and whether the sheets are of these documents.

    Which documents a path scores follows from the source and the router before, so it is checked
    here, exactly: a sheet of other documents is false, whatever its scores are.
    """

    def __init__(
        self, manifest: Manifest, windows: Sequence[ScoredWindow], previous: RouterSpec
    ) -> None:
        """windows: all that were scored, from the source's first on."""
        self._window, self._prefix = manifest.source.window, manifest.routing.prefix
        self._candidates = candidates_of(manifest)
        self._previous, self._router = previous, Router(previous)
        self._windows = windows
        self._found = [0] * len(windows)
        self._means = ClassMeans(previous)

    def take(self, batch: list[Document]) -> None:
        """Take the next documents of the source; raises FalseSheets."""
        for window, documents in groupby(batch, lambda document: document.index // self._window):
            chosen = [d for d in documents if d.eligible and d.split is Split.ROUTER]
            if not chosen:
                continue
            first, told = self._found[window], self._windows[window]
            last = self._found[window] = first + len(chosen)
            prefixes = np.array([prefix_of(d.head or [], self._prefix) for d in chosen])
            if not np.array_equal(told.scored[:, first:last], self._due(told, chosen, prefixes)):
                raise FalseSheets(
                    f"the sheets of window {window} score other documents than it has for them"
                )
            if self._previous.kind != ROUND_ROBIN:
                self._means.add(prefixes, told.labels[first:last])

    def _due(
        self, told: ScoredWindow, chosen: list[Document], prefixes: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Return which of the documents each path is to score, as `RouterDocuments.scored_by`."""
        indices = np.array([each.index for each in chosen], dtype=np.int64)
        routed = self._router.route(prefixes, indices, top=self._candidates)
        long = np.array([len(each.tokens or ()) > self._prefix for each in chosen])
        return np.stack([(routed == path).any(axis=1) & long for path in told.paths])

    def finish(self, blobs: BlobStore, rows_read: int) -> Resharded:
        """Return what the labels came to; raises FalseSheets for sheets that go on."""
        for window, (told, found) in enumerate(zip(self._windows, self._found, strict=True)):
            if len(told.labels) != found:
                raise FalseSheets(
                    f"the sheets of window {window} have {len(told.labels)} scores, and its router "
                    f"documents are {found}"
                )
        sheet = b"".join(label_bytes(each.labels) for each in self._windows)
        return Resharded(
            labels=blobs.write(sheet), centroids=self._means.centroids(), rows=rows_read
        )
