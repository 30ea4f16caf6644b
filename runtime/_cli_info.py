"""What ``lite-infer info`` prints: the image of a file or the series of a folder, as JSON or for a person.

Knows summaries of images; reads nothing itself. Prints no name, description or date, and UIDs only when asked.
"""

from __future__ import annotations

from typing import Any

import runtime
from runtime.io.summaries import ImageSummary, SeriesSummary

__all__ = ["info_report", "info_summary"]

INFO_VERSION = 1


def info_summary(found: ImageSummary, *, uids: bool) -> dict[str, Any]:
    """Make ``lite-infer info --json``; the layout is ``docs/json-summary.md``."""
    common = {"info_version": INFO_VERSION, "lite_infer": runtime.__version__, "format": found.format}
    if found.format == "dicom":
        return {**common, "series": [_series(one, uids=uids) for one in found.series]}
    return {
        **common,
        "shape": found.shape,
        "volumes": found.volumes,
        "colour": found.colour,
        "dtype": found.dtype,
        "spacing_mm": found.spacing,
        "orientation": found.orientation,
        "range": found.value_range,
        "boxes": found.boxes,
        "findings": found.findings,
    }


def _series(one: SeriesSummary, *, uids: bool) -> dict[str, Any]:
    return {
        "number": one.number,
        **({"uid": one.uid} if uids else {}),
        "modality": one.modality or None,
        "images": one.images,
        "size": one.size,
        "volumes": one.volumes,
        "slices": one.slices,
        "spacing_mm": one.spacing,
        "orientation": one.orientation,
        "findings": one.findings,
        "refused": one.refused,
    }


def info_report(found: ImageSummary, *, uids: bool) -> str:
    """Say the same to a person."""
    if found.format == "dicom":
        return "\n".join(line for one in found.series for line in _series_lines(one, uids=uids))
    size = "x".join(map(str, found.shape or ()))
    lines = [
        f"format    {found.format}",
        f"image     {size} voxels{' in colour' if found.colour else ''}, {found.dtype}",
        f"spacing   {_spacing(found.spacing)}",
        f"axes      {found.orientation or 'orientation unknown'}",
    ]
    if found.value_range is not None:
        lines.append(f"values    {found.value_range[0]:g} to {found.value_range[1]:g}")
    if found.volumes > 1:
        lines.append(f"volumes   {found.volumes}; choose one with --volume 0 .. {found.volumes - 1}")
    if found.boxes:
        lines.append(f"boxes     {found.boxes}")
    lines += [f"found     {finding}" for finding in found.findings]
    return "\n".join(lines)


def _series_lines(one: SeriesSummary, *, uids: bool) -> list[str]:
    size = f"{one.size[0]}x{one.size[1]}"
    head = f"series {one.number}  {one.modality or 'unknown modality'}, {one.images} images of {size}"
    if one.refused is not None:
        return [head, *_uid(one, uids=uids), f"  refused  {one.refused}"]
    lines = [f"{head}, {one.slices} slices", *_uid(one, uids=uids)]
    lines.append(f"  spacing  {_spacing(one.spacing)}, axes {one.orientation or 'unknown'}")
    if one.volumes > 1:
        lines.append(f"  volumes  {one.volumes}; choose one with --volume 0 .. {one.volumes - 1}")
    lines += [f"  found    {finding}" for finding in one.findings]
    return lines


def _uid(one: SeriesSummary, *, uids: bool) -> list[str]:
    return [f"  uid      {one.uid}"] if uids else []


def _spacing(spacing: tuple[float, float, float] | None) -> str:
    if spacing is None:
        return "unknown"
    return " x ".join(f"{step:g}" for step in spacing) + " mm"
