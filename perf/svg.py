"""Plots as SVG text, for a page that needs nothing else: bars with ranges, stacked bars, lines, a roofline.

Knows numbers and labels; knows no report. Colours are those of Okabe and Ito, told apart without colour vision too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

__all__ = ["COLOURS", "Bar", "Line", "bars", "lines", "ticks"]

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#7F7F7F", "#F0E442")

_LEFT, _WIDTH, _RIGHT = 250, 560, 90
_ROW, _BAR = 22, 14


class Bar(NamedTuple):
    """One row: parts that follow one another (colour number, value), the range of their sum, and what is written."""

    label: str
    parts: Sequence[tuple[int, float]]
    low: float
    high: float
    text: str


class Line(NamedTuple):
    """One curve: points, and the lowest and highest sample at each."""

    label: str
    colour: int
    points: Sequence[tuple[float, float, float, float]]


def ticks(largest: float, most: int = 6) -> list[float]:
    """Round numbers from 0 to a largest value."""
    if not largest > 0:
        return [0.0]
    power = 10.0 ** math.floor(math.log10(largest / most))
    step = next(power * one for one in (1, 2, 5, 10) if largest / (power * one) <= most)
    return [step * number for number in range(int(largest / step + 1e-9) + 1)]


def bars(rows: Sequence[Bar], unit: str) -> str:
    """Horizontal bars, with whiskers from the lowest to the highest sample."""
    largest = max([one.high for one in rows] + [1e-9])
    scale, height = _WIDTH / largest, _ROW * len(rows)
    parts = []
    for tick in ticks(largest):
        x = _LEFT + tick * scale
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}"/>')
        parts.append(_text(x, height + 14, f"{tick:g}", "middle"))
    parts.append(_text(_LEFT + _WIDTH / 2, height + 30, unit, "middle"))
    for number, one in enumerate(rows):
        top = number * _ROW + (_ROW - _BAR) / 2
        middle, x = top + _BAR / 2, float(_LEFT)
        parts.append(_text(_LEFT - 6, middle + 4, one.label, "end"))
        for colour, value in one.parts:
            width = value * scale
            parts.append(
                f'<rect x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" height="{_BAR}" fill="{_colour(colour)}"/>'
            )
            x += width
        low, high = _LEFT + one.low * scale, _LEFT + one.high * scale
        parts.append(f'<line class="range" x1="{low:.1f}" x2="{high:.1f}" y1="{middle:.1f}" y2="{middle:.1f}"/>')
        parts.append(_text(max(high, x) + 5, middle + 4, one.text, "start"))
    return _picture(_LEFT + _WIDTH + _RIGHT, height + 36, parts)


def lines(curves: Sequence[Line], across: str, up: str) -> str:
    """Curves over a number, both axes from 0, with the range of the samples at every point."""
    points = [point for curve in curves for point in curve.points]
    widest, highest = max([point[0] for point in points] + [1e-9]), max([point[3] for point in points] + [1e-9])
    left, top, width, height = 60, 10, 480, 220
    parts = []
    for tick in ticks(widest):
        x = left + tick / widest * width
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{top + height}"/>')
        parts.append(_text(x, top + height + 15, f"{tick:g}", "middle"))
    for tick in ticks(highest):
        y = top + height - tick / highest * height
        parts.append(f'<line class="grid" x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(left - 5, y + 4, f"{tick:g}", "end"))
    parts.append(_text(left + width / 2, top + height + 32, f"{across}; up: {up}", "middle"))
    for number, curve in enumerate(curves):
        placed = [(left + x / widest * width, *(top + height - y / highest * height for y in ys))
                  for x, *ys in curve.points]  # fmt: skip
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in placed)
        colour = _colour(curve.colour)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, y, low, high in placed:
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{colour}"/>')
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')
        beside = top + 14 + number * 18
        parts.append(f'<rect x="{left + width + 20}" y="{beside - 10}" width="12" height="12" fill="{colour}"/>')
        parts.append(_text(left + width + 38, beside, curve.label, "start"))
    return _picture(left + width + 280, top + height + 40, parts)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _picture(width: float, height: float, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img">{"".join(parts)}</svg>'
