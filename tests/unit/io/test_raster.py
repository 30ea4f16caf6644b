"""runtime.io.raster: pictures in, label pictures and previews out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from runtime.errors import ImageError, OutputError
from runtime.geometry import Volume
from runtime.io import load, save
from runtime.io._palette import PALETTE, object_colour
from runtime.io.raster import MAX_PIXELS, write_overlay

GREY = np.arange(5 * 7, dtype=np.uint8).reshape(5, 7) * 7
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)


def _write(path: Path, picture: Image.Image, **options: Any) -> Path:
    picture.save(path, **options)
    return path


@pytest.mark.parametrize("name", ["x.png", "x.bmp", "x.tif"])
def test_grey_pictures_have_i_as_column_and_j_as_row(tmp_path: Path, name: str) -> None:
    volume = load(_write(tmp_path / name, Image.fromarray(GREY)))
    assert volume.shape == (7, 5, 1)
    assert volume.is_2d
    assert volume.affine is None
    assert volume.array.dtype == np.uint8
    np.testing.assert_array_equal(volume.array[:, :, 0].T, GREY)


@pytest.mark.parametrize("name", ["x.png", "x.bmp", "x.tif"])
def test_colours_are_the_last_axis(tmp_path: Path, name: str) -> None:
    volume = load(_write(tmp_path / name, Image.fromarray(COLOUR)))
    assert volume.array.shape == (7, 5, 1, 3)
    np.testing.assert_array_equal(volume.array[:, :, 0].swapaxes(0, 1), COLOUR)


def test_jpeg_is_read_within_its_loss(tmp_path: Path) -> None:
    smooth = np.tile(np.linspace(0, 255, 64, dtype=np.uint8), (48, 1))
    volume = load(_write(tmp_path / "x.jpg", Image.fromarray(smooth), quality=95))
    assert np.abs(volume.array[:, :, 0].T.astype(int) - smooth).max() <= 3


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_16_bit_grey_keeps_its_values(tmp_path: Path, name: str) -> None:
    wide = GREY.astype(np.uint16) * 257
    volume = load(_write(tmp_path / name, Image.fromarray(wide)))
    assert volume.array.dtype == np.uint16
    np.testing.assert_array_equal(volume.array[:, :, 0].T, wide)


def test_float_tiff_keeps_its_values(tmp_path: Path) -> None:
    volume = load(_write(tmp_path / "x.tif", Image.fromarray(GREY.astype(np.float32) - 40.5)))
    np.testing.assert_array_equal(volume.array[:, :, 0].T, GREY.astype(np.float32) - 40.5)


def test_alpha_is_dropped_not_blended(tmp_path: Path) -> None:
    alpha = np.dstack([COLOUR, np.zeros_like(GREY)])
    np.testing.assert_array_equal(
        load(_write(tmp_path / "x.png", Image.fromarray(alpha))).array[:, :, 0].swapaxes(0, 1), COLOUR
    )
    grey_alpha = Image.merge("LA", (Image.fromarray(GREY), Image.new("L", (7, 5))))
    np.testing.assert_array_equal(load(_write(tmp_path / "la.png", grey_alpha)).array[:, :, 0].T, GREY)


def test_palettes_are_expanded_and_bits_become_black_and_white(tmp_path: Path) -> None:
    palette = Image.fromarray((GREY > 100).astype(np.uint8), mode="P")
    palette.putpalette([10, 20, 30, 200, 210, 220])
    array = load(_write(tmp_path / "p.png", palette)).array[:, :, 0].swapaxes(0, 1)
    np.testing.assert_array_equal(array, np.where((GREY > 100)[..., None], (200, 210, 220), (10, 20, 30)))
    bits = load(_write(tmp_path / "b.png", Image.fromarray(GREY > 100))).array
    np.testing.assert_array_equal(bits[:, :, 0].T, (GREY > 100) * 255)


def test_orientation_tags_are_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert load(_write(tmp_path / "x.png", Image.fromarray(GREY), exif=exif)).shape == (7, 5, 1)


def test_several_pages_are_refused(tmp_path: Path) -> None:
    pages = [Image.fromarray(GREY), Image.fromarray(GREY)]
    _write(tmp_path / "x.tif", pages[0], save_all=True, append_images=pages[1:])
    with pytest.raises(ImageError, match="holds 2 pages"):
        load(tmp_path / "x.tif")


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    side = int(MAX_PIXELS**0.5) + 1
    _write(tmp_path / "x.png", Image.new("1", (side, side)))
    with pytest.raises(ImageError, match=rf"has {side}x{side} pixels, the limit is {MAX_PIXELS}"):
        load(tmp_path / "x.png")


def test_damaged_pictures_are_image_errors(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.png", Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)))
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(ImageError, match=r"x\.png: is not a picture that can be read"):
        load(path)


@pytest.mark.parametrize(("top", "mode"), [(3, "L"), (255, "L"), (256, "I;16"), (65535, "I;16")])
def test_label_pictures_hold_the_labels_themselves(tmp_path: Path, top: int, mode: str) -> None:
    labels = np.zeros((7, 5, 1), np.int64)
    labels[6, 1, 0] = top
    reference = load(_write(tmp_path / "x.png", Image.fromarray(GREY)))
    save(tmp_path / "seg.png", labels, reference)
    with Image.open(tmp_path / "seg.png") as picture:
        assert picture.mode == mode
        assert np.asarray(picture)[1, 6] == top
    np.testing.assert_array_equal(load(tmp_path / "seg.png").array, labels)


def test_a_plane_of_labels_will_do_for_a_2d_image(tmp_path: Path) -> None:
    reference = load(_write(tmp_path / "x.png", Image.fromarray(GREY)))
    save(tmp_path / "seg.png", (GREY > 100).T, reference)
    np.testing.assert_array_equal(load(tmp_path / "seg.png").array[:, :, 0].T, GREY > 100)


def test_volumes_and_huge_labels_do_not_fit_a_png(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"holds one slice, the result has 3; write \.nii\.gz or \.npz"):
        save(tmp_path / "seg.png", np.zeros((7, 5, 3), int), Volume(np.zeros((7, 5, 3))))
    with pytest.raises(OutputError, match="labels up to 65535"):
        save(tmp_path / "seg.png", np.full((7, 5, 1), 65536), Volume(np.zeros((7, 5, 1))))


def test_the_picture_itself_is_not_overwritten(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.png", Image.fromarray(GREY))
    volume = load(path)
    before = path.read_bytes()
    with pytest.raises(OutputError, match="is the input itself"):
        save(path, np.ones((7, 5, 1), int), volume)
    with pytest.raises(OutputError, match="is the input itself"):
        write_overlay(path, GREY, [GREY > 3], reference=volume)
    assert path.read_bytes() == before


def _overlay(path: Path, image: NDArray[np.uint8], *args: Any, **options: Any) -> NDArray[np.uint8]:
    write_overlay(path, image, *args, **options)
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_an_overlay_enlarges_small_images_and_outlines_the_mask(tmp_path: Path) -> None:
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:50] = True
    shown = _overlay(tmp_path / "o.png", np.full((40, 60), 100, np.uint8), [mask])
    assert shown.shape == (400, 600, 3)
    assert tuple(shown[5, 5]) == (100, 100, 100)
    assert tuple(shown[100, 200]) == PALETTE[0]  # first pixel of the enlarged mask: its outline
    assert tuple(shown[299, 499]) == PALETTE[0]
    assert tuple(shown[98, 300]) == (100, 100, 100)
    tint = np.rint(100 * 0.75 + np.array(PALETTE[0]) * 0.25)
    np.testing.assert_array_equal(shown[200, 350], tint)


def test_an_overlay_outlines_masks_that_touch_the_border(tmp_path: Path) -> None:
    shown = _overlay(tmp_path / "o.png", np.zeros((400, 400), np.uint8), [np.ones((400, 400), bool)])
    assert tuple(shown[0, 200]) == tuple(shown[200, 399]) == PALETTE[0]
    assert tuple(shown[200, 200]) != PALETTE[0]


def test_an_overlay_shows_pixels_in_their_true_proportions(tmp_path: Path) -> None:
    image = np.zeros((30, 200), np.uint8)
    shown = _overlay(tmp_path / "o.png", image, [], pixel_size=(5.0, 0.8))
    assert shown.shape[0] / shown.shape[1] == pytest.approx(30 * 5.0 / (200 * 0.8), rel=0.01)
    for odd in ((np.nan, 1.0), (0.0, 1.0), (-1.0, 2.0)):
        assert _overlay(tmp_path / "o.png", image, [], pixel_size=odd).ndim == 3
    assert max(_overlay(tmp_path / "o.png", image, [], pixel_size=(1e6, 1.0)).shape) <= 2048


def test_an_overlay_draws_inclusive_boxes_in_the_colour_of_their_mask(tmp_path: Path) -> None:
    shown = _overlay(tmp_path / "o.png", np.zeros((40, 60), np.uint8), [], boxes=[(1, 1, 5, 5), (20, 10, 49, 29)])
    coloured = np.argwhere((shown == PALETTE[1]).all(axis=-1))
    np.testing.assert_array_equal(coloured.min(axis=0), (100, 200))
    np.testing.assert_array_equal(coloured.max(axis=0), (299, 499))


def test_an_overlay_takes_colour_images_and_boxes_beyond_the_border(tmp_path: Path) -> None:
    assert _overlay(tmp_path / "o.png", COLOUR, [GREY > 100], boxes=[(-3, -3, 90, 90)]).shape[2] == 3


@pytest.mark.parametrize(
    ("image", "masks", "name", "message"),
    [
        (GREY.astype(np.float32), [], "o.png", "preview of a float32 image"),
        (GREY, [np.zeros((7, 5), bool)], "o.png", r"with masks \[\(7, 5\)\]"),
        (np.dstack([COLOUR, GREY]), [], "o.png", r"\(5, 7, 4\)"),
        (GREY, [], "o.jpg", "a preview is a PNG"),
    ],
)
def test_an_overlay_of_things_that_do_not_fit_is_refused(
    tmp_path: Path, image: Any, masks: Any, name: str, message: str
) -> None:
    with pytest.raises(OutputError, match=message):
        write_overlay(tmp_path / name, image, masks)


def test_colours_stay_distinct_for_twenty_objects() -> None:
    assert len({object_colour(index) for index in range(20)}) == 20
