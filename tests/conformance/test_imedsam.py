"""I-MedSAM on an image of another shape than the goldens'; a tiny one is in the unit tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="conversion needs the export extra")

import runtime  # noqa: E402
from export.families import load_families, load_family  # noqa: E402
from export.families.imedsam import FieldDecoder, SamEncoder, whole  # noqa: E402
from export.load import load_extra, load_model, match, read_checkpoint  # noqa: E402
from runtime.transforms import encoder_input, frame_of, spectrum  # noqa: E402

SYSTEM = "imedsam"
ENGINES = ("openvino", "onnxruntime")
pytestmark = pytest.mark.slow


def test_an_image_of_another_shape_agrees_with_torch_at_its_own_size(
    bundle_of: Callable[[str], Path], checkpoint_of: Callable[[str], Path]
) -> None:
    family, state_dict = match(read_checkpoint(checkpoint_of(SYSTEM)), load_families())
    assert (family.name, state_dict.where) == (SYSTEM, "model")
    extra = load_family(SYSTEM).extra
    assert extra is not None
    sam = load_extra(extra, read_checkpoint(checkpoint_of("sam_vit_b")))
    assert isinstance(sam, SamEncoder)
    model, random = whole(load_model(family, state_dict), sam), np.random.default_rng(5)
    image = (random.random((91, 143, 3)) * np.linspace(40, 250, 143)[None, :, None]).astype(np.uint8)
    boxes = np.array([[30, 20, 120, 80], [5, 9, 60, 17]])
    for engine in ENGINES:
        with runtime.Session(bundle_of(SYSTEM), backend=engine, cache=False) as session:
            frame = frame_of(session.manifest, (91, 143))
            pixels = encoder_input(image, session.manifest.input, frame)
            with torch.inference_mode():
                embedding = model.image_encoder(torch.from_numpy(pixels), torch.from_numpy(spectrum(pixels)))
                where = torch.tensor([91, 143]), torch.arange(91), torch.arange(143)
                logits = FieldDecoder(model)(embedding, torch.from_numpy(frame.boxes_to_input(boxes)), *where).numpy()
            encoded = session.encode(image)
            np.testing.assert_allclose(encoded.tensors["image_embedding"], embedding.numpy(), atol=1e-3)
            found = session.decode(encoded, boxes=boxes)
            deviation = float(logits[:, 0].std())
            np.testing.assert_allclose(found.low_res_logits, logits[:, 0], atol=1e-3 * deviation)
            assert np.mean(found.candidates != (logits > 0)) <= 1e-3
