"""A labelled folder with prompts.json, read as slices with objects and as volumes.

Knows the folder's convention (x = i = column, boxes inclusive, file order, one window per object). Must not know
models. Images here are [row, col], as an encoder wants them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.errors import ImageError

__all__ = ["Case", "SliceObject", "read_cases", "window_to_bytes"]


@dataclass(frozen=True)
class SliceObject:
    """One object on its largest slice; ``window`` is the (low, high) that made the image, None for an 8-bit file."""

    label: int
    name: str
    slice_index: int
    window: tuple[float, float] | None
    box: NDArray[np.float64]  # (4,) xyxy, both ends inclusive
    box_3d: tuple[int, ...] | None
    small: bool


@dataclass(frozen=True)
class Case:
    """One case: ``image`` and ``label`` as stored in the file, [row, col(, c)] or [i, j, k]."""

    name: str
    modality: str
    image: NDArray[Any]
    label: NDArray[Any]
    affine: NDArray[np.float64] | None
    objects: tuple[SliceObject, ...]

    @property
    def is_volume(self) -> bool:
        """Whether the arrays are [i, j, k]."""
        return self.affine is not None

    def slice_image(self, item: SliceObject) -> NDArray[np.uint8]:
        """8-bit image [row, col(, c)] on which the object is prompted."""
        if item.window is None:
            return np.asarray(self.image, np.uint8)
        return window_to_bytes(self.image[:, :, item.slice_index].T, item.window)

    def slice_mask(self, item: SliceObject) -> NDArray[np.bool_]:
        """True mask [row, col] of the object on its slice."""
        label = self.label[:, :, item.slice_index].T if self.is_volume else self.label
        return np.ascontiguousarray(label == item.label)


def window_to_bytes(values: NDArray[Any], window: tuple[float, float]) -> NDArray[np.uint8]:
    """Clip to (low, high), stretch to 0..255 and cut off the fraction."""
    low, high = window
    scaled = (values.astype(np.float64) - low) / (high - low) * 255
    return np.ascontiguousarray(np.clip(scaled, 0, 255).astype(np.uint8))


def _default_window(modality: str, image: NDArray[Any]) -> tuple[float, float]:
    if modality == "CT":
        return (-160.0, 240.0)
    low, high = np.percentile(image[image > 0], [0.5, 99.5])
    return (float(low), float(high))


def _read_object(entry: dict[str, Any], case: dict[str, Any], image: NDArray[Any], *, small: bool) -> SliceObject:
    window: tuple[float, float] | None = None
    if len(case["shape"]) == 3 and case["label"].endswith(".nii.gz"):
        given = entry.get("window")
        if given is None:
            window = _default_window(case["modality"], image)
        elif len(given) == 2:  # level and width
            window = (given[0] - given[1] / 2, given[0] + given[1] / 2)
        else:
            window = (float(given[0]), float(given[1]))
    box_3d = tuple(entry["box3d"]) if "box3d" in entry else None
    return SliceObject(
        entry["label"], entry["name"], entry["z"], window, np.array(entry["box2d"], np.float64), box_3d, small
    )


def _read_arrays(folder: Path, entry: dict[str, Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float64] | None]:
    """Arrays as stored, and the affine of a volume."""
    if entry["image"].endswith(".nii.gz"):
        import nibabel

        stored: Any = nibabel.load(folder / entry["image"])
        label: Any = nibabel.load(folder / entry["label"])
        return np.asanyarray(stored.dataobj), np.asanyarray(label.dataobj), np.asarray(stored.affine, np.float64)
    image = cv2.imread(str(folder / entry["image"]), cv2.IMREAD_UNCHANGED)
    mask = cv2.imread(str(folder / entry["label"]), cv2.IMREAD_UNCHANGED)
    if image is None or mask is None:
        msg = f"{folder / entry['image']}: image or label cannot be read; wanted two PNG files"
        raise ImageError(msg)
    if image.ndim == 3:
        image = image[:, :, 2::-1]
    return image, mask, None


def read_cases(folder: Path) -> Iterator[Case]:
    """Cases of ``folder/prompts.json`` that have prompts, one at a time."""
    path = folder / "prompts.json"
    if not path.is_file():
        msg = f"{path}: not found; wanted a labelled folder with its prompts.json"
        raise ImageError(msg)
    listed = json.loads(path.read_text(encoding="utf-8"))["cases"]
    for name, entry in listed.items():
        image, label, affine = _read_arrays(folder, entry)
        objects = [_read_object(item, entry, image, small=False) for item in entry["objects"]]
        objects += [_read_object(item, entry, image, small=True) for item in entry["small_objects"]]
        if objects:
            yield Case(name, entry["modality"], image, label, affine, tuple(objects))
