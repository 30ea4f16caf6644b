"""Measurements of objects, as JSON or CSV.

Knows voxel sizes and intensities as the file gives them; the meaning of the keys is in ``docs/outputs.md``. Keys that
TotalSegmentator has are named as there. What is unknown is null (an empty field in CSV), never 0.
"""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from runtime.geometry import Volume
from runtime.io._result import Result, Segment

__all__ = ["measure", "write_statistics"]

_AXES = {"centroid_vox": "ijk", "centroid_mm": "xyz"}
_DIGITS = 10


def write_statistics(stream: BinaryIO, path: Path, result: Result) -> None:
    """Write the measurements of every object.

    Parameters
    ----------
    stream : binary file
        Where the bytes go.
    path : Path
        The name that they will have: ``.json`` is an object by name, ``.csv`` a line an object.
    result : Result
        What to measure. Each object counts with its whole mask, also where others overlap it.
    """
    measured = [(one, measure(one, result.reference)) for one in result.segments]
    if path.suffix.lower() == ".json":
        data = dict(zip(_keys(result), (values for _, values in measured), strict=True))
        stream.write(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        return
    table = io.StringIO(newline="")
    rows = [{"name": one.name, **_flat(values)} for one, values in measured]
    writer = csv.DictWriter(table, fieldnames=list(rows[0]) if rows else ["name"])
    writer.writeheader()
    writer.writerows(rows)
    stream.write(table.getvalue().encode())


def _keys(result: Result) -> list[str]:
    """Name of each object, with its label where others have that name, or a name that would look so."""
    names = [one.name for one in result.segments]
    labelled = [f"{one.name} ({one.label})" for one in result.segments]
    return [
        name if names.count(name) == 1 and name not in labelled else long
        for name, long in zip(names, labelled, strict=True)
    ]


def measure(one: Segment, reference: Volume) -> dict[str, Any]:
    """Measurements of one object.

    Parameters
    ----------
    one : Segment
        The object.
    reference : Volume
        The image that was segmented.

    Returns
    -------
    values : dict
        ``docs/outputs.md`` describes the keys.
    """
    count = int(np.count_nonzero(one.crop))
    sized = reference.affine is not None or reference.spacing != (1.0, 1.0, 1.0)
    volume = count * reference.voxel_ml * 1000 if sized and not reference.is_2d else None
    area, diameter = _largest_section(one, reference)
    mean, deviation, low, high = _intensities(one, reference)
    centroid = _centroid(one)
    return {
        "label": one.label,
        "n_voxels": count,
        "volume": _number(volume),
        "volume_ml": None if volume is None else _number(volume / 1000),
        "area_mm2": _number(area) if sized else None,
        "diameter_mm": _number(diameter) if sized else None,
        "intensity": mean,
        "intensity_std": deviation,
        "intensity_min": low,
        "intensity_max": high,
        "centroid_vox": None if centroid is None else [_number(value) for value in centroid],
        "centroid_mm": _in_world(centroid, reference),
        "bbox_vox": None if one.is_empty else [[part.start, part.stop - 1] for part in one.region],
    }


def _number(value: float | None) -> float | None:
    """A number of ten digits, so that rounding errors do not show; None for what is none."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{_DIGITS}g}")


def _largest_section(one: Segment, reference: Volume) -> tuple[float, float]:
    """(mm2 of the largest slice, mm of the longest line within a slice), over the slices of the file."""
    axes = np.diag(reference.spacing)[:, :2] if reference.affine is None else reference.affine[:3, :2]
    pixel = float(np.linalg.norm(np.cross(axes[:, 0], axes[:, 1])))
    area, diameter = 0, 0.0
    for _, plane in one.planes():
        area = max(area, int(np.count_nonzero(plane)))
        longest = float(plane.shape @ np.linalg.norm(axes, axis=0))
        if longest > diameter:  # otherwise it cannot be the longest
            diameter = max(diameter, _diameter(plane, axes))
    return area * pixel, diameter


def _diameter(plane: NDArray[np.bool_], axes: NDArray[np.float64]) -> float:
    """Longest distance between the middles of two pixels' edges, mm."""
    import cv2

    rows = np.flatnonzero(plane.any(axis=1))
    first = plane[rows].argmax(axis=1)
    last = plane.shape[1] - 1 - plane[rows, ::-1].argmax(axis=1)
    ends = np.concatenate([np.stack([rows, first], axis=1), np.stack([rows, last], axis=1)]).astype(np.float32)
    steps = np.array([(0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)], dtype=np.float32)
    corners = cv2.convexHull(np.concatenate([ends + step for step in steps]))[:, 0]
    points_mm = corners.astype(np.float64) @ axes.T
    return max(float(np.linalg.norm(points_mm - point, axis=1).max()) for point in points_mm)


def _intensities(one: Segment, reference: Volume) -> tuple[float | None, ...]:
    """(mean, standard deviation, lowest, highest) of the finite voxels of a grey image."""
    if reference.array.ndim != 3:
        return (None, None, None, None)
    i, j, _ = one.region
    total, squares, count, low, high = 0.0, 0.0, 0, math.inf, -math.inf
    shift = 0.0
    for k, plane in one.planes():
        values = reference.array[i, j, k][plane].astype(np.float64)
        values = values[np.isfinite(values)]
        if not values.size:
            continue
        if not count:
            shift = float(values.mean())  # near the mean, so that squares lose no digits
        total += float((values - shift).sum())
        squares += float(((values - shift) ** 2).sum())
        count += values.size
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    if not count:
        return (None, None, None, None)
    mean = total / count
    return (_number(mean + shift), _number(math.sqrt(max(0.0, squares / count - mean**2))), _number(low), _number(high))


def _centroid(one: Segment) -> NDArray[np.float64] | None:
    """Mean voxel index."""
    total = int(np.count_nonzero(one.crop))
    if not total:
        return None
    sums = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        counts = np.count_nonzero(one.crop, axis=others)
        sums.append(float(counts @ np.arange(len(counts))) / total + one.corner[axis])
    return np.array(sums)


def _in_world(centroid: NDArray[np.float64] | None, reference: Volume) -> list[float | None] | None:
    if centroid is None or reference.affine is None:
        return None
    return [_number(float(value)) for value in reference.affine[:3, :3] @ centroid + reference.affine[:3, 3]]


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """One column for each number; always the same columns."""
    row: dict[str, Any] = {}
    for key, value in values.items():
        if key in _AXES:
            for index, axis in enumerate(_AXES[key]):
                row[f"{key}_{axis}"] = None if value is None else value[index]
        elif key == "bbox_vox":
            for index, axis in enumerate("ijk"):
                for end, which in enumerate(("min", "max")):
                    row[f"{key}_{axis}_{which}"] = None if value is None else value[index][end]
        else:
            row[key] = value
    return row
