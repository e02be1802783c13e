"""A chart of lines as SVG: text alone, coloured by the classes of the page that holds it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 720
HEIGHT: Final = 320
LEFT: Final = 48
RIGHT: Final = 64  # for the names at the ends of the lines
TOP: Final = 12
BOTTOM: Final = 36
TICKS: Final = 5
NAME_HEIGHT: Final = 17  # of a line's name: names keep so far apart


@dataclass(frozen=True)
class Line:
    """A line of a chart."""

    name: str
    points: tuple[tuple[float, float], ...]
    kind: str
    """A class of the page's style."""


def chart(lines: Sequence[Line], *, along: str, up: str) -> str:
    """Return the chart of lines that have a point at all; empty if none has one.

    along, up   the titles of the axes.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    places = [place for line in lines for place, _ in line.points]
    values = [value for line in lines for _, value in line.points]
    across = _Scale(min(places), max(places), LEFT, WIDTH - RIGHT)
    upward = _Scale(min(values), max(values), HEIGHT - BOTTOM, TOP)
    parts = [_frame(across, upward), *(_line(each, across, upward) for each in lines)]
    parts += _names(lines, upward)
    title = escape(f"{up} along {along}")
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">'
        f"{''.join(parts)}"
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:g}" y="{HEIGHT - 4}" class="axis middle">'
        f"{escape(along)}</text></svg>"
    )


@dataclass(frozen=True)
class _Scale:
    """Maps values between `low` and `high` to pixels."""

    low: float
    high: float
    begin: float
    end: float

    def at(self, value: float) -> str:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return f"{self.begin + share * (self.end - self.begin):.1f}"

    def ticks(self) -> list[float]:
        """Return round values within, about `TICKS`."""
        span = self.high - self.low
        if span <= 0:
            return [self.low]
        rough = span / TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * each for each in (1, 2, 5, 10) if power * each >= rough)
        first = math.ceil(self.low / step)
        return [each * step for each in range(first, math.floor(self.high / step) + 1)]


def _frame(across: _Scale, upward: _Scale) -> str:
    parts = []
    for value in upward.ticks():
        y = upward.at(value)
        parts.append(f'<path class="rule" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="axis end" x="{LEFT - 6}" y="{y}" dy=".35em">{value:g}</text>')
    for value in across.ticks():
        if value == int(value):
            x, below = across.at(value), HEIGHT - BOTTOM + 16
            parts.append(f'<text class="axis middle" x="{x}" y="{below}">{value:g}</text>')
    return "".join(parts)


def _line(line: Line, across: _Scale, upward: _Scale) -> str:
    points = [f"{across.at(place)} {upward.at(value)}" for place, value in line.points]
    drawn = f'<path class="line {line.kind}" d="M{"L".join(points)}"/>'
    x, y = points[-1].split()
    return f'{drawn}<circle class="dot {line.kind}" cx="{x}" cy="{y}" r="2.5"/>'


def _names(lines: Sequence[Line], upward: _Scale) -> list[str]:
    """Return the names at the right, moved apart where lines end close together."""
    ends = sorted(lines, key=lambda line: -line.points[-1][1])
    parts, above = [], -math.inf
    for line in ends:
        above = max(float(upward.at(line.points[-1][1])), above + NAME_HEIGHT)
        parts.append(
            f'<text class="name {line.kind}" x="{WIDTH - RIGHT + 6}" y="{above:.1f}" dy=".35em">'
            f"{escape(line.name)}</text>"
        )
    return parts
