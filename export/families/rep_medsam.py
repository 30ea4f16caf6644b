"""Rep-MedSAM: LiteMedSAM with a RepViT encoder, convolutions alone.

Knows this system's published facts; its torch code is in `_repvit` and `_sam`.

References: Wei et al., Rep-MedSAM: Towards Real-time and Universal Medical Image Segmentation, CVPR 2024 challenge.
"""

from __future__ import annotations

from export.families import Family
from export.families._laptop import box_facts
from export.families._repvit import RepVit
from export.families._sam import MaskDecoder, PromptEncoder, Sam
from export.families._sam_graphs import box_graphs
from runtime.manifest import Licence, LoopSettings

__all__ = ["FAMILY"]


def _build() -> Sam:
    return Sam(RepVit(), PromptEncoder(256, embedding_size=(64, 64), input_size=(256, 256)), MaskDecoder(256))


FAMILY = Family(
    name="rep_medsam",
    title="Rep-MedSAM",
    paper="https://doi.org/10.1007/978-3-031-81854-7",
    repository="https://github.com/muxin-wei/Rep-MedSAM",
    revision="848c0279718dbdb0367e4b96cdfc23935792b6d1",
    licence=Licence(spdx="Apache-2.0", url="https://github.com/muxin-wei/Rep-MedSAM"),
    weights="https://github.com/muxin-wei/Rep-MedSAM/tree/master/ckpts",
    gflops=(62.2, 3.6),
    facts=box_facts(LoopSettings(box_from="resized_label", label_dtype="uint8", margin_px=3)),
    build=_build,
    graphs=box_graphs,
)
