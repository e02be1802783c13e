"""Events, lines of the log, tasks and peers as text."""

import time

import pytest
from msgspec.structs import replace

from dipaco.cli.views.events import event_text, line_text
from dipaco.cli.views.layout import cells_of
from dipaco.cli.views.peers import peers_text
from dipaco.cli.views.status import short_text
from dipaco.cli.views.work import tasks_text
from dipaco.node.status.events import Event, LogLine
from tests.node.api.fake_node import PEER, RUN, status, task, work


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "localtime", time.gmtime)


def test_an_event_is_its_time_kind_code_and_text() -> None:
    full = Event(number=1, time=0.0, kind="state", code="disk", text="full", state="paused")
    assert event_text(full) == "1970-01-01T00:00:00 state disk: full"
    lost = replace(work(1, "lost"), reason="too late")
    ended = Event(
        number=2, time=1.0, kind="task", code="lost", text="path 1 round 1", run=RUN, task=lost
    )
    assert event_text(ended) == (
        "1970-01-01T00:00:01 task  lost (abababab): path 1 round 1: too late"
    )


def test_a_line_of_the_log_is_as_on_stderr_and_printable() -> None:
    line = LogLine(number=1, time=0.0, level="warning", text="peer \x1b[31m\u202e")
    assert line_text(line) == r"1970-01-01T00:00:00 warning peer \x1b[31m\u202e"


def test_tasks_stand_in_order_with_all_that_is_known() -> None:
    lost = replace(work(1, "handed-back"), reason="paused by you", loss=None, sent=0)
    first, second = tasks_text((work(2, "working"), lost), None).splitlines()[1:]
    told = "1 2027-01-15T07:59:30 demo train 1 1 25 26 s 1,500 - 2.0 MB -"
    assert first.split() == f"{told} handed back: paused by you".split()
    assert second.split()[-1] == "working" and "4.250" in second
    assert tasks_text((), 80) == "no task yet"


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_tables_fit_the_terminal(width: int) -> None:
    many = tuple(replace(work(n), reason="a long reason of a peer " * 4) for n in range(3))
    for text in (tasks_text(many, width), peers_text(status(), width)):
        assert max(map(cells_of, text.splitlines())) <= width


def test_a_peer_is_told_with_its_round_trip_and_since_when() -> None:
    line, number = peers_text(status(), None).splitlines()[1:]
    assert line.split() == f"{PEER} /ip4/127.0.0.1/tcp/1 0.5 ms 0 bytes 0 bytes 16 min 40 s".split()
    assert number == "1 peer"
    assert peers_text(replace(status(), peers=()), None) == "0 peers"


def test_a_short_status_is_one_line() -> None:
    assert short_text(status(work=task())) == (
        "training: path 1 round 1: 12 of 25 steps  demo round 1 of 5  1 peer"
    )
    assert "  no run  " in short_text(replace(status(), run=None))
