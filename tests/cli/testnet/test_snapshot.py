"""Rules of this file: made-up snapshots; no process, no clock."""

import msgspec
import pytest
from rich.console import Console

from dipaco.cli.testnet.display import LiveView, PlainView, view
from dipaco.cli.testnet.local_run import local_keys, local_run
from dipaco.cli.testnet.network import Watchdog
from dipaco.cli.testnet.snapshot import Snapshot, nodes_in_a_lease, remaining, round_of, share_done
from dipaco.node.status.document import Status, TaskStatus
from dipaco.protocol.wire.identity import peer_id
from tests.node.api.fake_node import PEER, ledger, status, task

MANIFEST = local_run(None, seed=0, rounds=2).run.manifest
MODULES = MANIFEST.topology.modules


def snapshot(
    version: int | None,
    *,
    elapsed: float = 10.0,
    records: int = 7,
    **tasks: TaskStatus | None,
) -> Snapshot:
    """A network whose modules stand at `version`; a node for every task."""
    statuses: dict[str, Status] = {"rendezvous": status()}
    for name, work in tasks.items():
        statuses[name] = status(peer=PEER[:-1] + name[-1], work=work)
    versions = {} if version is None else {str(m): version for m in MODULES}
    return Snapshot(elapsed, statuses, ledger(versions, records=records, finished=version == 2))


def test_the_round_is_that_of_the_slowest_module() -> None:
    assert round_of(snapshot(None)) == 0
    assert round_of(snapshot(0)) == 1
    mixed = msgspec.structs.replace(ledger(), versions={"stem": 1, "L1.E0": 0})
    assert round_of(Snapshot(1.0, {}, mixed)) == 1


def test_a_volunteer_counts_as_in_the_middle_of_a_paths_lease_alone() -> None:
    def found(work: TaskStatus | None) -> list[str]:
        return nodes_in_a_lease(snapshot(0, n1=None, n2=work))

    assert found(task(done=12)) == ["n2"]
    assert found(None) == []
    assert found(task(done=0)) == []
    assert found(task(done=25)) == []
    assert found(task("seed", done=12)) == []


def test_the_time_left_follows_from_the_pace_since_the_seed_model() -> None:
    assert remaining(snapshot(None), MANIFEST, None) is None
    assert remaining(snapshot(0), MANIFEST, 10.0) is None
    halfway = snapshot(1, elapsed=40.0)
    assert share_done(halfway, MANIFEST) == 0.5
    assert remaining(halfway, MANIFEST, 10.0) == pytest.approx(30.0)


def test_the_watchdog_reports_only_after_its_limit_without_any_movement() -> None:
    dog = Watchdog(100.0)
    still = snapshot(0, n1=task(done=3)).movement
    assert not dog.is_still(still, 0.0)
    assert not dog.is_still(still, 100.0)
    assert dog.is_still(still, 100.1)
    assert not dog.is_still(snapshot(0, n1=task(done=4)).movement, 101.0)
    assert not dog.is_still(snapshot(0, n1=task(done=4), records=8).movement, 102.0)


def test_speed_is_summed_over_those_who_train() -> None:
    assert snapshot(0, n1=task(), n2=task("seed"), n3=None).tokens_per_second == 3000.0


def test_plain_lines_say_what_changed_and_not_what_did_not() -> None:
    console = Console(record=True, width=200, force_terminal=False)
    shown = PlainView(MANIFEST, console)
    shown.show(snapshot(0, n1=task()))
    first = console.export_text()
    for words in (
        "n1: router verified",
        "round 1 of 2  0%  1,500 tokens/s",
        "n1 train path 1 12/25",
    ):
        assert words in first
    shown.show(snapshot(0, elapsed=11.0, n1=task()))
    assert console.export_text() == ""
    shown.show(snapshot(1, elapsed=12.0, n1=task()))
    assert "round 2 of 2  50%" in console.export_text()
    shown.show(snapshot(2, elapsed=13.0, n1=task()))
    assert "done  100%" in console.export_text()


def test_a_terminal_sees_grid_holders_speed_loss_and_verdicts() -> None:
    console = Console(record=True, width=160, force_terminal=True)
    with view(MANIFEST, console) as shown:
        assert isinstance(shown, LiveView)
        shown.show(snapshot(0, n1=task(done=12)))
    text = console.export_text()
    for words in ("round 1 of 2", "(0,1) round 1 leased", "loss 4.250", "verified", "1,500"):
        assert words in text


def test_the_demo_is_a_pure_function_of_file_and_seed() -> None:
    again, other = local_run(None, seed=0, rounds=None), local_run(None, seed=1, rounds=None)
    first = local_run(None, seed=0, rounds=None)
    assert first.run.signed == again.run.signed
    assert first.run.id != other.run.id
    manifest = first.run.manifest
    assert manifest.schedule.schedulers == (peer_id(local_keys(0).rendezvous),)
    assert manifest.owner == peer_id(local_keys(0).owner) != manifest.schedule.schedulers[0]
    assert manifest.paths == 4
