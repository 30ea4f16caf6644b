"""The decoder's inputs and outputs: prompts to arrays, arrays to a prediction, embeddings to and from storage.

Follows ``docs/bundle-format.md``, sections 5 to 7. Pure functions of a manifest and arrays; knows no session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime.errors import InferenceError, PromptError
from runtime.manifest import Manifest
from runtime.prompts import PlannedObject
from runtime.propagate import SlicePrompt
from runtime.transforms import Frame, masks_from_logits
from runtime.types import Prediction

__all__ = ["blank", "check_understood", "prediction", "prompt_arrays", "restored", "slice_arrays", "stored"]

_NO_POINT = (np.zeros((1, 2), np.float32), np.full(1, -1, np.float32))


def stored(manifest: Manifest, outputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Encoder outputs in the dtypes that embeddings are kept in, read-only."""
    tensors: dict[str, NDArray[Any]] = {}
    for spec in manifest.embedding:
        if spec.name not in outputs or outputs[spec.name].shape != spec.shape:
            found = outputs[spec.name].shape if spec.name in outputs else "no such output"
            msg = f"encoder output {spec.name!r}: found {found}, the manifest says {spec.shape}; convert again"
            raise InferenceError(msg)
        tensor = outputs[spec.name]
        if spec.stored_dtype in ("uint8", "int8") and tensor.dtype.kind == "f":
            limits = np.iinfo(spec.stored_dtype)
            tensor = np.clip(np.rint(tensor), limits.min, limits.max)
        tensor = np.ascontiguousarray(tensor, dtype=spec.stored_dtype)
        tensor.flags.writeable = False
        tensors[spec.name] = tensor
    return tensors


def restored(manifest: Manifest, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Embedding tensors in the dtypes that the decoder reads; no copy where they agree."""
    return {spec.name: tensors[spec.name].astype(spec.dtype, copy=False) for spec in manifest.embedding}


def check_understood(manifest: Manifest, objects: Sequence[PlannedObject]) -> None:
    """Refuse objects with prompts that the bundle does not take, before anything is computed."""
    for one in objects:
        _require(manifest, has_box=bool(one.plan.boxes), has_points=bool(one.plan.points), has_mask=False)


def _require(manifest: Manifest, *, has_box: bool, has_points: bool, has_mask: bool) -> None:
    prompts = manifest.prompts
    takes = [name for name in ("box", "points", "mask") if getattr(prompts, name) is not None]
    for name, given in (("box", has_box), ("points", has_points), ("mask", has_mask)):
        if given and name not in takes:
            msg = f"bundle {manifest.name!r} takes no {name} prompt; it understands {', '.join(takes)}"
            raise PromptError(msg)
    needs_box = prompts.box is not None and (
        prompts.box.use == "required" or (prompts.points is not None and prompts.points.requires_box)
    )
    if needs_box and not has_box:
        msg = f"bundle {manifest.name!r} needs a box for every object; it understands {', '.join(takes)}"
        raise PromptError(msg)
    if not (has_box or has_points or has_mask):
        msg = f"no prompt; bundle {manifest.name!r} understands {', '.join(takes)}"
        raise PromptError(msg)


def prompt_arrays(
    manifest: Manifest,
    frame: Frame,
    *,
    boxes: ArrayLike | None,
    points: ArrayLike | None,
    point_labels: ArrayLike | None,
    masks: ArrayLike | None,
) -> dict[str, NDArray[Any]]:
    """Decoder inputs of N prompts in image pixels; PromptError for what is malformed or not understood."""
    _require(manifest, has_box=boxes is not None, has_points=points is not None, has_mask=masks is not None)
    if (points is None) != (point_labels is None):
        msg = "points and point_labels belong together; give both"
        raise PromptError(msg)
    box_array = None if boxes is None else _checked_boxes(boxes, frame)
    clicks = None if points is None else _numbers(points, "points")
    labels = None if point_labels is None else _numbers(point_labels, "point_labels")
    logits = None if masks is None else _numbers(masks, "masks")
    if logits is not None and logits.ndim == 3:
        logits = logits[:, np.newaxis]  # (N, h, w), as low_res_logits are -> (N, 1, h, w)
    count = next(len(array) for array in (box_array, clicks, logits) if array is not None)
    if clicks is not None and labels is not None:
        if clicks.ndim != 3 or clicks.shape[2] != 2 or labels.shape != clicks.shape[:2]:
            msg = f"points {clicks.shape} with labels {labels.shape}: wanted (N, P, 2) and (N, P)"
            raise PromptError(msg)
        _check_points(clicks, labels, frame)
    sizes = {len(array) for array in (box_array, clicks, logits) if array is not None}
    if len(sizes) > 1:
        msg = f"boxes, points and masks for {sorted(sizes)} objects: wanted the same number of each"
        raise PromptError(msg)
    return _decoder_inputs(
        manifest,
        boxes=np.full((count, 4), np.nan, np.float32) if box_array is None else frame.boxes_to_input(box_array),
        points=None if clicks is None else frame.points_to_input(clicks),
        labels=None if labels is None else labels.astype(np.float32),
        masks=None if logits is None else logits.astype(np.float32),
    )


def slice_arrays(manifest: Manifest, prompt: SlicePrompt) -> dict[str, NDArray[Any]]:
    """Decoder inputs of one prompt that is in the input frame already."""
    box = np.full(4, np.nan, np.float32) if prompt.box is None else prompt.box
    return _decoder_inputs(
        manifest,
        boxes=box[np.newaxis],
        points=prompt.points[np.newaxis] if len(prompt.points) else None,
        labels=prompt.point_labels[np.newaxis] if len(prompt.points) else None,
        masks=None if prompt.mask_logits is None else prompt.mask_logits[np.newaxis, np.newaxis],
    )


def _decoder_inputs(
    manifest: Manifest,
    *,
    boxes: NDArray[np.float32],
    points: NDArray[np.float32] | None,
    labels: NDArray[np.float32] | None,
    masks: NDArray[np.float32] | None,
) -> dict[str, NDArray[Any]]:
    count = len(boxes)
    inputs: dict[str, NDArray[Any]] = {"boxes": boxes}
    if manifest.prompts.points is not None:
        blank_points, blank_labels = _NO_POINT
        inputs["points"] = np.tile(blank_points, (count, 1, 1)) if points is None else points
        inputs["point_labels"] = np.tile(blank_labels, (count, 1)) if labels is None else labels
    if manifest.prompts.mask is not None:
        size = manifest.prompts.mask.size
        if masks is not None and masks.shape != (count, 1, *size):
            msg = f"masks of shape {masks.shape}: wanted {(count, 1, *size)}, earlier low_res_logits"
            raise PromptError(msg)
        inputs["masks"] = np.zeros((count, 1, *size), np.float32) if masks is None else masks
        inputs["has_mask"] = np.full(count, masks is not None, np.float32)
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


def _output(outputs: Mapping[str, NDArray[Any]], name: str, row: tuple[int, ...]) -> NDArray[np.float32]:
    """One output of the decoder, whose rows must have the shape that the manifest says."""
    found = outputs[name].shape if name in outputs else "no such output"
    if name not in outputs or outputs[name].shape[1:] != row:
        wanted = ", ".join(map(str, ("N", *row)))
        msg = f"decoder output {name!r}: found {found}, the manifest says ({wanted}); convert again"
        raise InferenceError(msg)
    return outputs[name]


def prediction(manifest: Manifest, outputs: Mapping[str, NDArray[Any]], frame: Frame) -> Prediction:
    """Masks and scores from the decoder's outputs, candidates sorted best first."""
    spec = manifest.output
    logits = _output(outputs, "low_res_logits", (spec.candidates, *spec.low_res_size))
    shape = logits.shape[:2]
    scores = _output(outputs, "scores", shape[1:]) if spec.scores else np.full(shape, np.nan, np.float32)
    if spec.scores and spec.candidates > 1:
        order = np.argsort(-scores, axis=1, kind="stable")
        scores = np.take_along_axis(scores, order, axis=1)
        logits = np.take_along_axis(logits, order[:, :, np.newaxis, np.newaxis], axis=1)
    flat = logits.reshape(-1, *logits.shape[2:])  # (N, C, h, w) -> (N * C, h, w)
    masks, boxes, areas = masks_from_logits(flat, spec, frame)
    candidates = masks.reshape(*shape, *masks.shape[1:])
    return Prediction(
        low_res_logits=logits[:, 0],
        masks=candidates[:, 0],
        scores=scores[:, 0],
        candidates=candidates,
        candidate_scores=scores,
        boxes=boxes.reshape(*shape, 4)[:, 0],
        areas=areas.reshape(shape)[:, 0],
    )


def blank(manifest: Manifest, frame: Frame) -> Prediction:
    """Prediction of one prompt that finds nothing."""
    logits = np.full((1, 1, *manifest.output.low_res_size), manifest.output.threshold - 10, np.float32)
    return prediction(
        manifest,
        {
            "low_res_logits": logits.repeat(manifest.output.candidates, axis=1),
            "scores": np.zeros((1, manifest.output.candidates), np.float32),
        },
        frame,
    )
