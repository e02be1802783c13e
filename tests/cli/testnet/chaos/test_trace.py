"""Rules of this file: lines as the daemon's log has them, and times that are given."""

import json

import pytest

from dipaco.cli.testnet.chaos.tape import Fault
from dipaco.cli.testnet.chaos.trace import Happened, fault_report, rate, read_line
from dipaco.cli.views.chaos import Happening

NAMES = {"12D3KooW...aaaa": "node-1", "12D3KooW...bbbb": "node-2"}
LINES = {
    "lease train (path 1 round 2) to=12D3KooW...aaaa": ("lease", 1, 2, "node-1", "train"),
    "lease seed (seed model) to=12D3KooW...bbbb": ("lease", None, None, "node-2", "seed"),
    "accepted path=1 round=2 of=12D3KooW...bbbb": ("accepted", 1, 2, "node-2", ""),
    "lease ended token=d129b356: 12D3KooW...aaaa went away": (
        "ended",
        None,
        None,
        "",
        "12D3KooW...aaaa went away",
    ),
    "ledger ModuleUpdated": ("record", None, None, "", "ModuleUpdated"),
}


@pytest.mark.parametrize("message", LINES)
def test_a_line_of_the_log_is_read_in_both_formats(message: str) -> None:
    for line in (
        f"2026-11-28T10:43:26 info    {message}",
        json.dumps({"time": 1.0, "level": "info", "logger": "x", "message": message}),
    ):
        found = read_line(line, 7.0, "rendezvous", NAMES)
        assert found is not None
        what, path, round_, peer, text = LINES[message]
        assert (found.time, found.node, found.what) == (7.0, "rendezvous", what)
        assert (found.path, found.round, found.peer, found.text) == (path, round_, peer, text)


def test_other_lines_tell_nothing() -> None:
    line = "2026-11-28T10:43:26 info    state waiting: asks again within 10 s"
    assert read_line(line, 1.0, "node-1", NAMES) is None
    ready = read_line("ready    5 peers", 1.0, "node-1", NAMES)
    assert ready is not None and ready.what == "ready"


def happening(time: float, what: str, peer: str = "", path: int | None = None) -> Happening:
    round_, text = (None, "") if path is None else (1, "train")
    return Happening(
        time=time,
        node="rendezvous",
        what=what,  # type: ignore[arg-type]
        path=path,
        round=round_,
        peer=peer,
        text=text,
    )


FREEZE = Fault(number=1, at=5.0, round=None, kind="freeze", targets=("node-1",), seconds=20.0)


def test_a_fault_is_told_by_the_leases_that_its_node_held() -> None:
    trace = [
        happening(1.0, "lease", "node-1", 0),
        happening(1.5, "lease", "node-1", 1),
        happening(2.0, "lease", "node-2", 2),
        happening(4.0, "accepted", "node-1", 0),
        happening(14.0, "record"),
        happening(32.0, "ended"),
        happening(33.0, "lease", "node-2", 1),
        happening(40.0, "accepted", "node-2", 1),
    ]
    happened = Happened(fault=FREEZE, met=("node-1",), began=12.0, ended=32.0)
    report = fault_report(FREEZE, happened, trace)
    [held] = report.held
    assert (held.path, held.leased_again, held.accepted) == (1, 21.0, 28.0)
    assert (report.next_record, report.next_lease, report.freed) == (2.0, 21.0, 20.0)


def test_a_result_that_comes_before_any_other_lease_was_kept() -> None:
    trace = [
        happening(1.0, "lease", "node-1", 1),
        happening(20.0, "accepted", "node-1", 1),
        happening(21.0, "lease", "node-2", 1),
    ]
    happened = Happened(fault=FREEZE, met=("node-1",), began=12.0)
    [held] = fault_report(FREEZE, happened, trace).held
    assert (held.leased_again, held.accepted) == (None, 8.0)


def test_a_fault_that_was_not_reached_has_its_plan_alone() -> None:
    report = fault_report(FREEZE, None, [])
    assert (report.at, report.began, report.met, report.held) == (5.0, None, (), ())


def test_the_next_lease_after_a_restart_counts_from_its_ready_line() -> None:
    restart = Fault(
        number=1, at=5.0, round=None, kind="restart", targets=("scheduler",), seconds=1.0
    )
    trace = [happening(20.0, "lease", "node-1", 1)]
    happened = Happened(
        fault=restart, met=("rendezvous",), began=12.0, ended=13.0, started=13.0, ready=16.5
    )
    report = fault_report(restart, happened, trace)
    assert (report.ready, report.next_lease) == (3.5, 3.5)


def test_throughput_is_counted_in_accepted_paths_a_minute() -> None:
    trace = [happening(time, "accepted", "node-1", 1) for time in (1.0, 10.0, 20.0, 31.0)]
    assert rate(trace, 5.0, 35.0) == 6.0
    assert rate(trace, 5.0, 5.0) is None
