"""DAFT: EfficientViT-SAM-L0 at 256 pixels, fine-tuned once for each of nine groups of modalities and once for all.

Knows this system's published facts; its torch code is in `_efficientvit` and `_sam`. Each of the ten checkpoints is a
bundle of its own. A checkpoint has the layout of MedficientSAM-L0: the two differ in the size of the input frame,
which no checkpoint states.

References: Pfefferle et al., DAFT: Data-Aware Fine-Tuning of Foundation Models for Efficient and Effective Medical
Image Segmentation, CVPR 2024 challenge.
"""

from __future__ import annotations

from functools import partial

from export.families import Family
from export.families._efficientvit import L0, efficientvit_sam
from export.families._laptop import box_facts
from export.families._sam_graphs import box_graphs
from runtime.manifest import Licence, LoopSettings

__all__ = ["FAMILY"]

FAMILY = Family(
    name="daft",
    title="DAFT",
    paper="https://openreview.net/forum?id=PObXviy706",
    repository="https://github.com/automl/CVPR24-MedSAM-on-Laptop",
    revision="7a1f75f57295c7b6a8e8d1f0b08f0a378987d538",
    licence=Licence(spdx="BSD-3-Clause", url="https://github.com/automl/CVPR24-MedSAM-on-Laptop/blob/main/LICENSE"),
    weights="https://drive.google.com/file/d/1E763mmHuWghMt5Uv8lY96vRLZW6IYfLL",
    gflops=(33.9, 3.6),
    facts=box_facts(LoopSettings(box_from="resized_label", label_dtype="uint16", margin_px=3, last_slice="excluded")),
    build=partial(efficientvit_sam, L0, 256),
    graphs=box_graphs,
)
