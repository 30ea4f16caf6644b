"""EfficientViT-SAM: SAM's prompts and decoder on an EfficientViT encoder with ReLU linear attention.

Parameter names are those of the published checkpoints. Every normalisation of these systems, the transformer of the
mask decoder included, has an epsilon of 1e-6. Knows torch only.

References: Cai et al., EfficientViT: Lightweight Multi-Scale Attention for High-Resolution Dense Prediction, ICCV 2023;
Zhang et al., EfficientViT-SAM: Accelerated Segment Anything Model Without Performance Loss, CVPR 2024 workshops.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.families._sam import LayerNorm2d, MaskDecoder, PromptEncoder, Sam

__all__ = ["L0", "L1", "L2", "EfficientVit", "EfficientVitSize", "efficientvit_sam"]

_EPS = 1e-6
_WIDTHS = (32, 64, 128, 256, 512)
_HEAD_WIDTH = 32
_EMBEDDING_SIDE = 64
_EMBEDDING_WIDTH = 256
_Shift = Literal["norm", "bias", "none"]


@dataclass(frozen=True)
class EfficientVitSize:
    """Blocks of the five stages and of the neck."""

    depths: tuple[int, int, int, int, int]
    neck_depth: int


L0 = EfficientVitSize(depths=(1, 1, 1, 4, 4), neck_depth=4)
L1 = EfficientVitSize(depths=(1, 1, 1, 6, 6), neck_depth=8)
L2 = EfficientVitSize(depths=(1, 2, 2, 8, 8), neck_depth=12)


class _Conv(nn.Module):
    """Convolution and what shifts its outputs: batch normalisation, a bias or nothing."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, groups: int = 1, shift: _Shift = "norm"
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=shift == "bias")
        self.norm = nn.BatchNorm2d(outputs, _EPS) if shift == "norm" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.norm(self.conv(x))
        return output


def _gelu(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


class _ActivatedConv(_Conv):
    """The same, activated."""

    def forward(self, x: Tensor) -> Tensor:
        return _gelu(super().forward(x))


class _ResBlock(nn.Module):
    """Two 3x3 convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = _ActivatedConv(width, width, 3)
        self.conv2 = _Conv(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.conv2(self.conv1(x))
        return output


class _FusedMbConv(nn.Module):
    """A 3x3 convolution to a larger width and back."""

    def __init__(self, inputs: int, outputs: int, *, expansion: int, stride: int = 1) -> None:
        super().__init__()
        self.spatial_conv = _ActivatedConv(inputs, expansion * inputs, 3, stride=stride)
        self.point_conv = _Conv(expansion * inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.point_conv(self.spatial_conv(x))
        return output


class _MbConv(nn.Module):
    """Inverted bottleneck, normalised at its end only."""

    def __init__(self, inputs: int, outputs: int, *, expansion: int, stride: int = 1) -> None:
        super().__init__()
        hidden = expansion * inputs
        self.inverted_conv = _ActivatedConv(inputs, hidden, shift="bias")
        self.depth_conv = _ActivatedConv(hidden, hidden, 3, stride=stride, groups=hidden, shift="bias")
        self.point_conv = _Conv(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.point_conv(self.depth_conv(self.inverted_conv(x)))
        return output


class _LiteMla(nn.Module):
    """Linear attention with ReLU as its kernel, on single pixels and on neighbourhoods of 5x5."""

    def __init__(self, width: int) -> None:
        super().__init__()
        heads = width // _HEAD_WIDTH
        self.qkv = _Conv(width, 3 * width, shift="none")
        mixer = nn.Sequential(
            nn.Conv2d(3 * width, 3 * width, 5, padding=2, groups=3 * width, bias=False),
            nn.Conv2d(3 * width, 3 * width, 1, groups=3 * heads, bias=False),
        )
        self.aggreg = nn.ModuleList([mixer])
        self.proj = _Conv(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend among all pixels, (1, C, H, W) -> (1, C, H, W).

        A denominator of 0 means that no key agrees with the query, and then the numerator is 0 as well. The published
        code adds 1e-15, which float16 cannot hold; dividing by 1 gives the same 0 in every precision.
        """
        size = x.shape[-2:]
        qkv = self.qkv(x)
        qkv = torch.cat([qkv, *(mixer(qkv) for mixer in self.aggreg)], dim=1)
        # (1, 2 * heads * 3 * D, H, W) -> three times (1, 2 * heads, D, H * W)
        q, k, v = torch.unflatten(qkv.flatten(2), 1, (-1, 3, _HEAD_WIDTH)).unbind(2)
        q, k = functional.relu(q), functional.relu(k)
        numerator = v @ k.transpose(-1, -2) @ q
        denominator = k.sum(-1)[:, :, None] @ q
        attended = numerator / torch.where(denominator > 0, denominator, 1.0)
        output: Tensor = self.proj(torch.unflatten(attended.flatten(1, 2), -1, size))
        return output


class _Residual(nn.Module):
    def __init__(self, main: nn.Module, *, shortcut: bool = True) -> None:
        super().__init__()
        self.main = main
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.main(x)
        return x + output if self.shortcut else output


class _AttentionBlock(nn.Module):
    """Attention among all pixels, then an inverted bottleneck for what lies close."""

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        self.context_module = _Residual(_LiteMla(width))
        self.local_module = _Residual(_MbConv(width, width, expansion=expansion))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.local_module(self.context_module(x))
        return output


class _Sequence(nn.Module):
    def __init__(self, op_list: Iterable[nn.Module]) -> None:
        super().__init__()
        self.op_list = nn.ModuleList(op_list)

    def forward(self, x: Tensor) -> Tensor:
        for op in self.op_list:
            x = op(x)
        return x


class _Backbone(nn.Module):
    """Five stages, each half the size of the one before."""

    def __init__(self, depths: tuple[int, int, int, int, int]) -> None:
        super().__init__()
        a, b, c, d, e = _WIDTHS
        small = [_ActivatedConv(3, a, 3, stride=2), *(_Residual(_ResBlock(a)) for _ in range(depths[0]))]
        stages = [_Sequence(small)]
        for inputs, width, depth in ((a, b, depths[1]), (b, c, depths[2])):
            shrink = _Residual(_FusedMbConv(inputs, width, expansion=16, stride=2), shortcut=False)
            rest = (_Residual(_FusedMbConv(width, width, expansion=4)) for _ in range(depth))
            stages.append(_Sequence([shrink, *rest]))
        shrink = _Residual(_MbConv(c, d, expansion=16, stride=2), shortcut=False)
        stages.append(_Sequence([shrink, *(_Residual(_MbConv(d, d, expansion=4)) for _ in range(depths[3]))]))
        shrink = _Residual(_MbConv(d, e, expansion=24, stride=2), shortcut=False)
        stages.append(_Sequence([shrink, *(_AttentionBlock(e, 6) for _ in range(depths[4]))]))
        self.stages = nn.ModuleList(stages)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Give the last three stages' maps, the smallest first."""
        maps = [image]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[:-4:-1]


class _Upsample(nn.Module):
    """Bicubic interpolation of a square map to a larger one: one constant matrix for each axis.

    Engines differ in their cubic filters; products with a matrix they all compute alike.
    """

    weights: Tensor

    def __init__(self, old: int, new: int) -> None:
        super().__init__()
        self.is_identity = old == new
        axis = torch.eye(old)[None, None]
        weights = functional.interpolate(axis, size=(new, old), mode="bicubic", align_corners=False)
        self.register_buffer("weights", weights[0, 0], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Interpolate, (1, C, old, old) -> (1, C, new, new)."""
        return x if self.is_identity else self.weights @ (x @ self.weights.T)


class _Neck(nn.Module):
    """Sum of the last three stages, all brought to one size and width, and some more convolutions."""

    def __init__(self, depth: int, input_side: int) -> None:
        super().__init__()
        width, side = _EMBEDDING_WIDTH, _EMBEDDING_SIDE
        self.input_ops = nn.ModuleList(
            _Sequence([_Conv(inputs, width), _Upsample(input_side // stride, side)])
            for inputs, stride in zip(_WIDTHS[:1:-1], (32, 16, 8), strict=True)
        )
        self.middle = _Sequence(_Residual(_FusedMbConv(width, width, expansion=1)) for _ in range(depth))
        self.output_ops = nn.ModuleList([_Sequence([_Conv(width, width, shift="bias")])])

    def forward(self, maps: list[Tensor]) -> Tensor:
        first, second, third = (op(x) for op, x in zip(self.input_ops, maps, strict=True))
        output: Tensor = self.output_ops[0](self.middle(first + (second + third)))
        return output


class EfficientVit(nn.Module):
    """Image (1, 3, S, S) -> embedding (1, 256, 64, 64)."""

    def __init__(self, size: EfficientVitSize, input_side: int) -> None:
        super().__init__()
        self.backbone = _Backbone(size.depths)
        self.neck = _Neck(size.neck_depth, input_side)
        self.norm = LayerNorm2d(_EMBEDDING_WIDTH, _EPS)

    def forward(self, image: Tensor) -> Tensor:
        """Encode one image."""
        output: Tensor = self.norm(self.neck(self.backbone(image)))
        return output


def efficientvit_sam(size: EfficientVitSize, input_side: int) -> Sam:
    """Build a system of this family for square inputs; boxes are counted in the same pixels."""
    frame, embedding = (input_side, input_side), (_EMBEDDING_SIDE, _EMBEDDING_SIDE)
    return Sam(
        EfficientVit(size, input_side),
        PromptEncoder(_EMBEDDING_WIDTH, embedding_size=embedding, input_size=frame),
        MaskDecoder(_EMBEDDING_WIDTH, eps=_EPS),
    )
