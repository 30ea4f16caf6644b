"""SAM with its smallest encoder, ViT-B: the base that medical systems were fine-tuned from.

Knows this system's published facts. Its checkpoint has the names and shapes of MedSAM's (see `medsam`), which was
fine-tuned with boxes alone; SAM itself was trained with points, boxes and its own earlier logits.

References: Kirillov et al., Segment Anything, ICCV 2023.
"""

from __future__ import annotations

from functools import partial

from export.families import Facts, Family
from export.families._sam_graphs import prompt_graphs
from export.families._vit import vit_sam
from runtime.manifest import (
    BoxPrompt,
    EmbeddingTensor,
    Input,
    Licence,
    MaskPrompt,
    Normalise,
    Output,
    PointPrompt,
    Prompts,
    Propagation,
)

__all__ = ["FAMILY"]

FAMILY = Family(
    name="sam_vit_b",
    title="SAM ViT-B",
    paper="https://doi.org/10.48550/arXiv.2304.02643",
    repository="https://github.com/facebookresearch/segment-anything",
    revision="dca509fe793f601edb92606367a655c15ac00fdf",
    licence=Licence(spdx="Apache-2.0", url="https://github.com/facebookresearch/segment-anything/blob/main/LICENSE"),
    weights="https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth",
    gflops=(972.1, 3.6),
    facts=Facts(
        input=Input(
            size=(1024, 1024),
            resize="longest_side",
            interpolation="bilinear_antialias",
            normalise=Normalise(kind="mean_std", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)),
            pad="bottom_right",
            coordinates="resized",
        ),
        embedding=(EmbeddingTensor(name="image_embedding", shape=(1, 256, 64, 64)),),
        prompts=Prompts(
            box=BoxPrompt(use="optional"), points=PointPrompt(), mask=MaskPrompt(kind="logits", size=(256, 256))
        ),
        output=Output(low_res_size=(256, 256), candidates=4, order="graph", upsample="via_input"),
        propagation=Propagation(),
    ),
    build=vit_sam,
    graphs=partial(prompt_graphs, input_size=(1024, 1024)),
)
