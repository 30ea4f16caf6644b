"""How far the masks of one precision are from those of another, and how much faster its graphs are.

Knows sessions, backends and samples. Must not know how graphs are quantised.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import runtime
from export._calibration import Sample, embedding_of, prompts_of
from runtime.backends import BackendOptions, default_threads, open_backend
from runtime.bundle import open_bundle
from runtime.cache import EmbeddingCache
from runtime.errors import BundleError

__all__ = ["POINTS", "Masks", "masks_of", "mean_dice", "speed_ratio"]

POINTS = 100.0
"""Dice points in a Dice of 1."""

_ROUNDS = 9
_FEWEST = 3
_SECONDS = 20.0


@dataclass(frozen=True)
class Masks:
    """Answers to the prompts of some samples: masks (N, H, W) and earlier logits (N, h, w), a pair a sample.

    `by_one_box` has the answers of the graph for one box, if there is one and they were asked for.
    """

    masks: tuple[NDArray[np.bool_], ...]
    logits: tuple[NDArray[np.float32], ...]
    by_one_box: tuple[NDArray[np.bool_], ...] = ()

    @property
    def empty(self) -> bool:
        """Whether nothing was found in any sample."""
        return not any(masks.any() for masks in self.masks)


def masks_of(
    folder: Path,
    samples: Sequence[Sample],
    *,
    precision: str,
    backend: str = "onnxruntime",
    reference: Masks | None = None,
    cache: EmbeddingCache | None = None,
    one_box: bool = True,
) -> Masks:
    """Answer the prompts of the samples with a bundle, and the boxes with its graph for `one_box` too.

    Mask prompts are the `reference`'s logits, so that all get the same; without one, the bundle's own. A `cache` keeps
    embeddings for the next candidate with the same encoder. ONNX Runtime leaves no compiled graphs of candidates in the
    user's cache.
    """
    masks, logits, by_one_box = [], [], []
    kept = False if cache is None else cache
    with runtime.Session(folder, backend=backend, precision=precision, cache=kept) as session:
        for number, sample in enumerate(samples):
            embedding = embedding_of(session, sample)
            plain = session.decode(embedding, **prompts_of(session.manifest, sample, 0))
            earlier = plain.low_res_logits if reference is None else reference.logits[number]
            logits.append(earlier)
            given = prompts_of(session.manifest, sample, number, earlier)
            masks.append(session.decode(embedding, **given).masks)
            if one_box and session.manifest.graphs["float"].one_box is not None:
                beside: dict[str, Any] = {name: given[name] for name in ("modality", "extra") if name in given}
                by_one_box.append(_on_slice(session, sample, beside))
    return Masks(tuple(masks), tuple(logits), tuple(by_one_box))


def _on_slice(session: runtime.Session, sample: Sample, beside: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Masks (N, W, H) of the boxes on the first slice of a volume, which the graph for one box is for."""
    plane = sample.image if sample.image.ndim == 2 else sample.image.mean(2).astype(np.uint8)
    volume = np.stack([plane.T, plane.T], axis=2)
    found = session.segment(volume, boxes=sample.boxes.tolist(), slice_index=0, z_range=(0, 0), **beside)
    return np.stack([one.mask[..., 0] for one in found.objects])


def mean_dice(found: Masks, wanted: Masks) -> float:
    """Mean Dice over prompts, then over samples; prompts that both answer with an empty mask do not count.

    That of the decoder, or of the graph for one box where both have its answers and it is less. BundleError where no
    prompt counts.
    """
    dice = _mean_dice(found.masks, wanted.masks)
    return min(dice, _mean_dice(found.by_one_box, wanted.by_one_box)) if found.by_one_box else dice


def _mean_dice(found: Sequence[NDArray[np.bool_]], wanted: Sequence[NDArray[np.bool_]]) -> float:
    means = []
    for ours, theirs in zip(found, wanted, strict=True):
        total = ours.sum((1, 2), dtype=np.int64) + theirs.sum((1, 2), dtype=np.int64)
        both = (ours & theirs).sum((1, 2), dtype=np.int64)
        if total.any():
            means.append(float(np.mean(2 * both[total > 0] / total[total > 0])))
    if not means:
        msg = (
            "every mask on the held-out images is empty, so that precisions cannot be compared; calibrate on images in "
        )
        msg += "which the model finds something"
        raise BundleError(msg)
    return float(np.mean(means))


def speed_ratio(
    folder: Path,
    role: str,
    backend: str,
    inputs: Mapping[str, NDArray[Any]],
    *,
    than: Path | None = None,
    precisions: tuple[str, str] = ("fp32", "int8"),
    seconds: float = _SECONDS,
    fewest: int = _FEWEST,
) -> float:
    """How many times faster a bundle's graph is in the second of two precisions than in the first, on this machine.

    With another bundle to be faster `than`, the float graphs of both are compared in float32. Median of the ratios of
    calls that take turns, so that what else the machine does falls on both: at least the `fewest`, more while `seconds`
    last.
    """
    first, second = precisions if than is None else ("fp32", "fp32")
    compared = {"before": (than or folder, first), "after": (folder, second)}
    graphs = {
        name: open_backend(
            backend, open_bundle(place), role, BackendOptions(precision=precision, threads=default_threads())
        )
        for name, (place, precision) in compared.items()
    }
    ratios: list[float] = []
    started = time.perf_counter()
    try:
        for graph in graphs.values():
            graph.run(inputs)
        while len(ratios) < fewest or (len(ratios) < _ROUNDS and time.perf_counter() - started < seconds):
            took = {}
            for name, graph in graphs.items():
                begun = time.perf_counter()
                graph.run(inputs)
                took[name] = time.perf_counter() - begun
            ratios.append(took["before"] / took["after"])
    finally:
        for graph in graphs.values():
            graph.close()
    return float(np.median(ratios))
