"""What a search of a merge segments with gives the masks of the authors' own code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="conversion needs the export extra")

from export._merge_predictors import builder_of
from export.golden import boolean_masks, read_goldens
from export.load import read_checkpoint

SYSTEMS = (
    "lite_medsam",
    pytest.param("medsam", marks=pytest.mark.slow),
    pytest.param("sam_vit_b", marks=pytest.mark.slow),
)


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_checkpoint_segments_in_torch_as_published(
    system: str, checkpoint_of: Callable[[str], Path], conformance: Path
) -> None:
    checkpoint = read_checkpoint(checkpoint_of(system))
    name, build = builder_of(checkpoint, checkpoint.state_dicts[0], system)
    assert name == system
    predictor = build(checkpoint.state_dicts[0].tensors)
    case = read_goldens(conformance / system).images["case_0"]
    found = predictor.decode(predictor.encode(case["image"]), case["boxes"])
    deviation = float(case["low_res_logits"].std())
    np.testing.assert_allclose(found.low_res_logits, case["low_res_logits"], atol=1e-3 * deviation)
    wanted = boolean_masks(case)
    if wanted is None:  # a label map, in which later boxes win
        labels = np.zeros(case["mask"].shape, np.int64)
        for label, mask in enumerate(found.masks, 1):
            labels[mask] = label
        assert np.mean(labels != case["mask"]) < 1e-3
    else:
        assert np.mean(found.masks != wanted) < 1e-3
