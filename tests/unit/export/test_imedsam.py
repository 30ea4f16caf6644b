"""I-MedSAM: gates, positions, the combination of two checkpoints, a tiny one up to its session, and the goldens."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")

from tiny_family import randomised  # noqa: E402
from torch.nn import functional  # noqa: E402

import export.convert  # noqa: E402
import runtime  # noqa: E402
from export.convert import ConvertOptions, convert  # noqa: E402
from export.families import COUNTER, layout_of, load_family  # noqa: E402
from export.families._imedsam import (  # noqa: E402
    Place,
    Trained,
    _enlarged,
    _GatedAttention,
    _perceptron,
    _SegField,
    _through,
    combine,
    imedsam,
)
from export.families._vit import Attention, VitSize  # noqa: E402
from export.families.imedsam import FieldDecoder, SamEncoder, whole  # noqa: E402
from runtime.errors import CheckpointError  # noqa: E402
from runtime.manifest import EmbeddingTensor  # noqa: E402
from runtime.transforms import encoder_input, frame_of, spectrum  # noqa: E402

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


def place(rows: int, columns: int) -> Place:
    """All of a map."""
    return Place(torch.tensor([rows, columns]), torch.arange(rows), torch.arange(columns))


def test_waves_are_ordered_by_kind_then_axis_then_frequency() -> None:
    waves = _SegField.waves(place(3, 5))
    assert waves.shape == (3, 5, 63)
    y, x, slowest = 1.0, 0.5, 2 * math.pi
    torch.testing.assert_close(waves[2, 3, 60:], torch.tensor([-1.0, y, x]))
    torch.testing.assert_close(waves[2, 3, 20].item(), math.sin(slowest * x), atol=1e-5, rtol=0)
    torch.testing.assert_close(waves[2, 3, 50].item(), math.cos(slowest * x), atol=1e-5, rtol=0)
    second = slowest * 2 ** (10 / 9)
    torch.testing.assert_close(waves[2, 3, 11].item(), math.sin(second * y), atol=1e-5, rtol=0)
    assert _SegField.waves(place(1, 1))[0, 0, 60:].tolist() == [-1, -1, -1]


@pytest.mark.parametrize("count", [1, 2, 7, 128, 384, 999])
def test_positions_are_spaced_as_by_pytorch_but_for_the_last_bit(count: int) -> None:
    coordinates = _SegField.waves(place(count, 2))[:, 0, 61]
    torch.testing.assert_close(coordinates, torch.linspace(-1, 1, count), atol=6e-8, rtol=0)


@pytest.mark.parametrize("size", [(5, 7), (6, 6), (17, 3), (1, 40)])
def test_maps_are_enlarged_as_by_pytorch(size: tuple[int, int]) -> None:
    maps = torch.randn(2, 6, 9, 4)
    wanted = functional.interpolate(maps.permute(0, 3, 1, 2), size, mode="bilinear").permute(0, 2, 3, 1)
    torch.testing.assert_close(_enlarged(maps, place(*size)), wanted, atol=1e-5, rtol=1e-5)


def test_a_part_of_a_map_is_that_part_of_the_whole() -> None:
    torch.manual_seed(2)
    field = _SegField(4, 8).eval().requires_grad_(False)
    upscaled, grid = torch.randn(2, 6, 6, 4), torch.randn(1, 3, 3, 8)
    whole = field(upscaled, grid, place(25, 17))
    assert whole.shape == (2, 2, 25, 17)
    part = field(upscaled, grid, Place(torch.tensor([25, 17]), torch.arange(8, 20), torch.tensor([3, 16])))
    torch.testing.assert_close(part, whole[:, :, 8:20][..., [3, 16]], atol=1e-5, rtol=1e-5)


def test_batch_normalisation_moves_into_the_layer_before_it() -> None:
    layers = torch.nn.Sequential(*_perceptron(5, 7, 6), torch.nn.Linear(6, 2)).eval().requires_grad_(False)
    for norm in (layers[1], layers[4]):
        for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            value.copy_(torch.rand(value.shape) + 0.5)
    x = torch.randn(11, 5)
    torch.testing.assert_close(_through(layers, x), layers(x), atol=1e-5, rtol=1e-5)


def test_two_checkpoints_give_every_weight_of_the_model_and_no_other(conformance: Path) -> None:
    sam = pseudo_checkpoint(conformance, "sam_vit_b", meta=True)
    weights = combine(sam, pseudo_checkpoint(conformance, "imedsam", meta=True))
    with torch.device("meta"):
        wanted = imedsam().state_dict()
    assert {name: value.shape for name, value in weights.items()} == {
        name: value.shape for name, value in wanted.items()
    }


def test_the_layouts_are_the_published_ones(conformance: Path) -> None:
    family = load_family("imedsam")
    trained, sam = (pseudo_checkpoint(conformance, system, meta=True) for system in ("imedsam", "sam_vit_b"))
    layout = {name: tuple(value.shape) for name, value in trained.items() if not name.endswith(COUNTER)}
    assert family.layout() == layout
    facts = json.loads((conformance / "imedsam" / "manifest.json").read_text(encoding="utf-8"))
    assert facts["repository"] in family.repository
    assert family.revision == facts["commit"]
    assert family.extra is not None
    with torch.device("meta"):
        needed = layout_of(family.extra.build({}))
    assert needed == {name: tuple(value.shape) for name, value in sam.items() if name.startswith("image_encoder.")}


# A tiny one, from two files to a session

SMALL = replace(TINY, width=32, outputs=64)
LARGER = replace(SMALL, image=128)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The bundle of a tiny model, with the published facts but for the sizes."""
    family, folder = load_family("imedsam"), tmp_path_factory.mktemp("imedsam")
    assert family.extra is not None
    facts = replace(
        family.facts,
        input=msgspec.structs.replace(family.facts.input, size=(64, 64)),
        embedding=(EmbeddingTensor(name="image_embedding", shape=(1, 64, 4, 4)),),
        output=msgspec.structs.replace(family.facts.output, low_res_size=(64, 64)),
    )
    extra = replace(family.extra, build=lambda _: SamEncoder(LARGER))
    small = replace(family, facts=facts, build=partial(Trained, SMALL), extra=extra)
    torch.save({"model": randomised(Trained(SMALL), 1).state_dict(), "epoch": 3}, folder / "imedsam.pth")
    torch.save({**randomised(SamEncoder(LARGER), 2).state_dict(), "else": torch.zeros(3)}, folder / "sam.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export.convert, "load_families", lambda: (small,))
        options = ConvertOptions(extra=folder / "sam.pth")
        yield convert(folder / "imedsam.pth", folder / "bundle", options=options)
        with pytest.raises(CheckpointError, match=r"imedsam needs a second file: SAM's ViT-B .* give it with --extra"):
            convert(folder / "imedsam.pth", folder / "other")
        assert not (folder / "other").exists()


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_bundle_of_two_files_agrees_with_torch_at_any_size(bundle: Path, engine: str) -> None:
    trained, sam = randomised(Trained(SMALL), 1), randomised(SamEncoder(LARGER), 2)
    assert isinstance(trained, Trained)
    assert isinstance(sam, SamEncoder)
    model = whole(trained, sam)
    image = np.random.default_rng(4).integers(0, 255, (37, 90, 3), dtype=np.uint8)
    boxes = np.array([[3, 2, 60, 30], [20, 10, 89, 36], [5, 5, 9, 9]])
    with runtime.Session(bundle, backend=engine, cache=False) as session:
        assert session.precision == "fp32"
        manifest, frame = session.manifest, frame_of(session.manifest, (37, 90))
        pixels = encoder_input(image, manifest.input, frame)
        embedding = model.image_encoder(torch.from_numpy(pixels), torch.from_numpy(spectrum(pixels)))
        encoded = session.encode(image)
        np.testing.assert_allclose(encoded.tensors["image_embedding"], embedding, atol=1e-3)
        tokens = torch.from_numpy(frame.boxes_to_input(boxes))
        for size in ((37, 90), (128, 128), (5, 3)):
            where = place(*size)
            logits = FieldDecoder(model)(embedding, tokens, where.size, where.rows, where.columns).numpy()
            found = session.decode(encoded, boxes=boxes, output_size=size)
            deviation = float(logits[:, 0].std())
            np.testing.assert_allclose(found.low_res_logits, logits[:, 0], atol=1e-3 * deviation)
            if size == (37, 90):
                assert np.mean(found.candidates != (logits > 0)) <= 1e-3
                together = found
        alone = [session.decode(encoded, boxes=[box]).low_res_logits[0] for box in boxes]
        np.testing.assert_allclose(np.stack(alone), together.low_res_logits, atol=1e-5)
        assert session.segment(image, box=boxes[0].tolist()).label_map.shape == (37, 90)


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
    image_map = embedding + prompts.no_mask()
    found = model.mask_decoder.evaluate(image_map, tokens, prompts.grid(), place(*size))
    for index, (name, step) in enumerate(
        (("low_res_logits", "coarse_row_col_step"), ("fine_all_logits", "fine_all_step"))
    ):
        wanted = case[name]
        some = found[:, index, :: int(case[step]), :: int(case[step])].numpy()
        np.testing.assert_allclose(some, wanted, atol=1e-3 * wanted.std(), rtol=0)
