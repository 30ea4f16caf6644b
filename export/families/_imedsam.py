"""I-MedSAM: SAM ViT-B at 384 pixels with a spectrum beside the image, and a decoder that is a function of position.

Two checkpoints make one model: SAM's, and one with what was trained on top of it. Parameter names are those of the
published code once `combine` has put both together. Knows torch only.

The low-rank additions to queries and values cannot be added to the weights: a gate that depends on the patches of the
window multiplies them. At inference the published code refines an eighth of the points, chosen by a variance that is
always zero, so by the order in which a library sorts equal numbers. Here every point has a coarse and a fine logit.

References: Wei et al., I-MedSAM: Implicit Medical Image Segmentation with Segment Anything, ECCV 2024;
Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.families._sam import MaskDecoder, PromptEncoder, Sam
from export.families._vit import Attention, Block, Vit, VitSize

__all__ = ["ImplicitDecoder", "SpectrumVit", "combine", "imedsam"]

SIZE = VitSize(image=384)
_EPS = 1e-6
_RANK = 4
_FREQUENCIES = 10
_POINTS = 1 << 15
"""How many points of a mask are computed at once."""


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
    """Apply layers that want (points, C) to (N, P, C)."""
    output: Tensor = layers(x.flatten(0, 1))
    return torch.unflatten(output, 0, x.shape[:2])


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
    def waves(rows: int, columns: int) -> Tensor:
        """Sines and cosines of z (always -1), y and x, and those three: (rows, columns, 63).

        The last bit of a coordinate is 4e-4 of the fastest wave and 2e-4 of a logit.
        """
        y, x = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij")
        zyx = torch.stack([-torch.ones_like(x), y, x], dim=-1)
        powers = 2 ** torch.linspace(0, _FREQUENCIES, _FREQUENCIES)
        angles = ((2 * torch.pi * zyx)[..., None] * powers).flatten(2)
        return torch.cat([torch.sin(torch.cat([angles, angles + torch.pi / 2], dim=-1)), zyx], dim=-1)

    def forward(self, upscaled: Tensor, grid: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Evaluate (N, C, h, w) with positions (1, C', h', w') at `size` -> coarse and fine logits (N, 1, H, W)."""
        rows, columns = size
        maps = [
            functional.interpolate(one, size=size, mode="bilinear", align_corners=False) for one in (upscaled, grid)
        ]
        pixels, places = (one.flatten(2).transpose(1, 2) for one in maps)
        places = torch.cat([places, self.waves(rows, columns).reshape(1, rows * columns, -1)], dim=-1)
        parts = [
            self._points(some, where)
            for some, where in zip(torch.split(pixels, _POINTS, 1), torch.split(places, _POINTS, 1), strict=True)
        ]
        coarse, fine = (torch.cat(logits, dim=1) for logits in zip(*parts, strict=True))
        return coarse.reshape(-1, 1, rows, columns), fine.reshape(-1, 1, rows, columns)

    def _points(self, pixels: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate (N, P, C) at the points (1, P, C') -> coarse and fine logits (N, P, 1)."""
        first, second, coarse_head, fine_head = self.seg_net
        assert isinstance(coarse_head, nn.ModuleList)
        assert isinstance(fine_head, nn.ModuleList)
        inputs = torch.cat([pixels, places.expand(pixels.shape[0], -1, -1)], dim=-1)
        coarse = _through(coarse_head[0], _through(first, inputs))
        fine = _through(fine_head[0], _through(second, torch.cat([inputs, coarse[..., 1:]], dim=-1)))
        return coarse[..., :1], fine


class ImplicitDecoder(MaskDecoder):
    """SAM's decoder, whose pixels are read by a function of position; its predicted IoU means nothing here."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.seg_field = _SegField(width // 8, width)

    def evaluate(self, image: Tensor, prompt: Tensor, grid: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Decode (1, C, h, w) with tokens (N, T, C) at `grid` (h * w, C) -> coarse and fine logits (N, 1, H, W)."""
        shape = image.shape[-2:]
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(prompt.shape[0], -1, -1), prompt], dim=1)
        _, pixels = self.transformer(tokens, image.permute(0, 2, 3, 1).flatten(1, 2), grid)
        upscaled = self.output_upscaling(torch.unflatten(pixels.transpose(1, 2), 2, shape))
        coarse, fine = self.seg_field(upscaled, torch.unflatten(grid.T[None], 2, shape), size)
        return coarse, fine


def imedsam() -> Sam:
    """The model, with the parameter names that `combine` gives."""
    prompts = PromptEncoder(256, embedding_size=(SIZE.grid,) * 2, input_size=(SIZE.image,) * 2)
    return Sam(SpectrumVit(SIZE), prompts, ImplicitDecoder(256))


def combine(sam: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put SAM's image encoder, resized to 384 pixels, and what was trained on top of it into one state dict."""
    weights = {name: value for name, value in sam.items() if name.startswith("image_encoder.")}
    weights |= {name: value for name, value in trained.items() if not name.startswith("w_")}
    for index in range(SIZE.depth):
        attention = f"image_encoder.blocks.{index}.attn"
        for place, part in enumerate(("lora_q", "lora_v")):
            weights[f"{attention}.{part}.a.weight"] = trained[f"w_a_{2 * index + place:03d}"]
            weights[f"{attention}.{part}.b.weight"] = trained[f"w_b_{2 * index + place:03d}"]
        weights[f"{attention}.gate.weight"] = trained[f"w_g_{index:03d}"]
    places = weights["image_encoder.pos_embed"].permute(0, 3, 1, 2)
    weights["image_encoder.pos_embed"] = _resized(places, SIZE.grid, SIZE.grid).permute(0, 2, 3, 1)
    for index, axis in itertools.product(SIZE.global_blocks, "hw"):
        name = f"image_encoder.blocks.{index}.attn.rel_pos_{axis}"
        offsets = weights[name]
        weights[name] = _resized(offsets[None, None], 2 * SIZE.grid - 1, offsets.shape[1])[0, 0]
    return weights


def _resized(maps: Tensor, rows: int, columns: int) -> Tensor:
    return functional.interpolate(maps, size=(rows, columns), mode="bilinear", align_corners=False)
