"""What MCP-MedSAM adds to SAM's prompt encoder and mask decoder: what the box shows, and of which modality.

Parameter names are those of the published checkpoint. Knows torch only.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.families._sam import MaskDecoder, PromptEncoder, paint, upscaled

__all__ = ["ContentDecoder", "ContentEncoder", "TwoLayers"]

_SLOPE = 0.1


def _activated(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, _SLOPE)


class TwoLayers(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden)
        self.fc2 = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both, (..., inputs) -> (..., outputs)."""
        output: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return output


class _Residual(nn.Module):
    """Two convolutions, the first one normalised and activated, added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.batch_norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block, (N, C, h, w) -> (N, C, h, w)."""
        hidden = _activated(self.batch_norm1(self.conv1(x)))
        output: Tensor = x + self.conv2(hidden)
        return output


class _CropBlock(nn.Module):
    """The same with the second convolution normalised and the sum activated."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.batch_norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.batch_norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        hidden = _activated(self.batch_norm1(self.conv1(x)))
        return _activated(x + self.batch_norm2(self.conv2(hidden)))


class _CropNet(nn.Module):
    """What a box shows as a map of the decoder's width, (N, 3, h, w) -> (N, C, h, w)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.conv1 = _CropBlock(width)
        self.conv2 = _CropBlock(width)
        self.conv3 = _CropBlock(width)
        self.conv4 = nn.Conv2d(width, width, 5, padding=2)

    def forward(self, crops: Tensor) -> Tensor:
        output: Tensor = self.conv4(self.conv3(self.conv2(self.conv1(self.conv(crops)))))
        return output


class ContentEncoder(PromptEncoder):
    """SAM's prompt encoder without masks, with CLIP's vectors, modalities and crops."""

    def __init__(
        self,
        width: int,
        *,
        embedding_size: tuple[int, int],
        input_size: tuple[int, int],
        modalities: int,
        vector: int,
    ) -> None:
        super().__init__(width, embedding_size=embedding_size, input_size=input_size)
        del self.mask_downscaling
        self.categories = nn.Embedding(modalities, width)
        self.clip_img_mlp = TwoLayers(vector, width, width)
        self.clip_text_mlp = TwoLayers(vector, width, width)
        self.mlps = TwoLayers(2 * width, 2 * width, width)
        self.crop_nets = _CropNet(width)

    def modality(self, texts: Tensor, categories: Tensor) -> Tensor:
        """Tokens of modalities from CLIP's vectors of their names and their own rows, (N, V), (N, C) -> (N, C)."""
        tokens: Tensor = self.mlps(torch.cat([self.clip_text_mlp(texts), categories], dim=1))
        return tokens


class ContentDecoder(MaskDecoder):
    """SAM's mask decoder; its map is shifted and scaled by the modality, and joined with the content, before upscaling.

    `category_prediction_head` tells the modality from the image; inference does not use it.
    """

    def __init__(self, width: int, *, modalities: int, heads: int = 8, hidden: int = 2048) -> None:
        super().__init__(width, heads=heads, hidden=hidden)
        self.category_prediction_head = TwoLayers(width, 64, modalities)
        self.w_lin = nn.Linear(width, width)
        self.b_lin = nn.Linear(width, width)
        self.m_conv = _Residual(width)
        self.convs = _Residual(width)
        self.c_conv = _Residual(width)
        self.conv1 = nn.Conv2d(2 * width, width, 1)

    def decode(self, image: Tensor, content: Tensor, prompt: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
        """Decode (1, C, h, w) with content maps (N, C, h, w) and tokens (N, T, C) -> (N, 1, 4h, 4w), (N, 1).

        The last two tokens are the content's and the modality's.
        """
        size = image.shape[-2:]
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(prompt.shape[0], -1, -1), prompt], dim=1)
        tokens, pixels = self.transformer(tokens, (image + content).flatten(2).transpose(1, 2), grid)
        scores: Tensor = self.iou_prediction_head(tokens[:, 0])[:, :1]
        x = self._joined(torch.unflatten(pixels.transpose(1, 2), 2, size), content, tokens[:, -2], tokens[:, -1])
        weights = self.output_hypernetworks_mlps[0](tokens[:, 1])
        return paint(upscaled(self.output_upscaling, x.flatten(2).transpose(1, 2)), weights, size), scores

    def _joined(self, x: Tensor, content: Tensor, seen: Tensor, modality: Tensor) -> Tensor:
        """Join what the modality and what the content make of the map (N, C, h, w) -> (N, C, h, w)."""
        scale, shift = self.w_lin(modality)[:, :, None, None], self.b_lin(modality)[:, :, None, None]
        by_modality = self.m_conv(x + (x * scale + shift))
        by_content = self.convs(x + content + seen[:, :, None, None])
        joined: Tensor = self.c_conv(self.conv1(torch.cat([by_modality, by_content], dim=1)))
        return joined
