"""The manifest's schema: what is accepted, what is refused, and that messages name everything that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bundle_factory import manifest_data

from runtime.errors import BundleVersionError, ManifestError
from runtime.manifest import MAX_MANIFEST_BYTES, Manifest, load_manifest, parse_manifest, write_manifest

OLD_MANIFESTS = sorted((Path(__file__).parent / "data").glob("manifest_*.json"))
DIGEST = {"sha256": "0" * 64, "bytes": 0}
CROP = {
    "name": "crop_tokens",
    "size": [32, 32],
    "interpolation": "linear",
    "normalise": {"kind": "scale"},
    "graph": "crop_encoder",
}


def parse(**changes: Any) -> Manifest:
    return parse_manifest(json.dumps(manifest_data(**changes)))


def changed(path: str, value: Any) -> dict[str, Any]:
    """A valid manifest with one value, given by its dotted path, replaced."""
    data = manifest_data()
    *parents, last = path.split(".")
    place: Any = data
    for key in parents:
        place = place[int(key)] if isinstance(place, list) else place[key]
    place[last] = value
    return data


def test_defaults_are_those_of_the_format_page() -> None:
    manifest = parse()
    assert manifest.weights == "fp32"
    assert manifest.modalities == ()
    assert manifest.input.channels == 3
    assert manifest.embedding[0].stored_dtype == "float32"
    assert manifest.prompts.box is not None
    assert (manifest.prompts.box.use, manifest.prompts.box.rounding) == ("required", "none")
    assert manifest.prompts.points is None
    assert manifest.output.scores
    assert not manifest.output.inclusive
    assert manifest.propagation.published is None
    assert manifest.propagation.chain.margin_px == 2.0


@pytest.mark.parametrize("path", OLD_MANIFESTS, ids=lambda path: path.stem)
def test_manifests_of_earlier_versions_are_still_read(path: Path) -> None:
    manifest = parse_manifest(path.read_bytes())
    assert manifest.name == "everything"
    assert manifest.prompts.crops[0].graph == "crop_encoder"
    assert manifest.propagation.published is not None


def test_there_is_a_manifest_of_each_format_version() -> None:
    assert [path.stem for path in OLD_MANIFESTS] == ["manifest_1_1"]


def test_what_is_written_is_read_back_equal(tmp_path: Path) -> None:
    manifest = parse_manifest(OLD_MANIFESTS[0].read_bytes())
    path = write_manifest(manifest, tmp_path)
    assert path == tmp_path / "manifest.json"
    assert load_manifest(tmp_path) == manifest
    assert [entry.name for entry in tmp_path.iterdir()] == ["manifest.json"]


def test_a_manifest_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    write_manifest(parse(version="old"), tmp_path)
    broken = msgspec.structs.replace(parse(), output=msgspec.structs.replace(parse().output, threshold=float("nan")))
    with pytest.raises(ManifestError):
        write_manifest(broken, tmp_path)
    assert load_manifest(tmp_path).version == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["manifest.json"]


def test_a_contradictory_manifest_is_not_written(tmp_path: Path) -> None:
    broken = msgspec.structs.replace(parse(), files={})
    with pytest.raises(ManifestError, match=r"'encoder\.onnx' is not listed in files"):
        write_manifest(broken, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", ["format_version", "layout_revision"])
def test_a_newer_version_is_refused_with_both_numbers_even_if_nothing_else_fits(key: str) -> None:
    data = {"format_version": 1, "layout_revision": 1, key: 7, "unheard_of": []}
    with pytest.raises(BundleVersionError, match=rf"manifest\.json: {key} 7, this version reads up to 1; upgrade"):
        parse_manifest(json.dumps(data))


@pytest.mark.parametrize("value", [0, -1, 1.0, "1", True, None, [1]])
def test_a_version_that_is_no_whole_number_from_one_is_refused(value: Any) -> None:
    with pytest.raises(ManifestError, match=r"format_version is .*; wanted a whole number from 1 to 1"):
        parse(format_version=value)


def test_all_missing_fields_are_reported_together() -> None:
    data = manifest_data(input={"size": [64, 64]}, embedding=[{"name": "a"}, {"shape": [1]}], prompts={"mask": {}})
    data["files"]["encoder.onnx"] = {"bytes": 1}
    data["graphs"]["float"].pop("decoder")
    del data["title"]
    wanted = (
        "lacks title, input.resize, input.interpolation, input.normalise, embedding.0.shape, embedding.1.name, "
        "prompts.mask.kind, prompts.mask.size, graphs.float.decoder, files.encoder.onnx.sha256; convert"
    )
    with pytest.raises(ManifestError, match=wanted):
        parse_manifest(json.dumps(data))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[]", "holds a list; wanted a JSON object"),
        ("null", "holds a NoneType; wanted a JSON object"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        ("\ud800", "not valid JSON"),
        ("[" * 200_000, "not valid JSON"),
        (" " * (MAX_MANIFEST_BYTES + 1), r"has 1048577 bytes; wanted at most 1048576"),
    ],
    ids=range(9),
)
def test_what_is_no_json_object_is_refused(text: bytes | str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        parse_manifest(text)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("colour", "blue"),
        ("input.colour", "blue"),
        ("prompts.box.colour", "blue"),
        ("graphs.float.encoder.tflite", "a.tflite"),
        ("graphs.bf16", {}),
    ],
)
def test_unknown_keys_are_refused_and_named(path: str, value: Any) -> None:
    with pytest.raises(ManifestError, match=rf"{path.split('.')[-1]}|graphs"):
        parse_manifest(json.dumps(changed(path, value)))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("name", ""),
        ("name", "a/b"),
        ("name", "a\n"),
        ("name", "-a"),
        ("name", "a" * 65),
        ("input.size", [64]),
        ("input.size", [64, 0]),
        ("input.size", [64, 4097]),
        ("input.size", [64.5, 64]),
        ("input.channels", 2),
        ("input.resize", "crop"),
        ("input.interpolation", "nearest"),
        ("input.normalise.kind", "none"),
        ("input.spectrum", "two words"),
        ("embedding", []),
        ("embedding.0.name", "0"),
        ("embedding.0.name", "embedding\n"),
        ("embedding.0.shape", []),
        ("embedding.0.shape", [1, -1]),
        ("embedding.0.dtype", "bfloat16"),
        ("embedding.0.stored_dtype", "float64"),
        ("output.candidates", 0),
        ("output.candidates", True),
        ("output.threshold", "0"),
        ("output.threshold", None),
        ("files.encoder.onnx", DIGEST["sha256"]),
        ("graphs.float.encoder.onnx", 3),
        ("licence", "MIT"),
        ("prompts.vectors", {"content": 0}),
        ("prompts.vectors", {"a b": 4}),
        ("propagation", {"chain": {"min_score": 1.5}}),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_its_place(path: str, value: Any) -> None:
    data = manifest_data(files={"encoder.onnx": value}) if path.startswith("files") else changed(path, value)
    with pytest.raises(ManifestError, match=rf"manifest\.json: .*{path.split('.')[0]}.*see docs/bundle-format\.md"):
        parse_manifest(json.dumps(data))


@pytest.mark.parametrize("sha256", ["0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 64 + "\n"])
def test_a_digest_is_64_lower_case_hexadecimal_digits(sha256: str) -> None:
    with pytest.raises(ManifestError, match=r"manifest\.json: .*files"):
        parse(files={"encoder.onnx": {"sha256": sha256, "bytes": 1}, "decoder.onnx": DIGEST})


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../a", "a/../b", "a//b", "./a", "a/", ".hidden", "a\\b", "C:a", "a b", "", "a\n", "a/.b", "ä"],
)
def test_a_path_that_is_not_plain_and_inside_is_refused(path: str) -> None:
    files = {"encoder.onnx": DIGEST, "decoder.onnx": DIGEST, path: DIGEST}
    with pytest.raises(ManifestError, match="is not a plain relative path inside the bundle"):
        parse(files=files)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"graphs": {}}, "graphs: wanted a float graph set"),
        ({"int8_faster": {"openvino": ["vnni"]}}, "int8_faster: there are no int8 graphs that could be faster"),
        ({"int8_rest": "bf16"}, "int8_rest: there are no int8 graphs that could leave anything"),
        (
            {"graphs": {"float": {"encoder": {}, "decoder": {"onnx": "decoder.onnx"}}}},
            r"graphs\.float\.encoder: wanted an onnx or an openvino file",
        ),
        (
            {"graphs": {"float": {"encoder": {"onnx": "else.onnx"}, "decoder": {"onnx": "decoder.onnx"}}}},
            r"graphs\.float\.encoder: 'else\.onnx' is not listed in files",
        ),
        (
            {
                "graphs": {"float": {"encoder": {"openvino": "e.xml"}, "decoder": {"onnx": "decoder.onnx"}}},
                "files": {"e.xml": DIGEST, "decoder.onnx": DIGEST},
            },
            r"graphs\.float\.encoder: 'e\.bin' is not listed in files",
        ),
        (
            {"graphs": {"float": {"encoder": {"openvino": "encoder.onnx"}, "decoder": {"onnx": "decoder.onnx"}}}},
            r"'encoder\.onnx' is no OpenVINO IR; wanted its \.xml",
        ),
        (
            {"embedding": [{"name": "a", "shape": [1]}, {"name": "a", "shape": [2]}]},
            r"embedding: names \['a', 'a'\] repeat",
        ),
        (
            {"embedding": [{"name": "boxes", "shape": [1]}]},
            "the decoder would have several inputs 'boxes'",
        ),
        (
            {"prompts": {"modality": "optional", "vectors": {"modality": 3}}},
            "the decoder would have several inputs 'modality'",
        ),
        ({"prompts": {"crops": [CROP]}}, r"graphs\.float\.extra: lacks 'crop_encoder', which crop 'crop_tokens' needs"),
        (
            {"prompts": {"crops": [{**CROP, "graph": None, "length": 4}]}},
            r"prompts.crops.crop_tokens.length: belongs to a crop with a graph",
        ),
        *(
            (
                {
                    "prompts": {
                        "box": {"use": "optional"},
                        "points": {"box_sides": [0.5]},
                        "mask": {"kind": "logits", "size": [8, 8]},
                    },
                    "output": {"low_res_size": [8, 8], "candidates": 2, **output},
                },
                r"prompts\.points\.box_sides: the best box is found by output\.scores; wanted true, and order score",
            )
            for output in ({"scores": False}, {"order": "graph"})
        ),
    ],
    ids=range(14),
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        parse(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resize": "stretch"}, "a stretched image fills the input; wanted none"),
        ({"pad": "none"}, "the longest-side rule leaves a border; wanted bottom_right"),
        ({"normalise": {"kind": "mean_std"}}, "mean and std belong to kind mean_std"),
        ({"normalise": {"kind": "mean_std", "mean": [1, 2, 3]}}, "mean and std belong to kind mean_std"),
        ({"normalise": {"kind": "scale", "mean": [1, 2, 3], "std": [1, 2, 3]}}, "mean and std belong to kind"),
        ({"normalise": {"kind": "mean_std", "mean": [1, 2, 3], "std": [1, 0, 3]}}, "wanted values above 0"),
        ({"spectrum": "image"}, "the encoder would have two inputs 'image'"),
    ],
    ids=range(7),
)
def test_contradictions_of_the_input_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        parse(input={**manifest_data()["input"], **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": {"box": {"use": "limits_mask"}}}, "the decoder reads no boxes"),
        ({"prompts": {"box": {}, "points": {"derived": "box_quarters"}}}, "points are derived from every box"),
        ({"output": {"low_res_size": [64, 64], "implicit": True}}, "the decoder is a function of position"),
    ],
    ids=range(3),
)
def test_a_graph_for_one_box_that_cannot_stand_for_the_decoder_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    roles = {role: {"onnx": f"{role}.onnx"} for role in ("encoder", "decoder", "one_box")}
    files = {f"{role}.onnx": DIGEST for role in roles}
    assert parse(graphs={"float": roles}, files=files).graphs["float"].one_box is not None
    with pytest.raises(ManifestError, match=rf"graphs\.float\.one_box: {message}"):
        parse(graphs={"float": roles}, files=files, **changes)


def test_all_contradictions_are_reported_together() -> None:
    with pytest.raises(ManifestError, match=r"input\.pad: .*; graphs\.float\.encoder: .*; graphs\.float\.decoder: "):
        parse(input={**manifest_data()["input"], "pad": "none"}, files={})


def test_a_folder_without_a_manifest_says_what_was_wanted(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"cannot be read \(No such file or directory\); wanted a bundle folder"):
        load_manifest(tmp_path)


def test_an_endless_manifest_is_not_read_to_its_end(tmp_path: Path) -> None:
    with (tmp_path / "manifest.json").open("wb") as file:
        file.truncate(1 << 40)  # sparse: a terabyte that takes no space
    with pytest.raises(ManifestError, match="wanted at most"):
        load_manifest(tmp_path)


def test_a_manifest_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match="immutable"):
        parse().name = "other"  # type: ignore[misc]
