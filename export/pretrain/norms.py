"""Statistics of the batch normalisations, counted anew with every kind of training step alike.

A training step is of one kind (images, second answers, roll-outs) and is normalised by its own batch; at inference one
set of statistics answers all kinds. The running ones lean towards the last steps and those that decode most often.

Knows torch modules. Must not know what a step does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

__all__ = ["count_norms"]


def count_norms(
    network: nn.Module, kinds: Iterable[Iterable[Callable[[], object]]], *, keep_answers: bool = False
) -> None:
    """Give a network the statistics of what its normalisations see, and put it into evaluation mode.

    Parameters
    ----------
    network : Module
        With `~torch.nn.BatchNorm2d` layers, whose running statistics are replaced.
    kinds : iterable of iterable of callable
        Forward passes of each kind. Kinds count alike, however many passes each has.
    keep_answers : bool
        Whether the network answers as in evaluation mode while it is counted, and goes on doing so: scales and shifts
        make up for the new statistics. Else each batch is normalised by its own, as where it has been trained so.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    network.train(not keep_answers)
    means: list[list[Tensor]] = [[] for _ in norms]  # of values and of their squares, (2, C) for each kind
    with torch.no_grad():
        for passes in kinds:
            seen: list[list[Tensor]] = [[] for _ in norms]
            hooks = [norm.register_forward_pre_hook(_adding_to(own)) for norm, own in zip(norms, seen, strict=True)]
            for one in passes:
                one()
            for hook, own, total in zip(hooks, seen, means, strict=True):
                hook.remove()
                total.append(torch.stack(own).mean(0))
        for norm, total in zip(norms, means, strict=True):
            mean, square = torch.stack(total).mean(0)
            _set_statistics(norm, mean, square - mean * mean, keep_answers=keep_answers)
    network.eval()


def _set_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, *, keep_answers: bool) -> None:
    if norm.running_mean is None or norm.running_var is None:
        return
    if keep_answers:
        slope = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        norm.bias.add_(slope * (mean - norm.running_mean))
        norm.weight.copy_(slope * torch.sqrt(variance + norm.eps))
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)


def _adding_to(seen: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].float()
        seen.append(torch.stack([values.mean((0, 2, 3)), (values * values).mean((0, 2, 3))]))

    return hook
