"""Merged weights -> something that segments boxes, in torch: a family, or the default model in training.

Knows torch modules and manifest facts. Must not know how weights are merged or what is scored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.families import Family, load_families
from export.load import Checkpoint, StateDict, load_file, load_model, match
from export.pretrain.config import load_config
from export.pretrain.model import Network
from export.pretrain.predictors import Answer, CheckpointPredictor, Clicks, Predictor
from runtime._prompt_arrays import Given, prompt_arrays
from runtime.errors import CheckpointError
from runtime.manifest import FORMAT_VERSION, LAYOUT_REVISION, Manifest, Source
from runtime.transforms import Frame, encoder_input, frame_of, masks_from_logits

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Builder", "builder_of"]

Builder = Callable[[Mapping[str, "Tensor"]], Predictor]
"""Makes a predictor of weights."""

TRAINED = "default"
"""What a training checkpoint of the default model is called here."""


def builder_of(base: Checkpoint, weights: StateDict, family: str | None) -> tuple[str, Builder]:
    """Say what a checkpoint is a checkpoint of, and how weights of its layout segment.

    CheckpointError if it belongs to no family, or to one that needs more than a box.
    """
    config = _training_config(base.path)
    if config is not None and family is None:
        return TRAINED, lambda merged: _trained(config, merged)
    found, _ = match(Checkpoint(base.path, base.sha256, (weights,)), load_families(), wanted=family)
    prompts = found.facts.prompts
    if not prompts.reads_boxes or prompts.modality is not None or prompts.crops or prompts.vectors:
        msg = f"{found.name} needs other prompts than boxes, and a search segments with boxes; merge without --search"
        raise CheckpointError(msg)
    return found.name, lambda merged: _BoxPredictor(found, StateDict("", merged))


def _training_config(path: Path) -> dict[str, Any] | None:
    """Configuration in a training checkpoint of the default model; None in any other file."""
    state = load_file(path)
    is_ours = isinstance(state, dict) and {"format", "config", "ema"} <= state.keys()
    return state["config"] if is_ours and "model" in state["config"] else None


def _trained(config: dict[str, Any], merged: Mapping[str, Tensor]) -> Predictor:
    network = Network(load_config(config).model)
    network.load_state_dict(merged)
    return CheckpointPredictor(network)


class _BoxPredictor:
    """A family's encoder and decoder modules, as its graphs have them."""

    def __init__(self, family: Family, weights: StateDict) -> None:
        graphs = family.graphs(load_model(family, weights))
        self._encoder, self._decoder = graphs["encoder"], graphs["decoder"]
        self._manifest = _facts(family)

    @torch.inference_mode()
    def encode(self, image: NDArray[np.uint8]) -> tuple[Frame, dict[str, Tensor]]:
        """Embedding of an 8-bit image [row, col(, c)]."""
        frame = frame_of(self._manifest, (image.shape[0], image.shape[1]))
        tensor = torch.from_numpy(encoder_input(image, self._manifest.input, frame))
        found = self._encoder.module(tensor)
        outputs = found if isinstance(found, tuple) else (found,)
        return frame, dict(zip(self._encoder.outputs, outputs, strict=True))

    @torch.inference_mode()
    def decode(
        self,
        embedding: tuple[Frame, dict[str, Tensor]],
        boxes: NDArray[np.float64] | None,
        clicks: Clicks | None = None,
        earlier: NDArray[np.float32] | None = None,
    ) -> Answer:
        """Answer N boxes (N, 4) in image pixels; clicks and earlier logits are not understood."""
        if boxes is None or clicks is not None or earlier is not None:
            msg = "this predictor takes boxes alone"
            raise ValueError(msg)
        frame, tensors = embedding
        prompts = prompt_arrays(self._manifest, frame, Given(boxes=boxes))  # what is not given is filled in
        inputs = {**tensors, **{name: torch.from_numpy(values) for name, values in prompts.items()}}
        found = self._decoder.module(*(inputs[name] for name in self._decoder.inputs))
        outputs = dict(zip(self._decoder.outputs, found if isinstance(found, tuple) else (found,), strict=True))
        logits = outputs["low_res_logits"].numpy()
        scores = outputs["scores"].numpy() if "scores" in outputs else np.zeros(logits.shape[:2], np.float32)
        rows = np.arange(len(logits))
        best = scores.argmax(1) if self._manifest.output.order == "score" else np.zeros(len(logits), np.intp)
        chosen = np.ascontiguousarray(logits[rows, best])
        masks, _, _ = masks_from_logits(chosen, self._manifest.output, frame)
        return Answer(masks, chosen, scores[rows, best])


def _facts(family: Family) -> Manifest:
    """A family's facts as a manifest without files."""
    return Manifest(
        format_version=FORMAT_VERSION,
        layout_revision=LAYOUT_REVISION,
        name=family.name,
        version="0",
        family=family.name,
        title=family.title,
        licence=family.licence,
        source=Source(exporter="lite-infer"),
        input=family.facts.input,
        embedding=family.facts.embedding,
        prompts=family.facts.prompts,
        output=family.facts.output,
        graphs={},
        files={},
    )
