"""CLIP's two towers, as transformers names their weights: images and short texts -> vectors that can be compared.

Knows torch and nothing of segmentation. Sizes are read from the names and shapes of a checkpoint; what no checkpoint
states is what all published CLIP models share: heads of 64 channels, the activation ``x sigmoid(1.702 x)``.

References: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["Clip", "ClipSize", "ClipVision"]

_HEAD_WIDTH = 64


@dataclass(frozen=True)
class ClipSize:
    """Widths and depths of both towers; the defaults are those of ViT-B/32."""

    vision_width: int = 768
    vision_layers: int = 12
    vision_hidden: int = 3072
    patch: int = 32
    positions: int = 50
    text_width: int = 512
    text_layers: int = 12
    text_hidden: int = 2048
    words: int = 49408
    text_positions: int = 77
    outputs: int = 512

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> ClipSize:
        """Read the size from the entries of a checkpoint; what it lacks is taken from ViT-B/32."""
        found = {
            "vision_layers": _layers(shapes, "vision_model"),
            "text_layers": _layers(shapes, "text_model"),
        }
        for entry, fields in _TOLD_BY.items():
            shape = shapes.get(entry, ())
            found |= {name: shape[axis] for name, axis in fields.items() if axis < len(shape)}
        return cls(**{name: value for name, value in found.items() if value})


_TOLD_BY = {
    "vision_model.embeddings.patch_embedding.weight": {"vision_width": 0, "patch": 2},
    "vision_model.embeddings.position_embedding.weight": {"positions": 0},
    "vision_model.encoder.layers.0.mlp.fc1.weight": {"vision_hidden": 0},
    "visual_projection.weight": {"outputs": 0},
    "text_model.embeddings.token_embedding.weight": {"words": 0, "text_width": 1},
    "text_model.embeddings.position_embedding.weight": {"text_positions": 0},
    "text_model.encoder.layers.0.mlp.fc1.weight": {"text_hidden": 0},
}
"""Which axis of which entry states which part of the size."""


def _layers(shapes: Mapping[str, tuple[int, ...]], tower: str) -> int:
    """Count the layers of a tower; 0 where there is none."""
    pattern = re.compile(rf"{tower}\.encoder\.layers\.(\d+)\.")
    return max((int(match[1]) + 1 for match in map(pattern.match, shapes) if match), default=0)


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (
            torch.unflatten(layer(x), -1, (-1, _HEAD_WIDTH)).transpose(1, 2)  # (N, T, C) -> (N, heads, T, 64)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        scores = q * _HEAD_WIDTH**-0.5 @ k.transpose(-1, -2)
        weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
        output: Tensor = self.out_proj((weights @ v).transpose(1, 2).flatten(2))
        return output


class _Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        output: Tensor = self.fc2(x * torch.sigmoid(1.702 * x))
        return output


class _Layer(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = _Attention(width)
        self.layer_norm1 = nn.LayerNorm(width)
        self.mlp = _Mlp(width, hidden)
        self.layer_norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), mask)
        output: Tensor = x + self.mlp(self.layer_norm2(x))
        return output


class _Encoder(nn.Module):
    def __init__(self, width: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(width, hidden) for _ in range(depth))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer(x, mask)
        return x


class _PatchEmbeddings(nn.Module):
    def __init__(self, width: int, patch: int, positions: int) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.patch_embedding = nn.Conv2d(3, width, patch, patch, bias=False)
        self.position_embedding = nn.Embedding(positions, width)

    def forward(self, image: Tensor) -> Tensor:
        patches = self.patch_embedding(image).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(patches.shape[0], 1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding.weight


class _VisionTower(nn.Module):
    def __init__(self, size: ClipSize) -> None:
        super().__init__()
        width = size.vision_width
        self.embeddings = _PatchEmbeddings(width, size.patch, size.positions)
        self.pre_layrnorm = nn.LayerNorm(width)
        self.encoder = _Encoder(width, size.vision_hidden, size.vision_layers)
        self.post_layernorm = nn.LayerNorm(width)

    def forward(self, image: Tensor) -> Tensor:
        x = self.encoder(self.pre_layrnorm(self.embeddings(image)))
        output: Tensor = self.post_layernorm(x[:, 0])
        return output


class _WordEmbeddings(nn.Module):
    def __init__(self, width: int, words: int, positions: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(words, width)
        self.position_embedding = nn.Embedding(positions, width)

    def forward(self, tokens: Tensor) -> Tensor:
        embedded: Tensor = self.token_embedding(tokens) + self.position_embedding.weight[: tokens.shape[-1]]
        return embedded


class _TextTower(nn.Module):
    def __init__(self, size: ClipSize) -> None:
        super().__init__()
        width = size.text_width
        self.embeddings = _WordEmbeddings(width, size.words, size.text_positions)
        self.encoder = _Encoder(width, size.text_hidden, size.text_layers)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Give the state of the last token; those after it would not change it, so there is no need of padding."""
        count = tokens.shape[-1]
        later = torch.full((count, count), -torch.inf).triu(1)
        x = self.encoder(self.embeddings(tokens[None]), later)
        output: Tensor = self.final_layer_norm(x[0, -1])
        return output


class Clip(nn.Module):
    """Both towers and their projections."""

    def __init__(self, size: ClipSize | None = None) -> None:
        super().__init__()
        size = size or ClipSize()
        self.vision_model = _VisionTower(size)
        self.visual_projection = nn.Linear(size.vision_width, size.outputs, bias=False)
        self.text_model = _TextTower(size)
        self.text_projection = nn.Linear(size.text_width, size.outputs, bias=False)

    @property
    def side(self) -> int:
        """Rows and columns of the images that the vision tower reads."""
        embeddings = self.vision_model.embeddings
        patches = math.isqrt(embeddings.position_embedding.num_embeddings - 1)
        return patches * embeddings.patch_embedding.stride[0]

    def texts(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Encode texts, each given as its tokens from the start token to the first end token -> (texts, outputs)."""
        return torch.stack([self.text_projection(self.text_model(torch.tensor(one))) for one in tokens])


class ClipVision(nn.Module):
    """The third graph: crops (N, 3, S, S) -> vectors (N, outputs), not normalised."""

    def __init__(self, clip: Clip) -> None:
        super().__init__()
        self.vision_model = clip.vision_model
        self.visual_projection = clip.visual_projection

    def forward(self, crop: Tensor) -> Tensor:
        """Encode N crops."""
        output: Tensor = self.visual_projection(self.vision_model(crop))
        return output
