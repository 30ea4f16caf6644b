"""Facts that the systems of the CVPR 2024 challenge "Segment Anything in Medical Images on Laptop" share.

They descend from LiteMedSAM's scripts: 256 pixels, OpenCV's area average, box corners cut to whole pixels. Knows the
manifest's words and no torch.
"""

from __future__ import annotations

from export.families import Facts
from runtime.manifest import BoxPrompt, EmbeddingTensor, Input, LoopSettings, Normalise, Output, Prompts, Propagation

__all__ = ["BOX", "EMBEDDING", "INPUT", "OUTPUT", "box_facts"]

INPUT = Input(
    size=(256, 256),
    resize="longest_side",
    interpolation="area",
    normalise=Normalise(kind="min_max"),
    pad="bottom_right",
)
EMBEDDING = EmbeddingTensor(name="image_embedding", shape=(1, 256, 64, 64))
BOX = BoxPrompt(use="required", rounding="truncate")
OUTPUT = Output(low_res_size=(256, 256))


def box_facts(loop: LoopSettings) -> Facts:
    """Facts of a system that takes a box alone and propagates as `loop` says."""
    return Facts(
        input=INPUT,
        embedding=(EMBEDDING,),
        prompts=Prompts(box=BOX),
        output=OUTPUT,
        propagation=Propagation(published=loop),
    )
