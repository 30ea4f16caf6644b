"""ESP-MedSAM on an image of another shape than the goldens'; a tiny one is in the unit tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="conversion needs the export extra")

import runtime  # noqa: E402
from export.families import load_family  # noqa: E402
from export.families.esp_medsam import EspDecoder, EspEncoder, EspMedSam  # noqa: E402
from export.load import load_model, match, read_checkpoint  # noqa: E402
from runtime.manifest import load_manifest  # noqa: E402
from runtime.transforms import encoder_input, frame_of  # noqa: E402

SYSTEM = "esp_medsam"
ENGINES = ("openvino", "onnxruntime")
pytestmark = pytest.mark.slow


def test_an_image_of_another_shape_agrees_with_torch(
    bundle_of: Callable[[str], Path], checkpoint_of: Callable[[str], Path]
) -> None:
    model = load_model(*match(read_checkpoint(checkpoint_of(SYSTEM)), [load_family(SYSTEM)]))
    assert isinstance(model, EspMedSam)
    bundle = bundle_of(SYSTEM)
    manifest, random = load_manifest(bundle), np.random.default_rng(5)
    image = (random.random((181, 423, 3)) * np.linspace(40, 250, 423)[None, :, None]).astype(np.uint8)
    pixels = torch.from_numpy(encoder_input(image, manifest.input, frame_of(manifest, (181, 423))))
    with torch.inference_mode():
        embedding, patches = EspEncoder(model)(pixels)
        rows = [EspDecoder(model)(embedding, patches, torch.tensor([index])) for index in range(6)]
    for engine in ENGINES:
        with runtime.Session(bundle, backend=engine, precision="fp32", cache=False) as session:
            encoded = session.encode(image)
            np.testing.assert_allclose(encoded.tensors["image_embedding"], embedding.numpy(), atol=1e-3)
            for name, logits in zip(manifest.modalities, rows, strict=True):
                found = session.decode(encoded, modality=name)
                np.testing.assert_allclose(found.low_res_logits, logits[0].numpy(), atol=1e-3 * float(logits.std()))
