"""Figures on a labelled folder's volumes in 3-D, through the public API of ``runtime``.

Protocols, all with true tight prompts in file order: ``box_3d``: six numbers. ``slice_range``: the 2-D box of the
largest slice and the first and last slice. ``slice_only``: that 2-D box alone. ``three_boxes``: the 2-D boxes of the
slices at 1/6, 1/2 and 5/6 of the object's slices, and the first and last slice. ``every_slice``: the true 2-D box of
every slice, what propagation could reach. Objects on fewer than ``MIN_SLICES`` slices are left out.

Baselines, where the extent is known: ``filled_...``, the protocol's box on every slice, with sides interpolated between
several boxes, and ``ellipse_...``, the ellipse inscribed in it.

Knows protocols and the session. Must not know how a session propagates.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.pretrain.cases import Case, SliceObject, read_cases
from export.pretrain.evaluate import Figures
from export.pretrain.metrics import box_mask, dice, ellipse_mask
from export.pretrain.prompts import tight_box
from runtime import Box, Segmentation, Session, Volume

__all__ = ["MIN_SLICES", "evaluate_volumes"]

MIN_SLICES = 3


def _boxes(item: SliceObject, truth: NDArray[np.bool_]) -> dict[str, tuple[list[Box], tuple[int, int] | None]]:
    """Prompts of each protocol, with the slice range where it is given."""
    used = np.flatnonzero(truth.any((0, 1)))
    extent = (int(used[0]), int(used[-1]))
    largest = Box(tuple(float(v) for v in item.box), slice_index=item.slice_index, name="object")
    corners = [np.flatnonzero(truth.any(tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    box_3d = Box((*(float(c[0]) for c in corners), *(float(c[-1]) for c in corners)), name="object")
    every = [Box(tuple(float(v) for v in tight_box(truth[:, :, k].T)), slice_index=int(k), name="object") for k in used]
    three = [every[place] for place in sorted({len(used) * part // 6 for part in (1, 3, 5)})]
    return {
        "box_3d": ([box_3d], None),
        "slice_range": ([largest], extent),
        "slice_only": ([largest], None),
        "three_boxes": (three, extent),
        "every_slice": (every, extent),
    }


def evaluate_volumes(session: Session, folder: Path, *, report: Callable[[str], None] | None = None) -> Figures:
    """Evaluate every object of every volume of the folder."""
    figures = Figures()
    for case in read_cases(folder):
        if not case.is_volume:
            continue
        figures.modality[case.name] = case.modality
        volume = Volume(case.image, affine=case.affine)
        for item in case.objects:
            truth = np.asarray(case.label == item.label, np.bool_)
            if np.count_nonzero(truth.any((0, 1))) >= MIN_SLICES:
                _evaluate_object(session, case, item, volume, truth, figures)
        if report is not None:
            report(case.name)
    return figures


def _evaluate_object(
    session: Session, case: Case, item: SliceObject, volume: Volume, truth: NDArray[np.bool_], figures: Figures
) -> None:
    window = None if item.window is None else ((item.window[0] + item.window[1]) / 2, item.window[1] - item.window[0])
    record: dict[str, object] = {"case": case.name, "label": item.label, "name": item.name, "small": item.small}
    for protocol, (boxes, extent) in _boxes(item, truth).items():
        found: Segmentation = session.segment(volume, boxes=boxes, z_range=extent, window=window)
        value = dice(found.label_map > 0, truth)
        record[protocol] = value
        figures.values[protocol][case.name].append(value)
        for baseline, draw in (("filled", box_mask), ("ellipse", ellipse_mask)):
            solid = _solid(boxes, extent, truth.shape, draw)
            if solid is not None:
                value = dice(solid, truth)
                record[f"{baseline}_{protocol}"] = value
                figures.values[f"{baseline}_{protocol}"][case.name].append(value)
    figures.objects.append(record)


def _solid(
    boxes: list[Box],
    extent: tuple[int, int] | None,
    shape: tuple[int, int, int],
    draw: Callable[[tuple[int, int], NDArray[np.float64]], NDArray[np.bool_]],
) -> NDArray[np.bool_] | None:
    """The boxes carried through their slices, [i, j, k]; None where nothing says where the object ends."""
    values = np.array([box.xyxy for box in boxes])
    if values.shape[1] == 6:
        extent = (int(values[0, 2]), int(values[0, 5]))
        values = values[:, [0, 1, 3, 4]]
    if extent is None:
        return None
    places = [box.slice_index if box.slice_index is not None else extent[0] for box in boxes]
    solid = np.zeros(shape, np.bool_)
    for k in range(extent[0], extent[1] + 1):
        sides = np.rint([np.interp(k, places, side) for side in values.T])
        solid[:, :, k] = draw((shape[1], shape[0]), sides).T
    return solid
