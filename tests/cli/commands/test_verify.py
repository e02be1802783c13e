"""Rules of this file: the home after a run that re-sharded, with its ledger as a scheduler signs;
the command line in this process, no daemon."""

import dataclasses
import json
import shutil
from pathlib import Path

import msgspec
import pytest

from dipaco.cli.exits import Exit
from dipaco.cli.main import run as dipaco_node
from dipaco.node.jobs.values import PerformLease
from dipaco.node.reference.run import ReferenceResult
from dipaco.node.runs.files import keep_run, sign_manifest
from dipaco.node.runs.store import RunStore
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.files import Home
from dipaco.node.storage.journal import Journal
from dipaco.node.worker.performer import Performer
from dipaco.protocol.routing.labels import read_sheet, sheet_bytes
from dipaco.protocol.routing.spec import spec_digest
from dipaco.protocol.run.manifest import Manifest, run_id
from dipaco.protocol.run.modules import ModuleDigest
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.signed import sign
from dipaco.protocol.work.kinds import TOKEN_BYTES, Scored, ScoreLease, ScoreResult, Seeded, Sheet
from dipaco.protocol.work.ledger import Contribution, Entry, ModuleUpdated, SpecAdopted
from tests.node.reference.test_run import resharding, run
from tests.settings import settings
from tests.values import digest, key, peer


def the_run() -> Manifest:
    value = resharding()
    training = msgspec.structs.replace(value.training, inner_steps=2, inner_state="reset")
    return msgspec.structs.replace(value, training=training)


def scores(home: Path, value: Manifest, result: ReferenceResult) -> list[Scored]:
    """Do every score lease of the run; leaves the sheets in the home's store."""
    performer, found = Performer(settings(home)), []
    for path, names in enumerate(value.topology.path_modules):
        for window in range(2):
            lease = ScoreLease(
                run=run_id(value),
                token=bytes(TOKEN_BYTES),
                path=path,
                version=1,
                window=window,
                spec=spec_digest(result.specs[0]),
                modules=tuple(ModuleDigest(module=m, digest=result.states[m][1]) for m in names),
                ttl=20,
            )
            job = PerformLease(manifest=value, spec=result.specs[0], lease=lease)
            answer = performer.perform(job, lambda progress: None)
            assert isinstance(answer, ScoreResult)
            found.append(Scored(path=path, window=window, peer=peer("anna"), sheet=answer.sheet))
    return found


def write_ledger(
    home: Path, value: Manifest, result: ReferenceResult, sheets: list[Scored]
) -> None:
    """Put the run and its ledger, up to the switch, into the home."""
    keep_run(home, sign_manifest(value, key("owner")))
    journal = Journal.open(Home.at(home).journal)
    run_store, top, scheduler = RunStore(journal), value.topology, key("scheduler")
    run_store.publish("manifest", sign(value, key("owner")))
    for spec in result.specs:
        run_store.publish("spec", sign(spec, scheduler))
    states = tuple(ModuleDigest(module=m, digest=result.states[m][0]) for m in top.modules)
    updates = [
        ModuleUpdated(
            module=module,
            version=1,
            contributions=tuple(
                Contribution(path=p, peer=peer("anna"), delta=digest(f"{p}"), weight=1)
                for p in top.paths_through(module)
            ),
            state=result.states[module][1],
            momentum=digest("momentum"),
        )
        for module in top.modules
    ]
    first, second = (SpecAdopted(epoch=e, spec=spec_digest(s)) for e, s in enumerate(result.specs))
    seeded = Seeded(peer=peer("anna"), states=states)
    entries: list[Entry] = [first, seeded, *updates, *sheets, second]
    for entry in entries:
        run_store.append(run_id(value), entry, scheduler)
    journal.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ReferenceResult]:
    """Return a home with blobs and shards, and what the run came to; no ledger yet."""
    home = tmp_path_factory.mktemp("home")
    return home, run(the_run(), home)


@pytest.fixture
def home(made: tuple[Path, ReferenceResult], tmp_path: Path) -> Path:
    """Return a home of its own, with the honest ledger."""
    home, value = tmp_path / "home", the_run()
    shutil.copytree(made[0], home)
    write_ledger(home, value, made[1], scores(home, value, made[1]))
    return home


def verify(home: Path, capture: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict]:  # type: ignore[type-arg]
    capture.readouterr()
    code = dipaco_node(("verify", the_run().name, "--home", str(home), "--json", *more))
    return code, json.loads(capture.readouterr().out)


def test_both_routers_are_derived_again_and_scores_done_again_agree(
    home: Path, made: tuple[Path, ReferenceResult], capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = verify(home, capsys)
    assert (code, said["verdict"]) == (0, "verified")
    assert said["spec"] == said["own"] == spec_digest(made[1].specs[1]).hex()
    code, said = verify(home, capsys, "--labels", "5")
    assert (code, said["verdict"], said["stage"]) == (0, "verified", "labels")
    assert said["reason"].startswith("5 scores of path ")


def test_a_spec_is_no_better_than_the_one_that_it_was_made_from(
    made: tuple[Path, ReferenceResult], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The ledger's first router has false counts, of which the second takes over nothing."""
    home, value, (first, second) = tmp_path / "home", the_run(), made[1].specs
    shutil.copytree(made[0], home)
    false = msgspec.structs.replace(first, tokens=(first.tokens[0] + 1, *first.tokens[1:]))
    told = dataclasses.replace(made[1], specs=(false, second))
    write_ledger(home, value, told, scores(home, value, made[1]))
    (tmp_path / "second.spec").write_bytes(encode(second))
    code, said = verify(home, capsys, "--spec", str(tmp_path / "second.spec"))
    assert (code, said["verdict"], said["stage"]) == (Exit.REFUSED, "refuted", "counts")
    assert said["spec"] == spec_digest(false).hex()


def test_a_score_that_is_off_is_found_when_it_is_done_again(
    made: tuple[Path, ReferenceResult], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, value = tmp_path / "home", the_run()
    shutil.copytree(made[0], home)
    blobs = BlobStore(Home.at(home).blobs)
    lies = []
    for entry in scores(home, value, made[1]):
        data = blobs.read(entry.sheet.digest, 4 * entry.sheet.documents)
        lie = sheet_bytes([q + 20 for q in read_sheet(data, entry.sheet.documents).tolist()])
        sheet = Sheet(digest=blobs.write(lie), documents=entry.sheet.documents)
        lies.append(msgspec.structs.replace(entry, sheet=sheet))
    write_ledger(home, value, made[1], lies)  # all off by as much: the labels are the honest ones
    assert verify(home, capsys)[0] == Exit.OK
    code, said = verify(home, capsys, "--labels", "3")
    assert (code, said["verdict"], said["stage"]) == (Exit.REFUSED, "refuted", "labels")
    assert "is claimed to score" in said["reason"] and "(3 of 3 checked)" in said["reason"]


@pytest.mark.parametrize("more", [(), ("--labels", "3")])
def test_without_the_sheets_it_cannot_be_told(
    home: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...]
) -> None:
    journal = Journal.open(Home.at(home).journal)
    record = RunStore(journal).runs[run_id(the_run())]
    journal.close()
    for entry in record.state.sheets():
        BlobStore(Home.at(home).blobs).remove(entry.sheet.digest)
    code, said = verify(home, capsys, *more)
    assert (code, said["verdict"]) == (Exit.UNVERIFIABLE, "unverifiable")
    assert said["stage"] == "labels" and "scores of path 0" in said["reason"]


def test_scores_are_done_again_of_a_run_that_has_some_and_of_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep_run(tmp_path, sign_manifest(the_run(), key("owner")))
    code, said = verify(tmp_path, capsys, "--labels", "3")
    assert code == Exit.UNVERIFIABLE and "knows no ledger" in said["reason"]
    usage = ("verify", the_run().name, "--home", str(tmp_path), "--labels", "3", "--out", "x")
    assert dipaco_node(usage) == Exit.USAGE
