"""Rules of this file: a run's ledger, as its scheduler signs it, is trained again from a file or a
home; the command line in this process, no daemon."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from dipaco.cli.exits import Exit
from dipaco.cli.main import run as dipaco_node
from dipaco.node.jobs.values import Derive
from dipaco.node.reference.replay import RememberedRun
from dipaco.node.reference.run import derive_spec
from dipaco.node.runs.files import keep_run, sign_manifest
from dipaco.node.runs.store import RunStore
from dipaco.node.storage.files import Home
from dipaco.node.storage.journal import Journal
from dipaco.node.worker.performer import Performer
from dipaco.protocol.routing.spec import spec_digest
from dipaco.protocol.run.manifest import Manifest, run_id
from dipaco.protocol.run.modules import ModuleDigest, digest_of
from dipaco.protocol.run.training import Quorum
from dipaco.protocol.wire.signed import sign
from dipaco.protocol.work.kinds import Evaluated, Seeded
from dipaco.protocol.work.ledger import (
    Contribution,
    Entry,
    ModuleUpdated,
    RoundMissed,
    SpecAdopted,
)
from tests.node.reference.test_run import tiny
from tests.settings import settings
from tests.values import digest, key, peer


def the_run() -> Manifest:
    value = tiny()
    quorum = Quorum(num=1, den=2, grace=0)
    return replace(value, name="late", training=replace(value.training, quorum=quorum))


def history(home: Path, value: Manifest) -> Iterator[Entry]:
    """Train the run, in which path 3 misses round 1, and yield the entries of its ledger."""
    performer = Performer(settings(home))
    first = derive_spec(Derive(manifest=value), performer, lambda what, progress: None)
    run = RememberedRun(value, [first], performer, lambda what, progress: None)
    top, steps = value.topology, dict.fromkeys(range(4), 0)
    yield SpecAdopted(epoch=0, spec=spec_digest(first), live=(0, 1, 2, 3))
    run.seed()
    states = tuple(ModuleDigest(module=m, digest=run.states[m][0]) for m in top.modules)
    yield Seeded(peer=peer("anna"), states=states)
    for version in (1, 2):
        missed = (3,) if version == 1 else ()
        run.whole_round(version, missed)
        yield from (RoundMissed(path=path, round=version) for path in missed)
        for path in {0, 1, 2, 3}.difference(missed):
            steps[path] += value.training.inner_steps
        for module in top.modules:
            paths = [path for path in top.paths_through(module) if path not in missed]
            step = run.stepped[module, version]
            given = tuple(
                Contribution(
                    path=path,
                    peer=peer("anna"),
                    delta=digest_of(module, run.trained[path, version][1].deltas),
                    weight=first.tokens[path],
                    moments=digest_of(module, run.trained[path, version][1].moments),
                    steps=steps[path],
                )
                for path in paths
            )
            yield ModuleUpdated(
                module=module,
                version=version,
                contributions=given,
                state=step.state,
                momentum=step.momentum,
            )
        found = run.evaluations[version, 3]
        yield Evaluated(path=3, version=version, peer=peer("anna"), evaluation=found)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home that keeps its shards from test to test."""
    return tmp_path_factory.mktemp("trained")


@pytest.fixture(scope="module")
def entries(trained: Path) -> list[Entry]:
    return list(history(trained, the_run()))


def put_into(home: Path, *entries: Entry) -> Path:
    """Put the run and its ledger into a home."""
    value = the_run()
    keep_run(home, sign_manifest(value, key("owner")))
    journal = Journal.open(Home.at(home).journal)
    run_store = RunStore(journal)
    run_store.publish("manifest", sign(value, key("owner")))
    for entry in entries:
        run_store.append(run_id(value), entry, key("scheduler"))
    journal.close()
    return home


def test_a_ledger_is_written_to_a_file_and_trained_again_to_the_bit(
    entries: list[Entry], trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, file = put_into(tmp_path / "home", *entries), tmp_path / "late.ledger"
    command = ["run", "ledger", "late", "--out", str(file), "--home", str(home)]
    assert dipaco_node(command) == Exit.OK
    assert f"late, {len(entries)} records" in capsys.readouterr().out
    again = ["reference", "--ledger", str(file), "--home", str(trained)]
    assert dipaco_node(again) == Exit.OK
    out = capsys.readouterr().out
    assert f"{len(entries)} records of {len(entries)}: all came out the same" in out


CHANGES = {
    "delta": "the delta of path 0, trained by ",
    "moments": "the moments of path 0, trained by ",
    "state": "the state is ",
    "momentum": "the momentum is ",
    "weight": "weight and steps of path 0",
}


def changed(entry: Entry, field: str) -> Entry:
    """Return an outer step with another value in one field, its own or its first contribution's."""
    assert isinstance(entry, ModuleUpdated)
    other: object = 7 if field == "weight" else digest("another")
    if field in ("state", "momentum"):
        return replace(entry, **{field: other})
    first, *rest = entry.contributions
    return replace(entry, contributions=(replace(first, **{field: other}), *rest))


def test_the_first_record_that_differs_is_named(
    entries: list[Entry], trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    number = next(n for n, each in enumerate(entries) if isinstance(each, ModuleUpdated))
    for field, said in CHANGES.items():
        home = put_into(tmp_path / field, *entries[:number], changed(entries[number], field))
        again = ["reference", "--ledger", str(home), "--home", str(trained)]
        assert dipaco_node(again) == Exit.ERROR
        out = capsys.readouterr().out
        assert f"{number} records of {number + 1} came out the same; record {number}, module" in out
        assert said in out


def test_a_ledger_that_cannot_be_read_is_refused_by_name(
    entries: list[Entry], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, file = put_into(tmp_path / "home", *entries[:2]), tmp_path / "late.ledger"
    command = ["run", "ledger", "late", "--out", str(file), "--home", str(home)]
    assert dipaco_node(command) == Exit.OK
    assert dipaco_node(["reference", "other", "--ledger", str(file)]) == Exit.USAGE
    assert "run: other is not here; here: late" in capsys.readouterr().err
    whole = file.read_bytes()
    empty = put_into(tmp_path / "empty")
    cases = {
        whole[:-1]: "damaged, or cut off, at byte",
        b"something else": "not a ledger file",
        whole[:16]: "ends before the manifest",
        whole[:-5] + bytes(5): "record 1: the signature of this LedgerRecord is wrong",
    }
    for data, said in cases.items():
        file.write_bytes(data)
        assert dipaco_node(["reference", "--ledger", str(file)]) == Exit.REFUSED
        assert said in capsys.readouterr().err
    assert dipaco_node(["reference", "--ledger", str(empty)]) == Exit.USAGE
    assert f"{empty}: has no ledger\n" in capsys.readouterr().err
    assert dipaco_node(["reference", "late", "--ledger", str(empty)]) == Exit.USAGE
    assert "has no ledger of late" in capsys.readouterr().err
    assert dipaco_node(["reference", "--ledger", str(empty), "--seed", "1"]) == Exit.USAGE
