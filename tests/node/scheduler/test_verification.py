"""Rules of this file: whole nodes on virtual time; where a source fails, a real file does.
From what the worker answers to what the node does about it, no verdict may be lost."""

import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from dipaco.node.assembly import FAREWELL_SECONDS
from dipaco.node.data.embedded_tokenizer import embedded_tokenizer_path
from dipaco.node.data.sources.files import pin_files
from dipaco.node.data.sources.interface import Access
from dipaco.node.jobs.values import Derive, Materialise
from dipaco.node.routing.derive import SourceDeps, derive
from dipaco.node.storage.blobs import BlobStore
from dipaco.protocol.errors import Refusal, Unverifiable
from dipaco.protocol.routing.spec import RouterSpec, SpecBasis, spec_digest
from dipaco.protocol.routing.verdict import Outcome, Receipt, Verdict
from dipaco.protocol.run.manifest import Manifest, run_id
from dipaco.protocol.wire.digest import sha256
from dipaco.protocol.wire.signed import sign
from tests.node.data.corpora import no_progress, small_manifest, spec_in, texts, write_jsonl
from tests.node.scheduler.fakes import derived, trains
from tests.node.scheduler.swarm import (
    RUN,
    SCHEDULER,
    RealReader,
    Swarm,
    found,
    publish,
    until,
)
from tests.values import digest, key, manifest, peer


async def test_a_node_refuses_a_spec_that_another_source_gives_and_tells_its_peers(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER, shift=1)  # a scheduler whose source was tampered with
    anna = await swarm.start("anna")
    await anna.ended.wait()
    assert isinstance(anna.error, Refusal) and not isinstance(anna.error, Unverifiable)
    assert "source-bytes" in str(anna.error)
    assert anna.parts.activity.state == "refused"
    assert not any(trains(job) for job in anna.worker.done)
    # Its seed gets no strike for a value that it made.
    assert anna.parts.reputation.strikes(scheduler.parts.me) == 0
    assert "hung up: published a router that is refuted" in caplog.text


async def test_a_refusal_is_remembered_over_a_restart(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    await swarm.start(SCHEDULER, shift=1)
    first = await swarm.start("anna")
    await first.ended.wait()
    again = await swarm.start("anna")
    await again.ended.wait()
    assert isinstance(again.error, Refusal) and again.worker.done == []


async def test_what_cannot_be_verified_is_not_trained_under_require_and_is_under_warn(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER)
    strict = await swarm.start("anna", shift=1, authenticated=False)
    await strict.ended.wait()
    assert isinstance(strict.error, Unverifiable) and "source-differs" in str(strict.error)
    await swarm.start("bert", verify="warn", shift=1, authenticated=False)
    await until(lambda: scheduler.reporter.ledger().finished)


# ---------------------------------------------------------------------- telling others


async def test_whoever_refuses_has_told_all_connected_peers_before_it_ends(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    nodes = [await swarm.start(SCHEDULER)]
    nodes += [await swarm.start(name, worker=RealReader, crash=99) for name in ("bert", "cara")]
    publish(nodes[0], manifest(), replace(SPEC, centroids=b"\x01" + SPEC.centroids[1:]))
    anna = await swarm.start("anna")
    await until(lambda: anna.parts.activity.reason.code == "deriving")
    await trio.sleep(3.0)
    connected = anna.parts.transport.peers()
    assert connected == {node.parts.me for node in nodes}
    await anna.ended.wait()
    assert isinstance(anna.error, Refusal) and "stage centroids" in str(anna.error)
    for node in nodes:
        status = node.reporter.status().run
        assert status and (status.verified, status.refuted) == (0, 1)


async def test_a_peer_that_does_not_listen_holds_up_a_refusal_for_a_bounded_time(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    scheduler = await swarm.start(SCHEDULER)
    publish(scheduler, manifest(), derived(manifest(), shift=1))
    anna = await swarm.start("anna")
    await until(lambda: anna.parts.activity.reason.code == "deriving")
    swarm.network.freeze(scheduler.parts.me)
    await until(lambda: anna.parts.activity.state == "refused")
    before = trio.current_time()
    await anna.ended.wait()
    assert isinstance(anna.error, Refusal)
    assert trio.current_time() - before < FAREWELL_SECONDS + 1.0


# ---------------------------------------------------------------------- policies


def receipt(name: str, outcome: Outcome) -> Any:
    verdict = Verdict(outcome=outcome, stage="spec", reason="because")
    said = Receipt(manifest=RUN, spec=spec_digest(SPEC), verdict=verdict, software="test 1")
    return sign(said, key(name))


async def test_receipts_lets_a_node_train_once_enough_others_have_verified(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    await swarm.start(SCHEDULER)
    blind = await swarm.start("dora", verify="receipts:2", shift=1, authenticated=False)
    await until(lambda: blind.parts.activity.reason.code == "receipts")
    assert "receipts that say verified: 0 of 2" in blind.parts.activity.reason.text
    await swarm.start("anna")
    await until(lambda: "verified: 1 of 2" in blind.parts.activity.reason.text)
    await trio.sleep(120.0)
    assert blind.parts.activity.state == "verifying"
    await swarm.start("bert")
    await until(lambda: blind.parts.activity.state not in ("verifying", "refused"))
    assert blind.parts.activity.verdict == "unverifiable"
    status = blind.reporter.status().run
    assert status and (status.verified, status.refuted) == (2, 0)
    assert sum(isinstance(job, Derive) for job in blind.worker.done) == 1


async def test_one_refutation_stops_a_node_that_asks_for_receipts(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    scheduler = await swarm.start(SCHEDULER)
    publish(scheduler, manifest(), SPEC)
    for name in ("anna", "bert"):
        scheduler.parts.run_store.publish("receipt", receipt(name, Outcome.VERIFIED))
    scheduler.parts.run_store.publish("receipt", receipt("cara", Outcome.REFUTED))
    blind = await swarm.start("dora", verify="receipts:2", shift=1, authenticated=False)
    await blind.ended.wait()
    assert isinstance(blind.error, Unverifiable)
    assert "receipts:2, refuted by 1 peer" in str(blind.error)


async def test_strangers_cannot_vouch_where_the_manifest_lists_members(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    closed = replace(manifest().schedule, members=(peer("dora"), peer("anna")))
    run = manifest(schedule=closed)
    spec = derived(run)
    scheduler = await swarm.start(SCHEDULER)
    publish(scheduler, run, spec)
    blind = await swarm.start("dora", verify="receipts:1", shift=1, authenticated=False)
    for name in ("sybil1", "sybil2", "scheduler", "dora"):
        verdict = Verdict(outcome=Outcome.VERIFIED, stage="spec", reason="because")
        said = Receipt(
            manifest=run_id(run), spec=spec_digest(spec), verdict=verdict, software="test 1"
        )
        scheduler.parts.run_store.publish("receipt", sign(said, key(name)))
    held = blind.parts.run_store.runs
    await until(lambda: run_id(run) in held and len(held[run_id(run)].receipts) == 4)
    await until(lambda: blind.parts.activity.reason.code == "receipts")
    await trio.sleep(60.0)
    assert "verified: 0 of 1" in blind.parts.activity.reason.text
    await swarm.start("anna")
    await until(lambda: blind.parts.activity.state not in ("verifying", "refused"))


@pytest.mark.parametrize(
    ("changes", "stage"),
    [({"featurizer": "bag-sign-v2"}, "unknown-kind"), ({"fit": None}, "no-fit")],
)
@pytest.mark.parametrize("policy", ["require", "receipts:1"])
async def test_what_no_waiting_changes_ends_the_node_without_reading_a_document(
    swarm: Swarm, autojump_clock: MockClock, changes: dict[str, Any], stage: str, policy: str
) -> None:
    scheduler = await swarm.start(SCHEDULER)
    publish(scheduler, manifest(), replace(SPEC, **changes))
    anna = await swarm.start("anna", verify=policy)
    await anna.ended.wait()
    assert isinstance(anna.error, Unverifiable) and f"({stage})" in str(anna.error)
    assert anna.worker.done == [] and anna.parts.activity.state == "refused"


# ---------------------------------------------------------------------- real sources that fail


def pinned(folder: Path, count: int = 200) -> tuple[Path, Manifest]:
    """Return a file of documents and a run that pins it."""
    folder.mkdir()
    path = write_jsonl(folder / "a.jsonl", texts(count))
    return path, small_manifest(pin_files([path]))


def honest(run: Manifest, folder: Path) -> RouterSpec:
    found = derive(
        run, SourceDeps(BlobStore(folder / "own"), Access(local_sources=True)), no_progress
    )
    return spec_in(found)


def shrinks(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def changes_behind_its_name(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"a", b"e", 1))


def loses_its_rows(path: Path) -> None:
    path.write_bytes(b"")


FAULTS: dict[Callable[[Path], None], str] = {
    Path.unlink: "no such file",
    shrinks: "bytes where the run pins",
    loses_its_rows: "0 bytes where the run pins",
    changes_behind_its_name: "not the file that the run pins",
}


@pytest.mark.parametrize(
    ("fault", "words"), FAULTS.items(), ids=lambda f: getattr(f, "__name__", "")
)
async def test_rows_5_to_8_a_pinned_source_that_is_not_there_is_waited_for_and_nobody_is_blamed(
    swarm: Swarm,
    tmp_path: Path,
    autojump_clock: MockClock,
    fault: Callable[[Path], None],
    words: str,
) -> None:
    path, run = pinned(tmp_path / "source")
    scheduler = await swarm.start(SCHEDULER)
    publish(scheduler, run, honest(run, tmp_path))
    shutil.copy(path, path.with_suffix(".kept"))
    fault(path)
    anna = await swarm.start("anna", worker=RealReader)
    await until(lambda: anna.parts.activity.reason.code == "source-away")
    assert words in anna.parts.activity.reason.text and anna.parts.activity.state == "verifying"
    await trio.sleep(1000.0 if fault is shrinks else 40.0)
    assert not anna.ended.is_set() and anna.parts.activity.reason.code == "source-away"
    times = [time for time, _ in anna.worker.begun]
    waits = [round(later - time) for time, later in pairwise(times)]
    assert waits == ([5, 10, 20, 40, 80, 160, 300, 300] if fault is shrinks else [5, 10, 20])
    assert anna.parts.reputation.strikes(scheduler.parts.me) == 0
    shutil.copy(path.with_suffix(".kept"), path)
    await until(lambda: anna.parts.activity.verdict == "verified")


async def test_row_5_a_tokenizer_that_nobody_has_is_waited_for(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    _, run = pinned(tmp_path / "source")
    packaged = embedded_tokenizer_path(run.tokenizer.sha256)
    assert packaged is not None
    data = packaged.read_bytes() + b"\n"  # another file, of the same meaning
    run = replace(run, tokenizer=replace(run.tokenizer, sha256=sha256(data), size=len(data)))
    BlobStore(tmp_path / "own").write(data)
    scheduler = await swarm.start(SCHEDULER)
    publish(scheduler, run, honest(run, tmp_path))
    anna = await swarm.start("anna", worker=RealReader)
    await until(lambda: anna.parts.activity.reason.code == "source-away")
    await trio.sleep(60.0)
    assert anna.parts.activity.state == "verifying" and anna.worker.begun == []
    scheduler.parts.blobs.write(data)
    await until(lambda: anna.parts.activity.verdict == "verified")


async def test_row_7_a_router_fitted_on_other_bytes_than_the_pinned_is_refuted(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    path, run = pinned(tmp_path / "source")
    kept = path.read_text()
    write_jsonl(path, [text.replace("e", "i") for text in texts(200)])
    altered = honest(replace(run, source=pin_files([path])), tmp_path)
    path.write_text(kept)
    truth = honest(run, tmp_path)
    claimed = replace(
        altered, manifest=truth.manifest, feat_seed=truth.feat_seed
    )  # all that the manifest implies is as it should be
    scheduler = await swarm.start(SCHEDULER)
    publish(scheduler, run, claimed)
    anna = await swarm.start("anna", worker=RealReader)
    await anna.ended.wait()
    assert isinstance(anna.error, Refusal) and "stage source-bytes" in str(anna.error)
    # Its seed gets no strike for a value that it made.
    assert anna.parts.reputation.strikes(scheduler.parts.me) == 0
    assert "hung up: published a router that is refuted" in caplog.text


async def test_row_12_a_worker_that_crashes_is_tried_again_and_nobody_is_blamed(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    _, run = pinned(tmp_path / "source")
    scheduler = await swarm.start(SCHEDULER)
    publish(scheduler, run, honest(run, tmp_path))
    anna = await swarm.start("anna", worker=RealReader, crash=3)
    await until(lambda: anna.parts.activity.reason.code == "own-failure")
    assert "SIGSEGV" in anna.parts.activity.reason.text
    await until(lambda: anna.parts.activity.verdict == "verified")
    assert sum(isinstance(job, Derive) for _, job in anna.worker.begun) == 4
    assert anna.parts.reputation.strikes(scheduler.parts.me) == 0


async def test_a_lie_that_the_manifest_shows_is_refuted_though_the_source_is_away(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    path, run = pinned(tmp_path / "source")
    spec = honest(run, tmp_path)
    scheduler = await swarm.start(SCHEDULER)
    scheduler.parts.run_store.publish("manifest", sign(run, key("owner")))
    path.unlink()
    anna = await swarm.start("anna", worker=RealReader)
    await until(lambda: anna.parts.activity.reason.code == "source-away")
    publish(scheduler, run, replace(spec, feat_seed=digest("chosen")))
    before = len(anna.worker.begun)
    await anna.ended.wait()
    assert isinstance(anna.error, Refusal) and not isinstance(anna.error, Unverifiable)
    assert len(anna.worker.begun) == before


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("no text in it", "body"),
        ("not allowed to read it", "run.local_sources"),
        ("a tokenizer of more tokens", "tokenizer.vocabulary"),
    ],
)
async def test_what_reading_again_does_not_change_ends_the_node(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock, how: str, words: str
) -> None:
    _, run = pinned(tmp_path / "source")
    spec = honest(run, tmp_path)
    if how == "no text in it":
        run = replace(run, source=replace(run.source, text_field="body"))
    elif how == "a tokenizer of more tokens":
        run = replace(run, tokenizer=replace(run.tokenizer, vocabulary=300))
    spec = replace(spec, manifest=run_id(run), vocabulary=run.tokenizer.vocabulary)
    scheduler = await swarm.start(SCHEDULER)
    publish(scheduler, run, spec)
    may_read = how != "not allowed to read it"
    anna = await swarm.start("anna", worker=RealReader, local_sources=may_read)
    await anna.ended.wait()
    assert isinstance(anna.error, Unverifiable) and words in str(anna.error)
    assert [type(job) for _, job in anna.worker.begun] == [Derive]
    assert anna.parts.reputation.strikes(scheduler.parts.me) == 0


async def test_neither_a_restart_nor_an_evicted_shard_streams_the_sample_again(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    _, run = pinned(tmp_path / "source")
    scheduler = await swarm.start(SCHEDULER)
    publish(scheduler, run, honest(run, tmp_path))
    anna = await swarm.start("anna", worker=RealReader)
    await until(lambda: anna.parts.activity.verdict == "verified")
    await swarm.kill(anna)
    shutil.rmtree(tmp_path / "anna" / "cache")
    again = await swarm.start("anna", worker=RealReader)
    await until(lambda: again.parts.activity.verdict == "verified")
    held = next(iter(again.parts.run_store.runs[run_id(run)].specs.values()))
    answer = await again.parts.worker.run(
        Materialise(manifest=run, spec=held.spec, window=0), no_progress
    )
    assert getattr(answer, "documents", 0) > 0
    assert not any(isinstance(job, Derive) for _, job in again.worker.begun)


# ---------------------------------------------------------------------- tampering


SPEC = derived(manifest())


def mutations() -> list[tuple[str, RouterSpec]]:
    """Every field of the spec, nested ones too, changed alone to another valid value."""
    changed: list[tuple[str, RouterSpec]] = []  # `manifest` is left out: a spec of another run
    assert SPEC.fit is not None
    for name, owner in [
        (n, SPEC) for n in SPEC.__struct_fields__ if n not in ("fit", "manifest")
    ] + [(n, SPEC.fit) for n in SPEC.fit.__struct_fields__]:
        value = getattr(owner, name)
        other: Any
        if value is msgspec.UNSET and owner is SPEC:
            other = SpecBasis(terms=bytes(4), idf=b"\1", columns=bytes(2 * SPEC.dimension))
        elif value is None or value is msgspec.UNSET:
            other = bytes(32)
        elif isinstance(value, bytes):
            other = bytes([value[0] ^ 1]) + value[1:]
        elif isinstance(value, tuple):
            other = (value[0] + 1, value[1] - 1, *value[2:])
        elif isinstance(value, str):
            other = "other" if name != "kind" else "round_robin"
        else:
            other = value + (8 if name == "dimension" else 1)
        new: Any = msgspec.structs.replace(owner, **{name: other})
        spec: RouterSpec = new if owner is SPEC else msgspec.structs.replace(SPEC, fit=new)
        changed.append((f"fit.{name}" if owner is SPEC.fit else name, spec))
    return changed


@pytest.mark.parametrize(("field", "tampered"), mutations(), ids=[m[0] for m in mutations()])
async def test_a_spec_with_any_one_field_changed_is_never_trained(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock, field: str, tampered: RouterSpec
) -> None:
    scheduler = await swarm.start(SCHEDULER)
    publish(scheduler, manifest(), tampered)
    anna = await swarm.start("anna")
    await anna.ended.wait()
    assert isinstance(anna.error, Refusal)
    assert not any(trains(job) for job in anna.worker.done)
    assert anna.parts.activity.verdict in ("refuted", "unverifiable")
    assert [type(job) for job in anna.worker.done] in ([], [Derive])  # and no lease was asked for
    refuted = anna.parts.activity.verdict == "refuted"
    assert scheduler.parts.run_store.runs[RUN].said.get(spec_digest(tampered), {}) == (
        {anna.parts.me: Outcome.REFUTED} if refuted else {}
    )
