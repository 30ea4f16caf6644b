"""Outlines and label canvases from which synthetic scenes are drawn.

Knows geometry in pixels of a square canvas; must not know intensities, prompts or torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Canvas",
    "arc_outline",
    "bean_outline",
    "compound_outlines",
    "fourier_outline",
    "lobulated_outlines",
    "random_outlines",
    "smooth_noise",
    "tube_outline",
]

MAX_LABELS = 240
_SHIFT = 4  # fractional bits of OpenCV's polygon coordinates

Outline = NDArray[np.float32]  # (K, 2) xy in canvas pixels


@dataclass
class Canvas:
    """A square label map that is painted label by label; ``parents[i]`` is the label that ``i`` lies in."""

    size: int
    labels: NDArray[np.uint8] = field(init=False)
    parents: list[int] = field(init=False)

    def __post_init__(self) -> None:
        """Start with background only."""
        self.labels = np.zeros((self.size, self.size), np.uint8)
        self.parents = [-1]

    def new_label(self, parent: int) -> int:
        """Register a label under ``parent``; 0 when the canvas is full (nothing is painted then)."""
        if len(self.parents) >= MAX_LABELS:
            return 0
        self.parents.append(parent)
        return len(self.parents) - 1

    def paint(self, outlines: list[Outline], parent: int, within: list[int] | None = None) -> int:
        """Fill the outlines with a new label, only over the labels ``within`` when given; returns the label."""
        label = self.new_label(parent)
        if label == 0:
            return 0
        points = np.concatenate(outlines)
        x0, y0 = np.maximum(np.floor(points.min(0)).astype(int) - 1, 0)
        x1, y1 = np.minimum(np.ceil(points.max(0)).astype(int) + 2, self.size)
        if x1 <= x0 or y1 <= y0:
            return label
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        for outline in outlines:
            fixed = np.round((outline - np.array([x0, y0], np.float32)) * (1 << _SHIFT)).astype(np.int32)
            cv2.fillPoly(mask, [fixed], 1, shift=_SHIFT)
        region = self.labels[y0:y1, x0:x1]
        chosen = mask > 0
        if within is not None:
            allowed = np.zeros(256, bool)
            allowed[within] = True
            chosen &= allowed[region]
        region[chosen] = label
        return label


def fourier_outline(
    rng: np.random.Generator,
    centre: NDArray[np.float64],
    radius: float,
    *,
    roughness: float = 0.12,
    stretch: float = 0.4,
) -> Outline:
    """Closed curve with random low harmonics, stretched along a random axis by ``exp(+-stretch)``."""
    count = 24 if radius < 6 else 56
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    harmonic = np.arange(2, 8)
    amplitude = roughness * rng.standard_normal(6) / (harmonic - 0.5)
    phase = rng.uniform(0, 2 * np.pi, 6)
    r = 1 + (amplitude[:, None] * np.cos(harmonic[:, None] * angle + phase[:, None])).sum(0)
    r = radius * np.maximum(r, 0.2)
    ratio = np.exp(rng.uniform(-stretch, stretch) / 2)
    turn = rng.uniform(0, np.pi)
    x, y = r * np.cos(angle) * ratio, r * np.sin(angle) / ratio
    return np.stack(
        [centre[0] + x * np.cos(turn) - y * np.sin(turn), centre[1] + x * np.sin(turn) + y * np.cos(turn)], 1
    ).astype(np.float32)


def _thick_curve(path: NDArray[np.float64], width: NDArray[np.float64]) -> Outline:
    """Outline around an open path with a half width at each of its points."""
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-9
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1) * width[:, None]
    return np.concatenate([path + normal, (path - normal)[::-1]]).astype(np.float32)


def tube_outline(rng: np.random.Generator, centre: NDArray[np.float64], length: float, width: float) -> Outline:
    """Winding band: a smooth random walk with a slowly changing half width."""
    steps = 24
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(np.cumsum(rng.standard_normal(steps)) * 0.06)
    path = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1), 0) * (length / steps)
    path += centre - path.mean(0)
    wobble = 1 + 0.25 * np.sin(np.linspace(0, rng.uniform(2, 9), steps) + rng.uniform(0, 6))
    ends = np.minimum(1, np.minimum(np.arange(steps), np.arange(steps)[::-1]) / 2.0 + 0.35)
    return _thick_curve(path, width * wobble * ends)


def bean_outline(rng: np.random.Generator, centre: NDArray[np.float64], radius: float) -> Outline:
    """Kidney-like band: a thick short arc."""
    return arc_outline(
        rng, centre, radius * rng.uniform(0.5, 0.9), radius * rng.uniform(0.3, 0.5), rng.uniform(1.2, 3.2)
    )


def arc_outline(
    rng: np.random.Generator, centre: NDArray[np.float64], radius: float, width: float, sweep: float
) -> Outline:
    """Part of a ring that spans ``sweep`` radians, with rounded, thinner ends."""
    steps = 28
    angle = np.linspace(0, sweep, steps) + rng.uniform(0, 2 * np.pi)
    bend = radius * (1 + 0.12 * np.sin(angle * rng.uniform(1, 3) + rng.uniform(0, 6)))
    path = np.stack([np.cos(angle) * bend, np.sin(angle) * bend * rng.uniform(0.7, 1.3)], 1)
    path += centre - path.mean(0)
    ends = np.sqrt(np.clip(1 - np.abs(np.linspace(-1, 1, steps)) ** 5, 0.05, 1))
    return _thick_curve(path, width * ends)


def lobulated_outlines(rng: np.random.Generator, centre: NDArray[np.float64], radius: float) -> list[Outline]:
    """Several overlapping blobs around a common core."""
    outlines = [fourier_outline(rng, centre, radius * 0.75)]
    for _ in range(rng.integers(2, 6)):
        angle = rng.uniform(0, 2 * np.pi)
        offset = np.array([np.cos(angle), np.sin(angle)]) * radius * rng.uniform(0.4, 0.8)
        outlines.append(fourier_outline(rng, centre + offset, radius * rng.uniform(0.25, 0.5)))
    return outlines


def compound_outlines(rng: np.random.Generator, centre: NDArray[np.float64], radius: float) -> list[Outline]:
    """A body with arms and an arch, as a vertebra, a girdle or a branching vessel has them."""
    outlines = [fourier_outline(rng, centre, radius * rng.uniform(0.35, 0.6), stretch=0.6)]
    for _ in range(rng.integers(1, 4)):
        angle = rng.uniform(0, 2 * np.pi)
        place = centre + np.array([np.cos(angle), np.sin(angle)]) * radius * rng.uniform(0.4, 0.7)
        width = max(1.2, radius * rng.uniform(0.08, 0.22))
        if rng.uniform() < 0.6:
            outlines.append(tube_outline(rng, place, radius * rng.uniform(0.7, 1.5), width))
        else:
            outlines.append(arc_outline(rng, place, radius * rng.uniform(0.3, 0.6), width, rng.uniform(2.5, 6.2)))
    return outlines


def random_outlines(rng: np.random.Generator, centre: NDArray[np.float64], radius: float) -> list[Outline]:
    """One shape of a random kind whose extent is about ``radius``."""
    kind = rng.uniform()
    if kind < 0.52:
        return [fourier_outline(rng, centre, radius, roughness=rng.uniform(0.02, 0.3), stretch=rng.uniform(0.1, 1.1))]
    if kind < 0.66:
        return [bean_outline(rng, centre, radius)]
    if kind < 0.80:
        return [tube_outline(rng, centre, radius * rng.uniform(2, 4.5), max(1.2, radius * rng.uniform(0.12, 0.4)))]
    if kind < 0.87:
        return [arc_outline(rng, centre, radius, max(1.2, radius * rng.uniform(0.1, 0.3)), rng.uniform(2.5, 5.8))]
    if kind < 0.94:
        return lobulated_outlines(rng, centre, radius)
    return compound_outlines(rng, centre, radius)


def smooth_noise(
    rng: np.random.Generator, shape: tuple[int, int], cell: float | tuple[float, float]
) -> NDArray[np.float32]:
    """Gaussian noise of about unit variance whose grains are ``cell`` pixels wide (a pair gives rows, columns)."""
    rows, columns = (cell, cell) if isinstance(cell, int | float) else cell
    if rows <= 1 and columns <= 1:
        return rng.standard_normal(shape, dtype=np.float32)
    small = (max(2, round(shape[0] / rows) + 1), max(2, round(shape[1] / columns) + 1))
    coarse = rng.standard_normal(small, dtype=np.float32)
    return np.asarray(cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC), np.float32) * 1.2
