"""What a writer is given: the label map, the objects one by one, and the image that they belong to.

Knows arrays and geometry; knows no format and no session.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from runtime.geometry import Volume
from runtime.io._palette import object_colour

__all__ = ["Result", "Segment", "layers_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """One object.

    Attributes
    ----------
    label : int
        Its value in the label map, from 1.
    name : str
    corner : tuple of 3 int
        Voxel indices of the first voxel of ``crop``.
    crop : ndarray of bool, shape (I', J', K')
        The object's own mask, overlaps included, inside its bounding box; of no size where it is empty.
    """

    label: int
    name: str
    corner: tuple[int, int, int]
    crop: NDArray[np.bool_] = field(repr=False)

    @property
    def region(self) -> tuple[slice, slice, slice]:
        """Half-open slices of the bounding box in the volume."""
        i, j, k = (slice(low, low + size) for low, size in zip(self.corner, self.crop.shape, strict=True))
        return (i, j, k)

    @property
    def colour(self) -> tuple[int, int, int]:
        """RGB, 0 to 255, the same in every format."""
        return object_colour(self.label - 1)

    @property
    def is_empty(self) -> bool:
        """Whether no voxel belongs to it."""
        return not self.crop.any()

    def planes(self) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        """Each slice k that the object is on, with its crop (I', J') there."""
        for offset in range(self.crop.shape[2]):
            plane = self.crop[:, :, offset]
            if plane.any():
                yield self.corner[2] + offset, plane


@dataclass(frozen=True)
class Result:
    """A result to write.

    Attributes
    ----------
    label_map : ndarray of uint8, uint16 or uint32, shape (I, J, K)
        Labels in the file order of ``reference``; where objects overlap, one of them.
    reference : Volume
        The image that was segmented.
    names : mapping of int to str, or None
        Name by label.
    objects : tuple of Segment, or None
        The objects with their own masks; None: the label map says it all.
    algorithm : str
        Name and version of the model; empty where nobody said it.
    """

    label_map: NDArray[np.unsignedinteger]
    reference: Volume
    names: Mapping[int, str] | None = None
    objects: tuple[Segment, ...] | None = None
    algorithm: str = ""

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """The objects in the order of their labels."""
        if self.objects is not None:
            return tuple(sorted(self.objects, key=lambda one: one.label))
        names = self.names or {}
        found = (np.unique(self.label_map[:, :, k]) for k in range(self.label_map.shape[2]))
        labels = sorted({int(label) for plane in found for label in plane} - {0})
        return tuple(_cut(self.label_map == label, label, names.get(label, f"object {label}")) for label in labels)


def _cut(mask: NDArray[np.bool_], label: int, name: str) -> Segment:
    ranges = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        taken = np.flatnonzero(mask.any(axis=others))
        ranges.append((int(taken[0]), int(taken[-1]) + 1))
    (i0, i1), (j0, j1), (k0, k1) = ranges
    return Segment(label, name, (i0, j0, k0), mask[i0:i1, j0:j1, k0:k1].copy())


def layers_of(segments: Sequence[Segment]) -> list[int]:
    """Layer of each segment, from 0, so that no two segments of a layer share a voxel; the first that is free."""
    layers: list[list[Segment]] = []
    chosen = []
    for one in segments:
        index = next((n for n, layer in enumerate(layers) if not any(_overlap(one, other) for other in layer)), None)
        if index is None:
            index = len(layers)
            layers.append([])
        layers[index].append(one)
        chosen.append(index)
    return chosen


def _overlap(one: Segment, other: Segment) -> bool:
    parts = []
    for a, b in zip(one.region, other.region, strict=True):
        low, high = max(a.start, b.start), min(a.stop, b.stop)
        if low >= high:
            return False
        parts.append((low, high))
    crops = [
        segment.crop[
            tuple(slice(low - corner, high - corner) for (low, high), corner in zip(parts, segment.corner, strict=True))
        ]
        for segment in (one, other)
    ]
    return bool((crops[0] & crops[1]).any())
