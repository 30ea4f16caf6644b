"""Statistics and comparisons of label maps."""

from __future__ import annotations

import numpy as np
import pytest

from perf.stats import dice_by_label, label_digest, summarise, voxels_by_label


def test_a_summary_has_the_median_the_range_and_the_samples_in_order() -> None:
    found = summarise([3.0, 1.0, 2.5, 10.0])
    assert (found.median, found.min, found.max, found.n) == (2.75, 1.0, 10.0, 4)
    assert found.samples == (3.0, 1.0, 2.5, 10.0)


def test_one_outlier_does_not_move_the_median() -> None:
    assert summarise([1.0, 1.0, 1.0, 1.0, 900.0]).median == 1.0


def test_a_summary_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no samples"):
        summarise([])


def test_dice_is_twice_the_shared_voxels_over_both_counts_for_each_label() -> None:
    one = np.array([[1, 1, 1, 0], [2, 2, 0, 0]], np.uint8)
    other = np.array([[1, 1, 2, 0], [2, 0, 0, 3]], np.uint8)
    found = dice_by_label(one, other)
    assert found == {1: pytest.approx(2 * 2 / 5), 2: pytest.approx(2 * 1 / 4), 3: 0.0}


def test_dice_of_two_empty_label_maps_has_no_label() -> None:
    empty = np.zeros((2, 3), np.uint8)
    assert dice_by_label(empty, empty) == {}


def test_dice_refuses_label_maps_of_different_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 2\)"):
        dice_by_label(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8))


def test_voxels_are_counted_for_labels_that_occur() -> None:
    assert voxels_by_label(np.array([0, 5, 5, 1], np.uint16)) == {"1": 1, "5": 2}
    assert voxels_by_label(np.zeros(4, np.uint8)) == {}


def test_the_digest_depends_on_labels_and_shape_but_not_on_dtype_or_memory_order() -> None:
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert label_digest(labels) == label_digest(labels.astype(np.uint16)) == label_digest(np.asfortranarray(labels))
    assert label_digest(labels) != label_digest(labels.reshape(4, 3))
    assert label_digest(labels) != label_digest(labels[::-1])
    assert label_digest(labels.astype(np.uint16) + 300) != label_digest(labels)
