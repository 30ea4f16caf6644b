"""The network: convolutional encoder, and a decoder that works in a window around the box.

Knows tensors only. One tensor contract is shared with the exported graphs (see ``graphs.py``): boxes xyxy in the
input frame, integers are pixel centres, both ends inclusive. Must not know prompts' origin, losses or files.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from export.pretrain.config import ModelConfig

__all__ = ["OUTSIDE", "Block", "ConvBnRelu", "Decoder", "Encoder", "Network", "PromptTensors"]

OUTSIDE = -12.0  # logit outside the window
_GRIDS = (64, 32, 16)  # window grids of strides 4, 8, 16
_IMAGE_GRID = 128
_CLICK_SIGMA = 0.08  # in window half-sizes
_PROMPT_CHANNELS = 10
_ALTERNATIVE_PRICE = 0.03
_IMAGE_CHANNELS = 12  # the window of 128 as four planes of 64 a colour


class ConvBnRelu(nn.Module):
    """3x3 convolution, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        """Allocate the layer."""
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H/stride, W/stride)."""
        return F.relu(self.norm(self.conv(x)), inplace=True)


class Block(nn.Module):
    """relu(BN(conv3x3(x)) + x): one convolution after folding."""

    def __init__(self, channels: int) -> None:
        """Allocate the layer."""
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return F.relu(self.norm(self.conv(x)).add_(x), inplace=True)


class Encoder(nn.Module):
    """Image (B, 3, S, S) in 0..1 -> embeddings at strides 4, 8 and 16."""

    def __init__(self, config: ModelConfig) -> None:
        """Allocate the stages."""
        super().__init__()
        inputs = 3
        stages = []
        for width, depth in zip(config.widths, config.blocks, strict=True):
            stages.append(nn.Sequential(ConvBnRelu(inputs, width, 2), *[Block(width) for _ in range(depth)]))
            inputs = width
        self.stages = nn.ModuleList(stages)
        w4, w8, w16, w32 = config.widths[1:]
        self.top_down = nn.Conv2d(w32, w16, 1)
        self.mix = ConvBnRelu(w16, w16)
        self.necks = nn.ModuleList([nn.Conv2d(w, e, 1) for w, e in zip((w4, w8, w16), config.embedding, strict=True)])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return level_4 (B, E4, S/4, S/4), level_8 and level_16."""
        x = image
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        _, s4, s8, s16, s32 = levels
        s16 = self.mix(s16 + F.interpolate(self.top_down(s32), scale_factor=2.0, mode="nearest"))
        return self.necks[0](s4), self.necks[1](s8), self.necks[2](s16)


class PromptTensors(nn.Module):
    """Geometry of the window and the prompt channels on its 64 grid; no weights."""

    def __init__(self, size: int) -> None:
        """Remember the input size; lattices hold x and y of a window's cell centres, -1..1."""
        super().__init__()
        self.size = size
        for cells in (*_GRIDS, _IMAGE_GRID):
            axis = (torch.arange(cells) + 0.5) * (2.0 / cells) - 1.0
            y, x = torch.meshgrid(axis, axis, indexing="ij")
            self.register_buffer(f"lattice_{cells}", torch.stack([x, y]), persistent=False)  # (2, cells, cells)
        self.register_buffer("axis_full", torch.arange(size, dtype=torch.float32), persistent=False)
        self.register_buffer("no_offset", torch.zeros(size), persistent=False)

    def _lattice(self, cells: int) -> Tensor:
        lattice: Tensor = getattr(self, f"lattice_{cells}")
        return lattice

    @staticmethod
    def window(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (N, 4) -> centre (N, 2), half box (N, 2) and half window (N, 2), in pixels."""
        low, high = boxes[:, :2], boxes[:, 2:]
        centre = (low + high) * 0.5
        half_box = torch.clamp((high - low + 1.0) * 0.5, min=0.5)
        return centre, half_box, torch.clamp(half_box * 1.25 + 4.0, min=12.0)

    def grid(self, cells: int, centre: Tensor, half: Tensor) -> Tensor:
        """Sampling grid (N, cells, cells, 2) of the window for ``grid_sample`` without aligned corners."""
        middle = (centre + 0.5) * (2.0 / self.size) - 1.0
        reach = half * (2.0 / self.size)
        lattice = self._lattice(cells).permute(1, 2, 0)
        return middle[:, None, None, :] + reach[:, None, None, :] * lattice

    def paste_grid(self, centre: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
        """Grid (N, S, S, 2) that brings window logits to the input frame, and where it is inside, (N, 1, S, S)."""
        full: Tensor = self.axis_full  # type: ignore[assignment]
        none: Tensor = self.no_offset  # type: ignore[assignment]
        uv = (full[None, :, None] - centre[:, None, :]) / half[:, None, :]  # (N, S, 2)
        inside = (uv.abs() <= 1.0).to(uv.dtype)
        u = uv[:, None, :, 0:1] + none[:, None, None]  # broadcast: one addition in the graph instead of an Expand
        v = uv[:, :, None, 1:2] + none[:, None]
        return torch.cat([u, v], 3), (inside[:, None, :, 0] * inside[:, :, None, 1])[:, None]

    def channels(
        self, boxes: Tensor, points: Tensor | None, point_labels: Tensor | None, masks: Tensor, has_mask: Tensor
    ) -> Tensor:
        """Ten prompt channels (N, 10, 64, 64): inside, x, y, ellipse, two log sizes, two masks, clicks + and -.

        ``has_mask`` (N,) says whose ``masks`` are: 0 nobody's, 1 an earlier answer on this image, 2 the answer on the
        neighbouring slice. The first is right but for its errors, the second is a hint; each has its own channel.
        """
        centre, half_box, half = self.window(boxes)
        lattice = self._lattice(_GRIDS[0])
        offset = half[:, :, None, None] * lattice  # (N, 2, 64, 64) pixels from the centre
        reach = half_box[:, :, None, None]
        soft = torch.sigmoid((reach - offset.abs()) * 2.0)
        inside = soft[:, 0:1] * soft[:, 1:2]
        relative = torch.clamp(offset / reach, -2.0, 2.0)
        ellipse = torch.sqrt((relative * relative).sum(1, keepdim=True) + 1e-6) - 1.0
        sizes = torch.log(reach * (1 / 32.0)) + lattice * 0.0
        grid = self.grid(_GRIDS[0], centre, half)
        earlier = F.grid_sample(masks, grid, padding_mode="border", align_corners=False)
        earlier = torch.tanh(earlier * 0.5)
        flag = has_mask[:, None, None, None]
        own = earlier * ((flag > 0.5) & (flag < 1.5)).to(earlier.dtype)
        neighbour = earlier * (flag > 1.5).to(earlier.dtype)
        clicks = self._clicks(centre, half, points, point_labels)
        return torch.cat([inside, relative, ellipse, sizes, own, neighbour, clicks], 1)

    def _clicks(self, centre: Tensor, half: Tensor, points: Tensor | None, point_labels: Tensor | None) -> Tensor:
        """Positive and negative clicks as spots (N, 2, 64, 64); nothing where there are no points."""
        if points is None or point_labels is None:
            return centre.new_zeros(centre.shape[0], 2, _GRIDS[0], _GRIDS[0])
        where = (points - centre[:, None, :]) / half[:, None, :]  # (N, P, 2)
        axis = self._lattice(_GRIDS[0])[0, 0]  # cell centres, the same for rows and columns
        near = torch.exp((where[:, :, None, :] - axis[None, None, :, None]) ** 2 * (-0.5 / _CLICK_SIGMA**2))
        spots = near[:, :, None, :, 0] * near[:, :, :, None, 1]  # (N, P, 64, 64)
        positive = (spots * (point_labels > 0.5).to(spots.dtype)[:, :, None, None]).amax(1, keepdim=True)
        negative = (spots * (point_labels.abs() < 0.5).to(spots.dtype)[:, :, None, None]).amax(1, keepdim=True)
        return torch.cat([positive, negative], 1)


class Decoder(nn.Module):
    """Embedding and prompts -> window logits and scores; ``paste`` brings the logits to the input frame."""

    def __init__(self, config: ModelConfig) -> None:
        """Allocate three levels, coarse to fine, and two heads."""
        super().__init__()
        c4, c8, c16 = config.embedding
        self.candidates = config.candidates
        self.geometry = PromptTensors(config.input_size)
        price = torch.full((1, config.candidates), _ALTERNATIVE_PRICE)
        price[:, 0] = 0
        self.register_buffer("price", price, persistent=False)
        self.images = 2 if config.reference else 1
        self.prompt_64 = nn.Conv2d(_PROMPT_CHANNELS + self.images * _IMAGE_CHANNELS, c4, 3, 1, 1)
        self.prompt_32 = nn.Conv2d(_PROMPT_CHANNELS, c8, 3, 1, 1)
        self.prompt_16 = nn.Conv2d(_PROMPT_CHANNELS, c16, 3, 1, 1)
        self.body_64 = nn.Sequential(ConvBnRelu(c4, c4), Block(c4))
        self.body_32 = nn.Sequential(ConvBnRelu(c8, c8), Block(c8))
        self.body_16 = nn.Sequential(ConvBnRelu(c16, c16), Block(c16))
        self.film = nn.Linear(c16, 2 * c16)
        self.up_32 = nn.Conv2d(c16, c8, 1)
        self.up_64 = nn.Conv2d(c8, c4, 1)
        self.head = nn.Conv2d(c4, 4 * self.candidates, 3, 1, 1)
        self.score = nn.Sequential(nn.Linear(c4 + c8 + c16, 64), nn.ReLU(), nn.Linear(64, self.candidates))

    def _sample(self, level: Tensor, cells: int, centre: Tensor, half: Tensor) -> Tensor:
        """Sample each image at its prompts: (B, C, h, w) and N = B * P windows -> (N, C, cells, cells)."""
        batch, channels = level.shape[0], level.shape[1]
        grid = self.geometry.grid(cells, centre, half).reshape(batch, -1, cells, 2)  # windows under each other
        windows = F.grid_sample(level.float(), grid, padding_mode="zeros", align_corners=False)
        windows = windows.reshape(batch, channels, -1, cells, cells).permute(0, 2, 3, 4, 1)
        windows = windows.to(level.dtype).reshape(-1, cells, cells, channels)  # one copy for the type and the order
        return windows.permute(0, 3, 1, 2)

    def _planes(self, pixels: Tensor, centre: Tensor, half: Tensor) -> Tensor:
        """Sample each image's windows at 128 and take them apart: (B, 3, S, S) -> (N, 12, 64, 64)."""
        return F.pixel_unshuffle(self._sample(pixels, _IMAGE_GRID, centre, half), 2)

    def _look(self, fine: Tensor, seen: list[Tensor]) -> Tensor:
        """First convolution on prompt channels and images; an image that is not there adds nothing."""
        planes = torch.cat([fine, *seen], 1)
        if len(seen) == self.images:
            found: Tensor = self.prompt_64(planes)
            return found
        return F.conv2d(planes, self.prompt_64.weight[:, : planes.shape[1]], self.prompt_64.bias, padding=1)

    def forward(
        self,
        levels: tuple[Tensor, Tensor, Tensor],
        pixels: Tensor,
        boxes: Tensor,
        prompt: Tensor,
        before: Tensor | None = None,
        has_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Levels and pixels (0..1) of B images, N = B * P boxes and prompts -> logits (N, C, 128, 128), scores.

        ``before`` holds the pixels of the neighbouring slices; it counts where ``has_mask`` (N,) is 2.
        """
        centre, _, half = self.geometry.window(boxes)
        seen = [self._planes(pixels, centre, half)]
        if before is not None and has_mask is not None:
            neighbour = self._planes(before, centre, half)
            seen.append(neighbour * (has_mask > 1.5).to(neighbour.dtype)[:, None, None, None])
        prompt_32 = F.avg_pool2d(prompt, 2)
        x = self._sample(levels[2], 16, centre, half)
        x = F.relu(x + self.prompt_16(F.avg_pool2d(prompt_32, 2)))
        x = self.body_16(x)
        scale, shift = self.film(x.mean((2, 3))).chunk(2, 1)
        x16 = F.relu(x * (1 + scale[:, :, None, None]) + shift[:, :, None, None])
        x = self._sample(levels[1], 32, centre, half)
        x32 = self.body_32(F.relu(x + self.prompt_32(prompt_32) + _double(self.up_32(x16))))
        x = self._sample(levels[0], 64, centre, half)
        fine = self._look(prompt, seen)
        x64 = self.body_64(F.relu(x + fine + _double(self.up_64(x32))))
        logits = F.pixel_shuffle(self.head(x64), 2).float()
        pooled = torch.cat([x64.mean((2, 3)), x32.mean((2, 3)), x16.mean((2, 3))], 1)
        return logits, torch.sigmoid(self.score(pooled).float())

    def ranked(self, scores: Tensor) -> Tensor:
        """Scores (N, C) by which answers are chosen: candidate 0 stands unless another is clearly better."""
        price: Tensor = self.price  # type: ignore[assignment]
        return scores - price

    def paste(self, logits: Tensor, boxes: Tensor) -> Tensor:
        """Window logits (N, C, 128, 128) -> (N, C, S, S), ``OUTSIDE`` beyond the window."""
        centre, _, half = self.geometry.window(boxes)
        grid, inside = self.geometry.paste_grid(centre, half)
        pasted = F.grid_sample(logits, grid, padding_mode="border", align_corners=False)
        return pasted * inside + OUTSIDE * (1.0 - inside)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Network(nn.Module):
    """Encoder and decoder that are trained together."""

    def __init__(self, config: ModelConfig) -> None:
        """Allocate both halves."""
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def take_over(self, weights: dict[str, Tensor]) -> None:
        """Load the weights of a network of this shape, or of one whose decoder sees no neighbouring slice."""
        name = "decoder.prompt_64.weight"
        given, own = weights[name], self.decoder.prompt_64.weight
        widened = torch.zeros_like(own)
        widened[:, : given.shape[1]] = given
        self.load_state_dict({**weights, name: widened})
