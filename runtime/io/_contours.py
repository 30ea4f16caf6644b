"""Outlines of masks as closed polygons, holes joined to the outside by a channel.

Knows a 2-D mask and nothing of space. The outline follows the edges of the pixels, a hundredth of a pixel inside
them: the polygon holds the centres of the mask's pixels and no other centre, its area is that of the mask, and its
corners, rounded to whole pixels, are pixels of the mask. Pixels that touch at a corner only belong to different
polygons. A hole is joined to the polygon around it by a channel without width (the "keyhole" of DICOM PS3.3 C.8.8.6.3),
so that every polygon is one closed line and nobody has to know which polygon is a hole.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["outlines"]

_INSET = 0.01
_CHANNEL = 0.25
"""Distance of a channel from the centres of its pixels, so that it passes through none."""

Corner = tuple[int, int]
"""A corner of pixels, in half pixels: odd numbers, as centres are even ones."""

_SIDES = (
    ((0, -1), (-1, -1), (1, -1)),
    ((1, 0), (1, -1), (1, 1)),
    ((0, 1), (1, 1), (-1, 1)),
    ((-1, 0), (-1, 1), (-1, -1)),
)
"""For each side of a pixel: where the neighbour is, and the ends of the edge in half pixels from the centre."""


def outlines(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Outlines of a mask.

    Parameters
    ----------
    mask : ndarray of bool, shape (U, V)
        A slice.

    Returns
    -------
    polygons : list of ndarray of float64, shape (P, 2)
        Corners (u, v) in pixels, integers being centres; the last one is joined to the first. One polygon for each
        part of the mask whose pixels are connected by edges.
    """
    rings = _Rings()
    outer: list[int] = []
    holes: list[tuple[float, int, int]] = []
    for loop in _loops(mask):
        first = rings.add(loop)
        if _area(loop) > 0:
            outer.append(first)
        else:
            holes.append(rings.lowest_wall(first, len(loop)))
    for u, row, node in sorted(holes):  # what lies next to a hole towards low u is outside, or has been joined already
        rings.join(u, row, node)
    return [rings.polygon(first) for first in sorted(outer)]


@dataclass(slots=True)
class _Rings:
    """Closed lines as linked corners, which can be spliced."""

    points: list[tuple[float, float]] = field(default_factory=list)
    following: list[int] = field(default_factory=list)
    walls: dict[int, list[tuple[float, int]]] = field(default_factory=dict)
    """Row of pixels -> (u, corner before it) of every edge across that row."""
    _sorted: bool = False

    def add(self, loop: list[Corner]) -> int:
        """Take up a loop of unit edges, moved a little into the mask; its first corner."""
        first, count = len(self.points), len(loop)
        corners = np.array(loop, dtype=np.int64)
        ahead = np.roll(corners, -1, axis=0) - corners
        behind = np.roll(ahead, 1, axis=0)
        inward = np.sign(np.stack([-ahead[:, 1] - behind[:, 1], ahead[:, 0] + behind[:, 0]], axis=1))
        moved = corners / 2 + _INSET * inward
        self.points += [(u, v) for u, v in moved.tolist()]
        self.following += [first + (n + 1) % count for n in range(count)]
        for n in np.flatnonzero(ahead[:, 0] == 0).tolist():
            row = int(corners[n, 1] + ahead[n, 1] // 2) // 2
            self.walls.setdefault(row, []).append((self.points[first + n][0], first + n))
        return first

    def lowest_wall(self, first: int, count: int) -> tuple[float, int, int]:
        """(u, row, corner before it) of the edge of a loop that lies at the lowest u."""
        nodes = range(first, first + count)
        across = [n for n in nodes if abs(self.points[n][1] - self.points[self.following[n]][1]) > 0.5]
        best = min(across, key=lambda n: self.points[n])
        row = round((self.points[best][1] + self.points[self.following[best]][1]) / 2)
        return self.points[best][0], row, best

    def join(self, u: float, row: int, node: int) -> None:
        """Join a hole, given by an edge at its lowest u, to the line beside it by a channel there and back."""
        if not self._sorted:
            for walls in self.walls.values():
                walls.sort()
            self._sorted = True
        walls = self.walls[row]
        wall, before = walls[bisect_left(walls, (u, -1)) - 1]
        level = row + _CHANNEL
        new = len(self.points)
        self.points += [(wall, level), (u, level), (u, level), (wall, level)]
        self.following += [new + 1, self.following[node], new + 3, self.following[before]]
        self.following[node], self.following[before] = new + 2, new

    def polygon(self, first: int) -> NDArray[np.float64]:
        """Corners of a line at which it turns."""
        chain = [first]
        while (node := self.following[chain[-1]]) != first:
            chain.append(node)
        corners = np.array([self.points[node] for node in chain])
        ahead = np.roll(corners, -1, axis=0) - corners
        behind = np.roll(ahead, 1, axis=0)
        straight = (np.abs(ahead[:, 0] * behind[:, 1] - ahead[:, 1] * behind[:, 0]) < 1e-9) & (
            (ahead * behind).sum(axis=1) > 0
        )
        turns: NDArray[np.float64] = corners[~straight]
        return turns


def _loops(mask: NDArray[np.bool_]) -> list[list[Corner]]:
    """Corners along the edges between mask and background, the mask on the left of the way."""
    padded = np.pad(mask, 1)
    inner = padded[1:-1, 1:-1]
    ends: dict[Corner, list[Corner]] = {}
    for (du, dv), begin, end in _SIDES:
        neighbour = padded[1 + du : padded.shape[0] - 1 + du, 1 + dv : padded.shape[1] - 1 + dv]
        for u, v in (2 * np.argwhere(inner & ~neighbour)).tolist():
            ends.setdefault((u + begin[0], v + begin[1]), []).append((u + end[0], v + end[1]))
    loops = []
    while ends:
        start = next(iter(ends))
        before, here = start, ends[start][0]
        _take(ends, start, here)
        loop = [start]
        while here in ends:
            # Where two pixels touch at a corner, the way turns left: around the pixel that it came along.
            left = (here[0] - (here[1] - before[1]), here[1] + (here[0] - before[0]))
            if left in ends[here]:
                onward = left
            elif here == start:
                break
            else:
                onward = ends[here][0]
            loop.append(here)
            _take(ends, here, onward)
            before, here = here, onward
        loops.append(loop)
    return loops


def _take(ends: dict[Corner, list[Corner]], here: Corner, onward: Corner) -> None:
    ends[here].remove(onward)
    if not ends[here]:
        del ends[here]


def _area(loop: list[Corner]) -> int:
    return sum(u0 * v1 - u1 * v0 for (u0, v0), (u1, v1) in zip(loop, loop[1:] + loop[:1], strict=True))
