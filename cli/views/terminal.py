"""The terminal view as lines of styled text: a pure function of what was seen and of the room.

No line is wider than the terminal and there are never more of them than it has. What does not fit
is left out whole, the least important part first. Text of peers is data here and never markup, and
what a terminal would obey in it is shown as an escape.
"""

import time
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Final

from rich.text import Text

from dipaco.cli.views.grid import grid_lines, legend
from dipaco.cli.views.layout import fitted
from dipaco.cli.views.seen import Seen
from dipaco.node.status.document import (
    DeviceStatus,
    NetworkStatus,
    RunBlock,
    RunStatus,
    Status,
    TaskStatus,
)
from dipaco.node.status.events import Event, State
from dipaco.protocol.numbers import amount, count, size, span
from dipaco.protocol.wire.identity import PeerId, short_peer
from dipaco.protocol.wire.text import escaped

NARROW: Final = 60  # columns below which names stand on fewer of them and notes are left out
LEAST_HEIGHT: Final = 4  # lines: state, reason, this node, keys
REASON_LINES: Final = 2  # of a reason; `dipaco-node why` has all of it
BAR: Final = 24  # columns of a bar at most
SPARKS: Final = ("▁▂▃▄▅▆▇█", "_.-=+*#@")  # as drawn, and where only ASCII can be shown
BARS: Final = ("█░", "#.")
RULE: Final = ("─", "-")
STYLES: Final[dict[State, str]] = {
    "training": "bold green",
    "serving": "bold green",
    "paused": "bold yellow",
    "waiting": "bold yellow",
    "refused": "bold red",
    "stopping": "bold red",
}
KEYS: Final = (
    ("p", "pause"),
    ("r", "resume"),
    ("f", "finish"),
    ("l", "log"),
    ("q", "close the view"),
)
TURNED: Final = frozenset({"R", "AL", "AN", "RLE", "RLO", "RLI", "LRE", "LRO", "LRI"})
"""Classes of characters that would turn round what stands beside them."""


@dataclass(frozen=True)
class Room:
    """The terminal's size, and what it can show."""

    width: int
    height: int
    ascii: bool = False
    """Only ASCII can be shown."""

    @property
    def narrow(self) -> bool:
        """Whether there is no room for more than the figures."""
        return self.width < NARROW

    @property
    def hang(self) -> int:
        """Columns of a part's name."""
        return 7 if self.narrow else 10


@dataclass(frozen=True)
class Part:
    """Some lines, and how early they are left out."""

    lines: list[Text]
    drop: int
    """The part with the largest number goes first if there is no room; 0: it stays."""


def harmless(text: str) -> str:
    """Return text of whomever as one that changes neither the terminal nor its neighbours."""
    return "".join(
        ascii(c)[1:-1] if unicodedata.bidirectional(c) in TURNED else c for c in escaped(text)
    )


def terminal_lines(seen: Seen, room: Room) -> list[Text]:
    """Return the whole picture: `room.height` lines at most, none wider than `room.width`."""
    status, height = seen.status, max(room.height, LEAST_HEIGHT)
    head = Part([_title(status, room), *_state(seen, room)], 0)
    node = Part(_node(status, room), 1)
    foot = Part(_foot(seen, room), 0)
    if seen.shows_log:
        parts = [head, Part(_log(seen, room, height - _height([head, foot])), 0)]
    else:
        parts = _fitting([head, node, *_figures(seen, room)], height - len(foot.lines))
        left = height - _height([*parts, foot])  # grid and events share it
        parts += _grid(status, room, left)
        parts += _events(status, room, height - _height([*parts, foot]))
    lines = [line for part in parts for line in part.lines]
    above = room.height - len(foot.lines)  # the keys stand on the last line
    lines = [*lines[:above], *[Text()] * (above - len(lines)), *foot.lines]
    return [_cut(line, room) for line in lines[-room.height :]]


def _figures(seen: Seen, room: Room) -> list[Part]:
    status = seen.status
    return [
        Part(_named("router", _router(status.run, room), room) if status.run else [], 6),
        Part(_network(status.network, room), 2),
        Part(_named("loss", _losses(seen, room), room) if seen.losses else [], 3),
        Part(_named("done", _done(status, room), room), 4),
    ]


def _fitting(parts: Sequence[Part], height: int) -> list[Part]:
    """Return the parts for which there is room."""
    kept = list(parts)
    while _height(kept) > height and (last := max(kept, key=lambda each: each.drop)).drop:
        kept.remove(last)
    return kept


def _height(parts: Sequence[Part]) -> int:
    return sum(len(part.lines) for part in parts)


def _cut(line: Text, room: Room) -> Text:
    """Return a line that fits the width."""
    if line.cell_len > room.width:
        line = line.copy()
        if room.ascii:
            line.truncate(room.width - 1)
            line.append("~")
        else:
            line.truncate(room.width, overflow="ellipsis")
    line.no_wrap = True
    return line


def _named(name: str, text: str | Text, room: Room) -> list[Text]:
    """Return a part's lines, with its name before the first."""
    texts = [text] if isinstance(text, Text) else [Text(text)]
    return [Text.assemble((f"{name:<{room.hang}}", "bold"), each) for each in texts]


# ------------------------------------------------------------------------------ head and foot


def _title(status: Status, room: Room) -> Text:
    run, up = status.run, f"up {span(status.uptime_s)}"
    what = f"{harmless(run.name)} round {run.round} of {run.rounds}" if run else "no run"
    if run and run.finished:
        what += ", finished"
    if len(status.runs) > 1 and not room.narrow:
        what += f" (and {count(len(status.runs) - 1, 'run')} more)"
    name = "" if room.narrow else f"dipaco-node {escaped(status.version)}  "
    title = Text.assemble((name, "dim"), (what, "bold"))
    gap = room.width - title.cell_len - len(up)
    if gap >= 2:
        title.append(" " * gap)
        title.append(up, "dim")
    return title


def _state(seen: Seen, room: Room) -> list[Text]:
    """Return the state and its reasons, or that the daemon does not answer."""
    if seen.away:
        ago = time.strftime("%H:%M:%S", time.localtime(seen.status.time))
        text, style = f"no answer since {ago}, looks again: {seen.away}", "bold red"
    else:
        reasons = seen.status.reasons or (seen.status.reason,)
        text = f"{seen.status.state}: {'; '.join(each.text for each in reasons)}"
        style = STYLES.get(seen.status.state, "bold cyan")
    lines = fitted(harmless(text), room.width).split("\n")
    if len(lines) > REASON_LINES:
        lines = [*lines[: REASON_LINES - 1], f"{lines[REASON_LINES - 1]} ..."]
    return [Text(line, style) for line in lines]


def _foot(seen: Seen, room: Room) -> list[Text]:
    """Return the answer to the last key, and the keys."""
    words = {key: does.split()[0] if room.narrow else does for key, does in KEYS}
    keys = Text(" " if room.narrow else "  ").join(
        Text.assemble((key, "bold reverse"), f" {does}") for key, does in words.items()
    )
    if keys.cell_len > room.width:
        keys = Text(" ").join(Text(key, "bold reverse") for key, _ in KEYS)
    note = [Text(harmless(seen.note), "yellow")] if seen.note else []
    return [*note, keys]


def _rule(name: str, note: Text, room: Room) -> Text:
    line = Text.assemble((f"{name} ", "bold"))
    if note.plain and not room.narrow:
        line.append_text(note)
        line.append(" ")
    return line.append(RULE[room.ascii] * max(0, room.width - line.cell_len), "dim")


# ------------------------------------------------------------------------------ parts


def _node(status: Status, room: Room) -> list[Text]:
    task, block = status.task, status.runs[0] if status.runs else None
    what = _work(task) if task else "no task"
    if task is None and block and block.place:
        what += f", place {block.place} of {block.places or block.place}"
    who = short_peer(PeerId(status.peer)) + ", rendezvous" * status.rendezvous
    lines = _named("node", what if room.narrow else f"{who}  {what}", room)
    if task is not None:
        lines += _named("", _progress(task, room), room)
    if status.device is not None and not room.narrow:
        lines += _named("", _device(status.device, block, status.time), room)
    return lines


def _work(task: TaskStatus) -> str:
    where = "" if task.kind == "derive" else f" path {task.path} round {task.round}"
    return f"{escaped(task.kind)}{where}: {escaped(task.stage)}"


def _device(device: DeviceStatus, block: RunBlock | None, now: float) -> str:
    heat = "" if device.celsius is None else f", {device.celsius:.0f} of {device.max_celsius} C"
    until = block.lease_until if block else None
    lease = "" if until is None else f"lease for {span(max(0.0, until - now))}, on "
    return f"{lease}{harmless(device.text)}{heat}"


def _progress(task: TaskStatus, room: Room) -> Text:
    line = Text()
    if task.total > 0 and not room.narrow:
        full = round(BAR * min(1.0, task.done / task.total))
        done, rest = BARS[room.ascii]
        line.append(done * full, "green").append(rest * (BAR - full), "dim").append("  ")
    parts = [amount(task.done, task.total, task.unit)]
    if task.tokens_per_second and not room.narrow:
        parts.append(f"{task.tokens_per_second:,.0f} tokens/s")
    if task.loss is not None:
        parts.append(f"loss {task.loss:.3f}")
    return line.append("  ".join(filter(None, parts)) or "begun")


def _router(run: RunStatus, room: Room) -> Text:
    style = {"verified": "green", "refuted": "bold red"}.get(run.verdict, "yellow")
    where = f" at {escaped(run.stage)}" if run.stage else ""
    others = "" if room.narrow else f"  others: {run.verified} verified, {run.refuted} refuted"
    return Text.assemble((run.verdict + where, style), others)


def _network(net: NetworkStatus, room: Room) -> list[Text]:
    up, down = _way("up", net.up, net.max_up), _way("down", net.down, net.max_down)
    peers = count(net.peers, "peer")
    if room.narrow:
        return [*_named("net", up, room), *_named("", f"{down}, {peers}", room)]
    quota = f" of {size(net.daily_quota)}" if net.daily_quota else ""
    sums = f"{size(net.sent)} sent, {size(net.received)} received; today {size(net.today)}{quota}"
    return [*_named("network", f"{peers}  {up}  {down}", room), *_named("", sums, room)]


def _way(name: str, rate: float, cap: int) -> str:
    return f"{name} {size(rate)}/s{f' of {size(cap)}/s' if cap else ''}"


def _losses(seen: Seen, room: Room) -> str:
    losses = seen.losses
    ends = f"{_figure(losses[0])} ", f" {_figure(losses[-1])}"
    note = "" if room.narrow else f"  held-out perplexity, {count(len(losses) - 1, 'round')}"
    columns = max(1, room.width - room.hang - len(ends[0]) - len(ends[1]) - len(note))
    marks = spark([log(each) for each in losses], columns, ascii=room.ascii)
    return f"{ends[0]}{marks}{ends[1]}{note}"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def spark(values: Sequence[float], columns: int, *, ascii: bool = False) -> str:
    """Return a line of at most `columns` marks, from the lowest to the highest of `values`.

    Of more values than columns, each mark shows the last of its share.
    """
    marks = SPARKS[ascii]
    number = min(len(values), columns)
    shown = [values[(place + 1) * len(values) // number - 1] for place in range(number)]
    low, high = min(shown), max(shown)
    steps = [(value - low) / (high - low) if high > low else 0.0 for value in shown]
    return "".join(marks[round(step * (len(marks) - 1))] for step in steps)


def _done(status: Status, room: Room) -> str:
    totals = status.totals
    results = f"{totals.accepted:,} accepted, {totals.refused:,} refused"
    if room.narrow:
        return results
    return f"{results}, {count(totals.tokens, 'token')} in {span(totals.seconds)}"


def _grid(status: Status, room: Room, left: int) -> list[Part]:
    if left < 2 or not status.swarm:
        return []
    lines = grid_lines(status.swarm, status.peer, room.width, min(left - 1, max(1, left // 2 + 2)))
    return [Part([_rule("paths", legend(), room), *lines], 0)]


def _events(status: Status, room: Room, left: int) -> list[Part]:
    if left < 2 or not status.events:
        return []
    shown = status.events[-(left - 1) :]
    return [Part([_rule("events", Text(), room), *(_event(each) for each in shown)], 0)]


def _event(event: Event) -> Text:
    why = f": {event.task.reason}" if event.task and event.task.reason else ""
    style = STYLES.get(event.state, "") if event.state else ""
    return Text.assemble(
        (time.strftime("%H:%M:%S ", time.localtime(event.time)), "dim"),
        (harmless(event.code), style),
        f" {harmless(event.text + why)}",
    )


def _log(seen: Seen, room: Room, left: int) -> list[Text]:
    if left < 2:
        return []
    styles = {"error": "bold red", "warning": "yellow", "debug": "dim"}
    lines = [
        Text.assemble(
            (time.strftime("%H:%M:%S ", time.localtime(line.time)), "dim"),
            (harmless(line.text), styles.get(line.level, "")),
        )
        for line in seen.log[-(left - 1) :]
    ]
    return [_rule("log", Text(), room), *(lines or [Text("no line yet", "dim")])]
