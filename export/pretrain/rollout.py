"""Training on the decoder's own propagation through the slices of a synthetic volume.

Each slice is prompted as the runtime's chain does it: with the mask of the slice before and its tight box, grown, both
moved to where what the mask covers has gone.
Knows the network, sequences and the loss. Must not know optimisers or files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.pretrain.dataset import Example
from export.pretrain.loss import segmentation_loss
from export.pretrain.model import Network
from export.pretrain.prompts import tight_box
from export.pretrain.sequences import Sequence
from export.pretrain.step import MASK_LOGIT, NEIGHBOUR, Batch, StepResult, collate_images, window_target
from runtime.motion import displacement, moved_logits

__all__ = ["SequenceBatch", "collate", "rollout_loss"]

_KIND = 3
_MARGIN = (0.5, 5.0)  # input-frame pixels; the runtime's margin is in pixels of the image


@dataclass(frozen=True)
class SequenceBatch:
    """B sequences of T slices with P objects each; N = B * P, sequence by sequence."""

    pixels: Tensor  # (T, B, 3, S, S) float 0..1
    targets: Tensor  # (T, N, 1, S, S) float 0 or 1
    boxes: Tensor  # (N, 4) on slice 0
    limits: NDArray[np.float32]  # (N, 4)
    is_limit: Tensor  # (N,) bool

    def to(self, device: torch.device) -> SequenceBatch:
        """Copy on a device."""
        tensors = ("pixels", "targets", "boxes", "is_limit")
        return replace(self, **{name: getattr(self, name).to(device) for name in tensors})


def collate(examples: list[Example | Sequence]) -> Batch | SequenceBatch:
    """Stack examples of one kind into tensors."""
    images = [example for example in examples if isinstance(example, Example)]
    if images:
        return collate_images(images)
    sequences = [example for example in examples if isinstance(example, Sequence)]
    targets = np.concatenate([s.targets for s in sequences], axis=1)[:, :, None]  # (T, N, 1, S, S)
    return SequenceBatch(
        torch.from_numpy(np.stack([s.pixels for s in sequences], axis=1)).float() * (1 / 255.0),
        torch.from_numpy(targets).float(),
        torch.from_numpy(np.concatenate([s.boxes for s in sequences])),
        np.concatenate([s.limits for s in sequences]),
        torch.from_numpy(np.concatenate([s.is_limit for s in sequences])),
    )


def _follow(before: NDArray[np.uint8], now: NDArray[np.uint8], masks: NDArray[np.float32]) -> NDArray[np.float32]:
    """Move the mask logits (N, 1, S, S) of the slices (B, S, S), in place, to where they are expected now.

    Returns the displacements (N, 2).
    """
    displacements = np.zeros((len(masks), 2), np.float32)
    each = len(masks) // len(before)
    for row, logits in enumerate(masks[:, 0]):
        covered = logits > 0
        if covered.any():
            start, end = (partial(_part, images[row // each]) for images in (before, now))
            dx, dy = displacement(start, end, covered, tight_box(covered).astype(np.int64))
            logits[:] = moved_logits(logits, dx, dy)
            displacements[row] = dx, dy
    return displacements


def _part(image: NDArray[np.uint8], rows: slice, columns: slice) -> NDArray[np.uint8]:
    return image[rows, columns]


def _next_boxes(
    masks: NDArray[np.bool_],
    boxes: NDArray[np.float32],
    limits: NDArray[np.float32],
    margins: NDArray[np.float32],
    moved: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Grown and moved tight box of each mask inside its limits; the box before it where there is none."""
    size = masks.shape[-1]
    found: NDArray[np.float32] = boxes.copy()
    for row, mask in enumerate(masks):
        if not mask.any():
            continue
        grown: NDArray[np.float32] = tight_box(mask) + margins[row] * np.array([-1, -1, 1, 1], np.float32)
        grown += np.tile(moved[row], 2)
        low = np.maximum(grown[:2], np.maximum(limits[row, :2], 0))
        high = np.minimum(grown[2:], np.minimum(limits[row, 2:], size - 1))
        if (low <= high).all():
            found[row] = [*low, *high]
    return found


def rollout_loss(
    network: Network, batch: SequenceBatch, rng: np.random.Generator, *, score_weight: float
) -> StepResult:
    """Mean loss over the slices; a slice counts while the object was there on it or on the slice before."""
    decoder = network.decoder
    slices, images = batch.pixels.shape[:2]
    count, device = batch.boxes.shape[0], batch.boxes.device
    levels = network.encoder(batch.pixels.flatten(0, 1))  # slice by slice
    margins = rng.uniform(*_MARGIN, count).astype(np.float32)
    boxes, points = batch.boxes, torch.zeros(count, 1, 2, device=device)
    labels = torch.full((count, 1), -1.0, device=device)
    masks = torch.full_like(batch.targets[0], -MASK_LOGIT)
    has_mask = batch.is_limit * NEIGHBOUR  # an empty mask of a neighbour says that the box is a limit
    greys = (batch.pixels.mean(2) * 255).to(torch.uint8).cpu().numpy()  # (T, B, S, S)
    losses, dice = [], []
    for t in range(slices):
        here = slice(t * images, (t + 1) * images)
        prompt = decoder.geometry.channels(boxes, points, labels, masks, has_mask)
        before = batch.pixels[t - 1] if t and network.config.reference else None
        here_levels = (levels[0][here], levels[1][here], levels[2][here])
        logits, scores = decoder(here_levels, batch.pixels[t], boxes, prompt, before, has_mask)
        target = window_target(decoder, batch.targets[t], boxes, logits.shape[-1])
        present = batch.targets[max(t - 1, 0) : t + 1].amax((0, 2, 3, 4)) > 0
        reachable = (target.inside.amax((1, 2, 3)) > 0.5) | (batch.targets[t].amax((1, 2, 3)) == 0)
        weight = (present & reachable).float()
        parts = segmentation_loss(logits, scores, target.inside, target.missed, score_weight, weight)
        losses.append(parts.total)
        if t:
            dice.append(parts.dice[weight > 0])
        with torch.no_grad():
            chosen = logits.detach()[torch.arange(count), scores.argmax(1)][:, None]
            pasted = decoder.paste(chosen, boxes).float().cpu().numpy()
            answers = pasted[:, 0] > 0
            moved = _follow(greys[t], greys[min(t + 1, slices - 1)], pasted)
            masks = torch.from_numpy(pasted).to(device)
            boxes = torch.from_numpy(_next_boxes(answers, boxes.cpu().numpy(), batch.limits, margins, moved)).to(device)
            has_mask = torch.from_numpy(answers.any((1, 2)).astype(np.float32) * np.float32(NEIGHBOUR)).to(device)
    every = torch.cat(dice).detach().cpu().numpy().astype(np.float32)
    return StepResult(torch.stack(losses).mean(), every, np.full(len(every), _KIND))
