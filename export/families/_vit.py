"""SAM's image encoder: a plain vision transformer with windows and learned relative positions.

Parameter names are those of the published checkpoints. Knows torch only.

References: Li et al., Exploring Plain Vision Transformer Backbones for Object Detection, ECCV 2022;
Kirillov et al., Segment Anything, ICCV 2023.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.families._sam import LayerNorm2d, MaskDecoder, PromptEncoder, Sam

__all__ = ["Attention", "Block", "Vit", "VitSize", "vit_sam"]

_EPS = 1e-6
_SCORES = 1 << 24
"""How many attention scores are computed at once: 64 MiB, where all of a global block would take 800 MiB."""


@dataclass(frozen=True)
class VitSize:
    """Side of the input and of a patch, width, depth and heads, side of a window, and the blocks without windows.

    The default is ViT-B, the smallest of the three that were published with SAM.
    """

    image: int = 1024
    patch: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    window: int = 14
    global_blocks: tuple[int, ...] = (2, 5, 8, 11)
    outputs: int = 256

    @property
    def grid(self) -> int:
        """Patches along a side of the input."""
        return self.image // self.patch


class _PatchEmbed(nn.Module):
    """Cuts the image into patches."""

    def __init__(self, inputs: int, size: VitSize) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, size.width, size.patch, stride=size.patch)

    def forward(self, image: Tensor) -> Tensor:
        """Make patches tokens, (1, 3, S, S) -> (1, P, C)."""
        output: Tensor = self.proj(image).flatten(2).transpose(1, 2)
        return output


class Attention(nn.Module):
    """Attention inside square windows, or among all patches if `side` is the grid's.

    Windows that stick out of the grid hold patches of zeros, whose keys and values are the biases alone. Moving all
    keys alike does not change a softmax, and moving all values alike moves the result alike: without these two biases
    the patches that fill the windows are zeros after the linear layers as well, so they need not pass through them.
    """

    offsets: Tensor

    def __init__(self, size: VitSize, side: int) -> None:
        super().__init__()
        self.grid, self.side, self.heads = size.grid, side, size.heads
        self.scale = (size.width // size.heads) ** -0.5
        self.qkv = nn.Linear(size.width, 3 * size.width)
        self.proj = nn.Linear(size.width, size.width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, size.width // size.heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, size.width // size.heads))
        places = torch.arange(side)
        self.register_buffer("offsets", places[:, None] - places + side - 1, persistent=False)

    def _windows(self, x: Tensor) -> Tensor:
        """Cut (1, P, C) into windows and heads, (W, heads, T, D), with zeros where a window sticks out."""
        count = -(-self.grid // self.side)
        filled = count * self.side - self.grid
        x = torch.unflatten(x, 1, (self.grid, self.grid))
        if filled:
            x = functional.pad(x, (0, 0, 0, filled, 0, filled))
        x = x.reshape(count, self.side, count, self.side, self.heads, -1).permute(0, 2, 4, 1, 3, 5)
        return x.reshape(count * count, self.heads, self.side * self.side, -1)

    def _patches(self, x: Tensor) -> Tensor:
        """Put windows (W, heads, T, D) together again, (1, P, C)."""
        count = -(-self.grid // self.side)
        x = x.reshape(count, count, self.heads, self.side, self.side, -1).permute(0, 3, 1, 4, 2, 5)
        x = x.reshape(1, count * self.side, count * self.side, self.proj.in_features)
        return x[:, : self.grid, : self.grid].flatten(1, 2)

    def _between(self, vectors: Tensor) -> Tensor:
        """Vectors for pairs of places, to be multiplied by scaled queries, (2 * side - 1, D) -> (place, D, other)."""
        between: Tensor = vectors[self.offsets].transpose(1, 2) / self.scale
        return between

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, by_row: Tensor, by_column: Tensor) -> Tensor:
        """Let some rows of patches (W, heads, rows, side, D) look at all of their window, -> (W, heads, T, D).

        A score is the product of query and key, plus that of the query and a vector for the rows between the two,
        plus that of the query and a vector for the columns between them.
        """
        down = q @ by_row  # (W, heads, row, column, other row)
        across = (q.transpose(2, 3) @ by_column).transpose(2, 3)  # (W, heads, row, column, other column)
        apart = down[..., None] + across[..., None, :]
        scores = q.flatten(2, 3) @ k.transpose(2, 3) + apart.flatten(4).flatten(2, 3)
        return torch.softmax(scores, dim=-1) @ v

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled queries, and keys and values without their biases, each (1, P, C)."""
        width = self.proj.in_features
        weight, bias = self.qkv.weight, self.qkv.bias  # of queries, keys and values in turn
        q = functional.linear(x, weight[:width] * self.scale, bias[:width] * self.scale)
        return q, functional.linear(x, weight[width : 2 * width]), functional.linear(x, weight[2 * width :])

    def forward(self, x: Tensor) -> Tensor:
        """Attend, (1, P, C) -> (1, P, C)."""
        q, k, v = map(self._windows, self.project(x))
        step = max(1, _SCORES // (q.shape[0] * self.heads * self.side**3))
        parts = [slice(start, start + step) for start in range(0, self.side, step)]
        q = torch.unflatten(q, 2, (self.side, self.side))
        by_row, by_column = self._between(self.rel_pos_h), self._between(self.rel_pos_w)
        seen = torch.cat([self._attend(q[:, :, rows], k, v, by_row[rows], by_column) for rows in parts], dim=2)
        shift = self.proj.bias + self.proj.weight @ self.qkv.bias[-self.proj.in_features :]
        return functional.linear(self._patches(seen), self.proj.weight, shift)


class _Mlp(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, 4 * width)
        self.lin2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.lin2(functional.gelu(self.lin1(x)))
        return output


class Block(nn.Module):
    """Attention and a feed-forward layer, each normalised before and added to what came in."""

    def __init__(self, size: VitSize, side: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(size.width, _EPS)
        self.attn = Attention(size, side)
        self.norm2 = nn.LayerNorm(size.width, _EPS)
        self.mlp = _Mlp(size.width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        output: Tensor = x + self.mlp(self.norm2(x))
        return output


class Vit(nn.Module):
    """Image (1, 3, S, S) -> embedding (1, 256, S / 16, S / 16)."""

    def __init__(self, size: VitSize | None = None, block: Callable[[VitSize, int], nn.Module] = Block) -> None:
        super().__init__()
        size = size or VitSize()
        self.grid = size.grid
        self.patch_embed = _PatchEmbed(3, size)
        self.pos_embed = nn.Parameter(torch.zeros(1, size.grid, size.grid, size.width))
        self.blocks = nn.ModuleList(
            block(size, size.grid if index in size.global_blocks else size.window) for index in range(size.depth)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(size.width, size.outputs, 1, bias=False),
            LayerNorm2d(size.outputs),
            nn.Conv2d(size.outputs, size.outputs, 3, padding=1, bias=False),
            LayerNorm2d(size.outputs),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Encode one image."""
        x = self.patch_embed(image) + self.pos_embed.flatten(1, 2)
        for block in self.blocks:
            x = block(x)
        output: Tensor = self.neck(torch.unflatten(x.transpose(1, 2), 2, (self.grid, self.grid)))
        return output


def vit_sam(size: VitSize | None = None) -> Sam:
    """SAM as it was published, by default with ViT-B, named as in its checkpoints."""
    size = size or VitSize()
    prompts = PromptEncoder(size.outputs, embedding_size=(size.grid,) * 2, input_size=(size.image,) * 2)
    return Sam(Vit(size), prompts, MaskDecoder(size.outputs))
