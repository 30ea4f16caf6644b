"""What training minimises: BCE and soft Dice on the window grid, and the error of the predicted IoU.

Knows tensors on the window grid; must not know the network or files.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["LossParts", "segmentation_loss"]

_OTHERS = 0.5  # weight of the best of the candidates that may differ
_KEEP_ALIVE = 0.05  # share of all of them, so that none stops learning


@dataclass(frozen=True)
class LossParts:
    """The scalar to minimise and, per prompt, the hard Dice of the candidate with the highest score (N,)."""

    total: Tensor
    dice: Tensor


def segmentation_loss(
    logits: Tensor, scores: Tensor, target: Tensor, missed: Tensor, score_weight: float, weight: Tensor | None = None
) -> LossParts:
    """Logits (N, C, G, G), scores (N, C), soft target (N, 1, G, G), target beyond the window ``missed`` (N,) in cells.

    Candidate 0 answers every prompt; of the others only the best one learns from it, so that they part where a
    prompt is ambiguous. ``weight`` (N,) leaves prompts out where it is 0.
    """
    with torch.autocast(logits.device.type, enabled=False):  # bfloat16 cannot count cells
        return _loss(logits.float(), scores.float(), target, missed, score_weight, weight)


def _loss(
    logits: Tensor, scores: Tensor, target: Tensor, missed: Tensor, score_weight: float, weight: Tensor | None
) -> LossParts:
    answers = logits.flatten(2)  # (N, C, G * G)
    wanted = target.flatten(2).transpose(1, 2)  # (N, G * G, 1); products with it need no copy for each candidate
    bce = F.softplus(answers).mean(2) - torch.bmm(answers, wanted)[:, :, 0] / answers.shape[2]
    probability = torch.sigmoid(answers)
    area = wanted.sum((1, 2))[:, None]
    soft = 1 - (2 * torch.bmm(probability, wanted)[:, :, 0] + 1) / (probability.sum(2) + area + 1)
    per_candidate = bce + soft  # (N, C)
    with torch.no_grad():
        predicted, there = (answers > 0).float(), (wanted > 0.5).float()
        both = torch.bmm(predicted, there)[:, :, 0]
        sizes = predicted.sum(2) + there.sum((1, 2))[:, None] + missed[:, None]
        iou = both / (sizes - both).clamp(min=1)  # an absent object scores 0 whatever is answered
        dice = torch.where(sizes > 0, 2 * both / sizes.clamp(min=1), torch.ones_like(sizes))
        chosen = scores.argmax(1, keepdim=True)
    per_prompt = per_candidate[:, 0]
    if logits.shape[1] > 1:
        others = per_candidate[:, 1:]
        per_prompt = per_prompt + _OTHERS * (others.amin(1) + _KEEP_ALIVE * others.mean(1))
    per_prompt = per_prompt + score_weight * (scores - iou).square().mean(1)
    total = per_prompt.mean() if weight is None else (per_prompt * weight).sum() / weight.sum().clamp(min=1)
    return LossParts(total, dice.gather(1, chosen)[:, 0])
