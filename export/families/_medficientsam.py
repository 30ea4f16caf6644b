"""What the three sizes of MedficientSAM share: the published facts.

References: Le et al., MedficientSAM: A Robust Medical Segmentation Model with Optimized Inference Pipeline for Limited
Clinical Settings, CVPR 2024 challenge.
"""

from __future__ import annotations

from functools import partial

from export.families import Facts, Family
from export.families._efficientvit import EfficientVitSize, efficientvit_sam
from export.families._sam_graphs import box_graphs
from runtime.manifest import (
    BoxPrompt,
    EmbeddingTensor,
    Input,
    Licence,
    LoopSettings,
    Normalise,
    Output,
    Prompts,
    Propagation,
)

__all__ = ["medficientsam"]

_SIDE = 512
_FACTS = Facts(
    input=Input(
        size=(_SIDE, _SIDE),
        resize="longest_side",
        interpolation="bilinear",
        normalise=Normalise(kind="min_max"),
        pad="bottom_right",
    ),
    embedding=(EmbeddingTensor(name="image_embedding", shape=(1, 256, 64, 64)),),
    prompts=Prompts(box=BoxPrompt(use="required", rounding="truncate")),
    output=Output(low_res_size=(256, 256), upsample="via_input"),
    propagation=Propagation(published=LoopSettings(box_from="mask", last_slice="excluded")),
)


def medficientsam(variant: str, size: EfficientVitSize, encoder_gflops: float) -> Family:
    """Family of one size of MedficientSAM."""
    return Family(
        name=f"medficientsam_{variant.lower()}",
        title=f"MedficientSAM-{variant}",
        paper="https://openreview.net/forum?id=aa0f77RKI0",
        repository="https://github.com/hieplpvip/medficientsam",
        revision="59504938bb37ab7e2832ede358051976e740efe5",
        licence=Licence(spdx="Apache-2.0", url="https://github.com/hieplpvip/medficientsam"),
        weights="https://drive.google.com/drive/folders/19RHM-qN4KUlCnHj_SJiUBwSbZybeCZfC",
        gflops=(encoder_gflops, 3.6),
        facts=_FACTS,
        build=partial(efficientvit_sam, size, _SIDE),
        graphs=partial(box_graphs, input_size=(_SIDE, _SIDE)),
    )
