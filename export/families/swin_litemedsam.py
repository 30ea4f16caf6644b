"""Swin-LiteMedSAM: a Swin encoder of 256 pixels with skips to the decoder, prompted by box, points and a scribble.

The authors draw four points and a scribble inside the box at random for every call; a bundle derives them from the box
in a fixed way instead (``docs/bundle-format.md``, section 6), and takes given ones. Knows this system's published facts
and its two graphs; the rest of its torch code is in `_swin` and `_sam`.

References: Gao et al., Swin-LiteMedSAM: A Lightweight Box-Based Segment Anything Model for Large-Scale Medical Image
Datasets, CVPR 2024 challenge.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from export.families import Facts, Family, Graph
from export.families._laptop import BOX, EMBEDDING, INPUT, OUTPUT
from export.families._sam import PromptEncoder
from export.families._swin import SkipDecoder, Swin
from runtime.manifest import (
    EmbeddingTensor,
    Licence,
    LoopSettings,
    MaskPrompt,
    PointPrompt,
    Prompts,
    Propagation,
)

__all__ = ["FAMILY", "SwinDecoder", "SwinEncoder", "SwinLiteMedSam", "graphs"]

_EMBEDDING = ("image_embedding", "skip_coarse", "skip_fine")


class SwinLiteMedSam(nn.Module):
    """The three parts of the published checkpoint."""

    def __init__(self, image_encoder: Swin, prompt_encoder: PromptEncoder, mask_decoder: SkipDecoder) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder


class SwinEncoder(nn.Module):
    """The encoder graph: image -> embedding, and what the decoder adds of the stages."""

    def __init__(self, model: SwinLiteMedSam) -> None:
        super().__init__()
        self.image_encoder = model.image_encoder
        self.mask_decoder = model.mask_decoder

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode one image, (1, 3, S, S) -> (1, C, h, w), (1, h w, C), (1, 4 h w, C / 4)."""
        maps = self.image_encoder(image)
        return (self.image_encoder.neck(maps[-1]), *self.mask_decoder.skips(maps))


class SwinDecoder(nn.Module):
    """The decoder graph: embedding, boxes, points and scribbles -> logits and scores."""

    def __init__(self, model: SwinLiteMedSam) -> None:
        super().__init__()
        self.prompt_encoder = model.prompt_encoder
        self.mask_decoder = model.mask_decoder

    def forward(
        self,
        image_embedding: Tensor,
        skip_coarse: Tensor,
        skip_fine: Tensor,
        boxes: Tensor,
        points: Tensor,
        point_labels: Tensor,
        masks: Tensor,
        has_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Decode N prompts on one image -> (N, 1, 4h, 4w), (N, 1)."""
        encoder = self.prompt_encoder
        tokens = torch.cat([encoder.points(points, point_labels), encoder.boxes(boxes)], dim=1)
        dense = torch.where(has_mask[:, None, None, None] > 0, encoder.masks(masks), encoder.no_mask())
        image = image_embedding + dense
        logits, scores = self.mask_decoder(image, tokens, encoder.grid(), (skip_coarse, skip_fine))
        return logits, scores


def graphs(model: SwinLiteMedSam, side: int = 256) -> Mapping[str, Graph]:
    """Encoder and decoder graphs, for an input of `side` pixels."""
    encoder = SwinEncoder(model).eval()
    with torch.no_grad():
        embedding = encoder(torch.rand(1, 3, side, side))
    corner = [0.25, 0.25, 0.5, 0.75]
    prompts = {
        "boxes": torch.tensor([corner, corner[::-1]]) * side,
        "points": torch.rand(2, 4, 2) * side,
        "point_labels": torch.tensor([[1.0, 1.0, 0.0, -1.0], [1.0, 1.0, 1.0, 1.0]]),
        "masks": torch.rand(2, 1, side, side).round(),
        "has_mask": torch.tensor([1.0, 0.0]),
    }
    return {
        "encoder": Graph(encoder, {"image": torch.rand(1, 3, side, side)}, _EMBEDDING),
        "decoder": Graph(
            SwinDecoder(model),
            {**dict(zip(_EMBEDDING, embedding, strict=True)), **prompts},
            ("low_res_logits", "scores"),
            per_prompt=frozenset({*prompts, "low_res_logits", "scores"}),
            per_point=frozenset({"points", "point_labels"}),
        ),
    }


def _build() -> SwinLiteMedSam:
    prompts = PromptEncoder(256, embedding_size=(64, 64), input_size=(256, 256))
    return SwinLiteMedSam(Swin(), prompts, SkipDecoder(256, (128, 160, 320, 320)))


FAMILY = Family(
    name="swin_litemedsam",
    title="Swin-LiteMedSAM",
    paper="https://arxiv.org/abs/2409.07172",
    repository="https://github.com/RuochenGao/Swin_LiteMedSAM",
    revision="71d72a899b4196edeffecee3b7484a50d1edeffb",
    licence=Licence(spdx="MIT", url="https://github.com/RuochenGao/Swin_LiteMedSAM/blob/main/LICENSE"),
    weights="https://drive.google.com/file/d/1x587vVKtPZ2sGcC29gKsHO0Ha7YZTVO4",
    gflops=(97.5, 12.4),
    facts=Facts(
        input=INPUT,
        embedding=(
            EMBEDDING,
            EmbeddingTensor(name="skip_coarse", shape=(1, 64 * 64, 256)),
            EmbeddingTensor(name="skip_fine", shape=(1, 128 * 128, 64)),
        ),
        prompts=Prompts(
            box=BOX,
            points=PointPrompt(requires_box=True, derived="box_quarters"),
            mask=MaskPrompt(kind="scribble", size=(256, 256), derived="box_stroke"),
        ),
        output=OUTPUT,
        propagation=Propagation(
            published=LoopSettings(
                box_from="resized_label",
                margin_px=3,
                last_slice="excluded",
                first_slice="excluded",
                fallback_down="unrounded",
            )
        ),
    ),
    build=_build,
    graphs=graphs,
)
