"""The graphs of systems that are made of SAM's parts: prompted by boxes alone, or by all that SAM understands.

Knows `Graph` and the modules of `_sam`: no family, no ONNX, no file.

References: Kirillov et al., Segment Anything, ICCV 2023.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from export.families import Graph
from export.families._sam import Sam

__all__ = ["BoxDecoder", "PromptDecoder", "box_graphs", "prompt_graphs"]


class BoxDecoder(nn.Module):
    """The decoder graph of box-prompted systems: embedding and boxes -> logits and scores."""

    def __init__(self, model: Sam) -> None:
        super().__init__()
        self.prompt_encoder = model.prompt_encoder
        self.mask_decoder = model.mask_decoder

    def forward(self, image_embedding: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Decode N boxes on one image: (1, C, h, w), (N, 4) -> (N, 1, 4h, 4w), (N, 1)."""
        image = image_embedding + self.prompt_encoder.no_mask()
        logits, scores = self.mask_decoder(image, self.prompt_encoder.boxes(boxes), self.prompt_encoder.grid())
        return logits, scores


class PromptDecoder(nn.Module):
    """The decoder graph of SAM itself: any of box, points and earlier logits -> all its masks, the likeliest first.

    SAM has one mask for a clear prompt and three for one that may mean a thing, its part or its whole. A single click
    is the latter, as its authors advise; a box, several points and an earlier mask are clear.
    """

    def __init__(self, model: Sam) -> None:
        super().__init__()
        self.prompt_encoder = model.prompt_encoder
        self.mask_decoder = model.mask_decoder

    def forward(
        self,
        image_embedding: Tensor,
        boxes: Tensor,
        points: Tensor,
        point_labels: Tensor,
        masks: Tensor,
        has_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Decode N prompts on one image -> (N, 4, 4h, 4w), (N, 4); a box that is not given is not a number."""
        encoder = self.prompt_encoder
        tokens, seen, clear = self._prompt(boxes, points, point_labels)
        has_map = has_mask > 0
        dense = torch.where(has_map[:, None, None, None], encoder.masks(masks), encoder.no_mask())
        logits, scores = self.mask_decoder.several(
            image_embedding + dense, tokens, encoder.grid(), seen=seen, clear=clear | has_map
        )
        return logits, scores

    def _prompt(self, boxes: Tensor, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (N, P + 2, C) of points and corners, which of them count (N, P + 2), and who is clear (N,).

        SAM was trained with a token that is no point after points without a box. It takes the place of a corner.
        """
        encoder = self.prompt_encoder
        has_box = ~torch.isnan(boxes[:, 0])
        clicked = (labels >= 0).to(boxes.dtype)
        clicks = clicked.sum(1)
        corners = encoder.boxes(torch.where(has_box[:, None], boxes, 0.0))
        corners = torch.where(has_box[:, None, None], corners, encoder.not_a_point_embed.weight)
        tokens = torch.cat([encoder.points(points, labels), corners], dim=1)
        ends = torch.stack([has_box | (clicks > 0), has_box], dim=1).to(boxes.dtype)
        return tokens, torch.cat([clicked, ends], dim=1), has_box | (clicks > 1)


def box_graphs(model: Sam, input_size: tuple[int, int] = (256, 256), channels: int = 3) -> Mapping[str, Graph]:
    """Encoder and decoder graphs of a system that is prompted by boxes alone."""
    embedding = (1, model.mask_decoder.mask_tokens.embedding_dim, *model.prompt_encoder.embedding_size)
    return {
        "encoder": _encoder(model, input_size, channels),
        "decoder": Graph(
            BoxDecoder(model),
            {"image_embedding": torch.rand(embedding), "boxes": _boxes(input_size)},
            ("low_res_logits", "scores"),
            per_prompt=frozenset({"boxes", "low_res_logits", "scores"}),
        ),
    }


def prompt_graphs(model: Sam, input_size: tuple[int, int], channels: int = 3) -> Mapping[str, Graph]:
    """Encoder and decoder graphs of a system that is prompted as SAM is."""
    height, width = model.prompt_encoder.embedding_size
    embedding = (1, model.mask_decoder.mask_tokens.embedding_dim, height, width)
    box, other = _boxes(input_size)
    none = torch.full((4,), torch.nan)
    prompts = {
        "boxes": torch.stack([box, none, none, other]),
        "points": torch.rand(4, 2, 2) * min(input_size),
        "point_labels": torch.tensor([[1.0, -1.0], [1.0, -1.0], [1.0, 0.0], [-1.0, -1.0]]),
        "masks": torch.randn(4, 1, 4 * height, 4 * width),
        "has_mask": torch.tensor([0.0, 0.0, 1.0, 1.0]),
    }
    return {
        "encoder": _encoder(model, input_size, channels),
        "decoder": Graph(
            PromptDecoder(model),
            {"image_embedding": torch.rand(embedding), **prompts},
            ("low_res_logits", "scores"),
            per_prompt=frozenset({*prompts, "low_res_logits", "scores"}),
            per_point=frozenset({"points", "point_labels"}),
        ),
    }


def _encoder(model: Sam, input_size: tuple[int, int], channels: int) -> Graph:
    return Graph(model.image_encoder, {"image": torch.rand(1, channels, *input_size)}, ("image_embedding",))


def _boxes(input_size: tuple[int, int]) -> Tensor:
    """Two boxes in the input frame; the second one's corners are swapped, which a graph may not mind."""
    corner = [0.25, 0.25, 0.5, 0.75]
    return torch.tensor([corner, corner[::-1]]) * min(input_size)
