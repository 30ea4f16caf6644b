"""Does a bundle give what its authors' code gave? Replays goldens through the public API, stage by stage.

Knows goldens, sessions and tolerances. Must not know families or torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import runtime
from export.golden import (
    Arrays,
    asked_together,
    boolean_masks,
    decoded_size,
    read_goldens,
    refined,
    rows_asked,
    sample_like,
    stand_in,
)
from runtime.backends import BackendOptions, open_backend
from runtime.bundle import open_bundle
from runtime.crops import crop_arrays
from runtime.manifest import Manifest
from runtime.propagate import Decode, ObjectPlan, SlicePrompt, propagate
from runtime.transforms import Frame, encoder_input, frame_of, masks_from_logits
from runtime.types import Prediction

__all__ = ["LIMITS", "Check", "Limits", "verify"]


@dataclass(frozen=True)
class Limits:
    """What may differ: embeddings and scores absolute, logits over their deviation, masks as share of the pixels.

    The goldens of a volume hold float16 logits of many decoder calls. There the root mean square of what goes beyond
    their rounding may be as large as that rounding (or `volume_rms`), and no single logit may be further off than
    `volume_logits`: a model may put one slice of many where float32 itself decides. Rep-MedSAM's pseudo-weights do, on
    three slices of twelve: there PyTorch in float32 and in float64 differ by 1.4e-3 of the deviation.
    """

    embedding: float = 1e-3
    logits: float = 1e-3
    score: float = 1e-3
    mask: float = 1e-3
    together: float = 1e-5
    volume_rms: float = 0.0
    volume_logits: float = 1e-2


LIMITS = {
    "fp32": Limits(),
    "fp16": Limits(embedding=2e-2, logits=2e-2, score=1e-2, mask=1e-2, volume_rms=1e-2, volume_logits=1e-1),
    "int8": Limits(embedding=1e-1, logits=1e-1, score=5e-2, mask=5e-2, volume_rms=1e-1, volume_logits=5e-1),
}
"""By the precision that the weights are stored in."""

_CROP_LIMIT = 1e-5
"""The published resize of crops is one of floats, whose last digits depend on the order of sums; 1 is white."""


@dataclass(frozen=True)
class Check:
    """One stage of one case: the largest difference found, and the largest one allowed."""

    case: str
    backend: str
    stage: str
    found: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the difference is within the limit; not a number is not."""
        return self.found <= self.limit


def verify(bundle: Path, goldens: Path, *, backends: Sequence[str]) -> Iterator[Check]:
    """Replay all goldens of a folder, in float32, and yield a check per case, backend and stage.

    BundleError and BackendError as `runtime.Session` raises them; BundleError for unreadable goldens.
    """
    cases = read_goldens(goldens)
    manifest = open_bundle(bundle).manifest
    for case, arrays in cases.images.items():
        yield from _check_transforms(case, arrays, manifest)
    if cases.loop is not None:
        yield from _check_loop(cases.loop, manifest)
    for backend in backends:
        with runtime.Session(bundle, backend=backend, precision="fp32", cache=False) as session:
            for case, arrays in cases.images.items():
                yield from _check_image(case, arrays, session)
                if "fine_all_logits" in arrays:
                    yield _check_fine(case, arrays, session, bundle)
            if cases.volume is not None:
                with _Calls(cases.volume, session, bundle) as calls:
                    yield from _check_calls(calls)
                    yield from _check_drawn_volume(calls) if calls.drawn else _check_volume(cases.volume, session)


def _check_transforms(case: str, arrays: Arrays, manifest: Manifest) -> Iterator[Check]:
    """Image and boxes as the graphs get them; no backend takes part."""
    image = arrays["image"]
    frame = frame_of(manifest, image.shape[:2])
    found, wanted = sample_like(arrays, "encoder_input", encoder_input(image, manifest.input, frame))
    yield Check(case, "-", "encoder_input", _largest(found, wanted), 0.0)
    if "prompt_boxes" in arrays:
        boxes = frame_of(manifest, decoded_size(arrays)).boxes_to_input(arrays["boxes"])
        yield Check(case, "-", "prompt_boxes", _largest(boxes, arrays["prompt_boxes"]), 0.0)
    for crop in manifest.prompts.crops:
        if crop.graph is None and crop.name in arrays:
            cut = crop_arrays(crop, image, arrays["boxes"])
            yield Check(case, "-", crop.name, _largest(cut, arrays[crop.name]), _CROP_LIMIT)


def _check_image(case: str, arrays: Arrays, session: runtime.Session) -> Iterator[Check]:
    limits, backend = LIMITS[session.manifest.weights], session.backend
    embedding = session.encode(arrays["image"])
    main, *others = session.manifest.embedding
    found, wanted = sample_like(arrays, "embedding", embedding.tensors[main.name])
    yield Check(case, backend, "embedding", _largest(found, wanted), limits.embedding)
    for name in (one.name for one in others if one.name in arrays):
        yield Check(case, backend, name, _largest(embedding.tensors[name], arrays[name]), limits.embedding)
    size = decoded_size(arrays)
    prompts = session.manifest.prompts
    beside = [*prompts.vectors, *(crop.name for crop in prompts.crops if crop.graph is not None)]
    asked = list(rows_asked(arrays, frame_of(session.manifest, size).scale_xy, beside))
    alone = [session.decode(replace(embedding, original_size=size), **one) for one in asked]
    decoded = alone
    if all("boxes" in one for one in asked):
        decoded = [session.decode(replace(embedding, original_size=size), **asked_together(asked))]
    logits = np.concatenate([one.low_res_logits for one in decoded])
    deviation, step = float(arrays["low_res_logits"].std()), int(arrays.get("coarse_row_col_step", 1))
    difference = _largest(logits[:, ::step, ::step], arrays["low_res_logits"]) / deviation
    yield Check(case, backend, "low_res_logits", difference, limits.logits)
    if "iou" in arrays:
        scores = np.concatenate([one.scores for one in decoded])
        yield Check(case, backend, "score", _largest(scores, arrays["iou"]), limits.score)
    masks = np.concatenate([one.masks for one in decoded])
    if "official_selected_count" in arrays:
        masks = refined(arrays, masks, np.concatenate([one.candidates[:, 1] for one in decoded]))
    yield Check(case, backend, "mask", _wrong_pixels(masks, arrays), limits.mask)
    if decoded is not alone:
        difference = _largest(np.concatenate([one.low_res_logits for one in alone]), logits) / deviation
        yield Check(case, backend, "one box at a time", difference, limits.together)


def _check_fine(case: str, arrays: Arrays, session: runtime.Session, bundle: Path) -> Check:
    """Logits of the second candidate, which the session keeps to itself."""
    manifest, step, wanted = session.manifest, int(arrays["fine_all_step"]), arrays["fine_all_logits"]
    tensors, size = session.encode(arrays["image"]).tensors, decoded_size(arrays)
    inputs = {one.name: tensors[one.name].astype(one.dtype) for one in manifest.embedding}
    inputs["boxes"] = frame_of(manifest, size).boxes_to_input(arrays["boxes"])
    inputs["output_size"] = np.array(size)
    inputs["rows"], inputs["columns"] = (np.arange(0, side, step) for side in size)
    decoder = open_backend(session.backend, open_bundle(bundle), "decoder", BackendOptions(precision="fp32"))
    found = decoder.run(inputs)["low_res_logits"][:, 1]
    decoder.close()
    limit = LIMITS[manifest.weights].logits
    return Check(case, session.backend, "refined logits", _largest(found, wanted) / float(wanted.std()), limit)


def _wrong_pixels(masks: NDArray[np.bool_], arrays: Arrays) -> float:
    """Share of the pixels that differ from the golden masks, or from the label map in which later boxes win."""
    wanted = boolean_masks(arrays)
    if wanted is not None:
        return float((masks != wanted).mean())
    labels = np.zeros(masks.shape[1:], np.int64)
    for label, mask in enumerate(masks, 1):
        labels[mask] = label
    return float((labels != arrays["mask"]).mean())


class _Calls:
    """The decoder calls of the published run on a volume, one after the other, with what the authors' code drew."""

    def __init__(self, arrays: Arrays, session: runtime.Session, folder: Path) -> None:
        self.arrays, self.session = arrays, session
        self.drawn = "call_points" in arrays
        self.slices = [int(index) for _, index in arrays["call_box_and_slice"]]
        self._embeddings: dict[int, runtime.Embedding] = {}
        self._decoder = open_backend(session.backend, open_bundle(folder), "decoder", BackendOptions(precision="fp32"))

    def __enter__(self) -> _Calls:
        return self

    def __exit__(self, *_: object) -> None:
        self._decoder.close()

    def run(self, call: int, index: int, box: NDArray[Any]) -> tuple[NDArray[np.float32], float]:
        """Logits (h, w) and score of a box in the input frame, on slice `index`, as call number `call`."""
        if index not in self._embeddings:
            self._embeddings[index] = self.session.encode(self.arrays["volume"][index])
        tensors = self._embeddings[index].tensors
        inputs = {one.name: tensors[one.name].astype(one.dtype) for one in self.session.manifest.embedding}
        inputs["boxes"] = box[None].astype(np.float32)
        if self.drawn:
            points, scribble = self.arrays["call_points"][call], self.arrays["call_scribble"][call]
            inputs["points"], inputs["point_labels"] = points[None], np.ones((1, len(points)), np.float32)
            inputs["masks"], inputs["has_mask"] = scribble[None].astype(np.float32), np.ones(1, np.float32)
        outputs = self._decoder.run(inputs)
        return outputs["low_res_logits"][0, 0], float(outputs["scores"][0, 0])


def _check_calls(calls: _Calls) -> Iterator[Check]:
    """Every decoder call of the published run on the volume, given the box that it had there."""
    arrays, backend, limits = calls.arrays, calls.session.backend, LIMITS[calls.session.manifest.weights]
    logits, scores = [], []
    wanted = arrays["call_low_res_logits_cropped"].astype(np.float32)
    rows, columns = wanted.shape[1:]
    for call, (index, box) in enumerate(zip(calls.slices, arrays["call_prompt_boxes"], strict=True)):
        found, score = calls.run(call, index, box)
        logits.append(found[:rows, :columns])
        scores.append(score)
    rounding = np.spacing(np.abs(arrays["call_low_res_logits_cropped"])).astype(np.float32) / 2  # stored in float16
    beyond = np.maximum(np.abs(np.stack(logits) - wanted) - rounding, 0)
    deviation = float(wanted.std())
    rms_limit = max(_rms(rounding) / deviation, limits.volume_rms)
    yield Check("case_3d", backend, "low_res_logits, rms", _rms(beyond) / deviation, rms_limit)
    yield Check("case_3d", backend, "low_res_logits", float(beyond.max()) / deviation, limits.volume_logits)
    yield Check("case_3d", backend, "score", _largest(np.array(scores), arrays["call_iou"]), limits.score)


def _check_volume(arrays: Arrays, session: runtime.Session) -> Iterator[Check]:
    """The published loop on the volume, end to end."""
    volume = np.ascontiguousarray(arrays["volume"].transpose(2, 1, 0))  # z, y, x -> i, j, k
    result = session.segment(volume, boxes=arrays["boxes"].tolist(), mode="published")
    found = result.label_map.transpose(2, 1, 0)
    limits = LIMITS[session.manifest.weights]
    yield Check("case_3d", session.backend, "segs", float((found != arrays["segs"]).mean()), limits.mask)
    scores = [[part.score for part in one.slices] for one in result.objects]
    calls = [(int(box), int(index)) for box, index in arrays["call_box_and_slice"]]
    order = np.lexsort(np.array(calls).T[::-1])
    flat = np.array([score for one in scores for score in one])
    same = len(flat) == len(calls)
    difference = _largest(flat, arrays["call_iou"][order]) if same else float("nan")
    yield Check("case_3d", session.backend, "score of each slice", difference, limits.score)


def _check_drawn_volume(calls: _Calls) -> Iterator[Check]:
    """The published loop on the volume, every call with the points and the scribble that were drawn for it."""
    arrays, manifest = calls.arrays, calls.session.manifest
    shape = arrays["volume"].shape
    frame = frame_of(manifest, (shape[1], shape[2]))
    asked: list[NDArray[np.float32]] = []

    def decode(index: int, prompt: SlicePrompt) -> Prediction:
        box = np.zeros(4, np.float32) if prompt.box is None else prompt.box
        call = min(len(asked), len(calls.slices) - 1)
        asked.append(box)
        return _prediction(calls.run(call, index, box)[0], manifest, frame)

    segs = _published_run(decode, arrays["boxes"], shape, manifest)
    wanted = arrays["call_prompt_boxes"]
    backend, limits = calls.session.backend, LIMITS[manifest.weights]
    yield Check("case_3d", backend, "segs", float((segs != arrays["segs"]).mean()), limits.mask)
    same = len(asked) == len(wanted)
    yield Check("case_3d", backend, "prompt_boxes", _largest(np.array(asked), wanted) if same else float("nan"), 0.0)


def _published_run(
    decode: Decode, boxes: NDArray[Any], shape: tuple[int, ...], manifest: Manifest
) -> NDArray[np.int64]:
    """Label map (z, y, x) of 3-D boxes that go through the published loop one after the other."""
    settings = manifest.propagation.published
    segs = np.zeros(shape, np.int64)
    if settings is None:
        return segs
    frame = frame_of(manifest, (shape[1], shape[2]))
    for label, (x0, y0, z0, x1, y1, z1) in enumerate(boxes.tolist(), 1):
        limit = (float(x0), float(y0), float(x1), float(y1))
        plan = ObjectPlan(label, {(z0 + z1) // 2: limit}, extent=(z0, min(z1, shape[0] - 1)), limit=limit)
        for step in propagate(decode, plan, frame, settings):
            segs[step.slice_index][step.prediction.masks[0]] = label
    return segs


def _check_loop(arrays: Arrays, manifest: Manifest) -> Iterator[Check]:
    """The published loop with the stand-in decoder: every box asked for, every voxel."""
    if manifest.propagation.published is None:
        yield Check("loop_3d", "-", "the bundle states a published loop", float("nan"), 0.0)
        return
    depth, height, width = (int(side) for side in arrays["shape"])
    frame = frame_of(manifest, (height, width))
    asked: list[NDArray[np.float32]] = []

    def decode(_: int, prompt: SlicePrompt) -> Prediction:
        box = np.zeros(4, np.float32) if prompt.box is None else prompt.box
        asked.append(box)
        return _prediction(stand_in(len(asked) - 1, box, frame.input_size[0]), manifest, frame)

    segs = _published_run(decode, arrays["boxes"], (depth, height, width), manifest)
    wanted = arrays["call_prompt_boxes"]
    same = len(asked) == len(wanted)
    yield Check("loop_3d", "-", "prompt_boxes", _largest(np.array(asked), wanted) if same else float("nan"), 0.0)
    yield Check("loop_3d", "-", "segs", float((segs != arrays["segs"]).mean()), 0.0)


def _prediction(logits: NDArray[np.float32], manifest: Manifest, frame: Frame) -> Prediction:
    """Prediction of one prompt with these logits (h, w)."""
    masks, boxes, areas = masks_from_logits(logits[None], manifest.output, frame)
    score = np.ones(1, np.float32)
    return Prediction(
        low_res_logits=logits[None],
        masks=masks,
        scores=score,
        candidates=masks[:, None],
        candidate_scores=score[:, None],
        boxes=boxes,
        areas=areas,
    )


def _rms(values: NDArray[Any]) -> float:
    return float(np.sqrt(np.square(np.asarray(values, np.float64)).mean()))


def _largest(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Largest absolute difference; not a number where the shapes differ or a value is none."""
    if found.shape != wanted.shape:
        return float("nan")
    return float(np.abs(np.asarray(found, np.float64) - np.asarray(wanted, np.float64)).max())
