"""One training step's forward pass: first answers, simulated second prompts, loss.

Knows the network, the examples and the loss; must not know optimisers, processes or files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from export.pretrain.dataset import Example
from export.pretrain.loss import segmentation_loss
from export.pretrain.model import Network
from export.pretrain.prompts import error_click

__all__ = ["MASK_LOGIT", "Batch", "StepResult", "collate_images", "training_loss"]

MASK_LOGIT = 8.0  # a binary mask becomes a prompt of +-8
_MAX_CLICKS = 4


@dataclass(frozen=True)
class Batch:
    """B images and N = B * P prompts, image by image."""

    pixels: Tensor  # (B, 3, S, S) float 0..1
    targets: Tensor  # (N, 1, S, S) float 0 or 1
    boxes: Tensor  # (N, 4)
    neighbours: Tensor  # (N, 1, S, S) logits of +-8
    has_neighbour: Tensor  # (N,) float

    def to(self, device: torch.device) -> Batch:
        """Copy on a device."""
        return Batch(**{name: value.to(device) for name, value in vars(self).items()})


@dataclass(frozen=True)
class StepResult:
    """Loss, Dice per prompt and the kind of each prompt: box, neighbour's mask, second answer, roll-out."""

    loss: Tensor
    dice: NDArray[np.float32]
    kind: NDArray[np.int64]


def collate_images(examples: list[Example]) -> Batch:
    """Stack examples into tensors."""
    size = examples[0].pixels.shape[-1]
    targets = torch.from_numpy(np.stack([e.targets for e in examples])).reshape(-1, 1, size, size)
    neighbours = torch.from_numpy(np.stack([e.neighbours for e in examples])).reshape(-1, 1, size, size)
    return Batch(
        torch.from_numpy(np.stack([e.pixels for e in examples])).float() * (1 / 255.0),
        targets.float(),
        torch.from_numpy(np.concatenate([e.boxes for e in examples])),
        neighbours.float() * (2 * MASK_LOGIT) - MASK_LOGIT,
        torch.from_numpy(np.concatenate([e.has_neighbour for e in examples])).float(),
    )


def _clicks(answers: NDArray[np.bool_], targets: NDArray[np.bool_], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Simulated corrections (N, 4, 2) and labels (N, 4); 45 % of the prompts get none."""
    points = np.zeros((len(answers), _MAX_CLICKS, 2), np.float32)
    labels = np.full((len(answers), _MAX_CLICKS), -1, np.float32)
    for row, (answer, target) in enumerate(zip(answers, targets, strict=True)):
        number = int(rng.choice([0, 1, 2, 3, 4], p=[0.45, 0.25, 0.12, 0.09, 0.09]))
        first = error_click(answer, target) if number else None
        if first is None:
            continue
        wrong = np.argwhere(answer != target)
        chosen = wrong[rng.integers(0, len(wrong), number - 1)]
        others = [(int(c), int(r), int(target[r, c])) for r, c in chosen]
        for slot, (x, y, label) in enumerate([first, *others]):
            points[row, slot] = x, y
            labels[row, slot] = label
    return torch.from_numpy(points), torch.from_numpy(labels)


def training_loss(
    network: Network, batch: Batch, rng: np.random.Generator, *, refine: bool, score_weight: float
) -> StepResult:
    """Decode once, or (``refine``) decode, simulate corrections of that answer and decode again."""
    decoder = network.decoder
    count = batch.boxes.shape[0]
    levels = network.encoder(batch.pixels)
    points = torch.zeros(count, 1, 2, device=batch.boxes.device)
    labels = torch.full((count, 1), -1.0, device=batch.boxes.device)
    masks, has_mask = batch.neighbours, batch.has_neighbour
    kind = has_mask.cpu().numpy().astype(np.int64)
    if refine:
        with torch.no_grad():
            prompt = decoder.geometry.channels(batch.boxes, points, labels, masks, has_mask)
            detached = (levels[0].detach(), levels[1].detach(), levels[2].detach())
            first, _ = decoder(detached, batch.pixels, batch.boxes, prompt)
            masks = decoder.paste(first, batch.boxes)[:, :1]
        answers = (masks[:, 0] > 0).cpu().numpy()
        points, labels = _clicks(answers, batch.targets[:, 0].cpu().numpy() > 0.5, rng)
        clicked = labels[:, 0].numpy() >= 0
        with_mask = ~clicked | (rng.uniform(size=count) < 0.6)
        has_mask = torch.from_numpy(with_mask.astype(np.float32)).to(batch.boxes.device)
        points, labels = points.to(batch.boxes.device), labels.to(batch.boxes.device)
        kind = np.full(count, 2)
    prompt = decoder.geometry.channels(batch.boxes, points, labels, masks, has_mask)
    logits, scores = decoder(levels, batch.pixels, batch.boxes, prompt)
    centre, _, half = decoder.geometry.window(batch.boxes)
    grid = decoder.geometry.grid(logits.shape[-1], centre, half)
    target = F.grid_sample(batch.targets, grid, align_corners=False)
    parts = segmentation_loss(logits, scores, target, score_weight)
    return StepResult(parts.total, parts.dice.detach().cpu().numpy().astype(np.float32), kind)
