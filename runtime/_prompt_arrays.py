"""The decoder's inputs: prompts in image pixels, or of one slice, to arrays.

Follows ``docs/bundle-format.md``, section 6. Pure functions of a manifest and arrays; knows no session and no backend.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime._derived import box_quarters, box_stroke, mask_boxes, point_boxes, stroke_points
from runtime._extra import Extra, extra_arrays
from runtime.errors import PromptError
from runtime.manifest import ChainSettings, LoopSettings, Manifest
from runtime.prompts import PlannedObject
from runtime.propagate import SlicePrompt
from runtime.transforms import Frame
from runtime.types import whole

__all__ = [
    "Given",
    "box_guesses",
    "check_auto",
    "check_understood",
    "cutting_boxes",
    "modality_index",
    "prompt_arrays",
    "propagation_settings",
    "slice_arrays",
]


@dataclass(frozen=True, slots=True)
class Given:
    """What a caller prompts with, unchecked; `Session.decode` documents each."""

    boxes: ArrayLike | None = None
    points: ArrayLike | None = None
    point_labels: ArrayLike | None = None
    masks: ArrayLike | None = None
    scribbles: ArrayLike | None = None
    modality: str | int | None = None
    extra: Extra | None = None


def modality_index(manifest: Manifest, modality: str | int | None) -> int | None:
    """Index of a modality given by name or index; None where the bundle takes none, -1 where none is given."""
    use, names = manifest.prompts.modality, manifest.modalities
    known = ", ".join(f"{name} ({index})" for index, name in enumerate(names))
    if use is None:
        if modality is not None:
            msg = f"modality {modality!r}: bundle {manifest.name!r} takes no modality; leave it out"
            raise PromptError(msg)
        return None
    if modality is None:
        if use == "required":
            msg = f"no modality; bundle {manifest.name!r} needs one of {known}"
            raise PromptError(msg)
        return -1
    if isinstance(modality, str):
        folded = [name.casefold() for name in names]
        if modality.casefold() in folded:
            return folded.index(modality.casefold())
    elif 0 <= whole(modality, "modality") < len(names):
        return whole(modality, "modality")
    msg = f"modality {modality!r}: bundle {manifest.name!r} knows {known}"
    raise PromptError(msg)


def check_understood(manifest: Manifest, objects: Sequence[PlannedObject]) -> None:
    """Refuse objects with prompts that the bundle does not take, before anything is computed."""
    for one in objects:
        given = {"box": one.plan.boxes, "points": one.plan.points}
        _require(manifest, {name for name, placed in given.items() if placed})


def check_auto(manifest: Manifest, *, auto: bool, prompted: bool) -> None:
    """Refuse ``auto`` where the bundle needs prompts, and a call without either where it does not."""
    if auto and not manifest.prompts.finds_alone:
        takes = ", ".join(_understood(manifest))
        msg = f"auto: bundle {manifest.name!r} finds nothing without a prompt; it understands {takes}"
        raise PromptError(msg)
    if manifest.prompts.finds_alone and not (auto or prompted):
        limits = "" if manifest.prompts.box is None else ", or a box that limits the mask"
        msg = f"no prompt; bundle {manifest.name!r} finds the object itself: give auto (--auto){limits}"
        raise PromptError(msg)


def cutting_boxes(manifest: Manifest, frame: Frame, boxes: ArrayLike | None) -> NDArray[np.float64] | None:
    """Boxes (N, 4) in image pixels that cut the mask, for a bundle whose decoder takes none."""
    if boxes is None or not manifest.prompts.finds_alone:
        return None
    return _checked_boxes(boxes, frame)


def _understood(manifest: Manifest) -> list[str]:
    """Names of the prompts that place an object."""
    prompts = manifest.prompts
    takes = [name for name in ("box", "points") if getattr(prompts, name) is not None]
    if prompts.mask is not None and prompts.mask.kind == "logits":
        takes.append("mask")
    if prompts.points is not None or (prompts.mask is not None and prompts.mask.kind == "scribble"):
        takes.append("scribble")
    return takes


def _require(manifest: Manifest, given: Container[str]) -> None:
    """Refuse given prompts that the bundle does not take, or that do not do without others."""
    prompts, takes = manifest.prompts, _understood(manifest)
    for name in ("box", "points", "mask", "scribble"):
        if name in given and name not in takes:
            what = f"it understands {', '.join(takes)}" if takes else "it finds the object itself"
            msg = f"bundle {manifest.name!r} takes no {name} prompt; {what}"
            raise PromptError(msg)
    if prompts.finds_alone:
        return
    needs_box = prompts.box is not None and (
        prompts.box.use == "required" or (prompts.points is not None and prompts.points.requires_box)
    )
    if needs_box and "box" not in given:
        msg = f"bundle {manifest.name!r} needs a box for every object; it understands {', '.join(takes)}"
        raise PromptError(msg)
    if not any(name in given for name in takes):
        msg = f"no prompt; bundle {manifest.name!r} understands {', '.join(takes)}"
        raise PromptError(msg)


def prompt_arrays(manifest: Manifest, frame: Frame, given: Given) -> dict[str, NDArray[Any]]:
    """Decoder inputs of N prompts in image pixels; PromptError for what is malformed or not understood."""
    boxes, points, point_labels = given.boxes, given.points, given.point_labels
    named = {"box": boxes, "points": points, "mask": given.masks, "scribble": given.scribbles}
    _require(manifest, {name for name, values in named.items() if values is not None})
    shared = _shared(modality_index(manifest, given.modality))
    if manifest.prompts.finds_alone:
        return shared | extra_arrays(manifest, given.extra, 1)
    if (points is None) != (point_labels is None):
        msg = "points and point_labels belong together; give both"
        raise PromptError(msg)
    box_array = None if boxes is None else _checked_boxes(boxes, frame)
    clicks = None if points is None else _checked_points(points, point_labels, frame)
    masks = None if given.masks is None else _maps(given.masks, "masks")
    strokes = None if given.scribbles is None else _strokes(manifest, given.scribbles)
    sizes = {len(array) for array in (box_array, clicks and clicks[0], masks, strokes) if array is not None}
    if len(sizes) > 1:
        msg = f"boxes, points and masks for {sorted(sizes)} objects: wanted the same number of each"
        raise PromptError(msg)
    (count,) = sizes
    shared |= extra_arrays(manifest, given.extra, count)
    if strokes is not None and not _draws(manifest):
        clicks, strokes = _joined(clicks, stroke_points(strokes)), None
    maps = masks if strokes is None else strokes
    return shared | _decoder_inputs(
        manifest,
        boxes=np.full((count, 4), np.nan, np.float32) if box_array is None else frame.boxes_to_input(box_array),
        clicks=clicks,
        masks=None if maps is None else maps.astype(np.float32),
        mask_flag=1,
    )


_EMPTY = -8.0
"""Logit of a mask in which nothing is; a binary mask becomes +-8."""

_Clicks = tuple[NDArray[np.float32], NDArray[np.float32]]  # points (N, P, 2) in the input frame, labels (N, P)


def _checked_points(points: ArrayLike, point_labels: ArrayLike | None, frame: Frame) -> _Clicks:
    clicks, labels = _numbers(points, "points"), _numbers(() if point_labels is None else point_labels, "point_labels")
    if clicks.ndim != 3 or clicks.shape[2] != 2 or labels.shape != clicks.shape[:2]:
        msg = f"points {clicks.shape} with labels {labels.shape}: wanted (N, P, 2) and (N, P)"
        raise PromptError(msg)
    _check_points(clicks, labels, frame)
    return frame.points_to_input(clicks), labels.astype(np.float32)


def _joined(clicks: _Clicks | None, more: _Clicks) -> _Clicks:
    """The points of both, object by object."""
    if clicks is None:
        return more
    return np.concatenate([clicks[0], more[0]], axis=1), np.concatenate([clicks[1], more[1]], axis=1)


def _maps(values: ArrayLike, what: str) -> NDArray[np.float64]:
    maps = _numbers(values, what)
    return maps[:, np.newaxis] if maps.ndim == 3 else maps  # (N, h, w), as low_res_logits are -> (N, 1, h, w)


def _draws(manifest: Manifest) -> bool:
    """Whether the decoder reads strokes as a map; else they become points."""
    return manifest.prompts.mask is not None and manifest.prompts.mask.kind == "scribble"


def _strokes(manifest: Manifest, values: ArrayLike) -> NDArray[np.float64]:
    """Strokes (N, 1, h, w) of a call; that the bundle takes them is checked before."""
    maps = _maps(values, "scribbles")
    if _draws(manifest):
        if not np.isin(maps, (0, 1)).all():
            msg = "scribbles: wanted 1 on the stroke and 0 elsewhere"
            raise PromptError(msg)
        return maps
    if not np.isin(maps, (-1, 0, 1)).all():
        msg = "scribbles: wanted 1 on strokes on the object, -1 on strokes beside it and 0 elsewhere"
        raise PromptError(msg)
    if maps.shape[1:] != (1, *manifest.input.size):
        rows, columns = manifest.input.size
        msg = f"scribbles of shape {maps.shape}: wanted (N, 1, {rows}, {columns}), in the input frame"
        raise PromptError(msg)
    if not maps.any(axis=(1, 2, 3)).all():
        msg = "scribbles: an object without a stroke; draw one or leave scribbles out"
        raise PromptError(msg)
    return maps


def box_guesses(manifest: Manifest, inputs: Mapping[str, NDArray[Any]]) -> list[dict[str, NDArray[np.float32]]]:
    """Boxes to try in turn for prompts without one, where the bundle says how; else one empty change of the inputs.

    An earlier mask gives its own box, else the points give one of each side.
    """
    rule = manifest.prompts.points
    if rule is None or not rule.box_sides or "boxes" not in inputs or not np.isnan(inputs["boxes"]).any():
        return [{}]
    if inputs["has_mask"].any():
        boxes = mask_boxes(inputs["masks"])
        if not np.isnan(boxes).any():
            return [{"boxes": boxes}]
    if not (inputs["point_labels"] > 0).any(axis=1).all():
        msg = "points without a box: at least one must lie on the object; add one with label 1, or give a box"
        raise PromptError(msg)
    side = max(manifest.input.size)
    return [{"boxes": point_boxes(inputs["points"], inputs["point_labels"], share * side)} for share in rule.box_sides]


def slice_arrays(
    manifest: Manifest,
    prompt: SlicePrompt,
    modality: int | None = None,
    extra: Mapping[str, NDArray[Any]] | None = None,
) -> dict[str, NDArray[Any]]:
    """Decoder inputs of one prompt that is in the input frame already.

    The modality comes from `modality_index`, ``extra`` from `extra_arrays`: it has one row an array.
    """
    beside = {**_shared(modality), **(extra or {})}
    if manifest.prompts.finds_alone:
        return beside
    box = np.full(4, np.nan, np.float32) if prompt.box is None else prompt.box
    rule = manifest.prompts.mask
    logits = prompt.mask_logits if rule is not None and rule.kind == "logits" else None
    if rule is not None and rule.empty_is_limit and prompt.is_limit:
        logits = np.full(rule.size, _EMPTY, np.float32)
    return beside | _decoder_inputs(
        manifest,
        boxes=box[np.newaxis],
        clicks=(prompt.points[np.newaxis], prompt.point_labels[np.newaxis]) if len(prompt.points) else None,
        masks=None if logits is None else logits[np.newaxis, np.newaxis],
        mask_flag=1 if rule is None else rule.neighbour_flag,
    )


def _shared(modality: int | None) -> dict[str, NDArray[Any]]:
    """Decoder inputs that all prompts of a call share."""
    return {} if modality is None else {"modality": np.array([modality], np.int64)}


def _decoder_inputs(
    manifest: Manifest,
    *,
    boxes: NDArray[np.float32],
    clicks: _Clicks | None,
    masks: NDArray[np.float32] | None,
    mask_flag: int,
) -> dict[str, NDArray[Any]]:
    count = len(boxes)
    inputs: dict[str, NDArray[Any]] = {"boxes": boxes}
    has_box = not np.isnan(boxes).any()
    if manifest.prompts.points is not None:
        if manifest.prompts.points.derived == "box_quarters" and clicks is None and has_box:
            clicks = box_quarters(boxes)
        blank = (np.zeros((count, 1, 2), np.float32), np.full((count, 1), -1, np.float32))
        inputs["points"], inputs["point_labels"] = blank if clicks is None else clicks
    if manifest.prompts.mask is not None:
        size, kind = manifest.prompts.mask.size, manifest.prompts.mask.kind
        if masks is not None and masks.shape != (count, 1, *size):
            what = ("masks", "earlier low_res_logits") if kind == "logits" else ("scribbles", "in the input frame")
            msg = f"{what[0]} of shape {masks.shape}: wanted {(count, 1, *size)}, {what[1]}"
            raise PromptError(msg)
        if manifest.prompts.mask.derived == "box_stroke" and masks is None and has_box:
            masks = box_stroke(boxes, size, manifest.input.size)
        inputs["masks"] = np.zeros((count, 1, *size), np.float32) if masks is None else masks
        inputs["has_mask"] = np.full(count, 0 if masks is None else mask_flag, np.float32)
    return inputs


def _numbers(values: ArrayLike, what: str) -> NDArray[np.float64]:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        msg = f"{what}: wanted an array of numbers with equal rows"
        raise PromptError(msg) from error
    if not array.ndim:
        msg = f"{what}: one number; wanted an array with a row for each object"
        raise PromptError(msg)
    if not np.isfinite(array).all():
        msg = f"{what}: every number must be finite; remove NaN and infinity"
        raise PromptError(msg)
    if not array.size:
        msg = f"{what}: an empty array; leave it out or give at least one prompt"
        raise PromptError(msg)
    return array


def _checked_boxes(boxes: ArrayLike, frame: Frame) -> NDArray[np.float64]:
    array = _numbers(boxes, "boxes")
    if array.ndim == 1:
        array = array[np.newaxis]
    if array.ndim != 2 or array.shape[1] != 4:
        msg = f"boxes of shape {array.shape}: wanted (N, 4), x0,y0,x1,y1 each"
        raise PromptError(msg)
    height, width = frame.original_size
    for x0, y0, x1, y1 in array:
        if x1 < x0 or y1 < y0:
            msg = f"box {x0:g},{y0:g},{x1:g},{y1:g}: an upper end lies below its lower end; swap them"
            raise PromptError(msg)
        if min(x0, y0) < -0.5 or x1 > width - 0.5 or y1 > height - 0.5:
            msg = (
                f"box {x0:g},{y0:g},{x1:g},{y1:g} leaves the image: x runs from 0 to {width - 1}, y from 0 to "
                f"{height - 1} (0-based, both ends inclusive)"
            )
            raise PromptError(msg)
    return array


def _check_points(points: NDArray[np.float64], labels: NDArray[np.float64], frame: Frame) -> None:
    if not np.isin(labels, (-1, 0, 1)).all():
        msg = "point_labels: wanted 1 (on the object), 0 (beside it) or -1 (padding)"
        raise PromptError(msg)
    height, width = frame.original_size
    for x, y in points[labels >= 0]:
        if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
            msg = f"point {x:g},{y:g} leaves the image: x runs from 0 to {width - 1}, y from 0 to {height - 1}"
            raise PromptError(msg)


def propagation_settings(manifest: Manifest, mode: str) -> ChainSettings | LoopSettings:
    """How the bundle's masks are carried from slice to slice in a mode; PromptError where it has none."""
    propagation = manifest.propagation
    if mode == "chain":
        return propagation.chain
    if mode == "published" and propagation.published is not None:
        return propagation.published
    found = "chain" if propagation.published is None else "chain, published"
    msg = f"mode {mode!r}: bundle {manifest.name!r} has {found}"
    raise PromptError(msg)
