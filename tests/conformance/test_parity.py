"""The parity table: every stage of every golden of every system, on both engines and through the public API."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="conversion needs the export extra")

from export.families import FAMILIES, load_family
from export.golden import read_goldens
from export.parity import Outcome, table_rows
from export.verify import verify

ENGINES = ("openvino", "onnxruntime")
SLOW = {"medsam", "sam_vit_b", "esp_medsam", "imedsam", "medficientsam_l1", "medficientsam_l2"}
CHEAPEST_FIRST = sorted(FAMILIES, key=lambda name: sum(load_family(name).gflops))  # where time runs out, more are done
SYSTEMS = [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in CHEAPEST_FIRST]
BESIDE = {"esp_medsam": "patch_map", "imedsam": "refined logits"}


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_stage_of_every_golden_is_met(system: str, bundle_of: Callable[[str], Path], conformance: Path) -> None:
    outcome = Outcome(system, tuple(verify(bundle_of(system), conformance / system, backends=ENGINES)))
    rows = table_rows(outcome)
    assert [row for row in rows if not row.passed] == []
    assert {engine for row in rows for engine in row.found} == {"-", *ENGINES}
    goldens = read_goldens(conformance / system)
    volumes = {"case_3d": goldens.volume, "loop_3d": goldens.loop}
    assert {row.case for row in rows} == {*goldens.images, *(name for name, one in volumes.items() if one is not None)}
    for case in goldens.images:
        stages = {row.stage: row for row in rows if row.case == case}
        assert {"encoder_input", "embedding", "low_res_logits", "mask", BESIDE.get(system, "mask")} <= set(stages)
        assert all(set(row.found) == set(ENGINES) for row in stages.values() if "-" not in row.found)
