"""What the systems of this field share with SAM: prompt encoder, two-way transformer, mask decoder.

The modules carry the parameter names of the published checkpoints, so that a state dict loads as it is. Their
arithmetic is arranged for inference with fixed weights: products of weights and of positions are left to the exporter,
which folds them into constants. Knows torch only: no graph, no family, no ONNX, no file.

References: Kirillov et al., Segment Anything, ICCV 2023.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "MLP",
    "Attention",
    "LayerNorm2d",
    "MaskDecoder",
    "PromptEncoder",
    "Sam",
    "TwoWayTransformer",
    "paint",
    "pixels_of",
    "quadruple",
    "upscaled",
    "upscaling",
]


_UNSEEN = -1e4
"""Added to an attention score it leaves a weight of zero, in float16 as well."""
_ROW = 16
"""Divides every number of channels here."""
_FIRST = 1e3
"""More than predicted IoUs can differ by."""


class LayerNorm2d(nn.Module):
    """Layer normalisation over the channels of an (N, C, H, W) tensor."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise every pixel on its own."""
        centred = x - x.mean(1, keepdim=True)
        x = centred / torch.sqrt((centred * centred).mean(1, keepdim=True) + self.eps)
        return x * self.weight[:, None, None] + self.bias[:, None, None]

    def along_last(self, x: Tensor) -> Tensor:
        """Do the same to a tensor whose channels are its last axis."""
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, inputs: int, hidden: int, outputs: int, depth: int) -> None:
        super().__init__()
        widths = [inputs, *[hidden] * (depth - 1), outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """Apply all layers; no activation after the last."""
        for layer in self.layers[:-1]:
            x = functional.relu(layer(x))
        output: Tensor = self.layers[-1](x)
        return output


class _FourierPositions(nn.Module):
    """Positions in 0..1 as sines and cosines of random projections."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, half_width: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, half_width))

    def forward(self, xy: Tensor) -> Tensor:
        """Encode positions, (..., 2) in 0..1 -> (..., 2 * half_width)."""
        angles = 2 * math.pi * ((2 * xy - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1)


class PromptEncoder(nn.Module):
    """Boxes, points and masks as tokens and maps of the decoder's width."""

    input_scale: Tensor

    def __init__(
        self, width: int, *, embedding_size: tuple[int, int], input_size: tuple[int, int], mask_channels: int = 16
    ) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.register_buffer("input_scale", 1 / torch.tensor([input_size[1], input_size[0]]), persistent=False)
        self.pe_layer = _FourierPositions(width // 2)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, width) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, width)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_channels // 4, 2, stride=2),
            LayerNorm2d(mask_channels // 4),
            nn.GELU(),
            nn.Conv2d(mask_channels // 4, mask_channels, 2, stride=2),
            LayerNorm2d(mask_channels),
            nn.GELU(),
            nn.Conv2d(mask_channels, width, 1),
        )
        self.no_mask_embed = nn.Embedding(1, width)

    def _positions(self, xy: Tensor) -> Tensor:
        """Encode positions in the input frame, where integers are pixel centres: SAM adds a half to each."""
        positions: Tensor = self.pe_layer((xy + 0.5) * self.input_scale)
        return positions

    def _point_embedding(self, index: int) -> Tensor:
        embedding = self.point_embeddings[index]
        assert isinstance(embedding, nn.Embedding)
        return embedding.weight

    def boxes(self, boxes: Tensor) -> Tensor:
        """Two corner tokens a box, (N, 4) xyxy -> (N, 2, C)."""
        corners = torch.cat([self._point_embedding(2), self._point_embedding(3)])
        return self._positions(boxes.reshape(-1, 2, 2)) + corners

    def points(self, points: Tensor, labels: Tensor) -> Tensor:
        """One token a point, (N, P, 2) xy and (N, P) labels: 1 on the object, 0 beside it, -1 none -> (N, P, C)."""
        label = labels[..., None]
        tokens = self._positions(points) + torch.where(label > 0, self._point_embedding(1), self._point_embedding(0))
        return torch.where(label < 0, self.not_a_point_embed.weight, tokens)

    def masks(self, masks: Tensor) -> Tensor:
        """Map of earlier logits or strokes, (N, 1, 4h, 4w) -> (N, C, h, w)."""
        maps: Tensor = self.mask_downscaling(masks)
        return maps

    def no_mask(self) -> Tensor:
        """Map that stands for no mask, (1, C, 1, 1)."""
        return self.no_mask_embed.weight[..., None, None]

    def grid(self) -> Tensor:
        """Encode the centre of every pixel of the embedding -> (h * w, C)."""
        height, width = self.embedding_size
        y = (torch.arange(height) + 0.5) / height
        x = (torch.arange(width) + 0.5) / width
        xy = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1)
        positions: Tensor = self.pe_layer(xy.reshape(-1, 2))
        return positions


class Attention(nn.Module):
    """Multi-head attention, which may work in fewer channels than it reads and writes.

    The image has thousands of pixels and the prompt a handful of tokens, so between the two the projection of the
    pixels is moved to the tokens: ``q . (W x) = (W' q) . x``. That halves the decoder's work.
    """

    def __init__(self, width: int, heads: int, downsample: int = 1) -> None:
        super().__init__()
        inner = width // downsample
        self.heads = heads
        self.scale = (inner // heads) ** -0.5
        self.q_proj = nn.Linear(width, inner)
        self.k_proj = nn.Linear(width, inner)
        self.v_proj = nn.Linear(width, inner)
        self.out_proj = nn.Linear(inner, width)

    def _split(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, -1, (self.heads, -1)).transpose(1, 2)  # (N, T, heads * D) -> (N, heads, T, D)

    def _join(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)  # (N, heads, T, D) -> (N, T, heads * D)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, unseen: Tensor | None = None) -> Tensor:
        """Attend among tokens, three times (N, T, C) -> (N, T, C); `unseen` (N, T) is added to the keys' scores."""
        q, k, v = self._split(self.q_proj(query)), self._split(self.k_proj(key)), self._split(self.v_proj(value))
        scores = q * self.scale @ k.transpose(-1, -2)
        weights = torch.softmax(scores if unseen is None else scores + unseen[:, None, None], dim=-1)
        output: Tensor = self.out_proj(self._join(weights @ v))
        return output

    def _rows(self, tokens: Tensor, projection: nn.Linear) -> Tensor:
        """Projected tokens (N, heads, T, D) as what to multiply pixels by that are not projected (N, heads * T, C)."""
        return (tokens @ torch.unflatten(projection.weight, 0, (self.heads, -1))).flatten(1, 2)

    def look(self, tokens: Tensor, image: Tensor, placed: Tensor) -> Tensor:
        """Let tokens (N, T, C) attend to pixels (1 or N, P, C), found by what they are at their place -> (N, T, C)."""
        q = self._split(self.q_proj(tokens)) * self.scale
        # the bias of the keys moves all scores of a token alike: the softmax does not see it
        scores = self._rows(q, self.k_proj) @ placed.transpose(1, 2)  # (N, heads * T, P)
        seen = torch.unflatten(torch.softmax(scores, dim=-1) @ image, 1, (self.heads, -1))  # (N, heads, T, C)
        values = seen @ torch.unflatten(self.v_proj.weight, 0, (self.heads, -1)).transpose(1, 2)
        output: Tensor = self.out_proj(self._join(values) + self.v_proj.bias)
        return output

    def show(self, placed: Tensor, keys: Tensor, values: Tensor, unseen: Tensor | None = None) -> Tensor:
        """Let pixels at their place (1 or N, P, C) attend to tokens, twice (N, T, C) -> (N, P, C)."""
        k = self._split(self.k_proj(keys)) * self.scale
        bias = k @ torch.unflatten(self.q_proj.bias, 0, (self.heads, -1, 1))  # (N, heads, T, 1)
        scores = self._rows(k, self.q_proj) @ placed.transpose(1, 2) + bias.flatten(1, 2)
        scores = torch.unflatten(scores, 1, (self.heads, -1))  # (N, heads * T, P) -> (N, heads, T, P)
        weights = torch.softmax(scores if unseen is None else scores + unseen[:, None, :, None], dim=2)
        weights = weights.permute(0, 3, 1, 2).flatten(2)  # (N, heads, T, P) -> (N, P, heads * T)
        by_head = torch.unflatten(self.out_proj.weight, 1, (self.heads, -1)).permute(1, 2, 0)  # (heads, D, C)
        return weights @ (self._split(self.v_proj(values)) @ by_head).flatten(1, 2) + self.out_proj.bias


class _Feedforward(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, hidden)
        self.lin2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.lin2(functional.relu(self.lin1(x)))
        return output


class _TwoWayBlock(nn.Module):
    """Tokens attend to themselves and to the image, then the image to the tokens."""

    def __init__(self, width: int, heads: int, hidden: int, *, first: bool, eps: float) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(width, heads)
        self.norm1 = nn.LayerNorm(width, eps)
        self.cross_attn_token_to_image = Attention(width, heads, downsample=2)
        self.norm2 = nn.LayerNorm(width, eps)
        self.mlp = _Feedforward(width, hidden)
        self.norm3 = nn.LayerNorm(width, eps)
        self.norm4 = nn.LayerNorm(width, eps)
        self.cross_attn_image_to_token = Attention(width, heads, downsample=2)

    def forward(
        self, tokens: Tensor, image: Tensor, prompt: Tensor, grid: Tensor, unseen: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if self.first:  # the tokens are the prompt itself: no position is added, nothing is carried over
            tokens = self.self_attn(tokens, tokens, tokens, unseen)
        else:
            tokens = tokens + self.self_attn(tokens + prompt, tokens + prompt, tokens, unseen)
        tokens = self.norm1(tokens)
        placed = image + grid
        tokens = self.norm2(tokens + self.cross_attn_token_to_image.look(tokens + prompt, image, placed))
        tokens = self.norm3(tokens + self.mlp(tokens))
        seen = self.cross_attn_image_to_token.show(placed, tokens + prompt, tokens, unseen)
        return tokens, self.norm4(image + seen)


class TwoWayTransformer(nn.Module):
    """The decoder's body: a few two-way blocks and one last look of the tokens at the image."""

    def __init__(self, width: int, *, depth: int, heads: int, hidden: int, eps: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            _TwoWayBlock(width, heads, hidden, first=index == 0, eps=eps) for index in range(depth)
        )
        self.final_attn_token_to_image = Attention(width, heads, downsample=2)
        self.norm_final_attn = nn.LayerNorm(width, eps)

    def forward(
        self, prompt: Tensor, image: Tensor, grid: Tensor, unseen: Tensor | None = None, *, wanted: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mix tokens (N, T, C) with pixels (1 or N, P, C) at `grid` (P, C) -> (N, T, C), (N, P, C).

        Nobody attends to a token whose place in `unseen` (N, T) is far below zero; the others are at zero. The last
        look at the image is that of the first tokens alone, as many as `wanted`.
        """
        tokens = prompt
        for layer in self.layers:
            tokens, image = layer(tokens, image, prompt, grid, unseen)
        tokens, prompt = tokens[:, :wanted], prompt[:, :wanted]
        tokens = tokens + self.final_attn_token_to_image.look(tokens + prompt, image, image + grid)
        return self.norm_final_attn(tokens), image


class MaskDecoder(nn.Module):
    """Tokens and an image embedding -> logits of SAM's masks, of which there are four, and their predicted IoU."""

    def __init__(
        self, width: int, *, depth: int = 2, heads: int = 8, hidden: int = 2048, masks: int = 4, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(width, depth=depth, heads=heads, hidden=hidden, eps=eps)
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(masks, width)
        self.output_upscaling = upscaling(width)
        self.output_hypernetworks_mlps = nn.ModuleList(MLP(width, width, width // 8, 3) for _ in range(masks))
        self.iou_prediction_head = MLP(width, 256, masks, 3)

    def forward(self, image: Tensor, prompt: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
        """Decode (1 or N, C, h, w) with the tokens (N, T, C) of N prompts -> first masks (N, 1, 4h, 4w), (N, 1)."""
        tokens, pixels = self._mixed(image, prompt, grid, None, wanted=2)
        scores: Tensor = self.iou_prediction_head(tokens[:, 0])[:, :1]
        weights = self.output_hypernetworks_mlps[0](tokens[:, 1])
        return paint(upscaled(self.output_upscaling, pixels), weights, image.shape[-2:]), scores

    def several(
        self, image: Tensor, prompt: Tensor, grid: Tensor, *, seen: Tensor, clear: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Decode all M masks of N prompts -> (N, M, 4h, 4w), (N, M).

        Only tokens with a one in `seen` (N, T) count. Where `clear` (N,) is true the first mask, which was trained as
        the one answer to a clear prompt, comes before the others, else after them; those are sorted by their scores.
        """
        count = len(self.output_hypernetworks_mlps)
        unseen = _UNSEEN * (1 - functional.pad(seen, (1 + count, 0), value=1.0))
        tokens, pixels = self._mixed(image, prompt, grid, unseen)
        scores = self.iou_prediction_head(tokens[:, 0])
        first = torch.where(clear[:, None], _FIRST, -_FIRST)
        order = torch.topk(scores + functional.pad(first, (0, count - 1)), count, dim=1).indices
        weights = torch.stack([mlp(tokens[:, 1 + i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1)
        weights = torch.gather(weights, 1, order[:, :, None].expand(-1, -1, weights.shape[2]))
        x = upscaled(self.output_upscaling, pixels)
        logits = [paint(x, weights[:, index], image.shape[-2:]) for index in range(count)]
        return torch.cat(logits, dim=1), torch.gather(scores, 1, order)

    def _mixed(
        self, image: Tensor, prompt: Tensor, grid: Tensor, unseen: Tensor | None, *, wanted: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Tokens (N, 1 + M + T, C), the decoder's own first, or those `wanted`, and pixels (N, P, C) after mixing."""
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(prompt.shape[0], -1, -1), prompt], dim=1)
        mixed: tuple[Tensor, Tensor] = self.transformer(tokens, pixels_of(image), grid, unseen, wanted=wanted)
        return mixed


def pixels_of(image: Tensor) -> Tensor:
    """Turn channels to the last axis, (N, C, h, w) -> (N, h * w, C).

    As if it were a map of channels cut into rows and columns: OpenVINO takes a fifth of the time for that (one million
    values .7 instead of 3.4 ms on one thread), which it knows from layouts of images.
    """
    return torch.unflatten(image.flatten(2), 1, (_ROW, -1)).permute(0, 3, 1, 2).flatten(2)


def upscaling(width: int) -> nn.Sequential:
    """SAM's way from the embedding's width and size to an eighth of the one and four times the other."""
    return nn.Sequential(
        nn.ConvTranspose2d(width, width // 4, 2, stride=2),
        LayerNorm2d(width // 4),
        nn.GELU(),
        nn.ConvTranspose2d(width // 4, width // 8, 2, stride=2),
        nn.GELU(),
    )


def upscaled(layers: nn.Sequential, pixels: Tensor) -> Tensor:
    """Apply `upscaling` to pixels (N, P, C) -> (N, 16 P, C / 8), in the order in which `paint` takes them.

    A transposed convolution with stride 2 and kernel 2 is a linear layer that makes four pixels of each. Only the
    last, one-channel map is put into the order of rows and columns.
    """
    coarse, norm, _, fine, _ = layers
    assert isinstance(norm, LayerNorm2d)
    x = functional.gelu(norm.along_last(quadruple(coarse, pixels)))
    return functional.gelu(quadruple(fine, x))


def paint(x: Tensor, weights: Tensor, size: torch.Size) -> Tensor:
    """Weigh the channels of pixels that were quadrupled twice, (N, 16 h w, C) by (N, C) -> (N, 1, 4h, 4w)."""
    logits = torch.unflatten(x, 1, (-1, 4)) @ weights[:, None, :, None]  # (N, 4 h w, 4, C) -> (N, 4 h w, 4, 1)
    logits = logits.reshape(-1, *size, 2, 2, 2, 2)  # n, y, x, then the finer rows and columns in turn
    return logits.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, 1, 4 * size[0], 4 * size[1])


def quadruple(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a 2 x 2 transposed convolution of stride 2 to pixels, (N, P, C) -> (N, 4 P, C'), upper left first."""
    assert isinstance(layer, nn.ConvTranspose2d)
    assert layer.bias is not None
    weight = layer.weight.permute(0, 2, 3, 1).flatten(1)  # (C, C', 2, 2) -> (C, 4 C')
    return torch.unflatten(x @ weight + layer.bias.repeat(4), 2, (4, -1)).flatten(1, 2)


class Sam(nn.Module):
    """An image encoder with SAM's prompt encoder and mask decoder, named as in its checkpoints."""

    def __init__(self, image_encoder: nn.Module, prompt_encoder: PromptEncoder, mask_decoder: MaskDecoder) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
