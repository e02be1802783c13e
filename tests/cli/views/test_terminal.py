"""The terminal view as text: golden pictures at 80 and 40 columns, and whatever may come in."""

import time
from pathlib import Path

import pytest
from msgspec.structs import force_setattr, replace
from rich.console import Console, Group

from dipaco.cli.views.seen import Seen, losses_of
from dipaco.cli.views.terminal import Room, spark, terminal_lines
from dipaco.node.api.values import EvaluationView
from dipaco.node.status.document import DeviceStatus, PathStatus, Status, reason
from dipaco.node.status.events import Event, LogLine
from tests.node.api.fake_node import PEER, ledger, status, task
from tests.values import peer

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "localtime", time.gmtime)


def busy() -> Seen:
    """Return a node in work: with every part that there is."""
    events = tuple(
        Event(number=n, time=1_799_999_990.0 + n, kind="state", code=code, text=text)
        for n, code, text in ((7, "modules", "modules for path 1"), (8, "task", "path 1 round 1"))
    )
    now = replace(status(work=task()), events=(*status().events, *events))
    net = replace(now.network, up=200e3, down=600e3, max_up=500_000, today=4 * 10**9)
    device = DeviceStatus(text="cuda:0 Some card, 12 GB", celsius=71.0, max_celsius=83)
    shown = replace(
        now,
        network=replace(net, daily_quota=5 * 10**9),
        device=device,
        runs=(replace(now.runs[0], lease_until=now.time + 14.0),),
    )
    return Seen(status=shown, losses=(1096.7, 695.2, 509.7, 389.6, 337.4, 315.9))


def drawn(seen: Seen, width: int, height: int, *, ascii: bool = False) -> list[str]:
    """Return the lines that a terminal of this size shows, of which none is broken or too long."""
    lines = terminal_lines(seen, Room(width, height, ascii))
    console = Console(width=width, height=height, color_system=None, force_terminal=True)
    with console.capture() as captured:
        console.print(Group(*lines))
    shown = captured.get().removesuffix("\n").split("\n")
    assert len(shown) == len(lines) <= height and all(line.cell_len <= width for line in lines)
    return [line.rstrip() for line in shown]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 24), (40, 9)])
def test_a_node_in_work_is_drawn_as_in_the_golden_picture(width: int, height: int) -> None:
    golden = GOLDEN / f"terminal-{width}x{height}.txt"
    assert drawn(busy(), width, height) == golden.read_text().splitlines()


@pytest.mark.parametrize("height", [1, 2, 3, 4, 5, 7, 12, 60])
@pytest.mark.parametrize("width", [20, 31, 40, 59, 60, 133])
def test_keys_and_title_are_shown_in_every_room(width: int, height: int) -> None:
    lines = drawn(busy(), width, height)
    assert lines[-1].startswith("p") and "q" in lines[-1] and len(lines) == height
    if height >= 4:
        assert "demo round 1" in lines[0]
        assert lines[1].startswith("training: path 1")


def test_only_ascii_is_drawn_where_nothing_else_can_be_shown() -> None:
    for width in (80, 40, 20):
        assert all(line.isascii() for line in drawn(busy(), width, 24, ascii=True))


EVIL = [
    "[bold red]x[/] [link=file:///etc/passwd]y[/link] [/nothing]",
    "\x1b[2J\x1b]0;title\x07",
    "\u202egnp.exe",
    "\u05d0\u05d1 12 \u0627",  # letters from right to left: they turn round their neighbours
    "a\nb\rc\u2028d\x85",
    "\N{CJK UNIFIED IDEOGRAPH-6C34}" * 70,
]


@pytest.mark.parametrize("evil", EVIL)
@pytest.mark.parametrize("width", [80, 40])
def test_text_of_peers_is_shown_and_obeyed_by_nothing(evil: str, width: int) -> None:
    plain = busy()
    event = Event(number=9, time=0.0, kind="state", code=evil, text=evil)
    run = replace(plain.status.runs[0], name="demo")
    force_setattr(run, "name", evil)
    hostile = replace(
        plain.status,
        run=run,
        reasons=(replace(plain.status.reason, text=evil),),
        events=(event,),
    )
    line = LogLine(number=1, time=0.0, level="error", text=evil)
    seen = plain.with_status(hostile).noted(evil).with_line(line)
    for each in (seen, seen.turned(), seen.without_daemon(evil)):
        lines = drawn(each, width, 24)
        assert len(lines) == 24 and all(line.isprintable() for line in lines)
        assert not any(c in "\u05d0\u05d1\u0627" for line in lines for c in line)
    if evil.startswith("[bold"):
        assert "training: [bold red]x[/]" in drawn(seen, width, 24)[1]


def large(paths: int) -> Status:
    """Return a status with a grid of `paths` paths, of which this node holds the second."""
    swarm = tuple(
        PathStatus(
            path=number,
            experts=divmod(number, 16),
            round=1,
            holder=(PEER, peer("other"), "")[number % 3],
            state=("leased", "submitted", "idle")[number % 3],
            loss=4.0 if number % 3 == 0 else None,
        )
        for number in range(paths)
    )
    return replace(status(work=task()), swarm=swarm)


@pytest.mark.parametrize(
    ("paths", "words"),
    [(4, "this node  4.000"), (64, "(0,1) +"), (256, "*+.*+.*+."), (4096, "and 3,")],
)
def test_paths_are_shown_in_the_fullest_form_that_fits(paths: int, words: str) -> None:
    lines = drawn(busy().with_status(large(paths)), 80, 24)
    assert any(words in line for line in lines)
    assert any(line.startswith("events") for line in lines)


def test_a_daemon_that_is_away_is_told_and_the_last_document_stays() -> None:
    lines = drawn(busy().without_daemon("the daemon ended"), 80, 24)
    assert lines[1] == "no answer since 08:00:00, looks again: the daemon ended"
    assert any("path 1 round 1" in line for line in lines)
    assert drawn(busy().without_daemon("it ended").with_status(status()), 80, 24)[1].startswith(
        "training"
    )


def test_the_log_takes_the_place_of_paths_and_events() -> None:
    lines = [LogLine(number=n, time=0.0, level="info", text=f"line {n}") for n in range(1, 400)]
    seen = busy().with_whole_log(tuple(lines)).turned()
    shown = drawn(seen, 80, 24)
    assert shown[-2].endswith("line 399") and shown[3].startswith("00:00:00 line")
    assert not any(line.startswith("paths") for line in shown)
    assert drawn(seen.turned(), 80, 24) == drawn(busy(), 80, 24)


def test_losses_are_those_of_rounds_at_which_every_path_was_scored() -> None:
    scored = [
        EvaluationView(path=path, version=version, documents=1, tokens=10, nll=nll, peer=PEER)
        for path, version, nll in (
            (0, 0, 40.0),
            (1, 0, 60.0),
            (1, 1, 20.0),
            (0, 1, 20.0),
            (0, 2, 9),
        )
    ]
    found = losses_of(replace(ledger(), evaluations=tuple(scored)))
    assert [round(each, 3) for each in found] == [148.413, 7.389]
    assert losses_of(replace(ledger(), evaluations=())) == ()


def test_a_spark_line_shows_the_last_of_each_share() -> None:
    assert spark([1.0, 2.0, 3.0, 8.0], 4) == "▁▂▃█"
    assert spark([9.0, 1.0, 9.0, 8.0], 2, ascii=True) == "_@"
    assert spark([5.0, 5.0], 9) == "▁▁"


def test_a_node_without_a_task_tells_its_place_in_the_queue() -> None:
    waits = replace(status(), runs=(replace(status().runs[0], place=2, places=3),))
    for width in (80, 40):
        assert any(
            line.endswith("no task, place 2 of 3") for line in drawn(Seen(status=waits), width, 24)
        )


def test_each_state_and_a_node_without_a_run_are_drawn() -> None:
    empty = replace(
        status(),
        state="connecting",
        reason=reason("no-peer", 1.0, trouble="no seed answers"),
        reasons=(),
        run=None,
        runs=(),
        swarm=(),
        events=(),
    )
    for width in (80, 40):
        lines = drawn(Seen(status=empty), width, 24)
        assert "no run" in lines[0] and lines[1] == "connecting: no seed answers"
