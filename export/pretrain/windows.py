"""The decoder with its windows sampled in the way that inference engines run fastest.

The numbers are those of `export.pretrain.model.Decoder`, but for the last bits. Windows are aligned with the image, so
that bilinear sampling is a product with one sparse matrix for the rows and one for the columns; written as dense
products it takes half the time of GridSample and of the transpositions around it. Few channels at many points are
sampled faster by GridSample; there it is the grid that costs, so that the grid is made by operations over whole rows.
Figures: docs/adr/0009-what-made-it-faster.md.

Knows torch and the geometry of windows. Must not know files or training.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from export.pretrain.config import ModelConfig
from export.pretrain.model import OUTSIDE, Decoder

__all__ = ["ExportDecoder"]

_PLANE_GRID = 64
_WINDOW = 128


class ExportDecoder(Decoder):
    """`Decoder` for one image and N windows; same weights, same answers."""

    def __init__(self, config: ModelConfig) -> None:
        """Allocate the decoder and the constants of its grids."""
        super().__init__(config)
        size = config.input_size
        for cells in {size // 4, size // 8, size // 16}:
            self.register_buffer(f"places_{cells}", torch.arange(cells, dtype=torch.float32), persistent=False)
        columns = torch.tensor([1.0, 0.0]).repeat(size)  # x, y, x, y ... along a row of the grid
        self.register_buffer("at_x", columns, persistent=False)
        self.register_buffer("at_y", 1 - columns, persistent=False)
        lattice: Tensor = self.geometry.get_buffer(f"lattice_{_WINDOW}")  # (2, 128, 128)
        phases = F.pixel_unshuffle(lattice[:, None], 2)  # (2, 4, 64, 64): even and odd rows and columns apart
        self.register_buffer("phases", phases.permute(1, 2, 3, 0).reshape(-1, _PLANE_GRID, 2), persistent=False)

    def _sample(self, level: Tensor, cells: int, centre: Tensor, half: Tensor) -> Tensor:
        """Sample N windows of one level: (1, C, h, w) -> (N, C, cells, cells), zeros beyond the image."""
        side = level.shape[-1]
        lattice: Tensor = self.geometry.get_buffer(f"lattice_{cells}")
        axis = lattice[0, 0]
        at = (centre[:, :, None] + 0.5 + half[:, :, None] * axis) * (side / self.geometry.size) - 0.5  # (N, 2, cells)
        places: Tensor = self.get_buffer(f"places_{side}")
        weights = torch.relu(1.0 - (at[:, :, :, None] - places).abs())  # (N, 2, cells, side)
        columns, rows = weights[:, 0:1], weights[:, 1:2]
        return torch.matmul(rows, torch.matmul(level, columns.transpose(2, 3)))

    def _planes(self, pixels: Tensor, centre: Tensor, half: Tensor) -> Tensor:
        """Sample N windows of one image at 128 and take them apart: (1, 3, S, S) -> (N, 12, 64, 64)."""
        middle = (centre + 0.5) * (2.0 / self.geometry.size) - 1.0
        reach = half * (2.0 / self.geometry.size)
        phases: Tensor = self.get_buffer("phases")  # (4 * 64, 64, 2)
        grid = middle[:, None, None, :] + reach[:, None, None, :] * phases
        sampled = F.grid_sample(pixels, grid.reshape(1, -1, _PLANE_GRID, 2), align_corners=False)
        planes = sampled.reshape(3, -1, 4, _PLANE_GRID, _PLANE_GRID).transpose(0, 1)  # (N, 3, 4, 64, 64)
        return planes.reshape(-1, 12, _PLANE_GRID, _PLANE_GRID)

    def paste(self, logits: Tensor, boxes: Tensor) -> Tensor:
        """Window logits (N, C, 128, 128) -> (N, C, S, S), ``OUTSIDE`` beyond the window."""
        centre, _, half = self.geometry.window(boxes)
        size = self.geometry.size
        full: Tensor = self.geometry.get_buffer("axis_full")
        xy = (full[None, :, None] - centre[:, None, :]) / half[:, None, :]  # (N, S, 2)
        inside = (xy.abs() <= 1.0).to(xy.dtype)
        row = xy.reshape(-1, 1, 2 * size) * self.get_buffer("at_x")
        grid = (row + xy[:, :, 1:2] * self.get_buffer("at_y")).reshape(-1, size, size, 2)
        window = (inside[:, None, :, 0] * inside[:, :, None, 1])[:, None]  # (N, 1, S, S)
        pasted = F.grid_sample(logits, grid, padding_mode="border", align_corners=False)
        return pasted * window + OUTSIDE * (1.0 - window)
