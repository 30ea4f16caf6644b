"""A family like LiteMedSAM with 64 input pixels and few channels: converts in seconds; its weights are random."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from export.families import Facts, Family
from export.families._sam import MaskDecoder, PromptEncoder, Sam
from export.families._sam_graphs import BoxDecoder, box_graphs
from export.families._tiny_vit import TinyVit, TinyVitSize
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

SIDE = 64
WIDTH = 16
Module = TypeVar("Module", bound=torch.nn.Module)
GRID = (SIDE // 4, SIDE // 4)


def build() -> Sam:
    encoder = TinyVitSize(
        widths=(8, 8, 16, 16), depths=(1, 1, 1, 1), heads=(1, 2, 2, 4), windows=(7, 7, 7, 5), outputs=WIDTH
    )
    prompts = PromptEncoder(WIDTH, embedding_size=GRID, input_size=(SIDE, SIDE), mask_channels=4)
    return Sam(TinyVit(encoder), prompts, MaskDecoder(WIDTH, heads=2, hidden=32))


def family(name: str = "tiny") -> Family:
    return Family(
        name=name,
        title="Tiny",
        paper="https://example.org/paper",
        repository="https://example.org/code",
        revision="0" * 40,
        licence=Licence(spdx="Apache-2.0"),
        weights="https://example.org/weights",
        gflops=(0.1, 0.01),
        facts=Facts(
            input=Input(
                size=(SIDE, SIDE),
                resize="longest_side",
                interpolation="area",
                normalise=Normalise(kind="min_max"),
                pad="bottom_right",
            ),
            embedding=(EmbeddingTensor(name="image_embedding", shape=(1, WIDTH, *GRID)),),
            prompts=Prompts(box=BoxPrompt(rounding="truncate")),
            output=Output(low_res_size=(SIDE, SIDE)),
            propagation=Propagation(published=LoopSettings(box_from="resized_label", margin_px=3)),
        ),
        build=build,
        graphs=lambda model: box_graphs(model, (SIDE, SIDE)),
    )


def random_model(seed: int = 0) -> Sam:
    """Model with every weight, and every statistic of batch normalisation, away from its initial value."""
    return randomised(build(), seed)


def randomised(model: Module, seed: int = 0) -> Module:
    """Give a model such weights and statistics, in place."""
    generator = torch.Generator().manual_seed(seed)
    model.eval().requires_grad_(False)
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, generator=generator)
        fan_in = max(1, value[0].numel()) if value.ndim > 1 else 1
        if name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight")):
            value.copy_(1 + 0.1 * noise.abs())
        else:
            value.copy_(noise / fan_in**0.5 if value.ndim > 1 else 0.1 * noise)
    return model


def decoded(
    model: Sam, encoder_input: NDArray[np.float32], boxes: NDArray[np.float32]
) -> tuple[NDArray[np.float32], ...]:
    """Embedding, logits (N, h, w) and scores (N,) that torch computes."""
    with torch.inference_mode():
        embedding = model.image_encoder(torch.from_numpy(encoder_input))
        logits, scores = BoxDecoder(model)(embedding, torch.from_numpy(boxes))
    return embedding.numpy(), logits[:, 0].numpy(), scores[:, 0].numpy()


def saved(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path
