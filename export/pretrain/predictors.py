"""One face for what is evaluated: a checkpoint in torch, or a bundle through the public API of ``runtime``.

Knows how a prompt in image pixels reaches either of them. Must not know cases, metrics or training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.pretrain.checkpoint import load_network
from export.pretrain.config import BOX_SIDES
from export.pretrain.model import Network
from export.pretrain.scenes import framed_shape
from export.pretrain.step import OWN
from runtime._derived import point_boxes
from runtime._resize import enlarge_lanczos

if TYPE_CHECKING:
    from runtime import Embedding, Session

__all__ = ["Answer", "BundlePredictor", "CheckpointPredictor", "Clicks", "Predictor", "frame_image"]

Clicks = list[list[tuple[float, float, int]]]  # per object: x, y in image pixels, label


@dataclass(frozen=True)
class Answer:
    """Masks (N, H, W), logits in the input frame (N, S, S) and predicted IoU (N,)."""

    masks: NDArray[np.bool_]
    low_res_logits: NDArray[np.float32]
    scores: NDArray[np.float32]


class Predictor(Protocol):
    """What the evaluation asks of a model."""

    def encode(self, image: NDArray[np.uint8]) -> Any:
        """Embedding of an 8-bit image [row, col(, c)]."""

    def decode(
        self,
        embedding: Any,
        boxes: NDArray[np.float64] | None,
        clicks: Clicks | None = None,
        earlier: NDArray[np.float32] | None = None,
    ) -> Answer:
        """Answer N boxes (N, 4) in image pixels, or clicks alone, with earlier logits (N, S, S) where given."""


def frame_image(image: NDArray[np.uint8], size: int) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """Image (H, W(, 3)) -> encoder input (3, size, size) in 0..1, and the resized (h, w) inside it."""
    resized_size = framed_shape((image.shape[0], image.shape[1]), size)
    resized = enlarge_lanczos(image, resized_size)
    if resized.shape[:2] != resized_size:
        resized = np.asarray(cv2.resize(image, resized_size[::-1], interpolation=cv2.INTER_AREA), np.uint8)
    values = resized.astype(np.float64)
    values = (values - values.min()) / max(float(values.max() - values.min()), 1e-8)
    if values.ndim == 2:
        values = np.repeat(values[..., None], 3, axis=2)
    framed = np.zeros((3, size, size), np.float32)
    framed[:, : resized_size[0], : resized_size[1]] = values.transpose(2, 0, 1)
    return framed, resized_size


@dataclass(frozen=True)
class _Encoded:
    levels: tuple[Tensor, Tensor, Tensor]
    pixels: Tensor
    original_size: tuple[int, int]
    resized_size: tuple[int, int]


class CheckpointPredictor:
    """Averaged weights of a training checkpoint, float32, with float16 embeddings as the runtime stores them."""

    def __init__(self, network: Network) -> None:
        """Evaluate a network that is in inference mode already."""
        self._network = network.eval()
        self._size = network.config.input_size

    @classmethod
    def from_file(cls, path: Path) -> CheckpointPredictor:
        """Load a checkpoint."""
        return cls(load_network(path))

    @torch.inference_mode()
    def encode(self, image: NDArray[np.uint8]) -> _Encoded:
        """Embedding of an 8-bit image [row, col(, c)]."""
        framed, resized_size = frame_image(image, self._size)
        tensor = torch.from_numpy(framed)[None]
        levels = self._network.encoder(tensor)
        stored = tuple(level.half().float() for level in levels)
        pixels = torch.round(tensor * 255) / 255
        return _Encoded((stored[0], stored[1], stored[2]), pixels, (image.shape[0], image.shape[1]), resized_size)

    @torch.inference_mode()
    def decode(
        self,
        embedding: _Encoded,
        boxes: NDArray[np.float64] | None,
        clicks: Clicks | None = None,
        earlier: NDArray[np.float32] | None = None,
    ) -> Answer:
        """Answer N boxes (N, 4) in image pixels, or clicks alone by the best of three boxes around them."""
        decoder = self._network.decoder
        scale = self._size / max(embedding.original_size)
        given = clicks or [[] for _ in ([] if boxes is None else boxes)]
        count = len(given)
        xy, point_labels = _padded(given)
        points = torch.from_numpy((xy + np.float32(0.5)) * np.float32(scale) - np.float32(0.5))
        labels = torch.from_numpy(point_labels)
        if boxes is not None:
            outwards = np.array([0.0, 0.0, 1.0, 1.0])  # a box covers in the input frame what it covers in the image
            tried = [torch.from_numpy(((boxes + outwards) * scale - outwards).astype(np.float32))]
        else:
            framed_points = points.numpy()
            tried = [
                torch.from_numpy(point_boxes(framed_points, point_labels, share * self._size)) for share in BOX_SIDES
            ]
        masks = torch.zeros(count, 1, self._size, self._size)
        if earlier is not None:
            masks = torch.from_numpy(earlier)[:, None]
        has_mask = torch.full((count,), OWN if earlier is not None else 0.0)
        answers = []
        for framed in tried:
            prompt = decoder.geometry.channels(framed, points, labels, masks, has_mask)
            logits, scores = decoder(embedding.levels, embedding.pixels, framed, prompt)
            answers.append((decoder.paste(logits, framed), decoder.ranked(scores)))
        pasted, scores = (torch.cat(parts, 1) for parts in zip(*answers, strict=True))
        best = scores.argmax(1)
        rows = torch.arange(count)
        low_res = pasted[rows, best].numpy()
        h, w = embedding.resized_size
        height, width = embedding.original_size
        full = [
            cv2.resize(np.ascontiguousarray(one[:h, :w]), (width, height), interpolation=cv2.INTER_LINEAR) > 0
            for one in low_res
        ]
        return Answer(np.stack(full), low_res, scores[rows, best].numpy())


class BundlePredictor:
    """A bundle through the public API of ``runtime``."""

    def __init__(self, session: Session) -> None:
        """Evaluate an open session."""
        self._session = session

    def encode(self, image: NDArray[np.uint8]) -> Embedding:
        """Embedding of an 8-bit image [row, col(, c)]."""
        return self._session.encode(image)

    def decode(
        self,
        embedding: Embedding,
        boxes: NDArray[np.float64] | None,
        clicks: Clicks | None = None,
        earlier: NDArray[np.float32] | None = None,
    ) -> Answer:
        """Answer N boxes (N, 4) in image pixels, or clicks alone."""
        points, labels = (None, None) if clicks is None or not any(clicks) else _padded(clicks)
        masks = None if earlier is None else earlier[:, None]
        found = self._session.decode(embedding, boxes=boxes, points=points, point_labels=labels, masks=masks)
        return Answer(found.masks, found.low_res_logits, found.scores)


def _padded(clicks: Clicks) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Clicks of N objects as (N, P, 2) and (N, P), filled up with label -1; P is at least 1."""
    longest = max([1, *(len(row) for row in clicks)])
    points = np.zeros((len(clicks), longest, 2), np.float32)
    labels = np.full((len(clicks), longest), -1, np.float32)
    for row, given in enumerate(clicks):
        for slot, (x, y, label) in enumerate(given):
            points[row, slot] = x, y
            labels[row, slot] = label
    return points, labels
