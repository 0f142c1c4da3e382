"""Pictures of predictions as plain SVG text, without a plotting library or style attributes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

INK, SOFT, LINE = "#1d2939", "#475467", "#e3e6ea"
BLUE, ORANGE, GREEN, GRAY = "#2563a8", "#d97706", "#2f855a", "#98a2b3"
COLOURS = (BLUE, ORANGE, GREEN, "#7c3aed", "#06b6d4", "#be185d", "#84a30f")
WIDTH, HEIGHT = 560, 330
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 14, 42


@dataclass(frozen=True)
class Series:
    """Points of one colour: joined by a line, or single marks. names: shown when pointed at."""

    label: str
    points: tuple[tuple[float, float], ...]
    colour: str
    joined: bool = False
    names: tuple[str, ...] = ()


class Axis:
    """A linear or logarithmic scale from data to picture, with its ticks."""

    def __init__(self, values: Iterable[float], low: float, high: float, log: bool) -> None:
        found = [value for value in values if not log or value > 0]
        self.low, self.high, self.log = low, high, log
        least, most = min(found), max(found)
        if log:
            least, most = least / 1.15, most * 1.15
        else:
            margin = 0.06 * (most - least) or 1.0
            least, most = least - margin, most + margin
        self.least, self.most = least, most

    def place(self, value: float) -> float:
        """The place of a value in the picture."""
        if self.log:
            share = math.log(value / self.least) / math.log(self.most / self.least)
        else:
            share = (value - self.least) / (self.most - self.least)
        return self.low + share * (self.high - self.low)

    def list_ticks(self) -> list[float]:
        """Round values within the scale."""
        if self.log:
            first = math.floor(math.log10(self.least))
            last = math.ceil(math.log10(self.most))
            steps = (1, 2, 5) if last - first <= 3 else (1,)
            ticks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
        else:
            raw = (self.most - self.least) / 5
            power = 10.0 ** math.floor(math.log10(raw))
            step = next(power * f for f in (1, 2, 5, 10) if power * f >= raw)
            first = math.ceil(self.least / step)
            ticks = [step * n for n in range(first, int(self.most / step) + 1)]
        return [tick for tick in ticks if self.least <= tick <= self.most]


def draw_points(series: Sequence[Series], x_label: str, y_label: str, log: bool, title: str) -> str:
    """A chart of points and lines, with a legend below; both axes logarithmic or both linear."""
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series for _, y in one.points]
    x_axis = Axis(xs, LEFT, WIDTH - RIGHT, log)
    y_axis = Axis(ys, HEIGHT - BOTTOM, TOP, log)
    parts = _draw_axes(x_axis, y_axis, x_label, y_label)
    for one in series:
        places = [(x_axis.place(x), y_axis.place(y)) for x, y in one.points]
        if one.joined:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(
                f'<polyline points="{path}" fill="none" stroke="{one.colour}" stroke-width="2"/>'
            )
        for number, (x, y) in enumerate(places):
            name = one.names[number] if one.names else one.label
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{one.colour}" '
                f'fill-opacity="0.75"><title>{escape(name)}</title></circle>'
            )
    return _wrap(parts, [(one.label, one.colour) for one in series], title)


def _draw_axes(x_axis: Axis, y_axis: Axis, x_label: str, y_label: str) -> list[str]:
    bottom, middle = HEIGHT - BOTTOM, (TOP + HEIGHT - BOTTOM) / 2
    parts = []
    for tick in x_axis.list_ticks():
        x = x_axis.place(tick)
        parts.append(f'<path d="M{x:.1f} {TOP}V{bottom}" stroke="{LINE}"/>')
        parts.append(_write(x, bottom + 14, _write_tick(tick), "middle"))
    for tick in y_axis.list_ticks():
        y = y_axis.place(tick)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{LINE}"/>')
        parts.append(_write(LEFT - 6, y + 4, _write_tick(tick), "end"))
    parts.append(_write((LEFT + WIDTH - RIGHT) / 2, bottom + 32, x_label, "middle"))
    turned = f' transform="rotate(-90 14 {middle:.0f})"'
    parts.append(_write(14, middle, y_label, "middle", turned))
    return parts


def _write_tick(value: float) -> str:
    """A tick's text, short enough for the margin."""
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"


def draw_bars(
    rows: Sequence[tuple[str, float, str]], title: str, colours: Sequence[str] = COLOURS
) -> str:
    """Horizontal bars, one a row: (label, value, text beside it); colours in turn."""
    height, label_width = 26, 250
    most = max(value for _, value, _ in rows) or 1.0
    parts = []
    for number, (label, value, text) in enumerate(rows):
        y = 8 + number * height
        length = (WIDTH - label_width - 120) * value / most
        colour = colours[number % len(colours)]
        parts.append(_write(label_width - 8, y + 14, label, "end"))
        parts.append(
            f'<rect x="{label_width}" y="{y + 2}" width="{max(length, 0.5):.1f}" '
            f'height="{height - 8}" rx="2" fill="{colour}"/>'
        )
        parts.append(_write(label_width + length + 6, y + 14, text, "start"))
    return _wrap(parts, [], title, height=16 + len(rows) * height)


def draw_histogram(values: np.ndarray, band: tuple[float, float], label: str, title: str) -> str:
    """How often each value was simulated, half as tall as a chart; the band in blue."""
    height = HEIGHT // 2 + BOTTOM
    counts, edges = np.histogram(values, bins=48, range=_trim(values))
    x_axis = Axis(edges.tolist(), LEFT, WIDTH - RIGHT, log=False)
    bottom, most = height - BOTTOM, max(int(counts.max()), 1)
    parts = []
    for tick in x_axis.list_ticks():
        parts.append(_write(x_axis.place(tick), bottom + 14, f"{tick:g}", "middle"))
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        inside = band[0] <= (low + high) / 2 <= band[1]
        tall = (bottom - TOP) * count / most
        left, right = x_axis.place(float(low)), x_axis.place(float(high))
        parts.append(
            f'<rect x="{left:.1f}" y="{bottom - tall:.1f}" width="{right - left - 0.5:.1f}" '
            f'height="{tall:.1f}" fill="{BLUE if inside else GRAY}"/>'
        )
    parts.append(f'<path d="M{LEFT} {bottom}H{WIDTH - RIGHT}" stroke="{SOFT}"/>')
    parts.append(_write((LEFT + WIDTH - RIGHT) / 2, bottom + 32, label, "middle"))
    return _wrap(parts, [], title, height=height)


def _trim(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, (0.2, 99.8))
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)


def _write(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(text)}</text>'


def _wrap(parts: list[str], legend: list[tuple[str, str]], title: str, height: int = HEIGHT) -> str:
    for number, (label, colour) in enumerate(legend):
        x, y = LEFT + (number % 3) * 165, height + 8 + (number // 3) * 17
        parts.append(f'<circle cx="{x}" cy="{y - 4}" r="4" fill="{colour}"/>')
        parts.append(_write(x + 8, y, label, "start"))
    total = height + 17 * math.ceil(len(legend) / 3) + (4 if legend else 0)
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" role="img" '
        f'aria-label="{escape(title)}" font-family="system-ui, sans-serif" font-size="11" '
        f'fill="{INK}">\n<rect width="{WIDTH}" height="{total}" fill="#fff"/>\n{body}\n</svg>\n'
    )
