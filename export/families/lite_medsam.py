"""LiteMedSAM: SAM's prompts and decoder on a TinyViT encoder of 256 pixels, the baseline of the CVPR 2024 challenge.

Knows this system's published facts; all its torch code is shared with its successors.

References: Ma et al., Segment Anything in Medical Images on Laptop, CVPR 2024 challenge;
Ma et al., Segment Anything in Medical Images, Nature Communications 15, 2024.
"""

from __future__ import annotations

from export.families import Family
from export.families._laptop import box_facts
from export.families._sam import MaskDecoder, PromptEncoder, Sam
from export.families._sam_graphs import box_graphs
from export.families._tiny_vit import TinyVit
from runtime.manifest import Licence, LoopSettings

__all__ = ["FAMILY"]


def _build() -> Sam:
    return Sam(TinyVit(), PromptEncoder(256, embedding_size=(64, 64), input_size=(256, 256)), MaskDecoder(256))


FAMILY = Family(
    name="lite_medsam",
    title="LiteMedSAM",
    paper="https://doi.org/10.1038/s41467-024-44824-z",
    repository="https://github.com/bowang-lab/MedSAM/tree/LiteMedSAM",
    revision="b0fab476e54e631dd412b25e0db9fdf2a2b0f54c",
    licence=Licence(spdx="Apache-2.0", url="https://github.com/bowang-lab/MedSAM/blob/LiteMedSAM/LICENSE"),
    weights="https://drive.google.com/file/d/18Zed-TUTsmr2zc5CHUWd5Tu13nb6vq6z",
    gflops=(74.9, 3.6),
    facts=box_facts(LoopSettings(box_from="resized_label", label_dtype="uint8", margin_px=3)),
    build=_build,
    graphs=box_graphs,
)
