"""A decoder that reads the embedding of the slice that its mask is from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from tiny_bundle import SIDE, Tail, open_session, tiny_bundle

from runtime import Volume
from runtime.backends import TensorSpec
from runtime.errors import ManifestError
from runtime.manifest import load_manifest

_PROMPTS: dict[str, Any] = {
    "mask": {"kind": "logits", "size": [SIDE, SIDE], "neighbour_flag": 2, "neighbour_tensors": ["levels"]}
}


def looking_back(folder: Path, **changes: Any) -> Path:
    """Finds what is bright in the box; with a neighbour's mask, what was bright on the neighbouring slice."""
    tail = Tail(
        nodes=(
            ("Cast", ["levels_before"], ["before_float"], {"to": TensorProto.FLOAT}),
            ("Sub", ["before_float", "fifty"], ["before"]),
            ("Reshape", ["has_mask", "apart"], ["has_mask_4d"]),
            ("Equal", ["has_mask_4d", "two"], ["from_neighbour"]),
            ("Mul", ["masks", "zero"], ["nothing"]),
            ("Where", ["from_neighbour", "before", "boxed"], ["found"]),
            ("Add", ["found", "nothing"], ["low_res_logits"]),
        ),
        inputs=(
            TensorSpec("masks", "float32", (None, 1, SIDE, SIDE)),
            TensorSpec("has_mask", "float32", (None,)),
            TensorSpec("levels_before", "uint8", (1, 1, SIDE, SIDE)),
        ),
        constants={"two": np.array(2, np.float32), "fifty": np.array(50, np.float32)},
    )
    chain = {"propagation": {"chain": {"mask_prompt": True}}}
    return tiny_bundle(folder, tail=tail, **{"prompts": _PROMPTS, **chain, **changes})


def bars() -> Volume:
    """A bright bar that stands two columns farther to the right on every slice (bare i, j, k: x is i)."""
    array = np.full((SIDE, 48, 7), 20, np.uint8)
    for k in range(7):
        array[10 + 2 * k : 16 + 2 * k, 12:30, k] = 220
    return Volume(array)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_each_slice_is_shown_the_one_that_its_mask_is_from(tmp_path: Path, backend: str) -> None:
    volume = bars()
    with open_session(looking_back(tmp_path / "bundle"), backend=backend, cache=False) as session:
        found = session.segment(volume, box=(16, 10, 22, 32), slice_index=3, z_range=(0, 6), window=(120, 240))
    truth = volume.array > 100
    for k, source in ((3, 3), (4, 3), (5, 4), (6, 5), (2, 3), (1, 2), (0, 1)):
        np.testing.assert_array_equal(found.label_map[:, :, k] > 0, truth[:, :, source], err_msg=str(k))


def test_an_earlier_answer_on_the_same_image_shows_no_neighbour(tmp_path: Path) -> None:
    image = np.asarray(bars().array[:, :, 0].T)
    with open_session(looking_back(tmp_path / "bundle"), cache=False) as session:
        embedding = session.encode(image)
        first = session.decode(embedding, boxes=[[8, 10, 18, 32]])
        again = session.decode(embedding, boxes=[[8, 10, 18, 32]], masks=first.low_res_logits)
    np.testing.assert_array_equal(first.masks[0], image > 100)
    np.testing.assert_array_equal(again.masks, first.masks)


def test_a_3d_box_shows_no_neighbour_on_its_first_slice(tmp_path: Path) -> None:
    mask = {**_PROMPTS["mask"], "empty_is_limit": True}
    volume = bars()
    with open_session(looking_back(tmp_path / "bundle", prompts={"mask": mask}), cache=False) as session:
        found = session.segment(volume, box=(4, 10, 0, 44, 32, 6), window=(120, 240))
    # Its neighbour is all zeros, below the fifty from which this decoder calls bright; nothing is found to go on from.
    assert not found.label_map.any()


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        ({"neighbour_tensors": ["plan"]}, r"neighbour_tensors: 'plan' is not among the embedding's tensors"),
        ({"kind": "scribble"}, r"neighbour_tensors: belongs to kind logits"),
        ({"kind": "scribble", "empty_is_limit": True}, r"empty_is_limit: belongs to kind logits"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(tmp_path: Path, mask: dict[str, Any], text: str) -> None:
    folder = looking_back(tmp_path / "bundle", prompts={"mask": {**_PROMPTS["mask"], **mask}})
    with pytest.raises(ManifestError, match=text):
        load_manifest(folder)
