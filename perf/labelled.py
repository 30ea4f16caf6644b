"""A folder of labelled images with ``prompts.json``: slices with boxes and the truth about them.

Knows that folder's layout (axes in file order, both ends of a box inclusive, one window for each object) and nothing
of models. Images are [row, column].
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import runtime
from runtime.errors import ImageError

__all__ = ["LabelledSlice", "dice", "read_labelled"]

_SOFT_TISSUE, _LUNG = (-160.0, 240.0), (-1350.0, 150.0)


@dataclass(frozen=True, slots=True, eq=False)
class LabelledSlice:
    """One image with the objects that are prompted on it.

    Attributes
    ----------
    name : str
        Case, slice and window.
    image : ndarray of uint8, shape (H, W) or (H, W, 3)
        As the window shows it.
    boxes : ndarray of float64, shape (N, 4)
        xyxy, both ends inclusive.
    masks : ndarray of bool, shape (N, H, W)
        The truth.
    """

    name: str
    image: NDArray[np.uint8]
    boxes: NDArray[np.float64]
    masks: NDArray[np.bool_]


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Dice of two masks; 1 where both are empty."""
    total = int(np.count_nonzero(one)) + int(np.count_nonzero(other))
    return 1.0 if total == 0 else 2 * int(np.count_nonzero(one & other)) / total


def read_labelled(folder: Path) -> Iterator[LabelledSlice]:
    """Read a folder case by case; ImageError where it is none."""
    path = folder / "prompts.json"
    try:
        cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"{path}: cannot be read ({type(error).__name__}); wanted a folder of labelled images with its prompts"
        raise ImageError(msg) from error
    for name, case in sorted(cases.items()):
        image, label = (runtime.load(folder / case[key]).array for key in ("image", "label"))
        groups: dict[tuple[int, tuple[float, float] | None], list[dict[str, Any]]] = {}
        for entry in case["objects"]:
            window = None if image.shape[2] == 1 and image.dtype == np.uint8 else _window(entry, case, image)
            groups.setdefault((int(entry["z"]), window), []).append(entry)
        for (z, window), entries in groups.items():
            boxes = np.array([entry["box2d"] for entry in entries], dtype=np.float64)
            masks = np.stack([entry["label"] == label[:, :, z].T for entry in entries])
            title = f"{name} {z}" + ("" if window is None else f" {window[0]:g} {window[1]:g}")
            yield LabelledSlice(title, _plane(image[:, :, z], window), boxes, masks)


def _window(entry: dict[str, Any], case: dict[str, Any], image: NDArray[Any]) -> tuple[float, float]:
    if case["modality"] == "CT":
        return _LUNG if "lung" in str(entry["name"]).lower() else _SOFT_TISSUE
    low, high = np.percentile(image[image > 0], (0.5, 99.5))
    return float(low), float(high)


def _plane(plane: NDArray[Any], window: tuple[float, float] | None) -> NDArray[np.uint8]:
    """(I, J) or (I, J, 3) as stored -> (row, column[, 3]) in 8 bits."""
    turned = plane.swapaxes(0, 1)
    if window is None:
        return np.ascontiguousarray(turned, dtype=np.uint8)
    low, high = window
    return np.ascontiguousarray(np.clip((turned.astype(np.float64) - low) / (high - low) * 255, 0, 255), dtype=np.uint8)
