"""TinyViT as LiteMedSAM, its successors and ESP-MedSAM use it as image encoder.

Parameter names are those of the published checkpoints. Knows torch only.

References: Wu et al., TinyViT: Fast Pretraining Distillation for Small Vision Transformers, ECCV 2022.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.families._sam import LayerNorm2d

__all__ = ["Attention", "Block", "ConvBn", "Mlp", "PatchEmbed", "TinyVit", "TinyVitSize", "neck"]


@dataclass(frozen=True)
class TinyVitSize:
    """Widths, depths, heads and window sides of the four stages, and how far each merge into the next shrinks.

    `stem` is how far each of the first two convolutions shrinks: 1, as LiteMedSAM changed it, or 2.
    """

    widths: tuple[int, int, int, int] = (64, 128, 160, 320)
    depths: tuple[int, int, int, int] = (2, 2, 6, 2)
    heads: tuple[int, int, int, int] = (2, 4, 5, 10)
    windows: tuple[int, int, int, int] = (7, 7, 14, 7)
    strides: tuple[int, int, int] = (2, 2, 1)
    outputs: int = 256
    stem: int = 1


class ConvBn(nn.Module):
    """Convolution and batch normalisation, which the exporter folds."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and normalise."""
        output: Tensor = self.bn(self.c(x))
        return output


class PatchEmbed(nn.Module):
    """Two convolutions: of 1x1 where the first stage keeps the full resolution, of 3x3 where each shrinks it."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        kernel = 1 if stride == 1 else 3
        self.seq = nn.Sequential(
            ConvBn(inputs, outputs // 2, kernel, stride=stride),
            nn.GELU(),
            ConvBn(outputs // 2, outputs, kernel, stride=stride),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Embed every pixel."""
        output: Tensor = self.seq(x)
        return output


class _MbConv(nn.Module):
    """Inverted bottleneck, activated after the sum with what came in."""

    def __init__(self, width: int, expansion: int = 4) -> None:
        super().__init__()
        hidden = width * expansion
        self.conv1 = ConvBn(width, hidden)
        self.conv2 = ConvBn(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvBn(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.gelu(self.conv2(functional.gelu(self.conv1(x))))
        return functional.gelu(x + self.conv3(hidden))


class _Merge(nn.Module):
    """To the next stage: another width, and half the size where the stride is 2."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvBn(inputs, outputs)
        self.conv2 = ConvBn(outputs, outputs, 3, stride=stride, groups=outputs)
        self.conv3 = ConvBn(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.conv3(functional.gelu(self.conv2(functional.gelu(self.conv1(x)))))
        return output


class Attention(nn.Module):
    """Attention inside a window, with a learned bias for every offset between two pixels."""

    offsets: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window**2))
        side = torch.arange(window)
        apart = (side[:, None] - side).abs()
        offsets = apart[:, None, :, None] * window + apart[:, None, :]  # y, x, other y, other x
        self.register_buffer("offsets", offsets.reshape(window**2, window**2), persistent=False)

    def _project(self, x: Tensor, part: int, scale: float = 1.0) -> Tensor:
        """Queries, keys or values (part 0, 1, 2), (B, T, C) -> (B, heads, T, C / heads).

        The checkpoint holds them in one matrix, head by head. Three products with a third of it each are faster than
        one product that is split.
        """
        weight = torch.unflatten(self.qkv.weight, 0, (self.heads, 3, -1))[:, part].flatten(0, 1)
        bias = torch.unflatten(self.qkv.bias, 0, (self.heads, 3, -1))[:, part].flatten()
        projected = functional.linear(x, weight * scale, bias * scale)
        return torch.unflatten(projected, -1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Attend inside B windows of T pixels, (B, T, C) -> (B, T, C)."""
        x = self.norm(x)
        seen = self.attend(self._project(x, 0, self.scale), self._project(x, 1), self._project(x, 2))
        output: Tensor = self.proj(seen.transpose(1, 2).flatten(2))
        return output

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Let scaled queries look at keys and values, each (B, heads, T, D) -> (B, heads, T, D)."""
        return torch.softmax(q @ k.transpose(-1, -2) + self.attention_biases[:, self.offsets], dim=-1) @ v


class Mlp(nn.Module):
    """Normalisation and two linear layers with GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Feed forward, (B, T, C) -> (B, T, C)."""
        output: Tensor = self.fc2(functional.gelu(self.fc1(self.norm(x))))
        return output


class Block(nn.Module):
    """Window attention, a depthwise convolution and a feed-forward layer."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = Attention(width, heads, window)
        self.mlp = Mlp(width)
        self.local_conv = ConvBn(width, width, 3, groups=width)

    def _attend(self, x: Tensor) -> Tensor:
        """Attend in windows, (1, H, W, C) -> (1, H, W, C); what the last ones lack is filled with zeros."""
        _, height, width, channels = x.shape
        side = self.window
        rows, columns = -(-height // side), -(-width // side)
        x = functional.pad(x, (0, 0, 0, columns * side - width, 0, rows * side - height))
        x = x.reshape(rows, side, columns, side, channels).transpose(1, 2)
        x = self.attn(x.reshape(rows * columns, side * side, channels))
        x = x.reshape(rows, columns, side, side, channels).transpose(1, 2)
        return x.reshape(1, rows * side, columns * side, channels)[:, :height, :width]

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block, (1, C, H, W) -> (1, C, H, W).

        Channels change places with rows and columns right at the convolutions, which OpenVINO computes with channels
        last: then nothing is moved. Between them pixels are in one row, whose layout it leaves alone.
        """
        size = x.shape[-2:]
        x = x.permute(0, 2, 3, 1).flatten(1, 2)
        x = x + self._attend(torch.unflatten(x, 1, size)).flatten(1, 2)
        x = self.local_conv(torch.unflatten(x, 1, size).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).flatten(1, 2)
        x = x + self.feed(x)
        return torch.unflatten(x, 1, size).permute(0, 3, 1, 2)

    def feed(self, x: Tensor) -> Tensor:
        """Give what the feed-forward layer adds to pixels (1, H * W, C)."""
        output: Tensor = self.mlp(x)
        return output


class _Stage(nn.Module):
    """Blocks, and the way to the next stage."""

    def __init__(self, blocks: list[nn.Module], downsample: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        output: Tensor = self.downsample(x)
        return output


def neck(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions to the width of the decoder, each normalised, as SAM's encoder ends."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, bias=False),
        LayerNorm2d(outputs),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        LayerNorm2d(outputs),
    )


class TinyVit(nn.Module):
    """Image (1, 3, S, S) -> embedding (1, 256, S / 4, S / 4), or of a quarter of that side where the stem shrinks."""

    def __init__(self, size: TinyVitSize | None = None, block: Callable[[int, int, int], nn.Module] = Block) -> None:
        super().__init__()
        size = size or TinyVitSize()
        self.patch_embed = PatchEmbed(3, size.widths[0], size.stem)
        merges = [
            _Merge(inputs, outputs, stride)
            for inputs, outputs, stride in zip(size.widths[:-1], size.widths[1:], size.strides, strict=True)
        ]
        stages = []
        for index, (width, depth) in enumerate(zip(size.widths, size.depths, strict=True)):
            blocks: list[nn.Module] = [
                _MbConv(width) if index == 0 else block(width, size.heads[index], size.windows[index])
                for _ in range(depth)
            ]
            stages.append(_Stage(blocks, merges[index] if index < len(merges) else nn.Identity()))
        self.layers = nn.ModuleList(stages)
        self.neck = neck(size.widths[-1], size.outputs)

    def forward(self, image: Tensor) -> Tensor:
        """Encode one image."""
        x = self.patch_embed(image)
        for stage in self.layers:
            x = stage(x)
        output: Tensor = self.neck(x)
        return output
