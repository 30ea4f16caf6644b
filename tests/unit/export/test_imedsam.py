"""I-MedSAM's torch model: gates, positions, the combination of two checkpoints, and the goldens."""

from __future__ import annotations

import json
import math
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")

from export.families._imedsam import _GatedAttention, _SegField, combine, imedsam  # noqa: E402
from export.families._vit import Attention, VitSize  # noqa: E402

TINY = VitSize(image=64, patch=16, width=32, depth=2, heads=4, window=3, global_blocks=(1,), outputs=16)


def pseudo_checkpoint(conformance: Path, system: str, *, meta: bool = False) -> dict[str, torch.Tensor]:
    """The checkpoint that the goldens were made with, a function of names and shapes; `meta` leaves out the values."""
    facts = json.loads((conformance / system / "manifest.json").read_text(encoding="utf-8"))
    tensors = facts["checkpoint"]["tensors"]
    if meta:
        return {name: torch.empty(shape, device="meta") for name, shape, *_ in tensors}
    return {name: pseudo_weight(name, tuple(shape)) for name, shape, *_ in tensors}


def pseudo_weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    random = np.random.RandomState(int.from_bytes(sha256(name.encode()).digest()[:4], "little"))
    if name.endswith("num_batches_tracked"):
        value = np.zeros(shape)
    elif name.endswith("running_var"):
        value = random.uniform(0.5, 1.5, shape)
    elif name.endswith("running_mean"):
        value = 0.1 * random.standard_normal(shape)
    elif len(shape) <= 1:
        value = (
            1 + 0.1 * random.standard_normal(shape) if name.endswith("weight") else 0.02 * random.standard_normal(shape)
        )
    elif "positional_encoding_gaussian_matrix" in name:
        value = random.standard_normal(shape)
    elif any(part in name for part in ("pos_embed", "rel_pos")) or ("embed" in name and len(shape) == 2):
        value = 0.02 * random.standard_normal(shape)
    else:
        value = random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(value.astype(np.float32))


def test_a_gate_is_the_mean_over_its_window_with_the_zeros_that_fill_it() -> None:
    torch.manual_seed(0)
    layer = _GatedAttention(TINY, 3).requires_grad_(False)
    x = torch.randn(1, 16, 32)
    values = (x @ layer.gate.weight.T).reshape(4, 4)
    gates = layer._gates(x).reshape(4, 4)
    torch.testing.assert_close(gates[:3, :3], values[:3, :3].mean().expand(3, 3))
    torch.testing.assert_close(gates[3, :3], (values[3, :3].sum() / 9).expand(3))
    torch.testing.assert_close(gates[3, 3], values[3, 3] / 9)


def test_one_gate_on_the_whole_grid_is_an_addition_to_the_weights() -> None:
    torch.manual_seed(1)
    layer = _GatedAttention(TINY, 4).requires_grad_(False)
    x = torch.randn(1, 16, 32)
    gate = (x @ layer.gate.weight.T).mean()
    plain = Attention(TINY, 4).requires_grad_(False)
    plain.load_state_dict({name: value for name, value in layer.state_dict().items() if name in plain.state_dict()})
    plain.qkv.weight[:32] += gate * layer.lora_q.b.weight @ layer.lora_q.a.weight
    plain.qkv.weight[64:] += gate * layer.lora_v.b.weight @ layer.lora_v.a.weight
    torch.testing.assert_close(layer(x), plain(x), atol=1e-5, rtol=1e-5)


def test_waves_are_ordered_by_kind_then_axis_then_frequency() -> None:
    waves = _SegField.waves(3, 5)
    assert waves.shape == (3, 5, 63)
    y, x, slowest = 1.0, 0.5, 2 * math.pi
    torch.testing.assert_close(waves[2, 3, 60:], torch.tensor([-1.0, y, x]))
    torch.testing.assert_close(waves[2, 3, 20].item(), math.sin(slowest * x), atol=1e-5, rtol=0)
    torch.testing.assert_close(waves[2, 3, 50].item(), math.cos(slowest * x), atol=1e-5, rtol=0)
    second = slowest * 2 ** (10 / 9)
    torch.testing.assert_close(waves[2, 3, 11].item(), math.sin(second * y), atol=1e-5, rtol=0)
    assert _SegField.waves(1, 1).isfinite().all()


def test_points_computed_in_parts_give_what_they_give_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    field = _SegField(4, 8).eval().requires_grad_(False)
    inputs = torch.randn(2, 4, 6, 6), torch.randn(1, 8, 3, 3), (5, 7)
    whole = field(*inputs)
    monkeypatch.setattr("export.families._imedsam._POINTS", 4)
    for found, wanted in zip(field(*inputs), whole, strict=True):
        assert found.shape == (2, 1, 5, 7)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_two_checkpoints_give_every_weight_of_the_model_and_no_other(conformance: Path) -> None:
    sam = pseudo_checkpoint(conformance, "sam_vit_b", meta=True)
    weights = combine(sam, pseudo_checkpoint(conformance, "imedsam", meta=True))
    with torch.device("meta"):
        wanted = imedsam().state_dict()
    assert {name: value.shape for name, value in weights.items()} == {
        name: value.shape for name, value in wanted.items()
    }


@pytest.mark.slow
def test_the_torch_model_reproduces_the_goldens_with_pseudo_weights(conformance: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    model = imedsam()
    sam, trained = (pseudo_checkpoint(conformance, system) for system in ("sam_vit_b", "imedsam"))
    model.load_state_dict(combine(sam, trained))
    model.eval().requires_grad_(False)
    case = np.load(conformance / "imedsam" / "case_0.npz")
    image = (cv2.resize(case["image"], (384, 384)).astype(np.float32) / 255).transpose(2, 0, 1)[None]
    magnitude = np.abs(np.fft.fftshift(np.fft.fft2(255 * image[0, 0])))
    magnitude = (magnitude - magnitude.min()) / (magnitude.max() - magnitude.min())
    spectrum = np.repeat(magnitude[None, None].astype(np.float32), 3, axis=1)
    embedding = model.image_encoder(torch.from_numpy(image), torch.from_numpy(spectrum))
    sample = embedding.numpy().reshape(-1)[:: int(case["embedding_stride"])]
    np.testing.assert_allclose(sample, case["embedding_sample"], atol=1e-3)
    prompts, size = model.prompt_encoder, (int(case["label_size"]),) * 2
    tokens = prompts.boxes(torch.from_numpy(case["prompt_boxes"]))
    found = model.mask_decoder.evaluate(embedding + prompts.no_mask(), tokens, prompts.grid(), size)
    names = (("low_res_logits", "coarse_row_col_step"), ("fine_all_logits", "fine_all_step"))
    for logits, (name, step) in zip(found, names, strict=True):
        wanted = case[name]
        some = logits[:, 0, :: int(case[step]), :: int(case[step])].numpy()
        np.testing.assert_allclose(some, wanted, atol=1e-3 * wanted.std(), rtol=0)
