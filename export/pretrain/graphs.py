"""The three ONNX graphs of the network: batch normalisation folded, inputs and outputs as the bundle states them.

Graph contract. Encoder: ``image`` float32 (1, 3, S, S) in 0..1 -> ``level_4``, ``level_8``, ``level_16`` float32 and
``pixels`` uint8 (1, 3, S, S). Decoder: those four, ``boxes`` (N, 4) xyxy in the input frame (pixel centres, both ends
inclusive), ``points`` (N, P, 2), ``point_labels`` (N, P), ``masks`` (N, 1, S, S), ``has_mask`` (N,) and, where the
network sees the neighbouring slice, ``pixels_before`` uint8 (1, 3, S, S) -> ``low_res_logits`` (N, C, S, S) and
``scores`` (N, C). N and P are dynamic. For one box: the same without points, N = 1, and the best candidate alone.

Knows torch and ONNX. Must not know the manifest or training.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from export.pretrain.config import ModelConfig
from export.pretrain.model import Block, ConvBnRelu, Network
from export.pretrain.windows import ExportDecoder

__all__ = [
    "DECODER_INPUTS",
    "DECODER_OUTPUTS",
    "ENCODER_OUTPUTS",
    "NEIGHBOUR_INPUT",
    "OPSET",
    "DecoderGraph",
    "EncoderGraph",
    "OneBoxGraph",
    "fold",
    "write_graphs",
]

OPSET = 17
ENCODER_OUTPUTS = ("level_4", "level_8", "level_16", "pixels")
DECODER_INPUTS = (*ENCODER_OUTPUTS, "boxes", "points", "point_labels", "masks", "has_mask")
NEIGHBOUR_INPUT = "pixels_before"
DECODER_OUTPUTS = ("low_res_logits", "scores")


class _Folded(nn.Module):
    """One convolution and a ReLU."""

    def __init__(self, conv: nn.Conv2d) -> None:
        """Take over the convolution."""
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> as the convolution."""
        return torch.relu(self.conv(x))


def _fold_module(module: nn.Module) -> nn.Module:
    if isinstance(module, ConvBnRelu | Block):
        conv = fuse_conv_bn_eval(module.conv, module.norm)
        if isinstance(module, Block):  # x + conv(x): one more on the diagonal of the centre tap
            with torch.no_grad():
                diagonal = torch.arange(conv.weight.shape[0])
                conv.weight[diagonal, diagonal, 1, 1] += 1
        return _Folded(conv)
    for name, child in module.named_children():
        setattr(module, name, _fold_module(child))
    return module


def fold(network: Network) -> Network:
    """Copy of a network for inference: normalisations and skips inside convolutions, windows as engines like them."""
    copied = Network(network.config)
    copied.decoder = ExportDecoder(network.config)
    copied.load_state_dict(network.state_dict())
    return cast(Network, _fold_module(copied.eval().to(memory_format=torch.contiguous_format)))  # type: ignore[call-overload]


class EncoderGraph(nn.Module):
    """``image`` -> three levels and the image's bytes."""

    def __init__(self, network: Network) -> None:
        """Wrap a folded network."""
        super().__init__()
        self.encoder = network.encoder

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(1, 3, S, S) -> level_4, level_8, level_16, pixels."""
        level_4, level_8, level_16 = self.encoder(image)
        return level_4, level_8, level_16, torch.round(image * 255.0).to(torch.uint8)


class _Prompted(nn.Module):
    """What the graphs that answer prompts share: from the bundle's inputs to the decoder's answers."""

    def __init__(self, network: Network) -> None:
        """Wrap a folded network."""
        super().__init__()
        self.decoder = network.decoder

    def _answers(
        self,
        levels: tuple[Tensor, Tensor, Tensor],
        pixels: Tensor,
        boxes: Tensor,
        clicks: tuple[Tensor | None, Tensor | None],
        mask: tuple[Tensor, Tensor],
        pixels_before: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Logits of the windows (N, C, 128, 128) and scores (N, C)."""
        image = pixels.to(torch.float32) * (1 / 255.0)
        before = None if pixels_before is None else pixels_before.to(torch.float32) * (1 / 255.0)
        prompt = self.decoder.geometry.channels(boxes, *clicks, *mask)
        answers: tuple[Tensor, Tensor] = self.decoder(levels, image, boxes, prompt, before, mask[1])
        return answers


class DecoderGraph(_Prompted):
    """Embedding and N prompts -> ``low_res_logits`` and ``scores``."""

    def forward(
        self,
        level_4: Tensor,
        level_8: Tensor,
        level_16: Tensor,
        pixels: Tensor,
        boxes: Tensor,
        points: Tensor,
        point_labels: Tensor,
        masks: Tensor,
        has_mask: Tensor,
        pixels_before: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See the module's graph contract."""
        levels, clicks, mask = (level_4, level_8, level_16), (points, point_labels), (masks, has_mask)
        logits, scores = self._answers(levels, pixels, boxes, clicks, mask, pixels_before)
        return self.decoder.paste(logits, boxes), self.decoder.ranked(scores)


class OneBoxGraph(_Prompted):
    """`DecoderGraph` for a single box without points: the best candidate alone, sizes fixed."""

    def forward(
        self,
        level_4: Tensor,
        level_8: Tensor,
        level_16: Tensor,
        pixels: Tensor,
        boxes: Tensor,
        masks: Tensor,
        has_mask: Tensor,
        pixels_before: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See the module's graph contract; the candidate is chosen before it is pasted."""
        levels, mask = (level_4, level_8, level_16), (masks, has_mask)
        logits, scores = self._answers(levels, pixels, boxes, (None, None), mask, pixels_before)
        ranked = self.decoder.ranked(scores)
        best = logits.index_select(1, ranked.argmax(1))
        return self.decoder.paste(best, boxes), ranked.amax(1, keepdim=True)


@dataclass(frozen=True)
class _Sample:
    """Inputs that carry the shapes a trace needs."""

    encoder: tuple[Tensor, ...]
    decoder: tuple[Tensor, ...]

    def one_box(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Inputs of the graph for one box, by name, taken from the decoder's, whose names are given."""
        return {
            name: tensor[:1]
            for name, tensor in zip(names, self.decoder, strict=True)
            if name not in ("points", "point_labels")
        }


def _sample_inputs(config: ModelConfig) -> _Sample:
    size = config.input_size
    levels = [torch.rand(1, c, size // s, size // s) for c, s in zip(config.embedding, (4, 8, 16), strict=True)]
    pixels = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)
    before = (torch.randint(0, 256, pixels.shape, dtype=torch.uint8),) if config.reference else ()
    boxes = torch.tensor([[20.0, 30.0, 90.0, 120.0], [5.0, 5.0, 15.0, 25.0], [1.0, 2.0, 255.0, 250.0]])
    points, labels = torch.rand(3, 2, 2) * size, torch.tensor([[1.0, 0.0], [1.0, -1.0], [-1.0, -1.0]])
    return _Sample(
        (torch.rand(1, 3, size, size),),
        (*levels, pixels, boxes, points, labels, torch.rand(3, 1, size, size), torch.tensor([1.0, 0.0, 2.0]), *before),
    )


def write_graphs(network: Network, folder: Path) -> dict[str, Path]:
    """Write the graphs into an existing folder; returns their paths by role."""
    folded = fold(network)
    sample = _sample_inputs(network.config)
    paths = {role: folder / f"{role}.onnx" for role in ("encoder", "decoder", "one_box")}
    names = [*DECODER_INPUTS, NEIGHBOUR_INPUT][: len(sample.decoder)]
    one_box = sample.one_box(names)
    dynamic = {name: {0: "N"} for name in ("boxes", "has_mask", "masks", *DECODER_OUTPUTS)}
    dynamic |= {name: {0: "N", 1: "P"} for name in ("points", "point_labels")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the tracing exporter, on purpose: GridSample and Resize
        # stay single nodes at opset 17
        _trace(EncoderGraph(folded), sample.encoder, paths["encoder"], ["image"], ENCODER_OUTPUTS)
        _trace(DecoderGraph(folded), sample.decoder, paths["decoder"], names, DECODER_OUTPUTS, dynamic)
        _trace(OneBoxGraph(folded), tuple(one_box.values()), paths["one_box"], list(one_box), DECODER_OUTPUTS)
    return paths


def _trace(
    graph: nn.Module,
    sample: tuple[Tensor, ...],
    path: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
) -> None:
    torch.onnx.export(
        graph.eval(),
        sample,
        str(path),
        input_names=list(inputs),
        output_names=list(outputs),
        opset_version=OPSET,
        dynamic_axes=dynamic,
        dynamo=False,
    )
