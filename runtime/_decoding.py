"""Embeddings to and from storage, and the decoder's outputs to a prediction.

Follows ``docs/bundle-format.md``, sections 5 and 7. Pure functions of a manifest and arrays; knows no session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime._half import converted
from runtime.errors import InferenceError
from runtime.manifest import Crop, Manifest, Output
from runtime.transforms import Frame, masks_from_logits
from runtime.types import Prediction

__all__ = ["blank", "crop_vectors", "neighbours", "prediction", "restored", "stored"]


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
        tensor = converted(tensor, spec.stored_dtype)
        tensor.flags.writeable = False
        tensors[spec.name] = tensor
    return tensors


def restored(manifest: Manifest, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Embedding tensors in the dtypes that the decoder reads; no copy where they agree."""
    return {spec.name: converted(tensors[spec.name], spec.dtype) for spec in manifest.embedding}


def neighbours(manifest: Manifest, tensors: Mapping[str, NDArray[Any]] | None) -> dict[str, NDArray[Any]]:
    """What the decoder reads of the neighbouring slice's embedding; zeros where there is none."""
    mask = manifest.prompts.mask
    named = () if mask is None else mask.neighbour_tensors
    specs = [spec for spec in manifest.embedding if spec.name in named]
    if tensors is None:
        return {f"{spec.name}_before": np.zeros(spec.shape, spec.dtype) for spec in specs}
    return {f"{spec.name}_before": converted(tensors[spec.name], spec.dtype) for spec in specs}


def _output(outputs: Mapping[str, NDArray[Any]], name: str, row: tuple[int, ...]) -> NDArray[np.float32]:
    """One output of the decoder, whose rows must have the shape that the manifest says."""
    found = outputs[name].shape if name in outputs else "no such output"
    if name not in outputs or outputs[name].shape[1:] != row:
        wanted = ", ".join(map(str, ("N", *row)))
        msg = f"decoder output {name!r}: found {found}, the manifest says ({wanted}); convert again"
        raise InferenceError(msg)
    return outputs[name]


def crop_vectors(outputs: Mapping[str, NDArray[Any]], crop: Crop, count: int) -> NDArray[np.float32]:
    """What a third graph made of N crops, (N, length)."""
    found = outputs.get("output")
    if found is None or found.ndim != 2 or len(found) != count or crop.length not in (None, found.shape[1]):
        shape = "no such output" if found is None else found.shape
        msg = f"{crop.graph} output 'output': found {shape}, wanted ({count}, {crop.length or '?'}); convert again"
        raise InferenceError(msg)
    return found


def prediction(
    manifest: Manifest,
    runs: Sequence[Mapping[str, NDArray[Any]]],
    frame: Frame,
    size: tuple[int, int] | None = None,
    *,
    candidates: int | None = None,
    best_only: bool = False,
) -> Prediction:
    """Masks and scores from the decoder's outputs, candidates best first; of several runs the best ones.

    The logits are of that size, or of the one that the manifest says, and of so many candidates. With ``best_only`` the
    best candidate is the only one.
    """
    spec = manifest.output
    row = (candidates or spec.candidates, *(size or spec.low_res_size))
    found = [_logits_and_scores(spec, outputs, row) for outputs in runs]
    logits, scores = found[0] if len(found) == 1 else map(partial(np.concatenate, axis=1), zip(*found, strict=True))
    shape = (logits.shape[0], 1 if best_only else row[0])
    if spec.scores and spec.order == "score" and scores.shape[1] > 1:
        order = np.argsort(-scores, axis=1, kind="stable")[:, : shape[1]]
        if order.size == 1:
            best = slice(order[0, 0], order[0, 0] + 1)
            scores, logits = scores[:, best], logits[:, best]  # views
        else:
            rows = np.arange(shape[0])[:, np.newaxis]
            scores, logits = scores[rows, order], logits[rows, order]  # whole maps are copied
    logits, scores = logits[:, : shape[1]], scores[:, : shape[1]]
    flat = logits.reshape(-1, *logits.shape[2:])  # (N, C, h, w) -> (N * C, h, w)
    masks, boxes, areas = masks_from_logits(flat, spec, frame)
    answers = masks.reshape(*shape, *masks.shape[1:])
    return Prediction(
        low_res_logits=logits[:, 0],
        masks=answers[:, 0],
        scores=scores[:, 0],
        candidates=answers,
        candidate_scores=scores,
        boxes=boxes.reshape(*shape, 4)[:, 0],
        areas=areas.reshape(shape)[:, 0],
    )


def _logits_and_scores(
    spec: Output, outputs: Mapping[str, NDArray[Any]], row: tuple[int, int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    logits = _output(outputs, "low_res_logits", row)
    shape = logits.shape[:2]
    return logits, _output(outputs, "scores", shape[1:]) if spec.scores else np.full(shape, np.nan, np.float32)


def blank(manifest: Manifest, frame: Frame) -> Prediction:
    """Prediction of one prompt that finds nothing."""
    logits = np.full((1, 1, *manifest.output.low_res_size), manifest.output.threshold - 10, np.float32)
    return prediction(
        manifest,
        [
            {
                "low_res_logits": logits.repeat(manifest.output.candidates, axis=1),
                "scores": np.zeros((1, manifest.output.candidates), np.float32),
            }
        ],
        frame,
    )
