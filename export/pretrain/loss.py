"""What training minimises: BCE and soft Dice on the window grid, and the error of the predicted IoU.

Knows tensors on the window grid; must not know the network or files.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["LossParts", "segmentation_loss"]


@dataclass(frozen=True)
class LossParts:
    """The scalar to minimise and, per prompt, the hard Dice of the best candidate (N,)."""

    total: Tensor
    dice: Tensor


def segmentation_loss(
    logits: Tensor, scores: Tensor, target: Tensor, score_weight: float, weight: Tensor | None = None
) -> LossParts:
    """Logits (N, C, G, G), scores (N, C), soft target (N, 1, G, G); the best of C candidates is trained.

    ``weight`` (N,) leaves prompts out where it is 0.
    """
    wide = target.expand_as(logits)
    bce = F.binary_cross_entropy_with_logits(logits, wide, reduction="none").mean((2, 3))
    probability = torch.sigmoid(logits)
    overlap = (probability * wide).sum((2, 3))
    soft = 1 - (2 * overlap + 1) / (probability.sum((2, 3)) + wide.sum((2, 3)) + 1)
    per_candidate = bce + soft  # (N, C)
    with torch.no_grad():
        predicted, wanted = logits > 0, wide > 0.5
        both = (predicted & wanted).sum((2, 3)).float()
        sizes = predicted.sum((2, 3)).float() + wanted.sum((2, 3)).float()
        iou = both / (sizes - both).clamp(min=1)  # an absent object scores 0 whatever is answered
        dice = torch.where(sizes > 0, 2 * both / sizes.clamp(min=1), torch.ones_like(sizes))
        best = per_candidate.argmin(1, keepdim=True)
    per_prompt = per_candidate.gather(1, best)[:, 0] + score_weight * (scores - iou).square().mean(1)
    total = per_prompt.mean() if weight is None else (per_prompt * weight).sum() / weight.sum().clamp(min=1)
    return LossParts(total, dice.gather(1, best)[:, 0])
