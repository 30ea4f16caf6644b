"""Swin-LiteMedSAM: checkpoint -> bundle -> what the authors' own code gave, with the points and scribbles it drew."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="conversion needs the export extra")

import runtime  # noqa: E402
from export.families import load_families  # noqa: E402
from export.families.swin_litemedsam import SwinDecoder, SwinEncoder, SwinLiteMedSam  # noqa: E402
from export.golden import read_goldens  # noqa: E402
from export.load import match, read_checkpoint  # noqa: E402
from export.verify import verify  # noqa: E402
from runtime._derived import box_quarters, box_stroke  # noqa: E402
from runtime.manifest import load_manifest  # noqa: E402
from runtime.transforms import encoder_input, frame_of  # noqa: E402

SYSTEM = "swin_litemedsam"
ENGINES = ("openvino", "onnxruntime")


def test_the_family_is_told_from_the_checkpoint_alone(checkpoint_of: Callable[[str], Path]) -> None:
    assert match(read_checkpoint(checkpoint_of(SYSTEM)), load_families())[0].name == SYSTEM


def test_the_manifest_states_the_published_loop(bundle: Path, conformance: Path) -> None:
    facts = json.loads((conformance / SYSTEM / "manifest.json").read_text())
    manifest = load_manifest(bundle)
    assert manifest.source.revision == facts["commit"]
    loop = manifest.propagation.published
    assert loop is not None
    assert (loop.last_slice, loop.first_slice, loop.fallback_down) == ("excluded", "excluded", "unrounded")


def test_every_stage_of_the_encoder_is_the_authors(model: SwinLiteMedSam, conformance: Path) -> None:
    for case in read_goldens(conformance / SYSTEM).images.values():
        with torch.inference_mode():
            maps = model.image_encoder(torch.from_numpy(case["encoder_input"]))
        for index, found in enumerate(maps):
            wanted = case[f"skip{index}_sample"]
            sample = found.numpy().reshape(-1)[:: int(case["skip_stride"])]
            np.testing.assert_allclose(sample, wanted, atol=1e-4 * wanted.std())


def test_the_draws_of_the_goldens_matter(bundle: Path, conformance: Path, tmp_path: Path) -> None:
    case = read_goldens(conformance / SYSTEM).images["case_0"]
    for name, changed in (("points", case["points"][:, ::-1] + 20), ("scribble", 1 - case["scribble"])):
        np.savez(tmp_path / "case_0.npz", **{**case, name: changed})
        checks = verify(bundle, tmp_path, backends=("onnxruntime",))
        assert "low_res_logits" in {check.stage for check in checks if not check.passed}, name


@pytest.mark.parametrize("engine", ENGINES)
def test_images_of_other_shapes_with_derived_prompts_agree_with_torch(
    bundle: Path, model: SwinLiteMedSam, engine: str
) -> None:
    manifest, random = load_manifest(bundle), np.random.default_rng(3)
    with runtime.Session(bundle, backend=engine, precision="fp32", cache=False) as session:
        for height, width in ((97, 401), (256, 256)):
            image = random.integers(0, 255, (height, width), dtype=np.uint8)
            corners = np.sort(random.random((3, 2, 2)), axis=1) * [width - 1, height - 1]
            boxes = corners.reshape(3, 4).astype(int)
            frame = frame_of(manifest, (height, width))
            placed = frame.boxes_to_input(boxes)
            drawn = (*box_quarters(placed), box_stroke(placed, (256, 256), (256, 256)), np.ones(3, np.float32))
            with torch.inference_mode():
                tensors = SwinEncoder(model)(torch.from_numpy(encoder_input(image, manifest.input, frame)))
                logits, scores = SwinDecoder(model)(*tensors, *map(torch.from_numpy, (placed, *drawn)))
            found = session.decode(session.encode(image), boxes=boxes)
            np.testing.assert_allclose(found.low_res_logits, logits[:, 0], atol=1e-3 * float(logits.std()))
            np.testing.assert_allclose(found.scores, scores[:, 0], atol=1e-3)
