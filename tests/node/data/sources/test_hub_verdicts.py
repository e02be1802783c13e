"""Rules of this file: routers are really derived from a hub that may lie, and then judged.
A hub that streams is believed for its bytes, so nobody is blamed for what it gives: rows 6 and 8
of the table in docs/method.md, 4.10. One whose files are fetched whole is not (row 7)."""

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from dipaco.node.data.downloads import Downloads
from dipaco.node.data.sources.hub import pin_hub
from dipaco.node.data.sources.interface import Access
from dipaco.node.routing.derive import SourceDeps, derive
from dipaco.node.storage.blobs import BlobStore
from dipaco.protocol.routing.recipe import recipe_of
from dipaco.protocol.routing.spec import RouterSpec
from dipaco.protocol.routing.verdict import Outcome, Verdict, judge
from dipaco.protocol.run.manifest import Manifest
from tests.node.data.corpora import no_progress, small_manifest, spec_in, texts
from tests.node.data.network import json_lines
from tests.standin import StandIn

NAME, ROWS = "data/train.jsonl", 80
HONEST = json_lines(texts(ROWS))


@pytest.fixture
def run(hub: StandIn) -> Manifest:
    hub.files = {NAME: HONEST}
    return small_manifest(pin_hub("owner/books", documents=ROWS))


def claimed(run: Manifest, tools: SourceDeps) -> RouterSpec:
    spec = spec_in(derive(run, tools, no_progress))
    assert spec.fit is not None and spec.fit.n_fit > 60
    return spec


def verdict_on(spec: RouterSpec, run: Manifest, tools: SourceDeps) -> Verdict:
    return judge(recipe_of(run), spec, derive(run, tools, no_progress))


def other_letters(row: bytes) -> bytes:
    return row.replace(b"a", b"e")


def no_text(row: bytes) -> bytes:
    """A row of the same length, too short to take part."""
    short = b'{"text": ""'
    return short + b" " * (len(row) - len(short) - 1) + b"}"


def lie(change: Callable[[bytes], bytes], first: int) -> bytes:
    """The file with its rows from `first` on changed, and as long as the true one."""
    rows = HONEST.splitlines()
    told = b"\n".join(rows[:first] + [change(row) for row in rows[first:]]) + b"\n"
    assert len(told) == len(HONEST) and told != HONEST
    return told


@pytest.mark.parametrize(
    ("served", "stage"),
    [
        (lie(no_text, 40), "too-few-documents"),  # row 6
        (lie(no_text, 2), "too-few-documents"),  # row 6, fewer than there are paths
        (lie(other_letters, 0), "source-differs"),  # row 8
    ],
)
def test_a_hub_that_streams_other_bytes_makes_a_router_unverifiable_and_blames_nobody(
    run: Manifest, hub: StandIn, tmp_path: Path, served: bytes, stage: str
) -> None:
    tools = SourceDeps(BlobStore(tmp_path))
    spec = claimed(run, tools)
    assert verdict_on(spec, run, tools).outcome is Outcome.VERIFIED  # row 13, unpinned
    hub.lies = {NAME: served}
    found = verdict_on(spec, run, tools)
    assert (found.outcome, found.stage) == (Outcome.UNVERIFIABLE, stage)


def test_files_fetched_whole_are_never_other_bytes_so_a_false_claim_is_refuted(
    run: Manifest, hub: StandIn, tmp_path: Path
) -> None:
    tools = SourceDeps(
        BlobStore(tmp_path),
        Access(downloads=Downloads(tmp_path / "sources", 10**7), whole_files=True),
    )
    spec = claimed(run, tools)
    assert spec.fit is not None
    false = replace(spec, fit=replace(spec.fit, source_bytes=spec.feat_seed))
    found = verdict_on(false, run, tools)
    assert (found.outcome, found.stage) == (Outcome.REFUTED, "source-bytes")  # row 7
    streamed = verdict_on(false, run, SourceDeps(BlobStore(tmp_path)))
    assert (streamed.outcome, streamed.stage) == (Outcome.UNVERIFIABLE, "source-differs")
