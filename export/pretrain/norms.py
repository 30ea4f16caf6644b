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


def count_norms(network: nn.Module, kinds: Iterable[Iterable[Callable[[], object]]]) -> None:
    """Give a network the statistics of what its normalisations see, and put it into evaluation mode.

    Parameters
    ----------
    network : Module
        With `~torch.nn.BatchNorm2d` layers, whose running statistics are replaced.
    kinds : iterable of iterable of callable
        Forward passes of each kind. Kinds count alike, however many passes each has.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    network.train()  # as in training, each batch is normalised by itself
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
            if norm.running_mean is not None and norm.running_var is not None:
                norm.running_mean.copy_(mean)
                norm.running_var.copy_(square - mean * mean)
    network.eval()


def _adding_to(seen: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].float()
        seen.append(torch.stack([values.mean((0, 2, 3)), (values * values).mean((0, 2, 3))]))

    return hook
