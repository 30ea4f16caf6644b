"""Read goldens: what a system's own code made of a few images, stage by stage.

A folder holds ``case_*.npz`` (one image each, with boxes or with the modalities that it was decoded as), and optionally
``case_3d.npz`` (a volume through the published loop) and ``loop_3d.npz`` (that loop with a stand-in decoder). Knows the
arrays' names; knows no bundle.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import BundleError

__all__ = [
    "Goldens",
    "asked_together",
    "boolean_masks",
    "decoded_size",
    "read_goldens",
    "refined",
    "rows_asked",
    "sample_like",
    "stand_in",
]

Arrays = Mapping[str, NDArray[Any]]

_IMAGE_CASE = re.compile(r"case_\d+\.npz")
_IMAGE_ARRAYS = ("image", "embedding_sample", "low_res_logits", "mask")
_ASKED = {
    "boxes": ("prompt_boxes", "iou"),
    "boxes_label": ("prompt_boxes", "coarse_row_col_step", "fine_all_logits", "fine_all_step"),
    "domain_seq": (),
}
"""What tells the question to the decoder, and what comes with it."""


@dataclass(frozen=True)
class Goldens:
    """The goldens of one system: image cases by name, and where there are any, the volume and the loop."""

    images: Mapping[str, Arrays]
    volume: Arrays | None
    loop: Arrays | None


def read_goldens(folder: Path) -> Goldens:
    """Read a folder of goldens; BundleError if it has none or they lack arrays."""
    images = {path.stem: _read_image(path) for path in sorted(folder.glob("case_*.npz")) if _is_image(path)}
    if not images:
        msg = f"{folder}: no case_0.npz there; wanted a folder of goldens of one system"
        raise BundleError(msg)
    volume, loop = folder / "case_3d.npz", folder / "loop_3d.npz"
    wanted = ("boxes", "call_prompt_boxes", "segs")
    calls = ("call_box_and_slice", "call_low_res_logits_cropped", "call_iou", "volume")
    return Goldens(
        images=images,
        volume=_read(volume, (*wanted, *calls)) if volume.exists() else None,
        loop=_read(loop, (*wanted, "shape")) if loop.exists() else None,
    )


def _is_image(path: Path) -> bool:
    return _IMAGE_CASE.fullmatch(path.name) is not None


def _read_image(path: Path) -> Arrays:
    arrays = _read(path, ())
    asked = next((name for name in _ASKED if name in arrays), "boxes")
    complete = _complete(path, arrays, (*_IMAGE_ARRAYS, asked, *_ASKED[asked]))
    return {**complete, "boxes": arrays[asked]} if asked == "boxes_label" else complete


def _read(path: Path, wanted: tuple[str, ...]) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        msg = f"{path}: cannot be read ({error}); wanted arrays in a .npz file"
        raise BundleError(msg) from error
    return _complete(path, arrays, wanted)


def _complete(path: Path, arrays: Arrays, wanted: tuple[str, ...]) -> Arrays:
    missing = [name for name in wanted if name not in arrays]
    if missing:
        msg = f"{path} lacks {', '.join(missing)}; wanted the goldens of a system"
        raise BundleError(msg)
    return arrays


def sample_like(arrays: Arrays, name: str, tensor: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Pair a tensor with its golden, stored whole under `name` or sampled at a stride, as flat arrays."""
    if name in arrays:
        return tensor.reshape(-1), arrays[name].reshape(-1)
    return tensor.reshape(-1)[:: int(arrays[f"{name}_stride"])], arrays[f"{name}_sample"]


def decoded_size(arrays: Arrays) -> tuple[int, int]:
    """Rows and columns of the masks: the image's, or those at which the authors' code leaves them."""
    height, width = arrays["mask_shape"][1:] if "mask_shape" in arrays else arrays["image"].shape[:2]
    return int(height), int(width)


def rows_asked(arrays: Arrays, scale_xy: tuple[float, float], extra: Iterable[str] = ()) -> Iterator[dict[str, Any]]:
    """What the decoder was asked for each mask, as keywords of `runtime.Session.decode`.

    Points and scribbles are those that the authors' code drew, the former moved from the input frame to the image.
    `extra` names the arrays that the bundle is given beside the prompts; a single row of them was shared by all masks.
    """
    beside = [name for name in extra if name in arrays]
    if "domain_seq" in arrays:
        yield from ({"modality": int(index)} for index in arrays["domain_seq"])
        return
    for row in range(len(arrays["boxes"])):
        asked: dict[str, Any] = {"boxes": arrays["boxes"][row : row + 1]}
        if "points" in arrays:
            asked["points"] = arrays["points"][row : row + 1].astype(np.float64) / scale_xy
            asked["point_labels"] = arrays["point_labels"][row : row + 1]
            asked["scribbles"] = arrays["scribble"][row : row + 1]
        if "category_idx" in arrays:
            asked["modality"] = int(arrays["category_idx"])
        if beside:
            asked["extra"] = {name: arrays[name][row if len(arrays[name]) > 1 else 0] for name in beside}
        yield asked


def asked_together(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Join what `rows_asked` gave into one call for all masks."""
    together: dict[str, Any] = {}
    for name, first in rows[0].items():
        if name == "extra":
            together[name] = {one: np.stack([row[name][one] for row in rows]) for one in first}
        else:
            together[name] = first if name == "modality" else np.concatenate([row[name] for row in rows])
    return together


def boolean_masks(arrays: Arrays) -> NDArray[np.bool_] | None:
    """Masks per box where the goldens pack them, shape (N, H, W); None where they hold one label map."""
    if "mask_shape" not in arrays:
        return None
    shape = tuple(int(side) for side in arrays["mask_shape"])
    return np.unpackbits(arrays["mask"])[: int(np.prod(shape))].reshape(shape).astype(np.bool_)


def refined(arrays: Arrays, coarse: NDArray[np.bool_], fine: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Masks (N, H, W) of which the authors' code refined some points: a run of them, by the order of its sort."""
    masks = coarse.copy().reshape(len(coarse), -1)
    first = int(arrays["official_selected_sorted_head"][0])
    run = slice(first, first + int(arrays["official_selected_count"]))
    masks[:, run] = fine.reshape(len(fine), -1)[:, run]
    whole: NDArray[np.bool_] = masks.reshape(coarse.shape)
    return whole


def stand_in(call: int, box: NDArray[Any], side: int) -> NDArray[np.float32]:
    """Logits (256, 256) of the stand-in decoder: an ellipse in the box that wanders; nothing on every fifth call.

    `box` is what the prompt encoder is given, in an input frame of `side` pixels; `call` counts from 0.
    """
    if call % 5 == 3:
        return np.full((256, 256), -1, np.float32)
    x0, y0, x1, y1 = (256 / side * float(value) for value in box)
    centre_x, centre_y = (x0 + x1) / 2 + 4 * (call % 3 - 1), (y0 + y1) / 2 + 3 * (call // 3 % 3 - 1)
    radius_x, radius_y = max(2.0, 0.45 * (x1 - x0)), max(2.0, 0.45 * (y1 - y0))
    y, x = np.mgrid[0:256, 0:256] + 0.5
    logits: NDArray[np.float64] = 2 - 2 * (((x - centre_x) / radius_x) ** 2 + ((y - centre_y) / radius_y) ** 2)
    return logits.astype(np.float32)
