"""logits_to_masks, mask_box and resize_logits against numpy, OpenCV's and torch's bilinear maps, and golden masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from layouts import Layout
from numpy.typing import NDArray

from runtime import kernels

# shape of the logits, crop, size of the mask
CASES = [
    ((64, 64), (64, 64), (128, 128)),
    ((64, 64), (64, 46), (75, 54)),
    ((64, 64), (47, 64), (24, 33)),
    ((64, 64), (40, 64), (200, 301)),
    ((64, 64), (64, 64), (64, 64)),
    ((64, 64), (64, 64), (7, 5)),
    ((64, 64), (30, 50), (20, 200)),
    ((5, 9), (1, 1), (4, 6)),
    ((5, 9), (1, 9), (3, 30)),
    ((5, 9), (5, 1), (11, 1)),
    ((1, 1), (1, 1), (1, 1)),
    ((3, 3), (2, 2), (1, 1)),
]


def _noise(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    return rng.standard_normal(shape).astype(np.float32)


def _blob(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    """One object on a background of -12, as decoders like to draw it."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    inside = ((y - 0.4 * shape[0]) / (0.2 * shape[0])) ** 2 + ((x - 0.6 * shape[1]) / (0.3 * shape[1])) ** 2 < 1
    return np.where(inside, 5.0, -12.0).astype(np.float32) + 0.1 * _noise(shape, rng)


def _sparse(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    """A few single pixels, also on the border, on a background of exactly 0."""
    return np.where(rng.random(shape) < 0.02, 3.0, 0.0).astype(np.float32)


def _columns(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    """Rows whose supports lie far apart, so that neighbouring rows need different columns."""
    logits = np.full(shape, -5, np.float32)
    logits[np.arange(shape[0]), rng.integers(0, shape[1], shape[0])] = 9
    return logits


def _strange(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    logits = _noise(shape, rng)
    chosen = rng.random(shape)
    for index, value in enumerate((np.nan, np.inf, -np.inf, 1e38, -1e38, 1e-45, 0.0, -0.0)):
        logits[(chosen > index * 0.03) & (chosen < index * 0.03 + 0.03)] = value
    return logits


MAPS = {"noise": _noise, "blob": _blob, "sparse": _sparse, "columns": _columns, "strange": _strange}


@pytest.mark.parametrize("drawn", MAPS)
@pytest.mark.parametrize(("shape", "crop", "size"), CASES)
@pytest.mark.parametrize("inclusive", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.5, -3.0, 1e-3])
def test_masks_boxes_and_areas_equal_the_reference(
    shape: tuple[int, int], crop: tuple[int, int], size: tuple[int, int], threshold: float, inclusive: bool,
    drawn: str, rng: np.random.Generator,
) -> None:  # fmt: skip
    logits = MAPS[drawn](shape, rng)
    facts: dict[str, Any] = {"crop": crop, "size": size, "threshold": threshold, "inclusive": inclusive}
    mask, box, area = kernels.logits_to_mask(logits, **facts)
    with np.errstate(over="ignore"):
        wanted, wanted_box, wanted_area = reference.logits_to_mask(logits, **facts)
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, wanted)
    assert (box, area) == (wanted_box, wanted_area)


def test_a_stack_equals_its_maps_one_by_one(rng: np.random.Generator) -> None:
    logits = np.stack([draw((48, 64), rng) for draw in MAPS.values()] + [np.full((48, 64), -12, np.float32)])
    masks, boxes, areas = kernels.logits_to_masks(logits, crop=(40, 64), size=(75, 120))
    assert (masks.dtype, boxes.dtype, areas.dtype) == (np.bool_, np.int64, np.int64)
    for index, one in enumerate(logits):
        mask, box, area = kernels.logits_to_mask(one, crop=(40, 64), size=(75, 120))
        np.testing.assert_array_equal(masks[index], mask)
        assert tuple(boxes[index].tolist()) == (box or (-1, -1, -1, -1))
        assert areas[index] == area
    assert boxes[-1].tolist() == [-1, -1, -1, -1]
    assert areas[-1] == 0


def test_no_maps_give_no_masks() -> None:
    masks, boxes, areas = kernels.logits_to_masks(np.zeros((0, 4, 4), np.float32), crop=(4, 4), size=(5, 6))
    assert (masks.shape, boxes.shape, areas.shape) == ((0, 5, 6), (0, 4), (0,))


def test_the_threshold_itself_counts_only_where_inclusive() -> None:
    logits = np.full((3, 4), 0.5, np.float32)
    assert kernels.logits_to_mask(logits, crop=(3, 4), size=(6, 9), threshold=0.5)[1:] == (None, 0)
    found = kernels.logits_to_mask(logits, crop=(3, 4), size=(6, 9), threshold=0.5, inclusive=True)
    assert found[1:] == ((0, 0, 8, 5), 54)


def test_nan_is_never_inside() -> None:
    logits = np.full((4, 4), np.nan, np.float32)
    for threshold in (-1.0, 0.0, 1.0):
        for inclusive in (False, True):
            found = kernels.logits_to_mask(logits, crop=(4, 4), size=(9, 9), threshold=threshold, inclusive=inclusive)
            assert found[1:] == (None, 0)


def test_what_is_cropped_off_does_not_matter(rng: np.random.Generator) -> None:
    logits = _noise((16, 16), rng)
    other = logits.copy()
    other[12:], other[:, 9:] = 1e6, np.nan
    for first, second in zip(
        kernels.logits_to_mask(logits, crop=(12, 9), size=(40, 30)),
        kernels.logits_to_mask(other, crop=(12, 9), size=(40, 30)),
        strict=True,
    ):
        np.testing.assert_array_equal(first, second)


def test_the_layout_of_logits_does_not_matter(layout: Layout, rng: np.random.Generator) -> None:
    logits = rng.standard_normal((3, 11, 13)).astype(np.float32)
    for first, second in zip(
        kernels.logits_to_masks(layout(logits), crop=(10, 13), size=(21, 17)),
        kernels.logits_to_masks(logits, crop=(10, 13), size=(21, 17)),
        strict=True,
    ):
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(
        kernels.resize_logits(layout(logits[1]), (21, 17)), reference.bilinear(logits[1], (21, 17))
    )


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_floats_are_converted_to_float32(dtype: str, rng: np.random.Generator) -> None:
    logits = rng.standard_normal((6, 7)).astype(dtype)
    mask, _, _ = kernels.logits_to_mask(logits, crop=(6, 7), size=(12, 20))
    wanted, _, _ = reference.logits_to_mask(logits.astype(np.float32), crop=(6, 7), size=(12, 20))
    np.testing.assert_array_equal(mask, wanted)


# resize_logits


@pytest.mark.parametrize(("shape", "size"), [(shape, size) for shape, _, size in CASES])
def test_resized_logits_equal_the_reference(
    shape: tuple[int, int], size: tuple[int, int], rng: np.random.Generator
) -> None:
    logits = rng.standard_normal((2, *shape)).astype(np.float32)
    resized = kernels.resize_logits(logits, size)
    assert resized.dtype == np.float32
    for one, wanted in zip(resized, logits, strict=True):
        np.testing.assert_array_equal(one, reference.bilinear(wanted, size))
    np.testing.assert_array_equal(kernels.resize_logits(logits[0], size), resized[0])


def test_no_maps_resize_to_no_maps() -> None:
    assert kernels.resize_logits(np.zeros((0, 4, 4), np.float32), (5, 6)).shape == (0, 5, 6)


@pytest.mark.parametrize(("shape", "crop", "size"), CASES)
def test_torch_interpolates_to_the_same_values_and_masks(
    shape: tuple[int, int], crop: tuple[int, int], size: tuple[int, int], rng: np.random.Generator
) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed; it is needed for export alone")
    logits = 4 * _noise(shape, rng)
    cropped = torch.from_numpy(logits[: crop[0], : crop[1]].copy())[None, None]
    values = torch.nn.functional.interpolate(cropped, size=size, mode="bilinear", align_corners=False)[0, 0].numpy()
    np.testing.assert_allclose(kernels.resize_logits(logits[: crop[0], : crop[1]], size), values, rtol=0, atol=4e-6)
    mask, _, _ = kernels.logits_to_mask(logits, crop=crop, size=size)
    clear = np.abs(values) > 4e-6
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(mask[clear], (values > 0)[clear])


# mask_box


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (37, 61), (300, 513), (2, 5000)])
def test_boxes_and_areas_equal_the_reference(shape: tuple[int, int], layout: Layout, rng: np.random.Generator) -> None:
    for share in (0.0, 0.0005, 0.02, 0.5, 1.0):
        mask = rng.random(shape) < share
        assert kernels.mask_box(layout(mask)) == reference.mask_box(mask)


def test_every_single_pixel_is_found() -> None:
    for y in range(9):
        for x in range(19):
            mask = np.zeros((9, 19), bool)
            mask[y, x] = True
            assert kernels.mask_box(mask) == ((x, y, x, y), 1)


def test_any_nonzero_byte_of_a_bool_array_counts_as_true() -> None:
    mask = np.zeros((3, 40), np.uint8)
    mask[1, 3:30] = np.arange(100, 127)
    mask[2, 7] = 255
    assert kernels.mask_box(mask.view(bool)) == ((3, 1, 29, 2), 28)


# Goldens


@pytest.mark.parametrize("case", ["case_0", "case_1"])
@pytest.mark.parametrize("system", ["lite_medsam", "rep_medsam", "daft", "medficientsam_l0"])
def test_the_masks_of_published_systems_are_met(conformance: Path, system: str, case: str) -> None:
    path = conformance / system / f"{case}.npz"
    if not path.is_file():
        pytest.skip(f"{path.name} of {system} is not among the goldens")
    with np.load(path) as golden:
        logits, wanted = golden["low_res_logits"], golden["mask"]
    side = 512 if system.startswith("medficientsam") else 256
    if side == 512:
        logits = kernels.resize_logits(logits, (side, side))
    height, width = wanted.shape
    scale = side / max(height, width)
    crop = (int(height * scale + 0.5), int(width * scale + 0.5))
    masks, _, _ = kernels.logits_to_masks(logits, crop=crop, size=(height, width))
    label_map = np.zeros(wanted.shape, np.int64)
    for label, mask in enumerate(masks, start=1):
        label_map[mask] = label
    np.testing.assert_array_equal(label_map, wanted)


# Bad arguments

LOGITS = np.zeros((2, 6, 8), np.float32)


@pytest.mark.parametrize(
    ("logits", "facts", "text"),
    [
        (LOGITS, {"crop": (7, 8)}, r"crop: 7 x 8 exceeds logits of shape \(2, 6, 8\)"),
        (LOGITS, {"crop": (6, 9)}, "crop: 6 x 9 exceeds logits"),
        (LOGITS, {"crop": (0, 8)}, "crop rows: 0, wanted 1 to"),
        (LOGITS, {"size": (5, 0)}, "size columns: 0, wanted 1 to"),
        (LOGITS, {"threshold": np.nan}, "threshold: nan, wanted a finite number"),
        (LOGITS, {"threshold": 1e39}, "threshold: inf, wanted a finite number"),
        (LOGITS[0], {}, "logits: 2 dimensions, wanted 3"),
        (LOGITS[None], {}, "logits: 4 dimensions, wanted 3"),
        (LOGITS[:, :0], {}, r"logits: shape \(2, 0, 8\), wanted sides of 1 to"),
        (LOGITS[:0, :, :0], {}, r"logits: shape \(0, 6, 0\), wanted sides of 1 to"),
    ],
)
def test_stacks_that_do_not_fit_are_refused(logits: Any, facts: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        kernels.logits_to_masks(logits, **{"crop": (6, 8), "size": (5, 5), **facts})


def test_one_map_must_have_two_dimensions() -> None:
    with pytest.raises(ValueError, match="logits: 3 dimensions, wanted 2"):
        kernels.logits_to_mask(LOGITS, crop=(6, 8), size=(5, 5))
    with pytest.raises(ValueError, match="logits: 1 dimensions, wanted 2 or 3"):
        kernels.resize_logits(LOGITS[0, 0], (5, 5))


def test_logits_must_be_floating_point() -> None:
    with pytest.raises(TypeError, match="logits: dtype int64, wanted float32"):
        kernels.logits_to_masks(LOGITS.astype(np.int64), crop=(6, 8), size=(5, 5))


@pytest.mark.parametrize(
    ("mask", "error", "text"),
    [
        (np.zeros((3, 3), np.uint8), TypeError, "mask: dtype uint8, wanted bool"),
        (np.zeros(3, bool), ValueError, "mask: 1 dimensions, wanted 2"),
        (np.zeros((0, 3), bool), ValueError, r"mask: shape \(0, 3\), wanted sides"),
    ],
)
def test_masks_without_a_box_to_find_are_refused(mask: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        kernels.mask_box(mask)


def test_results_too_large_for_memory_are_refused() -> None:
    many = np.zeros((1 << 22, 1, 1), np.float32)
    with pytest.raises(ValueError, match=r"size: \d+ x \d+ elements are more than memory can address"):
        kernels.resize_logits(many, (1 << 20, 1 << 20))
