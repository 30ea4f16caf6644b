"""Segmenting takes a few slices beside the volume and the label map; the volume is never copied."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from runtime import Session
from runtime.geometry import Volume

SLICES_BESIDE = 30


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.int32])
@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("slice_axis", [0, 2])
def test_slices_are_windowed_on_demand(session: Session, dtype: Any, modality: str, slice_axis: int) -> None:
    array = np.zeros((160, 160, 160), dtype, order="F")
    array[40:80, 50:90, 60:80] = 200
    array[0, :, :] = np.arange(160, dtype=dtype) + 1
    volume = Volume(array, affine=np.eye(4), modality=modality)
    box = (38, 48, 60, 82, 92, 79)
    session.segment(volume, box=box, slice_axis=slice_axis)  # what is imported and compiled once
    tracemalloc.start()
    result = session.segment(volume, box=box, slice_axis=slice_axis)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.label_map.any()
    one_slice = 160 * 160 * array.itemsize
    assert peak < result.label_map.nbytes + SLICES_BESIDE * one_slice < array.nbytes + result.label_map.nbytes
