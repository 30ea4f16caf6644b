"""MedSAM: SAM's ViT-B at 1024 pixels, fine-tuned on medical images with boxes.

Knows this system's published facts. Its checkpoint has the names and shapes of SAM's own (see `sam_vit_b`): the two
cannot be told apart, and differ in how an image comes in and how a mask goes out. The merges of both that MedSAMix
published are used like this one.

References: Ma et al., Segment Anything in Medical Images, Nature Communications 15, 2024.
"""

from __future__ import annotations

from functools import partial

from export.families import Facts, Family
from export.families._sam_graphs import box_graphs
from export.families._vit import vit_sam
from runtime.manifest import BoxPrompt, EmbeddingTensor, Input, Licence, Normalise, Output, Prompts, Propagation

__all__ = ["FAMILY"]

FAMILY = Family(
    name="medsam",
    title="MedSAM",
    paper="https://doi.org/10.1038/s41467-024-44824-z",
    repository="https://github.com/bowang-lab/MedSAM",
    revision="d71e8a1a99ad751840a22a7fa3ecfb4166fb1488",
    licence=Licence(spdx="Apache-2.0", url="https://github.com/bowang-lab/MedSAM/blob/main/LICENSE"),
    weights="https://drive.google.com/drive/folders/1ETWmi4AiniJeWOt6HAsYgTjYv_fkgzoN",
    gflops=(972.1, 3.6),
    facts=Facts(
        input=Input(
            size=(1024, 1024),
            resize="stretch",
            interpolation="bicubic_antialias",
            normalise=Normalise(kind="min_max"),
        ),
        embedding=(EmbeddingTensor(name="image_embedding", shape=(1, 256, 64, 64)),),
        prompts=Prompts(box=BoxPrompt(use="required")),
        output=Output(low_res_size=(256, 256), activation="sigmoid", threshold=0.5),
        propagation=Propagation(),
    ),
    build=vit_sam,
    graphs=partial(box_graphs, input_size=(1024, 1024)),
)
