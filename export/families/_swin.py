"""The Swin encoder of Swin-LiteMedSAM, and SAM's mask decoder with skips from the encoder's stages.

Parameter names are those of the published checkpoint. What the decoder makes of the skips depends on the image alone,
so the encoder's graph does it: the decoder gets maps that it only has to add. Knows torch only.

References: Liu et al., Swin Transformer: Hierarchical Vision Transformer using Shifted Windows, ICCV 2021.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.families._sam import MLP, LayerNorm2d, TwoWayTransformer, paint, pixels_of, quadruple
from export.families._tiny_vit import ConvBn, PatchEmbed, neck

__all__ = ["SkipDecoder", "Swin"]

_BLOCKED = -1e4
"""What a finite mask adds instead of minus infinity: the softmax gives exactly zero, and float16 can hold it."""


class _Normalised(nn.Module):
    """A function of the normalised input."""

    def __init__(self, width: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.fn(self.norm(x))
        return output


class _Residual(nn.Module):
    """The input and what a function makes of it, normalised."""

    def __init__(self, width: int, fn: nn.Module) -> None:
        super().__init__()
        self.fn = _Normalised(width, fn)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = x + self.fn(x)
        return output


class _FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.net(x)
        return output


class _WindowAttention(nn.Module):
    """Attention inside windows, which every other block shifts by half a window; one table of biases for all heads.

    A shifted image wraps around at its edges. The checkpoint holds two masks that keep apart what the wrap brought
    together, one for the last row of windows and one for the last column.
    """

    offsets: Tensor

    def __init__(self, width: int, heads: int, *, head_width: int, window: int, shifted: bool) -> None:
        super().__init__()
        self.heads, self.window, self.shifted = heads, window, shifted
        self.scale = head_width**-0.5
        if shifted:
            self.upper_lower_mask = nn.Parameter(torch.zeros(window**2, window**2))
            self.left_right_mask = nn.Parameter(torch.zeros(window**2, window**2))
        self.to_qkv = nn.Linear(width, 3 * heads * head_width, bias=False)
        self.pos_embedding = nn.Parameter(torch.zeros(2 * window - 1, 2 * window - 1))
        self.to_out = nn.Linear(heads * head_width, width)
        side = torch.arange(window)
        apart = side - side[:, None] + window - 1  # from the first to the second, never negative
        offsets = apart[:, None, :, None] * (2 * window - 1) + apart[:, None, :]  # y, x, other y, other x
        self.register_buffer("offsets", offsets.reshape(window**2, window**2), persistent=False)

    def _project(self, x: Tensor, part: int, scale: float = 1.0) -> Tensor:
        """Queries, keys or values (part 0, 1, 2), (rows, columns, T, C) -> (rows, columns, heads, T, D)."""
        size = len(self.to_qkv.weight) // 3
        weight = self.to_qkv.weight[part * size : (part + 1) * size]
        projected = torch.unflatten(functional.linear(x, weight * scale), -1, (self.heads, -1))
        return projected.transpose(2, 3)

    def _blocked(self, scores: Tensor) -> Tensor:
        """Keep apart, in the last row and column of windows, what the shift brought together."""
        rows, columns = scores.shape[:2]
        upper_lower = self.upper_lower_mask.clamp(min=_BLOCKED)[None, None, None]
        left_right = self.left_right_mask.clamp(min=_BLOCKED)[None, None, None]
        by_row = functional.pad(upper_lower, (0,) * 8 + (rows - 1, 0))
        by_column = functional.pad(left_right, (0,) * 6 + (columns - 1, 0))
        return scores + by_row + (by_column + self._bias())

    def _bias(self) -> Tensor:
        return self.pos_embedding.flatten()[self.offsets]

    def forward(self, x: Tensor) -> Tensor:
        """Attend in windows, (1, H, W, C) -> (1, H, W, C)."""
        _, height, width, channels = x.shape
        side, half = self.window, self.window // 2
        rows, columns = height // side, width // side
        if self.shifted:
            x = torch.roll(x, (-half, -half), (1, 2))
        x = x.reshape(rows, side, columns, side, channels).transpose(1, 2).flatten(2, 3)
        q, k, v = self._project(x, 0, self.scale), self._project(x, 1), self._project(x, 2)
        scores = q @ k.transpose(-1, -2)
        scores = self._blocked(scores) if self.shifted else scores + self._bias()
        x = self.to_out((torch.softmax(scores, dim=-1) @ v).transpose(2, 3).flatten(3))
        x = x.reshape(rows, columns, side, side, channels).transpose(1, 2).reshape(1, height, width, channels)
        return torch.roll(x, (half, half), (1, 2)) if self.shifted else x


class _Block(nn.Module):
    """Window attention, a depthwise convolution and a feed-forward layer, (1, H, W, C) -> (1, H, W, C)."""

    def __init__(self, width: int, heads: int, *, head_width: int, window: int, shifted: bool) -> None:
        super().__init__()
        attention = _WindowAttention(width, heads, head_width=head_width, window=window, shifted=shifted)
        self.attention_block = _Residual(width, attention)
        self.local_conv = ConvBn(width, width, 3, groups=width)
        self.mlp_block = _Residual(width, _FeedForward(width))

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[1:3]
        x = self.attention_block(x).flatten(1, 2).transpose(1, 2)  # channels first; see TinyViT's block
        x = self.local_conv(torch.unflatten(x, 2, size)).flatten(2).transpose(1, 2)
        return torch.unflatten(self.mlp_block(x), 1, size)


class _Merge(nn.Module):
    """A linear layer on squares of pixels, channels first: a convolution whose stride is its kernel."""

    def __init__(self, inputs: int, outputs: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.linear = nn.Linear(inputs * factor**2, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Merge, (1, C, H, W) -> (1, H / factor, W / factor, C')."""
        weight = torch.unflatten(self.linear.weight, 1, (-1, self.factor, self.factor))
        return functional.conv2d(x, weight, self.linear.bias, stride=self.factor).permute(0, 2, 3, 1)


class _Stage(nn.Module):
    """Pairs of blocks, the second of each shifted, (1, C, H, W) -> (1, C', H / factor, W / factor)."""

    def __init__(self, merge: _Merge, pairs: Sequence[Sequence[_Block]]) -> None:
        super().__init__()
        self.downsample = merge
        self.blocks = nn.ModuleList(nn.ModuleList(pair) for pair in pairs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x)
        for pair in self.blocks:
            assert isinstance(pair, nn.ModuleList)
            for block in pair:
                x = block(x)
        return x.permute(0, 3, 1, 2)


class Swin(nn.Module):
    """Image (1, 3, S, S) -> the outputs of four stages; `neck` makes the embedding of the last."""

    stage1: _Stage
    stage2: _Stage
    stage3: _Stage
    stage4: _Stage

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 160, 320, 320),
        *,
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (2, 4, 5, 10),
        factors: Sequence[int] = (2, 2, 1, 1),
        head_width: int = 32,
        outputs: int = 256,
        window: int = 8,
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(3, widths[0])
        for index, (depth, count, factor) in enumerate(zip(depths, heads, factors, strict=True)):
            width = widths[index + 1]
            pairs = [
                [
                    _Block(width, count, head_width=head_width, window=window, shifted=shifted)
                    for shifted in (False, True)
                ]
                for _ in range(depth // 2)
            ]
            setattr(self, f"stage{index + 1}", _Stage(_Merge(widths[index], width, factor), pairs))
        self.neck = neck(widths[-1], outputs)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Give the maps of the four stages, channels first."""
        x = self.patch_embed(image)
        maps = []
        for stage in (self.stage1, self.stage2, self.stage3, self.stage4):
            x = stage(x)
            maps.append(x)
        return tuple(maps)


class _Unused(nn.Module):
    """A prompt pool that the checkpoint holds and inference never reads."""

    def __init__(self, width: int, side: int, count: int = 5) -> None:
        super().__init__()
        self.prompt_param = nn.Parameter(torch.zeros(1, count, width, side, side))
        self.linear_layer = nn.Linear(width, count)
        self.conv3x3 = nn.Conv2d(width, width, 3, bias=False)


def _upscaling(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, hidden, 1),
        LayerNorm2d(hidden),
        nn.GELU(),
        nn.ConvTranspose2d(hidden, outputs, 2, stride=2),
        nn.GELU(),
    )


class SkipDecoder(nn.Module):
    """SAM's mask decoder whose two upscaling steps also see the encoder's stages."""

    def __init__(self, width: int, skips: Sequence[int], *, side: int = 64, heads: int = 8, hidden: int = 2048) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(width, depth=2, heads=heads, hidden=hidden, eps=1e-5)
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(4, width)
        self.neck = neck(sum(skips[1:]), width)
        self.output_upscaling1 = _upscaling(2 * width, width, width // 2)
        self.output_upscaling2 = _upscaling(width // 2 + skips[0], width // 4, width // 8)
        self.output_hypernetworks_mlps = nn.ModuleList(MLP(width, width, width // 8, 3) for _ in range(4))
        self.iou_prediction_head = MLP(width, 256, 4, 3)
        self.prompt1 = _Unused(width // 2, 2 * side)
        self.prompt2 = _Unused(width // 8, 4 * side)

    def skips(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Make the parts of the two upscaling steps that come from the stages' maps, not from the prompt.

        -> (1, h * w, C) and (1, 4 * h * w, C / 4), the latter in the order in which `quadruple` leaves pixels.
        """
        _, _, height, width = maps[-1].shape
        coarse = self._mix(self.output_upscaling1, self.neck(torch.cat(list(maps[1:]), dim=1)))
        fine = self._mix(self.output_upscaling2, maps[0])
        squares = fine.reshape(1, -1, height, 2, width, 2).permute(0, 2, 4, 3, 5, 1)  # y, x, finer y, finer x
        return coarse.flatten(2).transpose(1, 2), squares.reshape(1, 4 * height * width, -1)

    def _mix(self, upscaling: nn.Sequential, skip: Tensor) -> Tensor:
        """Apply the last columns of an upscaling's first layer to its second input."""
        first = upscaling[0]
        assert isinstance(first, nn.Conv2d)
        return functional.conv2d(skip, first.weight[:, -skip.shape[1] :], first.bias)

    def _upscale(self, upscaling: nn.Sequential, pixels: Tensor, skip: Tensor) -> Tensor:
        """Mix pixels (N, P, C) with their skip and make four of each."""
        first, norm, _, last, _ = upscaling
        assert isinstance(first, nn.Conv2d)
        assert isinstance(norm, LayerNorm2d)
        mixed = pixels @ first.weight[:, : pixels.shape[2], 0, 0].T + skip
        return functional.gelu(quadruple(last, functional.gelu(norm.along_last(mixed))))

    def forward(
        self, image: Tensor, prompt: Tensor, grid: Tensor, skips: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Decode (N, C, h, w) with tokens (N, T, C) and what `skips` gave -> (N, 1, 4h, 4w), (N, 1)."""
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(prompt.shape[0], -1, -1), prompt], dim=1)
        tokens, pixels = self.transformer(tokens, pixels_of(image), grid)
        scores: Tensor = self.iou_prediction_head(tokens[:, 0])[:, :1]
        x = self._upscale(self.output_upscaling1, pixels, skips[0])
        x = self._upscale(self.output_upscaling2, x, skips[1])
        return paint(x, self.output_hypernetworks_mlps[0](tokens[:, 1]), image.shape[-2:]), scores
