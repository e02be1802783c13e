"""Rules of this file: no daemon; states, reasons and sums alone."""

import logging
from pathlib import Path

import pytest

from dipaco.node.jobs.values import Progress
from dipaco.node.status.activity import Activity, so_far
from dipaco.node.status.document import Reason
from dipaco.node.status.totals import Sums
from dipaco.node.storage.files import DiskFull
from dipaco.node.storage.journal import Journal
from dipaco.protocol.wire.digest import sha256

ONE, TWO = sha256(b"one"), sha256(b"two")


def scheduling(activity: Activity, run: bytes, leases: int) -> None:
    told = activity.of(sha256(run))
    told.leases = leases
    told.say("scheduling", round=1, rounds=2, held=leases, paths=4, parked="")


def test_a_node_of_several_runs_is_named_by_the_busiest() -> None:
    activity = Activity()
    scheduling(activity, b"one", 1)
    scheduling(activity, b"two", 3)
    assert activity.by_busyness == [TWO, ONE] and "3 of 4 paths" in activity.reason.text
    activity.of(ONE).say("outer-step", module="stem", round=1)
    assert (activity.state, activity.reason.code) == ("training", "outer-step")
    activity.of(ONE).say("run-over", round=2, rounds=2, next="")
    assert activity.reason.code == "scheduling"


def test_a_pause_or_an_end_of_the_node_covers_every_run() -> None:
    activity = Activity()
    full = Reason(code="disk", text="full", since=5.0)
    activity.pause(full, Reason(code="hot", text="86 C", since=6.0))
    scheduling(activity, b"one", 1)
    assert activity.reason == full and [each.code for each in activity.reasons] == ["disk", "hot"]
    activity.say("resuming")
    assert [each.code for each in activity.reasons] == ["resuming"]
    scheduling(activity, b"one", 1)
    assert activity.reason.code == "scheduling"
    activity.say("stopping")
    assert activity.state == "stopping"


def test_what_holds_beside_the_work_is_told_once_and_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="dipaco")
    run = Activity().of(ONE)
    run.say("task", work="path 1", progress="")
    for silent in ("3 s", "6 s", "9 s"):
        run.say_beside("scheduler-away", problem=f"silent for {silent}", wait=3.0)
    first, beside = run.own_reasons
    assert first.code == "task" and "silent for 9 s, next try in 3 s" in beside.text
    assert beside.until is not None and beside.since < beside.until
    run.say("scheduler-away", problem="silent", wait=1.0)
    assert [each.code for each in run.own_reasons] == ["scheduler-away"]
    assert run.own_reason.since == beside.since
    run.no_longer("scheduler-away")
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2 and told[1].startswith("scheduler-away: over after")


def test_no_progress_is_told_before_it_is_known() -> None:
    assert so_far(Progress(stage="read", done=0, total=0)) == ""
    known = Progress(stage="read", done=1, total=3, unit="documents", per_second=0.5)
    assert so_far(known) == ": 1 of 3 documents, 4 s left"


def test_sums_go_on_where_the_journal_ends(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal.sqlite")
    sums = Sums(journal, lambda: (5, 7))
    sums.accept(100, 2.5)
    sums.refuse()
    journal.close()
    again = Sums(Journal.open(tmp_path / "journal.sqlite"), lambda: (1, 1))
    found = again.now()
    assert (found.accepted, found.refused, found.tokens, found.seconds) == (1, 1, 100, 2.5)
    assert (found.sent, found.received) == (6, 8)


def test_nothing_is_written_that_did_not_change_and_a_full_disk_loses_no_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, written = Journal.open(tmp_path / "journal.sqlite"), []
    save = journal.save_totals
    monkeypatch.setattr(journal, "save_totals", lambda totals: written.append(totals))
    sums = Sums(journal)
    sums.save()
    sums.accept(100, 2.5)
    sums.save()
    assert len(written) == 1

    def full(totals: object) -> None:
        raise DiskFull("no space left")

    monkeypatch.setattr(journal, "save_totals", full)
    sums.accept(100, 2.5)
    monkeypatch.setattr(journal, "save_totals", save)
    sums.save()
    assert Sums(journal).now().accepted == 2
