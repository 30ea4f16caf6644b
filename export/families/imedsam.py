"""I-MedSAM: SAM ViT-B at 384 pixels with a spectrum beside the image, and masks of any size.

Two files make it: the one that was published, and SAM's own checkpoint, whose encoder it adds to. The bundle differs
from the authors' code where that leaves a result to chance: it refines one point in eight, chosen among equal numbers
by the order in which a library sorts them. The bundle's mask is the coarse map, which the authors' code leaves as it is
at the other points; the second candidate is the map refined everywhere. The low-rank additions stay apart from the
weights, for a gate that depends on the image multiplies them.

Knows this system's published facts and its two graphs; its torch code is in `_imedsam`.

References: Wei et al., I-MedSAM: Implicit Medical Image Segmentation with Segment Anything, ECCV 2024.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from export.families import Extra, Facts, Family, Graph
from export.families._imedsam import ImplicitDecoder, Place, Trained, combine, imedsam
from export.families._sam import Sam
from export.families._vit import Vit, VitSize
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

__all__ = ["FAMILY", "FieldDecoder", "SamEncoder", "graphs", "whole"]


class SamEncoder(nn.Module):
    """The part of SAM's checkpoint that is needed: its image encoder, for 1024 pixels."""

    def __init__(self, size: VitSize | None = None) -> None:
        super().__init__()
        self.image_encoder = Vit(size)


class FieldDecoder(nn.Module):
    """The decoder graph: embedding, boxes and where to evaluate -> coarse and fine logits."""

    def __init__(self, model: Sam) -> None:
        super().__init__()
        self.prompt_encoder = model.prompt_encoder
        self.mask_decoder = model.mask_decoder

    def forward(
        self, image_embedding: Tensor, boxes: Tensor, output_size: Tensor, rows: Tensor, columns: Tensor
    ) -> Tensor:
        """Decode N boxes (N, 4) at rows (R,) and columns (W,) of a map of `output_size` (2,) -> (N, 2, R, W)."""
        assert isinstance(self.mask_decoder, ImplicitDecoder)
        image = image_embedding + self.prompt_encoder.no_mask()
        tokens, grid = self.prompt_encoder.boxes(boxes), self.prompt_encoder.grid()
        return self.mask_decoder.evaluate(image, tokens, grid, Place(output_size, rows, columns))


def whole(trained: Trained, sam: SamEncoder) -> Sam:
    """The model that both files make."""
    model = imedsam(trained.size)
    model.load_state_dict(combine(sam.state_dict(), trained.state_dict(), trained.size))
    return model.eval().requires_grad_(False)


def graphs(trained: Trained, sam: SamEncoder) -> Mapping[str, Graph]:
    """Encoder and decoder graphs."""
    model, size, side = whole(trained, sam), trained.size, trained.size.image
    pictures = {"image": torch.rand(1, 3, side, side), "spectrum": torch.rand(1, 3, side, side)}
    corner = [0.25, 0.25, 0.5, 0.75]
    inputs = {
        "image_embedding": torch.rand(1, size.outputs, size.grid, size.grid),
        "boxes": torch.tensor([corner, corner[::-1]]) * side,
        "output_size": torch.tensor([40, 30]),
        "rows": torch.arange(15, 35),
        "columns": torch.arange(30),
    }
    return {
        "encoder": Graph(model.image_encoder, pictures, ("image_embedding",)),
        "decoder": Graph(
            FieldDecoder(model),
            inputs,
            ("low_res_logits",),
            per_prompt=frozenset({"boxes", "low_res_logits"}),
            own_length=frozenset({"rows", "columns"}),
        ),
    }


FAMILY = Family(
    name="imedsam",
    title="I-MedSAM",
    paper="https://arxiv.org/abs/2311.17081",
    repository="https://github.com/ucwxb/I-MedSAM",
    revision="07aac158215ca864eac158aba4dfde2d7e56d194",
    licence=Licence(spdx="NONE", notice="The authors state no licence; ask them before you use the weights."),
    weights="https://drive.google.com/file/d/1qd1FNoc3Io2g8t9HCjaELNYxOHLoiVO0",
    gflops=(116.6, 608.7),
    facts=Facts(
        input=Input(
            size=(384, 384),
            resize="stretch",
            interpolation="linear",
            normalise=Normalise(kind="scale"),
            spectrum="spectrum",
        ),
        embedding=(EmbeddingTensor(name="image_embedding", shape=(1, 256, 24, 24)),),
        prompts=Prompts(box=BoxPrompt(use="required")),
        output=Output(low_res_size=(384, 384), candidates=2, scores=False, implicit=True),
        propagation=Propagation(),
    ),
    build=Trained,
    graphs=graphs,
    extra=Extra(
        title="SAM's ViT-B checkpoint",
        weights="https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth",
        licence=Licence(
            spdx="Apache-2.0", url="https://github.com/facebookresearch/segment-anything/blob/main/LICENSE"
        ),
        build=lambda _: SamEncoder(),
    ),
)
