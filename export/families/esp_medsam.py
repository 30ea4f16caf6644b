"""ESP-MedSAM: a TinyViT of 1024 pixels and a decoder that prompts itself; the modality picks the mask.

A small decoder finds the patches of the image that the object covers; these are the only prompt. The decoder's tokens
stand for six modalities, and the row of the one that the user names becomes the mask. Knows this system's published
facts, its encoder's additions to TinyViT and its two graphs.

References: Xu et al., ESP-MedSAM: Efficient Self-Prompting SAM for Universal Domain-Generalized Medical Image
Segmentation, 2024 (arXiv 2407.14153).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.families import Facts, Family, Graph
from export.families._sam import (
    MLP,
    LayerNorm2d,
    PromptEncoder,
    TwoWayTransformer,
    paint,
    upscaled,
    upscaling,
)
from export.families._tiny_vit import Attention, Block, Mlp, TinyVit, TinyVitSize
from runtime.manifest import (
    BoxPrompt,
    EmbeddingTensor,
    Input,
    Licence,
    Normalise,
    Output,
    Prompts,
    Propagation,
)

__all__ = ["FAMILY", "EspDecoder", "EspEncoder", "EspMedSam", "graphs"]

MODALITIES = ("dermoscopy", "chest X-ray", "ultrasound", "fundus", "microscopy", "colonoscopy")
"""What the rows of the decoder stand for, in their order."""

_QUERIES = 7
_CLASSES = 1000
_MEAN = (123.675, 116.28, 103.53)


class _TokenAttention(Attention):
    """Window attention with one further key, which is its own value, learned for each head."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__(width, heads, window)
        self.deep_QKV_embeddings_med = nn.Parameter(torch.zeros(heads, 1, width // heads))
        self.med_attention_biases = nn.Parameter(torch.zeros(1))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        token = self.deep_QKV_embeddings_med.expand(k.shape[0], -1, -1, -1)
        between = self.attention_biases[:, self.offsets]
        biases = torch.cat([between, self.med_attention_biases.expand(*between.shape[:2], 1)], dim=-1)
        scores = q @ torch.cat([k, token], dim=2).transpose(-1, -2) + biases
        return torch.softmax(scores, dim=-1) @ torch.cat([v, token], dim=2)


class _AdaptedBlock(Block):
    """A block with two feed-forward layers side by side."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__(width, heads, window)
        self.attn = _TokenAttention(width, heads, window)
        self.med_dah = Mlp(width)

    def feed(self, x: Tensor) -> Tensor:
        """Apply both as one of twice the width: their normalisations differ in factors and shifts alone."""
        layers = self.mlp, self.med_dah
        inner = torch.cat([one.fc1.weight * one.norm.weight for one in layers])
        shift = torch.cat([one.fc1.bias + one.fc1.weight @ one.norm.bias for one in layers])
        outer = torch.cat([one.fc2.weight for one in layers], dim=1)
        normed = functional.layer_norm(x, x.shape[-1:], eps=self.mlp.norm.eps)
        hidden = functional.gelu(functional.linear(normed, inner, shift))
        return functional.linear(hidden, outer, self.mlp.fc2.bias + self.med_dah.fc2.bias)


class _Encoder(TinyVit):
    """TinyViT with these blocks, and the classifier that its checkpoint holds and nobody reads."""

    def __init__(self, size: TinyVitSize) -> None:
        super().__init__(size, _AdaptedBlock)
        self.norm_head = nn.LayerNorm(size.widths[-1])
        self.head = nn.Linear(size.widths[-1], _CLASSES)


class _MaskDecoder(nn.Module):
    """SAM's mask decoder with one hypernetwork for all tokens and no predicted IoU."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(width, depth=2, heads=heads, hidden=hidden, eps=1e-5)
        self.output_upscaling = upscaling(width)
        self.output_hypernetworks_mlps = nn.ModuleList([MLP(width, width, width // 8, 3)])


class EspMedSam(nn.Module):
    """The parts of the published checkpoint."""

    def __init__(
        self, size: TinyVitSize, *, grid: tuple[int, int], heads: int = 8, hidden: int = 2048, mask_channels: int = 16
    ) -> None:
        super().__init__()
        width = size.outputs
        self.SemiTViT = _Encoder(size)
        sides = {"embedding_size": grid, "input_size": (16 * grid[0], 16 * grid[1])}
        self.prompt_encoder = PromptEncoder(width, mask_channels=mask_channels, **sides)
        self.mask_decoder = _MaskDecoder(width, heads, hidden)
        self.patch_decoder = nn.Sequential(
            nn.Conv2d(width, width // 4, 2, stride=2), LayerNorm2d(width // 4), nn.GELU(), nn.Conv2d(width // 4, 1, 1)
        )
        self.dense_prompter = nn.Sequential(nn.Conv2d(1, width, 1), LayerNorm2d(width), nn.GELU())
        self.mask_query = nn.Embedding(_QUERIES, width)


class EspEncoder(nn.Module):
    """The encoder graph: image -> embedding, and the logits of the patches that the object covers."""

    def __init__(self, model: EspMedSam) -> None:
        super().__init__()
        self.image_encoder = model.SemiTViT
        self.patch_decoder = model.patch_decoder

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Encode one image, (1, 3, S, S) -> (1, C, h, w), (1, 1, h / 2, w / 2)."""
        embedding = self.image_encoder(image)
        return embedding, self.patch_decoder(embedding)


class EspDecoder(nn.Module):
    """The decoder graph: embedding, patches and modality -> logits."""

    def __init__(self, model: EspMedSam) -> None:
        super().__init__()
        self.grid = model.prompt_encoder.grid
        self.mask_decoder = model.mask_decoder
        self.dense_prompter = model.dense_prompter
        self.tokens = model.mask_query.weight

    def forward(self, image_embedding: Tensor, patch_map: Tensor, modality: Tensor) -> Tensor:
        """Decode (1, C, h, w) with (1, 1, h / 2, w / 2) as the modality of index (1,) -> (1, 1, 4h, 4w)."""
        size = image_embedding.shape[-2:]
        rows, columns = patch_map.shape[-2:]
        # a patch is in or out, so its prompt is one of two vectors: (2, C, 1, 1)
        out, inside = self.dense_prompter(torch.tensor([0.0, 1.0])[:, None, None, None])
        patches = torch.where(patch_map >= 0, inside, out)
        dense = patches[:, :, :, None, :, None].expand(-1, -1, -1, 2, -1, 2).reshape(1, -1, 2 * rows, 2 * columns)
        pixels = (image_embedding + dense).flatten(2).transpose(1, 2)
        tokens, pixels = self.mask_decoder.transformer(self.tokens[None], pixels, self.grid())
        weights = self.mask_decoder.output_hypernetworks_mlps[0](tokens[0].index_select(0, modality))
        return paint(upscaled(self.mask_decoder.output_upscaling, pixels), weights, size)


def graphs(model: EspMedSam) -> Mapping[str, Graph]:
    """Encoder and decoder graphs; there is one mask for an image and a modality."""
    rows, columns = model.prompt_encoder.embedding_size
    image = torch.rand(1, 3, 16 * rows, 16 * columns)
    names = ("image_embedding", "patch_map")
    inputs = {
        "image_embedding": torch.rand(1, model.mask_query.embedding_dim, rows, columns),
        "patch_map": torch.rand(1, 1, rows // 2, columns // 2) - 0.5,
        "modality": torch.tensor([2]),
    }
    return {
        "encoder": Graph(EspEncoder(model), {"image": image}, names),
        "decoder": Graph(EspDecoder(model), inputs, ("low_res_logits",)),
    }


def _build() -> EspMedSam:
    return EspMedSam(TinyVitSize(stem=2), grid=(64, 64))


FAMILY = Family(
    name="esp_medsam",
    title="ESP-MedSAM",
    paper="https://arxiv.org/abs/2407.14153",
    repository="https://github.com/xq141839/ESP-MedSAM",
    revision="9c3ade6122111168612b579ced92fe2cc3582f86",
    licence=Licence(spdx="Apache-2.0", url="https://github.com/xq141839/ESP-MedSAM/blob/main/LICENSE"),
    weights="https://drive.google.com/file/d/1kikT1Sjp6TBJQqBJgM80dP2nSTf2PpJM",
    gflops=(109.7, 3.6),
    facts=Facts(
        input=Input(
            size=(1024, 1024),
            resize="stretch",
            interpolation="linear",
            # the authors' loader divides by the mean, not by the deviation
            normalise=Normalise(kind="mean_std", mean=_MEAN, std=_MEAN),
        ),
        embedding=(
            EmbeddingTensor(name="image_embedding", shape=(1, 256, 64, 64)),
            EmbeddingTensor(name="patch_map", shape=(1, 1, 32, 32)),
        ),
        prompts=Prompts(box=BoxPrompt(use="limits_mask"), modality="required"),
        output=Output(low_res_size=(256, 256), scores=False, upsample="via_input", inclusive=True),
        propagation=Propagation(),
        modalities=MODALITIES,
    ),
    build=_build,
    graphs=graphs,
)
