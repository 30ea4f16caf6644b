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
from export.pretrain.model import Decoder, Network
from export.pretrain.prompts import error_click

__all__ = [
    "MASK_LOGIT",
    "NEIGHBOUR",
    "OWN",
    "Batch",
    "StepResult",
    "WindowTarget",
    "collate_images",
    "training_loss",
    "window_target",
]

MASK_LOGIT = 8.0  # a binary mask becomes a prompt of +-8
OWN, NEIGHBOUR = 1.0, 2.0  # whose the earlier mask is (see ``PromptTensors.channels``)
_MAX_CLICKS = 4


@dataclass(frozen=True)
class Batch:
    """B images and N = B * P prompts, image by image."""

    pixels: Tensor  # (B, 3, S, S) float 0..1
    targets: Tensor  # (N, 1, S, S) float 0 or 1
    boxes: Tensor  # (N, 4)
    neighbours: Tensor  # (N, 1, S, S) logits of +-8
    has_neighbour: Tensor  # (N,) float
    points: Tensor  # (N, 1, 2) float
    point_labels: Tensor  # (N, 1) float, 1 or -1

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
        torch.from_numpy(np.concatenate([e.clicks for e in examples]))[:, None],
        torch.from_numpy(np.concatenate([e.has_click for e in examples])).float()[:, None] * 2 - 1,
    )


@dataclass(frozen=True)
class WindowTarget:
    """What is wanted on the window's grid (N, 1, G, G), and how much of it lies outside, in cells (N,)."""

    inside: Tensor
    missed: Tensor


def window_target(decoder: Decoder, targets: Tensor, boxes: Tensor, cells: int) -> WindowTarget:
    """Targets (N, 1, S, S) as seen through the windows of N boxes."""
    centre, _, half = decoder.geometry.window(boxes)
    inside = F.grid_sample(targets, decoder.geometry.grid(cells, centre, half), align_corners=False)
    cell_area = (2.0 / cells) ** 2 * half.prod(1)
    whole = targets.sum((1, 2, 3)) / cell_area
    missed = whole - inside.sum((1, 2, 3))
    return WindowTarget(inside, missed * (missed > 0.03 * whole))  # less is the error of sampling


def _corrections(
    answers: NDArray[np.bool_], targets: NDArray[np.bool_], rng: np.random.Generator, numbers: NDArray[np.int64]
) -> tuple[Tensor, Tensor]:
    """Simulated clicks (N, 4, 2) on what is wrong and their labels (N, 4), as many as ``numbers`` (N,) says."""
    points = np.zeros((len(answers), _MAX_CLICKS, 2), np.float32)
    labels = np.full((len(answers), _MAX_CLICKS), -1, np.float32)
    for row, (answer, target) in enumerate(zip(answers, targets, strict=True)):
        first = error_click(answer, target) if numbers[row] else None
        if first is None:
            continue
        wrong = np.argwhere(answer != target)
        chosen = wrong[rng.integers(0, len(wrong), numbers[row] - 1)]
        others = [(int(c), int(r), int(target[r, c])) for r, c in chosen]
        for slot, (x, y, label) in enumerate([first, *others]):
            points[row, slot] = x, y
            labels[row, slot] = label
    return torch.from_numpy(points), torch.from_numpy(labels)


@dataclass(frozen=True)
class _Prompts:
    """What the decoder is asked about the N prompts of a batch, beside their boxes."""

    points: Tensor
    labels: Tensor
    masks: Tensor
    has_mask: Tensor

    def channels(self, decoder: Decoder, boxes: Tensor) -> Tensor:
        return decoder.geometry.channels(boxes, self.points, self.labels, self.masks, self.has_mask)


def _refined(
    decoder: Decoder, levels: tuple[Tensor, Tensor, Tensor], batch: Batch, asked: _Prompts, rng: np.random.Generator
) -> _Prompts:
    """The prompts of the next round: the answer to the last one, mostly as a mask, and corrections of it.

    Two of five times another round comes first, so that a mask may hold what the clicks before it have mended.
    """
    count, device = len(batch.boxes), batch.boxes.device
    detached = (levels[0].detach(), levels[1].detach(), levels[2].detach())
    targets = batch.targets[:, 0].cpu().numpy() > 0.5
    rounds = 2 if rng.uniform() < 0.4 else 1
    for number in range(rounds):
        logits, scores = decoder(detached, batch.pixels, batch.boxes, asked.channels(decoder, batch.boxes))
        best = logits[torch.arange(count), scores.argmax(1)][:, None]
        masks = decoder.paste(best, batch.boxes)
        last = number == rounds - 1
        shares = [0.45, 0.25, 0.12, 0.09, 0.09] if rounds == 1 else [0.2, 0.5, 0.2, 0.1, 0.0]
        numbers = rng.choice(_MAX_CLICKS + 1, count, p=shares)
        corrections, signs = _corrections((masks[:, 0] > 0).cpu().numpy(), targets, rng, numbers)
        clicked = signs[:, 0].numpy() >= 0
        with_mask = ~clicked | (rng.uniform(size=count) < (0.6 if last else 0.5))
        asked = _Prompts(
            torch.cat([asked.points, corrections.to(device)], 1),
            torch.cat([asked.labels, signs.to(device)], 1),
            masks,
            torch.from_numpy(with_mask.astype(np.float32) * np.float32(OWN)).to(device),
        )
    return asked


def training_loss(
    network: Network, batch: Batch, rng: np.random.Generator, *, refine: bool, score_weight: float
) -> StepResult:
    """Decode once, or (``refine``) decode, simulate corrections of that answer and decode again."""
    decoder = network.decoder
    levels = network.encoder(batch.pixels)
    asked = _Prompts(batch.points, batch.point_labels, batch.neighbours, batch.has_neighbour * NEIGHBOUR)
    kind = batch.has_neighbour.cpu().numpy().astype(np.int64)
    if refine:
        with torch.no_grad():
            asked = _refined(decoder, levels, batch, asked, rng)
        kind = np.full(len(kind), 2)
    logits, scores = decoder(levels, batch.pixels, batch.boxes, asked.channels(decoder, batch.boxes))
    target = window_target(decoder, batch.targets, batch.boxes, logits.shape[-1])
    parts = segmentation_loss(logits, scores, target.inside, target.missed, score_weight)
    return StepResult(parts.total, parts.dice.detach().cpu().numpy().astype(np.float32), kind)
