"""Checkpoint -> bundle folder on a tiny family: what is written, and that nothing is written by halves."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")

from bundle_factory import write_bundle  # noqa: E402
from tiny_family import decoded, family, random_model, saved  # noqa: E402

import export.convert  # noqa: E402
import runtime  # noqa: E402
from export import compare  # noqa: E402
from export.convert import ConvertOptions, convert  # noqa: E402
from runtime.arrival import REPLACED  # noqa: E402
from runtime.bundle import open_bundle  # noqa: E402
from runtime.errors import BundleError, OutputError, PromptError  # noqa: E402
from runtime.manifest import load_manifest  # noqa: E402
from runtime.transforms import encoder_input, frame_of  # noqa: E402

TINY = family()


@pytest.fixture(scope="module", autouse=True)
def _tiny_families() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export.convert, "load_families", lambda: (TINY,))
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    weights = {"model": random_model().state_dict()}
    return saved(weights, tmp_path_factory.mktemp("checkpoint") / "tiny.pth")


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("bundles") / "new" / "tiny"
    told: list[str] = []
    convert(checkpoint, folder, options=ConvertOptions(formats=("onnx", "openvino"), report=told.append))
    return folder, told


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for the slow steps."""

    def write(role: str, graph, folder: Path, options) -> export.convert.GraphFiles:
        (folder / f"{role}.onnx").write_bytes(b"graph")
        return export.convert.GraphFiles(onnx=f"{role}.onnx")

    monkeypatch.setattr(export.convert, "_write_graph", write)
    monkeypatch.setattr(compare, "compare_graphs", lambda *_: 0.0)


def test_the_manifest_states_the_familys_facts_and_where_the_weights_come_from(
    bundle: tuple[Path, list[str]], checkpoint: Path
) -> None:
    manifest = load_manifest(bundle[0])
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert (manifest.name, manifest.family, manifest.title, manifest.version) == ("tiny", "tiny", "Tiny", digest[:12])
    assert manifest.source.checkpoint_sha256 == digest
    assert manifest.source.exporter == f"lite-infer {runtime.__version__}"
    assert manifest.source.repository == TINY.repository
    assert manifest.source.revision == TINY.revision
    assert manifest.source.paper == TINY.paper
    assert (manifest.input, manifest.embedding) == (TINY.facts.input, TINY.facts.embedding)
    assert (manifest.prompts, manifest.output) == (TINY.facts.prompts, TINY.facts.output)
    assert manifest.propagation == TINY.facts.propagation
    assert manifest.weights == "fp32"


def test_every_file_is_listed_with_its_digest(bundle: tuple[Path, list[str]]) -> None:
    folder, _ = bundle
    files = load_manifest(folder).files
    assert set(files) == {path.name for path in folder.iterdir()} - {"manifest.json"}
    assert set(files) == {f"{role}.{kind}" for role in ("encoder", "decoder") for kind in ("onnx", "xml", "bin")}
    for name, record in files.items():
        content = (folder / name).read_bytes()
        assert (record.sha256, record.bytes) == (hashlib.sha256(content).hexdigest(), len(content))


def test_the_bundle_appears_with_the_permissions_of_a_new_folder_and_nothing_else(
    bundle: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder, _ = bundle
    (tmp_path / "new").mkdir()
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE((tmp_path / "new").stat().st_mode)
    assert list(folder.parent.iterdir()) == [folder]


def test_each_step_is_reported(bundle: tuple[Path, list[str]]) -> None:
    folder, told = bundle
    assert told[0] == "tiny.pth: Tiny (tiny), weights under 'model'"
    assert told[1:3] == ["wrote the encoder", "wrote the decoder"]
    assert told[3].startswith("compared with torch: largest difference")
    assert told[4] == f"done: {folder}"


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("size", [(40, 64), (97, 31)])
def test_sessions_compute_what_torch_computes_on_images_of_any_shape(
    bundle: tuple[Path, list[str]], backend: str, size: tuple[int, int]
) -> None:
    image = np.random.default_rng(6).integers(0, 256, (*size, 3), dtype=np.uint8)
    boxes = np.array([[2, 3, 20, 30], [0, 0, 30, 39], [7, 7, 7, 7]])
    with runtime.Session(bundle[0], backend=backend, precision="fp32", cache=False) as session:
        frame = frame_of(session.manifest, size)
        pixels = encoder_input(image, session.manifest.input, frame)
        embedding, logits, scores = decoded(random_model(), pixels, frame.boxes_to_input(boxes))
        found = session.encode(image)
        prediction = session.decode(found, boxes=boxes)
        alone = [session.decode(found, boxes=[box]).low_res_logits[0] for box in boxes]
    np.testing.assert_allclose(found.tensors["image_embedding"], embedding, atol=1e-4)
    np.testing.assert_allclose(prediction.low_res_logits, logits, atol=1e-4 * logits.std())
    np.testing.assert_allclose(prediction.scores, scores, atol=1e-4)
    np.testing.assert_allclose(np.stack(alone), prediction.low_res_logits, atol=1e-5 * logits.std())
    assert prediction.masks.shape == (3, *size)


def test_half_weights_take_half_the_space_and_openvino_alone_has_no_onnx(
    bundle: tuple[Path, list[str]], checkpoint: Path, tmp_path: Path
) -> None:
    told: list[str] = []
    options = ConvertOptions(precision="fp16", formats=("openvino",), name="halved", report=told.append)
    folder = convert(checkpoint, tmp_path / "half", options=options)
    manifest = load_manifest(folder)
    assert (manifest.weights, manifest.name) == ("fp16", "halved")
    assert set(manifest.files) == {"encoder.xml", "encoder.bin", "decoder.xml", "decoder.bin"}
    assert manifest.graphs["float"].encoder.onnx is None
    full, half = ((path / "decoder.bin").stat().st_size for path in (bundle[0], folder))
    assert half < 0.75 * full
    assert "float16 weights in OpenVINO's format: Dice to fp32 and speed are not measured; --format onnx is" in told


@pytest.mark.usefixtures("no_export")
def test_an_existing_folder_is_kept(checkpoint: Path, tmp_path: Path) -> None:
    output = convert(checkpoint, tmp_path / "bundle")
    before = output.stat().st_ino
    with pytest.raises(OutputError, match=r"bundle exists; choose another folder, or replace it with --force"):
        convert(checkpoint, output)
    assert output.stat().st_ino == before


@pytest.mark.usefixtures("no_export")
def test_force_replaces_a_bundle_whole(checkpoint: Path, tmp_path: Path) -> None:
    output = write_bundle(tmp_path / "bundle", {"encoder.onnx": b"", "decoder.onnx": b"", "stale/card.md": b"old"})
    (output / ".DS_Store").touch()
    convert(checkpoint, output, options=ConvertOptions(force=True))
    assert {path.name for path in output.iterdir()} == {"manifest.json", *open_bundle(output).manifest.files}
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.usefixtures("no_export")
def test_force_replaces_no_folder_that_holds_anything_else(checkpoint: Path, tmp_path: Path) -> None:
    output = convert(checkpoint, tmp_path / "bundle")
    (output / "notes").mkdir()
    (output / "notes" / "mine.txt").write_text("precious")
    with pytest.raises(OutputError, match="holds notes, which lite-infer did not put there"):
        convert(checkpoint, output, options=ConvertOptions(force=True))
    assert (output / "notes" / "mine.txt").read_text() == "precious"


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
@pytest.mark.usefixtures("no_export")
def test_force_replaces_nothing_but_a_bundle(checkpoint: Path, tmp_path: Path, kind: str) -> None:
    output, holiday = tmp_path / "pictures", tmp_path / "holiday"
    if kind == "file":
        output.write_text("precious")
    else:
        holiday.mkdir()
        (holiday / "beach.png").write_text("precious")
        (holiday / "manifest.json").write_text('{"name": "a web page"}')
        if kind == "link":
            output.symlink_to(holiday)
        else:
            output = holiday
    with pytest.raises(OutputError, match="is not a bundle, so it is not replaced"):
        convert(checkpoint, output, options=ConvertOptions(force=True))
    assert (output if kind == "file" else holiday / "beach.png").read_text() == "precious"


@pytest.mark.usefixtures("no_export")
@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_conversion_that_fails_leaves_nothing_behind(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure
) -> None:
    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(export.convert, "write_manifest", fail)
    expected = KeyboardInterrupt if failure is KeyboardInterrupt else OutputError
    with pytest.raises(expected, match=None if failure is KeyboardInterrupt else "No space left on device"):
        convert(checkpoint, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_export")
def test_a_failed_replacement_keeps_the_old_bundle(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = convert(checkpoint, tmp_path / "bundle")
    before = (output / "manifest.json").read_text()
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if target == output and self.name != REPLACED:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OutputError, match="Input/output error"):
        convert(checkpoint, output, options=ConvertOptions(force=True))
    assert (output / "manifest.json").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not hold back root")
@pytest.mark.usefixtures("no_export")
def test_a_folder_that_may_not_be_written_is_named(checkpoint: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot be written"):
        convert(checkpoint, tmp_path / "bundle")


def test_a_graph_that_disagrees_with_torch_is_refused(
    bundle: tuple[Path, list[str]],
) -> None:
    graphs = TINY.graphs(random_model(seed=1))  # other weights than the bundle's
    with pytest.raises(BundleError, match=r"encoder graph's image_embedding differs from the torch model"):
        compare.compare_graphs(graphs, bundle[0], "fp32")


def test_int8_graphs_are_made_in_the_same_step(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nncf", reason="the export extra is not installed")
    from conv_bundle import picture
    from PIL import Image

    from export import _int8

    for number in range(3):
        Image.fromarray(picture(number, (70, 60))).save(tmp_path / f"{number}.png")
    monkeypatch.setattr(_int8, "speed_ratio", lambda *_: 1.5)
    options = ConvertOptions(precision="int8", calibration=tmp_path, max_drop=60.0)
    folder = convert(checkpoint, tmp_path / "int8", options=options)
    manifest = load_manifest(folder)
    assert set(manifest.graphs) == {"float", "int8"}
    assert manifest.weights == "fp16"
    report = json.loads((folder / "quantization.json").read_text())
    assert min(report["quantised"].values()) > 10, "linear layers and convolutions of a transformer"
    assert set(report["left_float"]["decoder"].values()) >= {"encodes positions", "stated by the family"}
    with runtime.Session(folder, backend="openvino", precision="int8", cache=False) as session:
        embedding = session.encode(picture(9, (70, 60)))
        assert np.isfinite(session.decode(embedding, boxes=[[2, 3, 20, 30]]).low_res_logits).all()


def test_float16_weights_are_measured_on_drawn_images(checkpoint: Path, tmp_path: Path) -> None:
    told: list[str] = []
    options = ConvertOptions(precision="fp16", max_drop=60.0, report=told.append)
    folder = convert(checkpoint, tmp_path / "half", options=options)
    assert load_manifest(folder).weights == "fp16"
    report = json.loads((folder / "quantization.json").read_text())
    assert report["bytes_after"] < 0.8 * report["bytes_before"]
    assert report["measured_on"] == "3 drawn images"
    assert set(report["dice"]) == set(report["speed"]) == {"openvino", "onnxruntime"}
    assert sum("on 3 drawn images, which test the arithmetic" in line for line in told) == 2


def test_int8_without_images_or_with_other_formats_is_refused_before_any_work(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"int8 needs images, .*give --calibration DIR"):
        convert(checkpoint, tmp_path / "new", options=ConvertOptions(precision="int8"))
    with pytest.raises(PromptError, match="such graphs are ONNX, which both engines read; leave --format out"):
        convert(checkpoint, tmp_path / "new", options=ConvertOptions(precision="int8-weights", formats=("openvino",)))
    assert not (tmp_path / "new").exists()
