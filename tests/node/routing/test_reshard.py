"""Rules of this file: real documents, score sheets by hand; the router of epoch 1 is derived by its
author, then by a verifier before whom one thing is false or away."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from dipaco.node.jobs.values import Derive
from dipaco.node.routing import reshard
from dipaco.node.routing.derive import SourceDeps, derive
from dipaco.node.routing.reshard import derive_resharded
from dipaco.node.routing.shards import RouterDocuments, Shards
from dipaco.node.routing.sheets import wrong_sheet
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.shard_cache import ShardCache
from dipaco.protocol.errors import LocalProtocolError
from dipaco.protocol.routing.labels import NO_LABEL, NOT_SCORED, read_sheet, sheet_bytes
from dipaco.protocol.routing.recipe import recipe_of
from dipaco.protocol.routing.spec import CLASS_MEANS, RouterSpec, spec_digest
from dipaco.protocol.routing.verdict import Derivation, FalseLabels, Outcome, SourceFailure, judge
from dipaco.protocol.run.manifest import Manifest, Reshard, Routing, run_id
from dipaco.protocol.work.kinds import Scored, ScoreLease, Sheet
from tests.node.data.corpora import no_progress, small_manifest, spec_in, synthetic
from tests.values import digest, peer

DOCUMENTS, WINDOW = 240, 120
RESHARD = Reshard(after_round=1, windows=2)
Sheets = tuple[Scored, ...]


@dataclass(frozen=True)
class Resharded:
    """A run whose router documents are scored."""

    manifest: Manifest
    first: RouterSpec
    sheets: Sheets
    deps: SourceDeps
    scored: list[RouterDocuments]
    """By window."""

    def derive(self, sheets: Sheets | None = None, deps: SourceDeps | None = None) -> Derivation:
        job = Derive(
            manifest=self.manifest,
            previous=self.first,
            sheets=self.sheets if sheets is None else sheets,
        )
        return derive_resharded(job, self.first, deps or self.deps, no_progress)

    def written(self, place: int, change: Callable[[list[int]], list[int]]) -> Sheets:
        """Return the ledger's sheets, one of them with other scores."""
        entry, blobs = self.sheets[place], self.deps.blobs
        data = blobs.read(entry.sheet.digest, 4 * entry.sheet.documents)
        scores = change(read_sheet(data, entry.sheet.documents).tolist())
        sheet = Sheet(digest=blobs.write(sheet_bytes(scores)), documents=len(scores))
        return (*self.sheets[:place], replace(entry, sheet=sheet), *self.sheets[place + 1 :])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Resharded:
    root = tmp_path_factory.mktemp("resharded")
    deps = SourceDeps(blobs=BlobStore(root / "blobs"))
    routing = Routing(sample=64, dimension=64, router_bp=3000, reshard=RESHARD)
    manifest = small_manifest(
        synthetic(DOCUMENTS, WINDOW),
        routing=routing,
        training=replace(small_manifest(synthetic(8)).training, rounds=2),
    )
    first = spec_in(derive(manifest, deps, no_progress))
    shards = Shards(ShardCache(root / "cache", 1 << 24), deps, max_shards=4)
    scored = [shards.router_documents(manifest, first, w, no_progress) for w in range(2)]
    sheets = []
    for path in range(4):
        for window, documents in enumerate(scored):
            own = [  # a document is best with the path two after the router's, with some with none
                1000 if (int(best[0]) + 2) % 4 == path or row % 7 == 0 else 1200
                for row, best in enumerate(documents.candidates)
            ]
            blob = deps.blobs.write(sheet_bytes(own))
            sheet = Sheet(digest=blob, documents=len(own))
            sheets.append(Scored(path=path, window=window, peer=peer("a"), sheet=sheet))
    return Resharded(manifest, first, tuple(sheets), deps, scored)


def verdict(run: Resharded, claimed: RouterSpec, derived: Derivation) -> tuple[Outcome, str]:
    found = judge(recipe_of(run.manifest, epoch=1), claimed, derived)
    return found.outcome, found.stage


@pytest.fixture(scope="module")
def second(run: Resharded) -> RouterSpec:
    return spec_in(run.derive())


def test_the_next_router_sends_documents_where_they_scored_best(
    run: Resharded, second: RouterSpec
) -> None:
    assert second.kind == CLASS_MEANS and second.epoch == 1 and second.fit and run.first.fit
    assert second.fit.tokens == run.first.fit.tokens
    labels = np.frombuffer(run.deps.blobs.read(second.fit.labels or digest(""), 1 << 16), "<u2")
    best = np.concatenate([each.candidates[:, 0] for each in run.scored])
    rows = np.concatenate([np.arange(len(each.candidates)) for each in run.scored])
    assert (labels == np.where(rows % 7 == 0, NO_LABEL, (best + 2) % 4)).all()
    old, new = run.first.centroid_array(), second.centroid_array()
    nearest = [int(np.abs(old - row).sum(axis=1).argmin()) for row in new]
    assert nearest == [2, 3, 0, 1]


def test_router_documents_are_the_window_s_with_all_paths_as_candidates(run: Resharded) -> None:
    recipe = recipe_of(run.manifest)
    assert run.scored
    for window, found in enumerate(run.scored):
        indices = range(window * WINDOW, (window + 1) * WINDOW)
        due = sum(recipe.split(index).name == "ROUTER" for index in indices)
        assert len(found.documents) == len(found.candidates) == due > 20
        assert (np.sort(found.candidates, axis=1) == np.arange(4)).all()


def test_whoever_derives_it_again_comes_to_the_same(run: Resharded, second: RouterSpec) -> None:
    assert spec_in(run.derive()) == second
    assert verdict(run, second, run.derive()) == (Outcome.VERIFIED, "spec")
    shuffled = run.derive(run.sheets[::-1])
    assert verdict(run, second, shuffled) == (Outcome.VERIFIED, "spec")


def claiming(entry: Scored, *, documents: int) -> Scored:
    """Return the entry with a length that its blob does not have."""
    return replace(entry, sheet=replace(entry.sheet, documents=documents))


def other_labels(scores: list[int]) -> list[int]:
    return [scores[0], 900, *scores[2:]] if scores[1] > 1000 else [scores[0], 1500, *scores[2:]]


@pytest.mark.parametrize("place", [0, 7])
def test_a_router_of_other_scores_than_the_ledger_s_is_refuted(
    run: Resharded, second: RouterSpec, place: int
) -> None:
    """The author fitted it to a tampered sheet, or the ledger names one: labels differ."""
    tampered = run.derive(run.written(place, other_labels))
    assert verdict(run, spec_in(tampered), run.derive()) == (Outcome.REFUTED, "labels")
    assert verdict(run, second, tampered) == (Outcome.REFUTED, "labels")


def test_scores_that_move_no_label_give_the_same_router(run: Resharded, second: RouterSpec) -> None:
    within = run.written(3, lambda scores: [score + 4 for score in scores])
    assert spec_in(run.derive(within)) == second


@pytest.mark.parametrize(
    ("sheets", "words"),
    [
        (lambda run: run.sheets[1:], "path 0 has no 1 sheets of window 0"),
        (lambda run: run.written(2, lambda scores: scores[:-1]), "differ in length"),
        (lambda run: run.written(2, lambda scores: [*scores, 5]), "differ in length"),
        (lambda run: run.written(2, lambda scores: [-2, *scores[1:]]), "a score is not in"),
        (lambda run: run.written(2, lambda scores: [1 << 25, *scores[1:]]), "a score is not in"),
        (lambda run: (claiming(run.sheets[0], documents=3), *run.sheets[1:]), "bytes"),
    ],
)
def test_sheets_that_make_no_labels_refute_whoever_goes_on_from_them(
    run: Resharded, second: RouterSpec, sheets: Callable[[Resharded], Sheets], words: str
) -> None:
    derived = run.derive(sheets(run))
    assert isinstance(derived, FalseLabels) and words in derived.reason
    assert verdict(run, second, derived) == (Outcome.REFUTED, "labels")


def test_a_sheet_that_is_away_refutes_nobody(
    run: Resharded, second: RouterSpec, tmp_path: Path
) -> None:
    derived = run.derive(deps=SourceDeps(blobs=BlobStore(tmp_path)))
    assert isinstance(derived, SourceFailure)
    assert verdict(run, second, derived) == (Outcome.UNVERIFIABLE, "labels")


def in_every_path(run: Resharded, change: Callable[[list[int]], list[int]]) -> Sheets:
    """Return the ledger's sheets with those of window 0 changed alike, so that they agree."""
    found = list(run.sheets)
    for place in range(0, 8, 2):
        found[place] = run.written(place, change)[place]
    return tuple(found)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda scores: scores[:-1], "score other documents"),
        (lambda scores: [*scores, 7], "router documents"),
        (lambda scores: [NOT_SCORED] * len(scores), "score other documents"),
        (lambda scores: [NOT_SCORED, *scores[1:]], "score other documents"),
    ],
)
@pytest.mark.parametrize("authentic", [True, False])
def test_sheets_of_other_documents_refute_whoever_can_tell_what_the_source_has(
    run: Resharded,
    second: RouterSpec,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[list[int]], list[int]],
    words: str,
    authentic: bool,
) -> None:
    """All sheets of a window agree on a lie that would leave the first router as it is."""
    monkeypatch.setattr(reshard, "is_authenticated", lambda source, access: authentic)
    derived = run.derive(in_every_path(run, change))
    assert isinstance(derived, FalseLabels if authentic else SourceFailure)
    assert words in derived.reason
    due = (Outcome.REFUTED, "labels") if authentic else (Outcome.UNVERIFIABLE, "source")
    assert verdict(run, second, derived) == due


# ---------------------------------------------------------------------- a submitted sheet


def inspected(run: Resharded, change: Callable[[list[int]], list[int]]) -> str:
    (entry,) = [each for each in run.written(0, change)[:1]]
    lease = ScoreLease(
        run=run_id(run.manifest),
        token=bytes(16),
        path=0,
        version=1,
        window=0,
        spec=spec_digest(run.first),
        modules=(),
        ttl=20,
    )
    return wrong_sheet(run.deps.blobs, run.manifest, lease, entry.sheet, run.scored[0])


def test_a_sheet_is_taken_if_it_scores_what_is_to_be_scored(run: Resharded) -> None:
    assert inspected(run, lambda scores: scores) == ""
    assert inspected(run, lambda scores: [0] * len(scores)) == ""  # how high is not looked at


@pytest.mark.parametrize(
    "change",
    [
        lambda scores: scores[:-1],
        lambda scores: [*scores, 5],
        lambda scores: [NOT_SCORED, *scores[1:]],
        lambda scores: [-5, *scores[1:]],
        lambda scores: [],
    ],
)
def test_a_sheet_that_scores_other_documents_is_refused(
    run: Resharded, change: Callable[[list[int]], list[int]]
) -> None:
    assert inspected(run, change).startswith("score sheet: ")


def test_windows_that_are_not_scored_have_no_router_documents(
    run: Resharded, second: RouterSpec, tmp_path: Path
) -> None:
    shards = Shards(ShardCache(tmp_path, 1 << 24), run.deps, max_shards=4)
    for spec, window in ((second, 0), (run.first, 2)):
        with pytest.raises(LocalProtocolError):
            shards.router_documents(run.manifest, spec, window, no_progress)


def test_a_run_without_re_sharding_has_no_next_epoch(run: Resharded) -> None:
    routing = replace(run.manifest.routing, reshard=None)
    job = Derive(manifest=replace(run.manifest, routing=routing), previous=run.first)
    with pytest.raises(LocalProtocolError):
        derive_resharded(job, run.first, run.deps, no_progress)
