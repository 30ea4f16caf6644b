"""The frozen values that travel through lite-infer: prompts in, embeddings and predictions out.

Knows numpy and the error tree; knows no file, no graph and no backend. Arrays inside these values are
not copied: treat them as read-only.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from runtime.errors import PromptError

__all__ = ["Box", "Embedding", "Point", "Prediction", "SliceResult", "whole"]


def _finite(values: tuple[float, ...], what: str) -> None:
    if not all(math.isfinite(value) for value in values):
        msg = f"{what} {values}: every coordinate must be a finite number; remove NaN and infinity"
        raise PromptError(msg)


def whole(value: object, what: str) -> int:
    """Python's int for a whole number of any integer type; PromptError for anything else."""
    try:
        if isinstance(value, bool) or not isinstance(value, SupportsIndex):
            raise TypeError
        return operator.index(value)
    except TypeError as error:
        msg = f"{what} {value!r}: wanted a whole number"
        raise PromptError(msg) from error


@dataclass(frozen=True, slots=True)
class Box:
    """A box prompt.

    Parameters
    ----------
    xyxy : tuple of 4 or 6 float
        ``(x0, y0, x1, y1)`` on one slice or ``(x0, y0, z0, x1, y1, z1)`` in a volume; voxel indices in
        file order, 0-based, both ends inclusive (x = i = column, y = j = row, z = k). On a slice along
        another axis than k the four numbers belong to the two remaining axes in ascending order.
    slice_index : int, optional
        The slice of a 4-number box in a volume. Default: the middle slice.
    name : str, optional
        Name of the object. Boxes of one name on different slices are prompts of one object.

    Raises
    ------
    PromptError
        If there are not 4 or 6 finite numbers, an upper end lies below its lower end, or the slice index is
        not a whole number.

    Examples
    --------
    >>> Box((10, 20, 80, 90), slice_index=40, name="liver").is_3d
    False
    """

    xyxy: tuple[float, ...]
    slice_index: int | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        try:
            values = tuple(float(value) for value in self.xyxy)
        except (TypeError, ValueError, OverflowError) as error:
            msg = f"box {self.xyxy!r}: wanted 4 or 6 numbers"
            raise PromptError(msg) from error
        if len(values) not in (4, 6):
            msg = (
                f"box with {len(values)} numbers: wanted 4 (x0,y0,x1,y1 on one slice) "
                "or 6 (x0,y0,z0,x1,y1,z1 in a volume)"
            )
            raise PromptError(msg)
        _finite(values, "box")
        half = len(values) // 2
        for axis, (low, high) in enumerate(zip(values[:half], values[half:], strict=True)):
            if high < low:
                name = "xyz"[axis]
                msg = f"box {values}: {name}1 = {high:g} lies below {name}0 = {low:g}; give the smaller end first"
                raise PromptError(msg)
        if self.slice_index is not None:
            if len(values) == 6:
                msg = "a box of 6 numbers spans slices already; leave slice_index out or give 4 numbers"
                raise PromptError(msg)
            object.__setattr__(self, "slice_index", whole(self.slice_index, "slice_index"))
        object.__setattr__(self, "xyxy", values)

    @property
    def is_3d(self) -> bool:
        """Whether the box has 6 numbers."""
        return len(self.xyxy) == 6


@dataclass(frozen=True, slots=True)
class Point:
    """A click on the object (positive) or beside it (negative).

    Parameters
    ----------
    xy : tuple of 2 or 3 float
        ``(x, y)`` on one slice or ``(x, y, z)`` in a volume, voxel indices in file order, 0-based.
    positive : bool
        Whether the point lies on the object.
    slice_index : int, optional
        The slice of a 2-number point in a volume. Default: the slice of the object's box.
    name : str, optional
        The object that the point belongs to. May be left out where there is one object.

    Raises
    ------
    PromptError
        If there are not 2 or 3 finite numbers, or the slice index is not a whole number.

    Examples
    --------
    >>> Point((12, 30), positive=False).xy
    (12.0, 30.0)
    """

    xy: tuple[float, ...]
    positive: bool = True
    slice_index: int | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        try:
            values = tuple(float(value) for value in self.xy)
        except (TypeError, ValueError, OverflowError) as error:
            msg = f"point {self.xy!r}: wanted 2 or 3 numbers"
            raise PromptError(msg) from error
        if len(values) not in (2, 3):
            msg = f"point with {len(values)} numbers: wanted 2 (x,y) or 3 (x,y,z)"
            raise PromptError(msg)
        _finite(values, "point")
        if self.slice_index is not None:
            if len(values) == 3:
                msg = "a point of 3 numbers has its slice already; leave slice_index out or give 2 numbers"
                raise PromptError(msg)
            object.__setattr__(self, "slice_index", whole(self.slice_index, "slice_index"))
        object.__setattr__(self, "xy", values)


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """What the encoder made of one image; the input of every decode of that image.

    Attributes
    ----------
    tensors : mapping of str to ndarray
        The encoder's outputs by name, in the dtype they are stored in. The arrays are read-only.
    original_size : tuple of int
        (H, W) of the image, in pixels.
    resized_size : tuple of int
        (h, w) of the resized image inside the encoder's input frame, before padding.
    graph_sha256 : str
        sha256 of the encoder graph that made it; a decoder of another bundle refuses it.
    pixels : ndarray of uint8, shape (H, W) or (H, W, 3), or None
        The image at its own size, read-only, where the bundle looks at what lies inside or around a box.
    """

    tensors: Mapping[str, NDArray[Any]]
    original_size: tuple[int, int]
    resized_size: tuple[int, int]
    graph_sha256: str
    pixels: NDArray[np.uint8] | None = None

    @property
    def nbytes(self) -> int:
        """Size of the tensors, and of the pixels where they are kept, in bytes."""
        kept = 0 if self.pixels is None else int(self.pixels.nbytes)
        return kept + sum(int(tensor.nbytes) for tensor in self.tensors.values())


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What the decoder made of N prompts on one image of H x W pixels.

    Attributes
    ----------
    low_res_logits : ndarray of float32, shape (N, h, w)
        Logits of the best candidate per prompt, unthresholded, in the encoder's input frame (padding
        included). May be given back as a mask prompt.
    masks : ndarray of bool, shape (N, H, W)
        The best mask per prompt at the size of the image.
    scores : ndarray of float32, shape (N,)
        Predicted IoU of ``masks``; NaN where the system has no IoU head.
    candidates : ndarray of bool, shape (N, C, H, W)
        All candidate masks, best first. C is 1 for most systems.
    candidate_scores : ndarray of float32, shape (N, C)
        Predicted IoU of the candidates, best first.
    boxes : ndarray of int64, shape (N, 4)
        Tight xyxy box of each mask, both ends inclusive; -1 where the mask is empty.
    areas : ndarray of int64, shape (N,)
        Pixels of each mask.
    """

    low_res_logits: NDArray[np.float32]
    masks: NDArray[np.bool_]
    scores: NDArray[np.float32]
    candidates: NDArray[np.bool_]
    candidate_scores: NDArray[np.float32]
    boxes: NDArray[np.int64]
    areas: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SliceResult:
    """What happened to one object on one slice.

    Attributes
    ----------
    slice_index : int
        Index along the slice axis, in file order.
    score : float
        Predicted IoU; NaN where the system has no IoU head.
    area : int
        Pixels of the mask that was kept on this slice.
    stop : str or None
        Why propagation ended at this slice (``empty``, ``score``, ``overlap``, ``area``), or None. A slice
        with a reason is the first one beyond the object: its mask was not kept.
    """

    slice_index: int
    score: float
    area: int
    stop: str | None = field(default=None)
