"""Charts as inline SVG, for a page that needs nothing but itself.

A chart carries its values in ``data-chart``, from which the page's script reads what is under the pointer.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final

WIDTH: Final = 960
_LEFT: Final = 64
_RIGHT: Final = 16
_TOP: Final = 18
_BOTTOM: Final = 34
#: Points of a line beyond this are not drawn one by one: a screen has no more columns.
_MAX_LABELS: Final = 9


@dataclass(frozen=True, slots=True)
class Series:
    """One line: a name, a colour's number, and points; a point without a value is a gap."""

    name: str
    colour: int
    x: Sequence[float]
    y: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: what it shows, and from where to where.

    Args:
        label: What it shows, with the unit.
        low: The value at its beginning.
        high: The value at its end.
        is_log: Whether equal ratios are equally long.
        ticks: Where it has labels, with their texts; empty: where round numbers are.
    """

    label: str
    low: float
    high: float
    is_log: bool = False
    ticks: tuple[tuple[float, str], ...] = ()

    def position(self, value: float) -> float:
        """Return where a value lies between 0, the beginning, and 1, the end."""
        low, high, at = self.low, self.high, value
        if self.is_log:
            low, high, at = math.log10(low), math.log10(high), math.log10(max(value, self.low))
        return min(1.0, max(0.0, (at - low) / (high - low)))

    def labelled(self) -> tuple[tuple[float, str], ...]:
        """Return the values that have labels, and the labels."""
        if self.ticks:
            return self.ticks
        if self.is_log:
            decades = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high)) + 1)
            return tuple((10.0**decade, short_number(10.0**decade)) for decade in decades)
        step = _round_step((self.high - self.low) / 5)
        first = math.ceil(self.low / step - 1e-9)
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        values = [(first + index) * step for index in range(min(count, _MAX_LABELS))]
        return tuple((value, short_number(value)) for value in values if value <= self.high * (1 + 1e-9))


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart of lines over one horizontal axis.

    Args:
        title: What is shown.
        x: The horizontal axis.
        y: The vertical axis.
        series: The lines.
        marks: Instants that have a vertical line, with their texts.
        height: In pixels.
        is_timeline: Whether the horizontal axis is the time of the run, which charts have in common.
    """

    title: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    marks: Sequence[tuple[float, str]] = field(default=())
    height: int = 200
    is_timeline: bool = False

    def to_svg(self) -> str:
        """Return the chart as an ``svg`` element."""
        parts = [*self._grid(), *self._marks(), *(self._line(one) for one in self.series)]
        kind = "chart timeline" if self.is_timeline else "chart"
        data = escape(json.dumps(self._data(), separators=(",", ":")), quote=True)
        return (
            f'<figure class="{kind}" data-chart="{data}">'
            f"<figcaption>{escape(self.title)}{self._legend()}</figcaption>"
            f'<svg viewBox="0 0 {WIDTH} {self.height}" role="img" aria-label="{escape(self.title)}">'
            f'{"".join(parts)}<line class="cursor" y1="{_TOP}" y2="{self.height - _BOTTOM}"/></svg>'
            '<div class="readout"></div></figure>'
        )

    def _x(self, value: float) -> float:
        return round(_LEFT + self.x.position(value) * (WIDTH - _LEFT - _RIGHT), 1)

    def _y(self, value: float) -> float:
        return round(self.height - _BOTTOM - self.y.position(value) * (self.height - _TOP - _BOTTOM), 1)

    def _grid(self) -> list[str]:
        bottom, right = self.height - _BOTTOM, WIDTH - _RIGHT
        parts = []
        for value, label in self.y.labelled():
            y = self._y(value)
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y}" y2="{y}"/>')
            parts.append(
                f'<text class="tick" x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{escape(label)}</text>'
            )
        for value, label in self.x.labelled():
            x = self._x(value)
            anchor = "middle" if x < right - 20 else "end"  # the last one stays within the picture
            parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{_TOP}" y2="{bottom}"/>')
            parts.append(
                f'<text class="tick" x="{x}" y="{bottom + 16}" text-anchor="{anchor}">{escape(label)}</text>'
            )
        parts.append(f'<text class="unit" x="{_LEFT}" y="{_TOP - 6}">{escape(self.y.label)}</text>')
        parts.append(
            f'<text class="unit" x="{right}" y="{self.height - 3}" text-anchor="end">'
            f"{escape(self.x.label)}</text>"
        )
        return parts

    def _marks(self) -> list[str]:
        parts = []
        for at, text in self.marks:
            x = self._x(at)
            parts.append(f'<line class="mark" x1="{x}" x2="{x}" y1="{_TOP}" y2="{self.height - _BOTTOM}"/>')
            parts.append(f'<text class="mark" x="{x + 4}" y="{_TOP + 10}">{escape(text)}</text>')
        return parts

    def _line(self, series: Series) -> str:
        path: list[str] = []
        dots: list[str] = []
        pen_is_down = has_neighbour = False
        for x, y in zip(series.x, series.y, strict=True):
            if y is None:
                if pen_is_down and not has_neighbour:
                    dots.append(path[-1][1:])
                pen_is_down = False
                continue
            has_neighbour = pen_is_down
            path.append(f"{'L' if pen_is_down else 'M'}{self._x(x)},{self._y(y)}")
            pen_is_down = True
        lone = "".join(f'<circle r="2" cx="{at.split(",")[0]}" cy="{at.split(",")[1]}"/>' for at in dots)
        return (
            f'<g class="s{series.colour}" data-name="{escape(series.name)}">'
            f'<path d="{"".join(path)}"/>{lone}</g>'
        )

    def _legend(self) -> str:
        return "".join(
            f'<button class="key s{one.colour}" data-name="{escape(one.name)}">{escape(one.name)}</button>'
            for one in self.series
        )

    def _data(self) -> dict[str, object]:
        return {
            "left": _LEFT / WIDTH,
            "right": 1 - _RIGHT / WIDTH,
            "low": self.x.low,
            "high": self.x.high,
            "log": self.x.is_log,
            "unit": self.y.label,
            "series": [
                {
                    "name": one.name,
                    "colour": one.colour,
                    "x": [_rounded(value) for value in one.x],
                    "y": [None if value is None else _rounded(value) for value in one.y],
                }
                for one in self.series
            ],
        }


def y_axis(label: str, series: Sequence[Series], *, is_log: bool = False, at_least: float = 0.0) -> Axis:
    """Return a vertical axis on which all values fit: from 0, or on a logarithmic one from a decade."""
    values = [value for one in series for value in one.y if value is not None]
    high = max([at_least, *values], default=1.0) or 1.0
    if not is_log:
        step = _round_step(high / 5)
        return Axis(label, 0.0, math.ceil(high / step - 1e-9) * step)
    low = min((value for value in values if value > 0), default=1.0)
    begin, end = math.floor(math.log10(low)), math.ceil(math.log10(high) + 1e-9)
    return Axis(label, 10.0**begin, 10.0 ** max(end, begin + 1), is_log=True)


def short_number(value: float) -> str:
    """Return a number as short as a label needs it."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:.4g}"


def _round_step(rough: float) -> float:
    """Return 1, 2 or 5 times a power of ten, not below ``rough``."""
    power = 10.0 ** math.floor(math.log10(max(rough, 1e-12)))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
