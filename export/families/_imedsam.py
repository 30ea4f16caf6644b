"""I-MedSAM: SAM ViT-B at 384 pixels with a spectrum beside the image, and a decoder that is a function of position.

Two checkpoints make one model: SAM's, and one with what was trained on top of it. Parameter names are those of the
published code once `combine` has put both together. Knows torch only.

The low-rank additions to queries and values cannot be added to the weights: a gate that depends on the patches of the
window multiplies them. At inference the published code refines an eighth of the points, chosen by a variance that is
always zero, so by the order in which a library sorts equal numbers. Here every point has a coarse and a fine logit;
the mask is the coarse one, as it is at seven eighths of the points there.

References: Wei et al., I-MedSAM: Implicit Medical Image Segmentation with Segment Anything, ECCV 2024;
Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.families._sam import MaskDecoder, PromptEncoder, Sam, pixels_of
from export.families._vit import Attention, Block, Vit, VitSize

__all__ = ["ImplicitDecoder", "Place", "SpectrumVit", "Trained", "combine", "imedsam"]

SIZE = VitSize(image=384)
_EPS = 1e-6
_RANK = 4
_FREQUENCIES = 10


class _LowRank(nn.Module):
    """A linear layer through few channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a = nn.Linear(width, _RANK, bias=False)
        self.b = nn.Linear(_RANK, width, bias=False)

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        output: Tensor = self.b(gate * self.a(x))
        return output


class _GatedAttention(Attention):
    """Window attention whose queries and values get low-rank additions, as far as the window's gate lets them."""

    def __init__(self, size: VitSize, side: int) -> None:
        super().__init__(size, side)
        self.lora_q = _LowRank(size.width)
        self.lora_v = _LowRank(size.width)
        self.gate = nn.Linear(size.width, 1, bias=False)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled queries, and keys and values without their biases, each (1, P, C)."""
        q, k, v = super().project(x)
        gates = self._gates(x)
        return q + self.scale * self.lora_q(x, gates), k, v + self.lora_v(x, gates)

    def _gates(self, x: Tensor) -> Tensor:
        """Mean over each window, the zeros that fill it included, for each of its patches: (1, P, C) -> (1, P, 1)."""
        count = -(-self.grid // self.side)
        filled = count * self.side - self.grid
        patches = functional.pad(torch.unflatten(self.gate(x)[0, :, 0], 0, (self.grid, self.grid)), (0, filled) * 2)
        means = patches.reshape(count, self.side, count, self.side).mean((1, 3))
        spread = means[:, None, :, None].expand(-1, self.side, -1, self.side).flatten(2).flatten(0, 1)
        return spread[: self.grid, : self.grid].reshape(1, -1, 1)


class _Adapter(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.D_fc1 = nn.Linear(width, _RANK)
        self.D_fc2 = nn.Linear(_RANK, width)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = x + self.D_fc2(functional.gelu(self.D_fc1(x)))
        return output


class _SpectrumBlock(Block):
    """A block that adds half of the adapted spectrum, and hands the spectrum on."""

    def __init__(self, size: VitSize, side: int) -> None:
        super().__init__(size, side)
        self.attn = _GatedAttention(size, side)
        self.freq_adapter = _Adapter(size.width)
        self.freq_norm = nn.LayerNorm(size.width, _EPS)

    def adapt(self, spectrum: Tensor) -> Tensor:
        """Give the spectrum that this block adds and the next one receives."""
        output: Tensor = self.freq_adapter(self.freq_norm(spectrum))
        return output


class SpectrumVit(Vit):
    """Image and spectrum, each (1, 3, S, S) -> embedding (1, 256, S / 16, S / 16)."""

    def __init__(self, size: VitSize) -> None:
        super().__init__(size, _SpectrumBlock)

    def forward(self, image: Tensor, spectrum: Tensor) -> Tensor:  # type: ignore[override] # a second input
        """Encode one image; its spectrum is embedded like an image."""
        place = self.pos_embed.flatten(1, 2)
        x, other = self.patch_embed(image) + place, self.patch_embed(spectrum) + place
        for block in self.blocks:
            assert isinstance(block, _SpectrumBlock)
            other = block.adapt(other)
            x = block(x) + 0.5 * other
        output: Tensor = self.neck(torch.unflatten(x.transpose(1, 2), 2, (self.grid, self.grid)))
        return output


def _perceptron(*widths: int) -> list[nn.Module]:
    """Linear layers, each with batch normalisation and ReLU."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
    return layers


def _through(layers: nn.Module, x: Tensor) -> Tensor:
    """Apply linear layers, batch normalisation (moved into the layer before it) and ReLU to the last axis."""
    parts = list(layers.children())
    for part, after in itertools.zip_longest(parts, parts[1:]):
        if isinstance(part, nn.ReLU):
            x = functional.relu(x)
        elif isinstance(part, nn.Linear):
            weight: Tensor = part.weight
            bias: Tensor = part.bias
            if isinstance(after, nn.BatchNorm1d):
                assert after.running_mean is not None
                assert after.running_var is not None
                factor = after.weight / torch.sqrt(after.running_var + after.eps)
                weight, bias = weight * factor[:, None], (bias - after.running_mean) * factor + after.bias
            x = functional.linear(x, weight, bias)
    return x


@dataclass(frozen=True)
class Place:
    """Where to evaluate: the size of the whole map, int64 (2,), and which of its rows and columns, int64 (R,), (W,)."""

    size: Tensor
    rows: Tensor
    columns: Tensor

    @property
    def axes(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Index and count, as floats, of rows and of columns."""
        height, width = self.size.float().unbind()
        return (self.rows.float(), height), (self.columns.float(), width)


def _between(index: Tensor, count: Tensor, side: int) -> Tensor:
    """Weights (P, side) of bilinear interpolation from `side` values to positions of a map of `count`."""
    source = ((index + 0.5) * (side / count) - 0.5).clamp(0, side - 1)
    return (1 - (source[:, None] - torch.arange(side)).abs()).clamp(min=0)


def _enlarged(maps: Tensor, place: Place) -> Tensor:
    """Interpolate (N, h, w, C) at a place -> (N, R, W, C)."""
    (rows, height), (columns, width) = place.axes
    down, across = _between(rows, height, maps.shape[1]), _between(columns, width, maps.shape[2])
    lines = torch.unflatten(down @ maps.flatten(2), 2, maps.shape[2:])  # (N, R, w, C)
    return across @ lines


class _SegField(nn.Module):
    """The logit at any position: a coarse one with 256 channels of context, and a fine one made from them."""

    def __init__(self, upscaled: int, width: int) -> None:
        super().__init__()
        place = width + 3 * (2 * _FREQUENCIES + 1)
        wide = 256
        self.seg_net = nn.ModuleList(
            [
                nn.Sequential(*_perceptron(upscaled + place, 4 * wide, 2 * wide)),
                nn.Sequential(*_perceptron(wide + upscaled + place, wide, wide)),
                nn.ModuleList([nn.Sequential(nn.Linear(2 * wide, wide + 1))]),
                nn.ModuleList([nn.Sequential(*_perceptron(wide, wide // 2), nn.Linear(wide // 2, 1))]),
            ]
        )

    @staticmethod
    def waves(place: Place) -> Tensor:
        """Sines and cosines of z (always -1), y and x, and those three: (R, W, 63).

        The last bit of a coordinate is 4e-4 of the fastest wave and 2e-4 of a logit: y and x, -1 to 1 from the first
        pixel to the last, count from the nearer end, as PyTorch's ``linspace`` does.
        """
        (rows, height), (columns, width) = place.axes
        y, x = _spaced(rows, height)[:, None], _spaced(columns, width)[None]
        places = [one[..., None] for one in (-torch.ones(1, 1), y, x)]
        powers = 2 ** torch.linspace(0, _FREQUENCIES, _FREQUENCIES)
        angles = [2 * torch.pi * one * powers for one in places]
        parts = [torch.sin(one) for one in angles] + [torch.sin(one + torch.pi / 2) for one in angles] + places
        return torch.cat([one.expand(y.shape[0], x.shape[1], -1) for one in parts], dim=-1)

    def forward(self, upscaled: Tensor, grid: Tensor, place: Place) -> Tensor:
        """Evaluate (N, h, w, C) with positions (1, h', w', C') at a place -> coarse and fine logits (N, 2, R, W)."""
        first, second, coarse_head, fine_head = self.seg_net
        assert isinstance(coarse_head, nn.ModuleList)
        assert isinstance(fine_head, nn.ModuleList)
        pixels = _enlarged(upscaled, place)
        where = torch.cat([_enlarged(grid, place), self.waves(place)[None]], dim=-1)
        inputs = torch.cat([pixels, where.expand(pixels.shape[0], -1, -1, -1)], dim=-1)
        coarse = _through(coarse_head[0], _through(first, inputs))
        fine = _through(fine_head[0], _through(second, torch.cat([inputs, coarse[..., 1:]], dim=-1)))
        return torch.stack([coarse[..., 0], fine[..., 0]], dim=1)


def _spaced(index: Tensor, count: Tensor) -> Tensor:
    """Positions of -1 to 1, ends included, by index; -1 alone where there is one."""
    step = 2 / (count - 1).clamp(min=1)
    return torch.where(index < count / 2, index * step - 1, 1 - (count - 1 - index) * step)


class ImplicitDecoder(MaskDecoder):
    """SAM's decoder, whose pixels are read by a function of position; its predicted IoU means nothing here."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.seg_field = _SegField(width // 8, width)

    def evaluate(self, image: Tensor, prompt: Tensor, grid: Tensor, place: Place) -> Tensor:
        """Decode (1, C, h, w) with tokens (N, T, C) at `grid` (h * w, C) -> coarse and fine logits (N, 2, R, W)."""
        shape = image.shape[-2:]
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(prompt.shape[0], -1, -1), prompt], dim=1)
        _, pixels = self.transformer(tokens, pixels_of(image), grid)
        maps = self.output_upscaling(torch.unflatten(pixels.transpose(1, 2), 2, shape)).permute(0, 2, 3, 1)
        logits: Tensor = self.seg_field(maps, torch.unflatten(grid[None], 1, shape), place)
        return logits


def imedsam(size: VitSize = SIZE) -> Sam:
    """The model, with the parameter names that `combine` gives."""
    return Sam(SpectrumVit(size), _prompt_encoder(size), ImplicitDecoder(size.outputs))


def _prompt_encoder(size: VitSize) -> PromptEncoder:
    return PromptEncoder(size.outputs, embedding_size=(size.grid,) * 2, input_size=(size.image,) * 2)


class Trained(nn.Module):
    """What the published file holds, under its names: additions to SAM's encoder, prompt encoder and decoder."""

    def __init__(self, size: VitSize = SIZE) -> None:
        super().__init__()
        self.size = size
        self.image_encoder = nn.Module()
        self.image_encoder.blocks = nn.ModuleList(
            nn.ModuleDict({"freq_adapter": _Adapter(size.width), "freq_norm": nn.LayerNorm(size.width, _EPS)})
            for _ in range(size.depth)
        )
        self.prompt_encoder = _prompt_encoder(size)
        self.mask_decoder = ImplicitDecoder(size.outputs)
        for index in range(2 * size.depth):
            self.register_parameter(f"w_a_{index:03d}", nn.Parameter(torch.zeros(_RANK, size.width)))
            self.register_parameter(f"w_b_{index:03d}", nn.Parameter(torch.zeros(size.width, _RANK)))
        for index in range(size.depth):
            self.register_parameter(f"w_g_{index:03d}", nn.Parameter(torch.zeros(1, size.width)))


def combine(sam: Mapping[str, Tensor], trained: Mapping[str, Tensor], size: VitSize = SIZE) -> dict[str, Tensor]:
    """Put SAM's image encoder, resized to the smaller input, and what was trained on top of it into one state dict."""
    weights = {name: value for name, value in sam.items() if name.startswith("image_encoder.")}
    weights |= {name: value for name, value in trained.items() if not name.startswith("w_")}
    for index in range(size.depth):
        attention = f"image_encoder.blocks.{index}.attn"
        for place, part in enumerate(("lora_q", "lora_v")):
            weights[f"{attention}.{part}.a.weight"] = trained[f"w_a_{2 * index + place:03d}"]
            weights[f"{attention}.{part}.b.weight"] = trained[f"w_b_{2 * index + place:03d}"]
        weights[f"{attention}.gate.weight"] = trained[f"w_g_{index:03d}"]
    places = weights["image_encoder.pos_embed"].permute(0, 3, 1, 2)
    weights["image_encoder.pos_embed"] = _resized(places, size.grid, size.grid).permute(0, 2, 3, 1)
    for index, axis in itertools.product(size.global_blocks, "hw"):
        name = f"image_encoder.blocks.{index}.attn.rel_pos_{axis}"
        offsets = weights[name]
        weights[name] = _resized(offsets[None, None], 2 * size.grid - 1, offsets.shape[1])[0, 0]
    return weights


def _resized(maps: Tensor, rows: int, columns: int) -> Tensor:
    return functional.interpolate(maps, size=(rows, columns), mode="bilinear", align_corners=False)
