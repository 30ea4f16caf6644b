"""A bundle of a few convolutions, quantised: what is written, what is measured, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("nncf", reason="the export extra is not installed")

from conv_bundle import conv_bundle, graphs, picture
from engines import ENGINES
from PIL import Image

import export.quantize as quantizing
import runtime
from export import _int8
from export._bundle_copy import rewrite_manifest
from export._calibration import Sample, divided, structure_boxes
from export._mask_drop import Masks, mean_dice, speed_ratio
from export._onnx_weights import rewrite
from export._qdq import quantised_nodes
from export.cli import main
from export.quantize import REPORT_NAME, QuantizeOptions, quantize, quantize_folder
from runtime.backends import resolve_precision
from runtime.bundle import open_bundle
from runtime.errors import BundleError, OutputError, PromptError
from runtime.manifest import load_manifest

SAMPLES = [Sample(picture(seed), structure_boxes(picture(seed))) for seed in range(6)]


@pytest.fixture(scope="module", autouse=True)
def _fast_on_openvino_alone() -> Any:
    """What real graphs take on a busy machine decides nothing here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_int8, "int8_unit", lambda _: "vnni")
        patch.setattr(_int8, "speed_ratio", lambda _, role, engine, __: SPEED[engine, role])
        patch.setattr("runtime.backends.ov.has_native_bf16", lambda *_: False)
        yield


SPEED = {
    ("openvino", "encoder"): 2.0,
    ("openvino", "decoder"): 1.2,
    ("onnxruntime", "encoder"): 1.5,
    ("onnxruntime", "decoder"): 0.8,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    calibration = tmp_path_factory.mktemp("calibration")
    for number, sample in enumerate(SAMPLES):
        Image.fromarray(sample.image).save(calibration / f"{number}.png")
    return calibration


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return conv_bundle(tmp_path_factory.mktemp("source") / "conv")


@pytest.fixture(scope="module")
def made(source: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    output, told = tmp_path_factory.mktemp("made") / "int8", []
    quantize(source, output, calibration=folder, options=QuantizeOptions(max_drop=2.0, report=told.append))
    return output, told


def int8_graph(bundle: Path, role: str) -> Any:
    return onnx.load(bundle / f"{role}_int8.onnx")


def test_the_bundle_has_int8_graphs_beside_float_ones_with_float16_weights(made: tuple[Path, list[str]]) -> None:
    bundle = open_bundle(made[0])
    manifest = bundle.manifest
    assert set(manifest.graphs) == {"float", "int8"}
    assert manifest.weights == "fp16"
    assert manifest.graphs["int8"].encoder.onnx == "encoder_int8.onnx"
    assert len(quantised_nodes(int8_graph(made[0], "encoder"))) == 2
    assert len(quantised_nodes(int8_graph(made[0], "decoder"))) == 2
    assert set(manifest.files) == {path.name for path in made[0].iterdir()} - {"manifest.json"}
    for name in manifest.files:
        bundle.path(name)
    assert (made[0] / "encoder_int8.onnx").stat().st_size < len(graphs()["encoder.onnx"]) / 2


@pytest.mark.parametrize("backend", ENGINES)
def test_sessions_run_it_and_its_masks_are_close(source: Path, made: tuple[Path, list[str]], backend: str) -> None:
    image, boxes = picture(77), structure_boxes(picture(77))
    with runtime.Session(source, backend=backend, precision="fp32", cache=False) as session:
        wanted = session.decode(session.encode(image), boxes=boxes).masks
    with runtime.Session(made[0], backend=backend, precision="int8", cache=False) as session:
        found = session.decode(session.encode(image), boxes=boxes).masks
        assert session.precision == "int8"
    assert wanted.any()
    assert mean_dice(Masks((found,), ()), Masks((wanted,), ())) > 0.97


def test_the_report_is_printed_and_lies_in_the_bundle(made: tuple[Path, list[str]]) -> None:
    report = json.loads((made[0] / REPORT_NAME).read_text())
    assert report["images"] == 6
    assert (report["held_out"], report["measured_on"], report["drawn"]) == (2, "2 held-out calibration images", False)
    assert all(0.98 <= dice <= 1 for dice in report["dice"].values())
    assert set(report["dice"]) == set(ENGINES)
    assert report["quantised"] == {"encoder": 2, "decoder": 2}
    assert list(report["left_float"]["decoder"].values()) == ["writes an output"]
    assert report["bytes_after"] < report["bytes_before"]
    metrics = {metric.name: metric.value for metric in open_bundle(made[0]).manifest.metrics}
    assert metrics["int8_speed_encoder_openvino"] == 2.0
    assert {metric.dataset for metric in open_bundle(made[0]).manifest.metrics} == {"2 held-out calibration images"}
    assert metrics["int8_dice_to_fp32_onnxruntime"] == pytest.approx(report["dice"]["onnxruntime"], abs=1e-4)
    assert "openvino: on this CPU (vnni) encoder 2.00 times as fast, decoder 1.20 times as fast as fp32; taken by" in (
        "\n".join(made[1])
    )
    assert "decoder: 2 layers in int8; in float: 1 writes an output" in made[1]


def test_auto_takes_int8_on_the_engine_where_it_was_faster_alone(
    made: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(made[0])
    assert bundle.manifest.int8_faster == {"openvino": ("vnni",)}
    monkeypatch.setattr("runtime.backends.units.int8_unit", lambda _: "vnni")
    monkeypatch.setattr("runtime.backends.ov.has_native_bf16", lambda _: False)
    assert resolve_precision("auto", "openvino", bundle) == "int8"
    assert resolve_precision("auto", "onnxruntime", bundle) == "fp32"


def test_quantising_again_starts_from_the_float_graphs(made: tuple[Path, list[str]], tmp_path: Path) -> None:
    quantize(made[0], tmp_path / "again", options=QuantizeOptions(precision="fp16"))
    manifest = open_bundle(tmp_path / "again").manifest
    assert set(manifest.graphs) == {"float"}
    assert manifest.int8_faster == {}
    assert not [metric for metric in manifest.metrics if metric.name.startswith("int8_")]
    assert not (tmp_path / "again" / "encoder_int8.onnx").exists()
    assert (tmp_path / "again" / "encoder.onnx").read_bytes() == (made[0] / "encoder.onnx").read_bytes()


@pytest.mark.parametrize("precision", ["fp16", "int8-weights"])
def test_cheaper_steps_keep_float_graphs(source: Path, folder: Path, tmp_path: Path, precision: Any) -> None:
    output = tmp_path / "out"
    report = quantize(source, output, calibration=folder, options=QuantizeOptions(precision=precision))
    manifest = open_bundle(output).manifest
    assert set(manifest.graphs) == {"float"}
    assert manifest.weights == ("fp16" if precision == "fp16" else "int8")
    assert min(report.dice.values()) > 0.995
    assert {(engine, role) for engine, roles in report.speed.items() for role in roles} == set(SPEED)
    assert all(0.01 < ratio < 100 for roles in report.speed.values() for ratio in roles.values())
    text = "\n".join(report.lines())
    assert "openvino: on this CPU encoder" in text
    assert "as fp32, in which its graphs compute" in text
    if precision == "int8-weights":
        with pytest.raises(BundleError, match="has INT8 weights already; quantise the bundle that it was made from"):
            quantize(output, tmp_path / "twice", options=QuantizeOptions(precision="fp16"))


def scale_neck(model: Any, factor: float) -> None:
    """Multiply the last layer of an encoder; store nothing in fewer bits."""
    for tensor in model.graph.initializer:
        if tensor.name == "neck.weight":
            array = onnx.numpy_helper.to_array(tensor) * np.float32(factor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


@pytest.mark.parametrize("precision", ["fp16", "int8-weights"])
def test_without_images_drawn_ones_are_measured_and_named(source: Path, tmp_path: Path, precision: Any) -> None:
    report = quantize(source, tmp_path / "out", options=QuantizeOptions(precision=precision))
    written = json.loads((tmp_path / "out" / REPORT_NAME).read_text())
    assert (written["images"], written["measured_on"], written["drawn"]) == (3, "3 drawn images", True)
    assert written["dice"] == report.dice
    assert set(report.dice) == set(ENGINES)
    assert min(report.dice.values()) > 0.995
    assert {(engine, role) for engine, roles in report.speed.items() for role in roles} == set(SPEED)
    assert sum("on 3 drawn images, which test the arithmetic" in line for line in report.lines()) == 2


def test_a_drop_on_drawn_images_refuses_as_one_on_given_ones(
    source: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export._onnx_weights.store_half", lambda model: scale_neck(model, 0.8))
    options = QuantizeOptions(precision="fp16")
    with pytest.raises(BundleError, match=r"points on 3 drawn images; wanted at most 0.5: .* your images with --calib"):
        quantize(source, tmp_path / "out", options=options)
    with pytest.raises(BundleError, match=r"points on 2 held-out calibration images; .* with --max-drop, or choose"):
        quantize(source, tmp_path / "out", calibration=folder, options=options)
    assert list(tmp_path.iterdir()) == []
    report = quantize(source, tmp_path / "out", options=QuantizeOptions(precision="fp16", max_drop=100))
    assert max(report.dice.values()) < 0.995


def test_a_model_that_finds_nothing_in_drawn_images_is_not_measured_there(tmp_path: Path) -> None:
    """Masks that stay empty in both precisions compare nothing, which is said and is no error."""
    bundle = copied(tmp_path)
    rewrite(bundle / "encoder.onnx", lambda model: scale_neck(model, -100))
    rewrite_manifest(bundle, load_manifest(bundle), load_manifest(bundle).graphs)
    report = quantize(bundle, tmp_path / "out", options=QuantizeOptions(precision="fp16"))
    assert report.dice == {}
    assert set(report.speed) == set(ENGINES)
    assert "no masks on 3 drawn images: Dice to fp32 is not measured; --calibration DIR takes yours" in report.lines()


def copied(tmp_path: Path) -> Path:
    return conv_bundle(tmp_path / "bundle")


def test_layers_go_back_to_float_until_the_masks_are_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One layer is made bad on purpose: that one goes back, the others stay."""
    real = _int8.quantise_graph

    def spoilt(model: Any, samples: Any, nodes: Any, *, transformer: bool) -> Any:
        result = real(model, samples, nodes, transformer=transformer)
        for tensor in result.graph.initializer:
            if "scale" in tensor.name and "stem.weight" in tensor.name:
                tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * 1e-3, tensor.name))
        return result

    monkeypatch.setattr(_int8, "quantise_graph", spoilt)
    bundle, told = copied(tmp_path), []
    report = quantize_folder(bundle, divided(SAMPLES), QuantizeOptions(max_drop=2.0, report=told.append))
    assert "put 1 layers back to float" in told
    assert report.quantised == {"encoder": 1, "decoder": 2}
    assert sorted(report.left_float["encoder"].values()) == ["cost too much accuracy", "too small to gain"]
    weights = {node.input[1] for node in int8_graph(bundle, "encoder").graph.node if node.op_type == "Conv"}
    assert "stem.weight" in weights


def test_layers_that_need_not_go_back_stay_in_int8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of three, of which one layer is to blame: only that one goes back."""
    monkeypatch.setattr(_int8, "_GROUPS", 1)
    blamed: list[str] = []

    def drop(self: Any, models: Any) -> float:
        blamed[:] = blamed or quantised_nodes(models["encoder"])[1:]
        return 3.0 if blamed[0] in quantised_nodes(models["encoder"]) else 0.2

    monkeypatch.setattr(_int8.Int8, "_drop", drop)
    report = quantize_folder(copied(tmp_path), divided(SAMPLES), QuantizeOptions(max_drop=2.0))
    assert report.left_float["encoder"][blamed[0]] == "cost too much accuracy"
    assert report.quantised == {"encoder": 1, "decoder": 2}


def test_where_every_group_has_a_layer_that_must_go_back_the_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_int8, "_GROUPS", 1)
    blamed: dict[str, str] = {}

    def drop(self: Any, models: Any) -> float:
        blamed.update(blamed or {role: quantised_nodes(model)[0] for role, model in models.items()})
        return 3.0 if any(name in quantised_nodes(models[role]) for role, name in blamed.items()) else 0.2

    monkeypatch.setattr(_int8.Int8, "_drop", drop)
    report = quantize_folder(copied(tmp_path), divided(SAMPLES), QuantizeOptions(max_drop=2.0))
    costly = [
        (role, name)
        for role, reasons in report.left_float.items()
        for name, why in reasons.items()
        if why == "cost too much accuracy"
    ]
    assert sorted(costly) == sorted(blamed.items())
    assert min(report.quantised.values()) > 0


def test_a_drop_that_no_choice_meets_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_int8.Int8, "_drop", lambda *_: 7.0)
    with pytest.raises(
        BundleError, match=r"every choice of layers costs about 0.5 Dice points or more .*\(7.00 with all"
    ):
        quantize_folder(copied(tmp_path), divided(SAMPLES), QuantizeOptions())


def test_a_graph_that_is_not_faster_stays_float(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ratios = {("decoder", "openvino"): 0.9, ("decoder", "onnxruntime"): 1.2}
    monkeypatch.setattr(_int8, "speed_ratio", lambda _, role, engine, __: ratios.get((role, engine), 1.4))
    bundle = copied(tmp_path)
    report = quantize_folder(bundle, divided(SAMPLES), QuantizeOptions(max_drop=2.0))
    manifest = open_bundle(bundle).manifest
    assert manifest.graphs["int8"].decoder == manifest.graphs["float"].decoder
    assert not (bundle / "decoder_int8.onnx").exists()
    assert report.quantised == {"encoder": 2, "decoder": 0}
    assert "not faster in int8 here (0.90 times)" in report.left_float["decoder"].values()
    assert set(report.int8_faster) == set(ENGINES)
    monkeypatch.setattr(_int8, "speed_ratio", lambda *_: 0.9)
    with pytest.raises(BundleError, match="no graph is faster than in float on this CPU; int8-weights or fp16"):
        quantize_folder(copied(tmp_path / "slow"), divided(SAMPLES), QuantizeOptions(max_drop=2.0))


@pytest.mark.parametrize(
    ("lost", "speed", "rest"), [(0.001, 1.3, "bf16"), (0.001, 1.05, "fp32"), (0.01, 1.3, "fp32"), (0.2, 1.3, "fp32")]
)
def test_float_layers_are_left_to_bf16_where_that_is_faster_and_keeps_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: float, speed: float, rest: str
) -> None:
    asked: list[str] = []
    real_masks, real_dice = quantizing.masks_of, quantizing.mean_dice

    def masks_of(*args: Any, precision: str, **options: Any) -> Masks:
        asked.append(precision)
        return real_masks(*args, precision=precision.removesuffix("-bf16"), **options)

    def dice_less_what_is_lost(found: Masks, wanted: Masks) -> float:
        return real_dice(found, wanted) - lost * (asked[-1] == "int8-bf16")

    monkeypatch.setattr(quantizing, "masks_of", masks_of)
    monkeypatch.setattr(quantizing, "mean_dice", dice_less_what_is_lost)
    monkeypatch.setattr(quantizing, "speed_ratio", lambda *_, **__: speed)
    monkeypatch.setattr("runtime.backends.ov.has_native_bf16", lambda *_: True)
    told: list[str] = []
    report = quantize_folder(copied(tmp_path), divided(SAMPLES), QuantizeOptions(max_drop=2.0, report=told.append))
    assert asked[-1] == "int8-bf16"
    assert report.int8_rest == load_manifest(tmp_path / "bundle").int8_rest == rest
    taken = "taken" if rest == "bf16" else "not taken"
    assert f"decoder {speed:.2f} times as fast as with float32; {taken} by --precision auto" in "\n".join(told)


def test_a_cpu_without_8_bit_products_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_int8, "int8_unit", lambda _: None)
    monkeypatch.setattr(_int8, "speed_ratio", lambda *_: 0.5)
    report = quantize_folder(copied(tmp_path), divided(SAMPLES), QuantizeOptions(max_drop=2.0))
    assert report.quantised == {"encoder": 2, "decoder": 2}
    assert report.int8_faster == {}


def test_the_speed_is_a_ratio_of_real_runs(made: tuple[Path, list[str]]) -> None:
    image = np.zeros((1, 3, 64, 64), np.float32)
    assert 0.01 < speed_ratio(made[0], "encoder", "onnxruntime", {"image": image}, seconds=0.1) < 100


def test_empty_masks_on_both_sides_do_not_count() -> None:
    full, none = np.ones((1, 4, 4), np.bool_), np.zeros((1, 4, 4), np.bool_)
    half = np.arange(16).reshape(1, 4, 4) < 8
    assert mean_dice(Masks((full, none), ()), Masks((half, none), ())) == pytest.approx(2 / 3)
    with pytest.raises(BundleError, match="every mask on the held-out images is empty"):
        mean_dice(Masks((none,), ()), Masks((none,), ()))


def test_bad_requests_are_refused_before_any_work(source: Path, tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"int8 needs images, .*give --calibration DIR, or choose int8-weights"):
        quantize(source, tmp_path / "out")
    with pytest.raises(OutputError, match="exists; choose another folder, or replace it with --force"):
        quantize(source, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_of_ir_alone_is_refused(tmp_path: Path) -> None:
    from bundle_factory import write_bundle

    files = {"e.xml": b"<net/>", "e.bin": b"w", "decoder.onnx": b"d"}
    graph_set = {"encoder": {"openvino": "e.xml"}, "decoder": {"onnx": "decoder.onnx"}}
    bundle = write_bundle(tmp_path / "ir", files, graphs={"float": graph_set})
    with pytest.raises(BundleError, match="carries its encoder as OpenVINO IR alone; wanted ONNX graphs"):
        quantize(bundle, tmp_path / "out", options=QuantizeOptions(precision="fp16"))
    assert not (tmp_path / "out").exists()


def test_the_command_line(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "half"
    assert main(["quantize", str(source), "--output", str(output), "--precision", "fp16"]) == 0
    told = capsys.readouterr().out
    assert f"done: {output}" in told
    assert "openvino: Dice to fp32 1.0000 on 3 drawn images, which test the arithmetic and say nothing of" in told
    assert main(["quantize", str(source), "--output", str(tmp_path / "x")]) == 2
    assert "give --calibration DIR" in capsys.readouterr().err
    (tmp_path / "none").mkdir()
    assert main(["quantize", str(source), "-o", str(tmp_path / "x"), "--calibration", str(tmp_path / "none")]) == 3
    assert "0 file(s) read" in capsys.readouterr().err
    assert main(["quantize", str(source), "-o", str(tmp_path / "x"), "--max-drop", "-1"]) == 2
