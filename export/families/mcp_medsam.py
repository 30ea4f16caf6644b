"""MCP-MedSAM: LiteMedSAM's encoder, and a decoder that is told the modality and shown what the box holds.

The box's content reaches the decoder twice: as pixels, and as what CLIP's vision tower makes of them; the modality as a
learned row and as what CLIP's text tower makes of its name. CLIP is not part of the checkpoint. Where its weights are
given, the vision tower becomes a third graph and the names are encoded now; else both vectors are inputs of the bundle.
Knows this system's published facts and its graphs; the rest of its torch code is in `_content`, `_clip` and `_sam`.

References: Lyu et al., MCP-MedSAM: A Powerful Lightweight Medical Segment Anything Model Trained with a Single GPU in
Just One Day, MELBA 2025.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from export.families import Extra, Facts, Family, Graph
from export.families._clip import Clip, ClipSize, ClipVision
from export.families._content import ContentDecoder, ContentEncoder
from export.families._laptop import BOX, EMBEDDING, INPUT, OUTPUT
from export.families._tiny_vit import TinyVit
from runtime.manifest import Crop, Licence, LoopSettings, Normalise, Prompts, Propagation

__all__ = ["FAMILY", "MODALITIES", "McpDecoder", "McpMedSam", "graphs", "name_tokens"]

_START, _IMAGE, _END = 49406, 2867, 49407
MODALITIES: Mapping[str, tuple[int, ...]] = {
    "CT": (1122,),
    "MR": (1982,),
    "Endoscopy": (13476, 20018),
    "XRay": (87, 3077),
    "PET": (3703,),
    "Dermoscopy": (839, 9840, 7504),
    "Mammography": (4404, 617, 4897),
    "US": (718,),
    "OCT": (4565,),
    "Fundus": (1229, 9931),
    "Microscopy": (38431,),
}
"""Names in the order of the published rows, and their tokens in CLIP's published vocabulary of byte pairs."""


def name_tokens(name: str) -> tuple[int, ...]:
    """Tokens of "NAME Image", the text that stands for a modality."""
    return (_START, *MODALITIES[name], _IMAGE, _END)


_VECTOR = 512
_SIDES = (64, 224)
"""Sides of the crops that the decoder and CLIP's vision tower read."""


class McpMedSam(nn.Module):
    """The three parts of the published checkpoint."""

    def __init__(self, image_encoder: nn.Module, prompt_encoder: ContentEncoder, mask_decoder: ContentDecoder) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder


class McpDecoder(nn.Module):
    """The decoder graph: embedding, boxes, modality, crops and CLIP's vectors -> logits and scores.

    With `texts`, CLIP's vectors of all modalities' names (M, V), their tokens are constants; else a name's vector is an
    input.
    """

    modalities: Tensor | None

    def __init__(self, model: McpMedSam, texts: Tensor | None = None) -> None:
        super().__init__()
        self.prompt_encoder = model.prompt_encoder
        self.mask_decoder = model.mask_decoder
        tokens = None if texts is None else self.prompt_encoder.modality(texts, self.prompt_encoder.categories.weight)
        self.register_buffer("modalities", tokens, persistent=False)

    def forward(
        self,
        image_embedding: Tensor,
        boxes: Tensor,
        modality: Tensor,
        crops: Tensor,
        clip_image: Tensor,
        clip_text: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Decode N boxes on one image: (1, C, h, w), (N, 4), (1,), (N, 3, h, w), (N, V) -> (N, 1, 4h, 4w), (N, 1)."""
        encoder = self.prompt_encoder
        table = encoder.categories.weight if self.modalities is None else self.modalities
        token = table.index_select(0, modality).expand(boxes.shape[0], -1)
        if clip_text is not None:
            token = encoder.modality(clip_text, token)
        seen = encoder.clip_img_mlp(clip_image)
        prompt = torch.cat([encoder.boxes(boxes), seen[:, None], token[:, None]], dim=1)
        logits, scores = self.mask_decoder.decode(image_embedding, encoder.crop_nets(crops), prompt, encoder.grid())
        return logits, scores


def graphs(model: McpMedSam, clip: Clip | None = None) -> Mapping[str, Graph]:
    """Encoder and decoder graphs, and with CLIP its vision tower."""
    rows, columns = model.prompt_encoder.embedding_size
    width, side = model.mask_decoder.mask_tokens.embedding_dim, 4 * max(rows, columns)
    corner = [0.25, 0.25, 0.5, 0.75]
    inputs = {
        "image_embedding": torch.rand(1, width, rows, columns),
        "boxes": torch.tensor([corner, corner[::-1]]) * side,
        "modality": torch.tensor([2]),
        "crops": torch.rand(2, 3, rows, columns),
        "clip_image": 0.3 * torch.randn(2, model.prompt_encoder.clip_img_mlp.fc1.in_features),
    }
    found = {"encoder": Graph(model.image_encoder, {"image": torch.rand(1, 3, side, side)}, ("image_embedding",))}
    texts = None
    if clip is None:
        inputs["clip_text"] = 0.3 * torch.randn(2, model.prompt_encoder.clip_text_mlp.fc1.in_features)
    else:
        with torch.no_grad():
            texts = clip.texts([name_tokens(name) for name in MODALITIES])
        crop = {"crop": torch.rand(2, 3, clip.side, clip.side)}
        found["clip"] = Graph(ClipVision(clip), crop, ("output",), per_prompt=frozenset({"crop", "output"}))
    outputs = ("low_res_logits", "scores")
    shared = frozenset({"image_embedding", "modality"})
    per_prompt = frozenset({*inputs, *outputs}) - shared
    found["decoder"] = Graph(McpDecoder(model, texts), inputs, outputs, per_prompt=per_prompt)
    return found


def _build() -> McpMedSam:
    prompts = ContentEncoder(
        256, embedding_size=(64, 64), input_size=(256, 256), modalities=len(MODALITIES), vector=_VECTOR
    )
    return McpMedSam(TinyVit(), prompts, ContentDecoder(256, modalities=len(MODALITIES)))


def _clip(shapes: Mapping[str, tuple[int, ...]]) -> Clip:
    """CLIP of the size that a file has, if its images and vectors are those that this system was trained with."""
    size = ClipSize.of(shapes)
    positions = (_SIDES[1] // size.patch) ** 2 + 1
    return Clip(replace(size, outputs=_VECTOR, positions=positions))


def _crop(name: str, side: int, graph: str | None = None) -> Crop:
    return Crop(
        name=name,
        size=(side, side),
        interpolation="bilinear_antialias_float",
        normalise=Normalise(kind="scale"),
        far_edge="exclusive",
        graph=graph,
        length=None if graph is None else _VECTOR,
    )


_PIXELS, _SEEN = _crop("crops", _SIDES[0]), _crop("clip_image", _SIDES[1], "clip")
_VECTORS = {"clip_image": _VECTOR, "clip_text": _VECTOR}
_FACTS = Facts(
    input=INPUT,
    embedding=(EMBEDDING,),
    prompts=Prompts(box=BOX, modality="required", crops=(_PIXELS,), vectors=_VECTORS),
    output=OUTPUT,
    propagation=Propagation(
        published=LoopSettings(
            box_from="resized_label",
            margin_px=3,
            crop_margin_px=3,
            last_slice="excluded",
            first_slice="excluded",
            fallback_down="unrounded",
        )
    ),
    modalities=tuple(MODALITIES),
)

FAMILY = Family(
    name="mcp_medsam",
    title="MCP-MedSAM",
    paper="https://doi.org/10.59275/j.melba.2025-4849",
    repository="https://github.com/dong845/MCP-MedSAM",
    revision="04331e71f19ba132a8e71ffd8922639511503708",
    licence=Licence(spdx="MIT", url="https://github.com/dong845/MCP-MedSAM/blob/main/LICENSE"),
    weights="https://huggingface.co/Leo-Lyu/MCP-MedSAM",
    gflops=(74.9, 76.2),
    facts=_FACTS,
    build=_build,
    graphs=graphs,
    extra=Extra(
        title="CLIP with both towers as transformers saves it (pytorch_model.bin)",
        weights="https://huggingface.co/flaviagiammarino/pubmed-clip-vit-base-patch32",
        licence=Licence(spdx="MIT", url="https://huggingface.co/flaviagiammarino/pubmed-clip-vit-base-patch32"),
        build=_clip,
        facts=replace(_FACTS, prompts=Prompts(box=BOX, modality="required", crops=(_PIXELS, _SEEN))),
        without="the bundle takes CLIP's vectors, clip_image and clip_text, from its caller",
    ),
)
