"""Rules of this file: made-up reports of faults; no process."""

from typing import Any

import pytest
from msgspec.structs import replace
from rich.console import Console

from dipaco.cli.views.chaos import Chaos, FaultReport, Growth, HeldPath, chaos_lines, stood
from dipaco.cli.views.report import checked, print_report
from tests.cli.views.test_report import report

FAULT = FaultReport(
    number=1,
    at=12.0,
    round=None,
    kind="freeze",
    targets=("node-1",),
    seconds=20.0,
    way="both",
    met=("node-1",),
    began=40.0,
    ended=60.0,
    held=(HeldPath(node="node-1", path=2, round=3, leased_again=21.5, accepted=30.0),),
    freed=20.25,
    next_lease=1.0,
    next_record=4.0,
)
LEAK = Growth(node="node-1", start=1, what="daemon", first=1e8, last=2e8, bound=1.6e7, flat=False)


def chaos(**fields: Any) -> Chaos:
    known = Chaos(
        seed=5,
        faults=(FAULT,),
        applied=1,
        stuck="",
        checked="not checked",
        forked=False,
        heads=(),
        before=6.0,
        after=5.4,
    )
    return replace(known, **fields)


def test_a_report_shows_what_each_fault_cost() -> None:
    console = Console(width=160, record=True)
    print_report(replace(report(), chaos=chaos()), console)
    shown = console.export_text()
    assert "path 2 round 3" in shown and "21.50" in shown and "4.00" in shown
    assert "1 of 1 faults of the tape with seed 5 applied" in shown
    assert "6.0 paths a minute before the first fault, 5.4 from it on (90%)" in shown


def test_a_network_stands_its_faults_if_it_met_them_and_neither_forked_nor_grew() -> None:
    by_round = replace(FAULT, at=None, round=1)
    assert stood(chaos())
    assert not stood(chaos(applied=0))
    assert not stood(chaos(faults=(by_round, replace(by_round, round=2)), applied=1))
    assert stood(chaos(faults=(FAULT, FAULT), applied=1))
    assert not stood(chaos(forked=True))
    assert not stood(chaos(growth=(LEAK,)))
    assert stood(chaos(growth=(replace(LEAK, flat=True),)))


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"stuck": "nothing changed for 100 s"}, "stuck: nothing changed for 100 s"),
        ({"forked": True}, "two nodes hold different records at one place of the ledger"),
        ({"growth": (LEAK,)}, "node-1 grows: daemon from 100,000,000 to 200,000,000"),
        ({"checked": "same"}, "every module digest is that of one process"),
    ],
)
def test_what_is_wrong_is_said_in_words(fields: dict[str, Any], line: str) -> None:
    assert any(each.startswith(line) for each in chaos_lines(chaos(**fields)))


def test_a_digest_that_differs_from_one_process_fails_the_run() -> None:
    ours = replace(report(), chaos=chaos())
    same = checked(ours, report())
    assert same.completed and same.chaos is not None and same.chaos.checked == "same"
    other = checked(ours, report({"stem": {0: "aa", 1: "cc"}}))
    assert not other.completed and other.chaos is not None
    assert other.chaos.differences == ("module stem version 1: bb and cc",)
    assert "module stem version 1: bb and cc" in chaos_lines(other.chaos)
