"""The weights that each family expects are those of the published checkpoint, no entry more or less."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the export extra is not installed")

from export.families import FAMILIES, load_family


@pytest.mark.parametrize("system", FAMILIES)
def test_the_layout_is_that_of_the_published_checkpoint(conformance: Path, system: str) -> None:
    facts = json.loads((conformance / system / "manifest.json").read_text(encoding="utf-8"))["checkpoint"]
    tensors = [(name.removeprefix(facts["key_prefix"]), tuple(shape)) for name, shape, *_ in facts["tensors"]]
    published = {name: shape for name, shape in tensors if not name.endswith("num_batches_tracked")}
    assert load_family(system).layout() == published
