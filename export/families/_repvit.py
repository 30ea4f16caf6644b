"""RepViT with a stem that does not shrink, as Rep-MedSAM uses it as image encoder.

Parameter names are those of the published checkpoints, which hold the branches of training. Every branch that is
linear is merged into one convolution before it is applied: the merged weights depend on no input, so the exporter
computes them once. Their bits are those of the published script, which merges in the same order. Knows torch only.

References: Wang et al., RepViT: Revisiting Mobile CNN From ViT Perspective, CVPR 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.families._sam import LayerNorm2d

__all__ = ["REPVIT_M1_0", "RepVit", "RepVitStage"]


_POOL = 8


@dataclass(frozen=True)
class RepVitStage:
    """Blocks of one width: how many, the stride of the first, and which of them weigh their channels."""

    width: int
    depth: int
    stride: int
    excited: tuple[int, ...]


REPVIT_M1_0 = (
    RepVitStage(56, 3, 1, (0,)),
    RepVitStage(112, 4, 2, (1,)),
    RepVitStage(224, 16, 2, (1, 3, 5, 7, 9, 11, 13)),
    RepVitStage(448, 3, 1, (1,)),
)
"""RepViT-M1.0 as Rep-MedSAM has it: its last stage keeps the size."""


def _merged(weight: Tensor, bias: Tensor | float, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution and the batch normalisation after it."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    root = torch.sqrt(norm.running_var + norm.eps)
    scale = (norm.weight / root)[:, None, None, None]
    return weight * scale, (bias - norm.running_mean) * norm.weight / root + norm.bias


class _ConvBn(nn.Module):
    """Convolution and batch normalisation in one."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def merged(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the one convolution."""
        return _merged(self.c.weight, 0.0, self.bn)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        return functional.conv2d(x, *self.merged(), self.c.stride, self.c.padding, groups=self.c.groups)


class _RepVggDw(nn.Module):
    """Depthwise 3x3, depthwise 1x1 and the identity, summed and normalised: one depthwise 3x3 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = _ConvBn(width, width, 3, groups=width)
        self.conv1 = nn.Conv2d(width, width, 1, groups=width)
        self.bn = nn.BatchNorm2d(width)

    def merged(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the one convolution."""
        assert self.conv1.bias is not None
        weight, bias = self.conv.merged()
        centre = functional.pad(self.conv1.weight, (1, 1, 1, 1))
        identity = functional.pad(torch.ones_like(self.conv1.weight), (1, 1, 1, 1))
        return _merged(weight + centre + identity, bias + self.conv1.bias, self.bn)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, *self.merged(), padding=1, groups=x.shape[1])


class _SqueezeExcite(nn.Module):
    """Weigh every channel by what two small layers make of the means of all.

    The means are taken in two steps: engines add up in float32, one value after the other, and 65536 pixels at once
    cost three digits, which the gates of later blocks turn into visible differences.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = max(8, int(width / 4 + 4) // 8 * 8)  # a quarter, to the nearest multiple of 8
        self.fc1 = nn.Conv2d(width, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        means = functional.avg_pool2d(x, _POOL).mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(functional.relu(self.fc1(means))))


class _Residual(nn.Module):
    def __init__(self, m: nn.Module) -> None:
        super().__init__()
        self.m = m

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = x + self.m(x)
        return output


class _Block(nn.Module):
    """Mix pixels channel by channel, then channels pixel by pixel."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, excite: bool) -> None:
        super().__init__()
        weigh = _SqueezeExcite(inputs) if excite else nn.Identity()
        if stride > 1:
            shrink = _ConvBn(inputs, inputs, 3, stride=stride, groups=inputs)
            self.token_mixer = nn.Sequential(shrink, weigh, _ConvBn(inputs, outputs))
            inputs = outputs
        else:
            self.token_mixer = nn.Sequential(_RepVggDw(inputs), weigh)
        mixer = nn.Sequential(_ConvBn(inputs, 2 * inputs), nn.GELU(), _ConvBn(2 * inputs, outputs))
        self.channel_mixer = _Residual(mixer) if inputs == outputs else mixer

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.channel_mixer(self.token_mixer(x))
        return output


class RepVit(nn.Module):
    """Image (1, 3, S, S) -> embedding (1, 256, S / 4, S / 4)."""

    def __init__(self, stages: Sequence[RepVitStage] = REPVIT_M1_0, outputs: int = 256) -> None:
        super().__init__()
        width = stages[0].width
        blocks: list[nn.Module] = [nn.Sequential(_ConvBn(3, width // 2, 3), nn.GELU(), _ConvBn(width // 2, width, 3))]
        for stage in stages:
            for index in range(stage.depth):
                stride = stage.stride if index == 0 else 1
                blocks.append(_Block(width, stage.width, stride=stride, excite=index in stage.excited))
                width = stage.width
        self.features = nn.ModuleList(blocks)
        self.neck = nn.Sequential(
            nn.Conv2d(width, outputs, 1, bias=False),
            LayerNorm2d(outputs),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            LayerNorm2d(outputs),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Encode one image."""
        x = image
        for block in self.features:
            x = block(x)
        output: Tensor = self.neck(x)
        return output
