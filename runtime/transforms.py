"""Between an image and the model's input frame: pixels, coordinates and masks.

The only module that converts coordinates to or from the input frame. Follows ``docs/bundle-format.md``,
sections 2, 4 and 7. Knows manifests, arrays and kernels; knows no backend and no propagation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from runtime import _resize, kernels
from runtime.errors import BundleError, ImageError, PromptError
from runtime.manifest import Input, Manifest, Output

__all__ = [
    "Frame",
    "check_supported",
    "covered_cells",
    "encoder_input",
    "frame_of",
    "masks_from_logits",
    "resized_label_box",
    "spectrum",
]

_RESIZES = {
    "area_lanczos": _resize.enlarge_lanczos,
    "bilinear": _resize.resize_bilinear,
    "bilinear_antialias": _resize.resize_bilinear_antialias,
    "bicubic_antialias": _resize.resize_bicubic_antialias,
}


@dataclass(frozen=True, slots=True)
class Frame:
    """Where an image lies in the input frame.

    Attributes
    ----------
    original_size : tuple of int
        (H, W) of the image.
    resized_size : tuple of int
        (h, w) of the resized image, in the upper left corner of the input frame.
    input_size : tuple of int
        (rows, columns) of the input frame, padding included.
    scale_xy : tuple of float
        Factors from image to input-frame coordinates.
    truncate_boxes : bool
        Whether box coordinates are cut towards zero in the input frame.
    by_edges : bool
        Whether the outer edges of pixels are scaled rather than their centres.
    """

    original_size: tuple[int, int]
    resized_size: tuple[int, int]
    input_size: tuple[int, int]
    scale_xy: tuple[float, float]
    truncate_boxes: bool = False
    by_edges: bool = False

    def boxes_to_input(self, boxes: NDArray[Any], *, rounded: bool = True) -> NDArray[np.float32]:
        """Map boxes into the input frame.

        Parameters
        ----------
        boxes : ndarray, shape (N, 4)
            Image pixels, xyxy, both ends inclusive.
        rounded : bool
            False leaves out the rounding that the bundle asks for.

        Returns
        -------
        boxes_input : ndarray of float32, shape (N, 4)
            Input-frame pixels, xyxy, both ends inclusive.
        """
        corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        outwards = np.array([0.0, 0.0, 1.0, 1.0]) if self.by_edges else 0.0  # from the last pixel to its far edge
        scaled = (corners + outwards) * (self.scale_xy * 2) - outwards
        low, high = scaled[:, :2], scaled[:, 2:]  # views; a box of less than one pixel shrinks to its centre
        turned = high < low
        if turned.any():
            low[turned] = high[turned] = ((low + high) / 2)[turned]
        if self.truncate_boxes and rounded:
            scaled = np.trunc(scaled)
        return scaled.astype(np.float32)

    def points_to_input(self, points: NDArray[Any]) -> NDArray[np.float32]:
        """Map points, shape (..., 2) in xy image pixels, into the input frame (float32, same shape)."""
        half = 0.5 if self.by_edges else 0.0
        return ((np.asarray(points, dtype=np.float64) + half) * self.scale_xy - half).astype(np.float32)


def frame_of(manifest: Manifest, original_size: tuple[int, int]) -> Frame:
    """Frame of an image of H x W pixels under a bundle's resize rule.

    Parameters
    ----------
    manifest : Manifest
        The bundle's facts.
    original_size : tuple of int
        (H, W).

    Returns
    -------
    frame : Frame
        Sizes and coordinate factors.
    """
    height, width = original_size
    rows, columns = manifest.input.size
    box = manifest.prompts.box
    truncate = box is not None and box.rounding == "truncate"
    by_edges = manifest.input.coordinates == "edges"
    if manifest.input.resize == "stretch":
        scale = (columns / width, rows / height)
        return Frame(original_size, (rows, columns), (rows, columns), scale, truncate, by_edges)
    factor = rows / max(height, width)
    resized = (max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5)))
    scale = (factor, factor)
    if manifest.input.coordinates == "resized":
        scale = (resized[1] / width, resized[0] / height)
    return Frame(original_size, resized, (rows, columns), scale, truncate, by_edges)


def check_supported(manifest: Manifest) -> None:
    """Refuse a bundle that asks for something this version describes but does not do.

    Raises
    ------
    BundleError
        Naming everything that is missing.
    """
    missing = []
    if manifest.input.resize == "longest_side" and manifest.input.size[0] != manifest.input.size[1]:
        missing.append("input.size that is not square with the longest-side rule")
    prompts = manifest.prompts
    if not prompts.reads_boxes and not prompts.finds_alone:
        missing.append("prompts.points or prompts.mask without boxes for the decoder")
    if prompts.crops and (prompts.box is None or prompts.box.use != "required"):
        missing.append("prompts.crops without a required box")
    if manifest.output.implicit:
        other = {
            "input.resize longest_side": manifest.input.resize != "stretch",
            "output.upsample via_input": manifest.output.upsample != "direct",
            "prompts.mask of kind logits": prompts.mask is not None and prompts.mask.kind == "logits",
        }
        missing += [f"output.implicit with {what}" for what, found in other.items() if found]
    if missing:
        msg = (
            f"bundle {manifest.name!r} needs {'; '.join(missing)}, which this version of lite-infer does not "
            "do yet; use a newer version"
        )
        raise BundleError(msg)


def encoder_input(image: NDArray[np.uint8], spec: Input, frame: Frame) -> NDArray[np.float32]:
    """Make the encoder's input tensor from a uint8 image.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W) or (H, W, 3)
        Any strides.
    spec : Input
        The bundle's ``input``.
    frame : Frame
        `frame_of` the same bundle and (H, W).

    Returns
    -------
    tensor : ndarray of float32, shape (1, C, rows, columns)
        Resized, normalised and padded; C = ``spec.channels``.

    Raises
    ------
    ImageError
        If a colour image is given to an encoder with one channel.
    """
    if image.ndim == 3 and spec.channels != image.shape[2]:
        msg = (
            f"image with {image.shape[2]} channels: this bundle's encoder takes {spec.channels}; "
            "convert the image to grey first"
        )
        raise ImageError(msg)
    interpolation: Literal["area", "linear"]
    if spec.interpolation == "area" or spec.interpolation == "linear":
        interpolation = spec.interpolation
    else:
        image = _RESIZES[spec.interpolation](image, frame.resized_size)
        interpolation = "area"  # for what is left to resize, if anything
    options = kernels.InputOptions(
        resized_size=frame.resized_size,
        input_size=frame.input_size,
        channels=spec.channels,
        interpolation=interpolation,
        normalise=spec.normalise.kind,
        mean=spec.normalise.mean or (),
        std=spec.normalise.std or (),
    )
    return kernels.encoder_input(image, options)


def spectrum(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Magnitude of an image's spectrum, the second input of encoders that read one.

    Parameters
    ----------
    image : ndarray of float32, shape (1, C, rows, columns)
        The encoder's input, values 0 to 1; its first plane counts (red).

    Returns
    -------
    spectrum : ndarray of float32, shape (1, C, rows, columns)
        Magnitude of the 2-D Fourier transform of 255 times that plane, zero frequency in the middle, 0 to 1 between
        its smallest and its largest value; zeros for a spectrum of one value. The planes are equal.

    Notes
    -----
    As I-MedSAM computes it, in float64 (Wei et al., I-MedSAM: Implicit Medical Image Segmentation with Segment
    Anything, ECCV 2024).
    """
    magnitude = np.abs(np.fft.fftshift(np.fft.fft2(255 * image[0, 0].astype(np.float64))))
    magnitude -= magnitude.min()
    plane = (magnitude / (magnitude.max() or 1)).astype(np.float32)
    return np.ascontiguousarray(np.broadcast_to(plane, image.shape))


def covered_cells(frame: Frame, logits_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the logits that the resized image covers."""
    rows, columns = (
        side if grid == full else int(side * grid / full + 0.5)
        for side, grid, full in zip(frame.resized_size, logits_size, frame.input_size, strict=True)
    )
    return max(1, rows), max(1, columns)


def masks_from_logits(
    logits: NDArray[np.float32], spec: Output, frame: Frame
) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Bring logits back to the image and threshold them.

    Parameters
    ----------
    logits : ndarray of float32, shape (M, h, w)
        Logits over the whole input frame.
    spec : Output
        The bundle's ``output``.
    frame : Frame
        Where the image lies in the input frame.

    Returns
    -------
    masks : ndarray of bool, shape (M, H, W)
        Masks at the size of the image.
    boxes : ndarray of int64, shape (M, 4)
        Tight xyxy boxes, both ends inclusive; -1 where a mask is empty.
    areas : ndarray of int64, shape (M,)
        Pixels of each mask.
    """
    maps = logits
    if spec.activation == "sigmoid":
        # The sigmoid by way of tanh, which overflows nowhere.
        maps = (0.5 + 0.5 * np.tanh(0.5 * maps.astype(np.float64))).astype(np.float32)
    if spec.upsample == "via_input" and maps.shape[1:] != frame.input_size:
        maps = kernels.resize_logits(maps, frame.input_size)
    return kernels.logits_to_masks(
        maps,
        crop=covered_cells(frame, (maps.shape[1], maps.shape[2])),
        size=frame.original_size,
        threshold=spec.threshold,
        inclusive=spec.inclusive,
    )


def resized_label_box(
    mask: NDArray[np.bool_], label: int, dtype: str, margin_px: int, frame: Frame
) -> NDArray[np.float32] | None:
    """Box of a neighbour slice as LiteMedSAM's published loop takes it, in the input frame.

    The mask times its label number is resized with OpenCV's ``INTER_AREA`` in integers, so partly covered
    pixels of low labels round to 0: the result depends on ``label``. Kept for parity with the published
    systems (Ma et al., "Segment Anything in Medical Images on Laptop", CVPR 2024 challenge).

    Parameters
    ----------
    mask : ndarray of bool, shape (H, W)
        The neighbour's mask.
    label : int
        Number of the object, from 1.
    dtype : {"uint8", "uint16"}
        Integer type that the resize rounds in.
    margin_px : int
        Added on each side, in input-frame pixels; the result is clipped to 0 .. S, S included.
    frame : Frame
        Where the image lies in the input frame.

    Returns
    -------
    box_input : ndarray of float32, shape (4,), or None
        xyxy; None where nothing is left of the mask.

    Raises
    ------
    PromptError
        If the label does not fit the integer type.
    """
    import cv2

    if label > np.iinfo(dtype).max:
        msg = f"object number {label}: the published loop counts objects in {dtype}; segment fewer at once"
        raise PromptError(msg)
    rows, columns = frame.resized_size
    small = cv2.resize(mask.astype(dtype) * np.dtype(dtype).type(label), (columns, rows), interpolation=cv2.INTER_AREA)
    y, x = np.nonzero(small)
    if not x.size:
        return None
    side = max(frame.input_size)
    low = np.maximum([x.min() - margin_px, y.min() - margin_px], 0)
    high = np.minimum([x.max() + margin_px, y.max() + margin_px], side)
    return np.concatenate([low, high]).astype(np.float32)
