"""Which engine and which precision are taken, and that nothing is replaced silently."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from bundle_factory import write_bundle
from engines import skip_without

from runtime.backends import (
    BACKENDS,
    BackendOptions,
    choose_backend,
    graph_sha256,
    installed_backends,
    open_backend,
    ov,
    resolve_precision,
    units,
)
from runtime.bundle import Bundle, open_bundle
from runtime.errors import BackendError, BackendUnavailable, BundleError, BundleIntegrityError

IR_FILES = {"e.xml": b"<net/>", "e.bin": b"w", "d.xml": b"<net/>", "d.bin": b"w"}
IR = {"encoder": {"openvino": "e.xml"}, "decoder": {"openvino": "d.xml"}}
ONNX = {"encoder": {"onnx": "e.onnx"}, "decoder": {"onnx": "d.onnx"}}


@pytest.fixture
def both_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.backends.installed_backends", lambda: BACKENDS)


@pytest.fixture
def onnx_bundle(tmp_path: Path) -> Bundle:
    return open_bundle(write_bundle(tmp_path / "onnx"))


@pytest.fixture
def ir_bundle(tmp_path: Path) -> Bundle:
    return open_bundle(write_bundle(tmp_path / "ir", IR_FILES, graphs={"float": IR}))


@pytest.mark.usefixtures("both_installed")
@pytest.mark.parametrize("requested", [None, "auto"])
def test_auto_prefers_openvino(onnx_bundle: Bundle, ir_bundle: Bundle, requested: str | None) -> None:
    assert choose_backend(requested, onnx_bundle) == "openvino"
    assert choose_backend(requested, ir_bundle) == "openvino"


def test_auto_takes_onnxruntime_where_openvino_is_not_installed(
    onnx_bundle: Bundle, ir_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without("onnxruntime")
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert installed_backends() == ("onnxruntime",)
    assert choose_backend("auto", onnx_bundle) == "onnxruntime"
    with pytest.raises(BackendUnavailable, match=r"no backend for bundle 'tiny' in auto .*'pip install openvino'$"):
        choose_backend("auto", ir_bundle)


def test_nothing_installed_names_both(onnx_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in BACKENDS:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendUnavailable, match="'pip install openvino' or 'pip install onnxruntime'"):
        choose_backend("auto", onnx_bundle)


@pytest.mark.parametrize("name", BACKENDS)
def test_an_engine_that_was_asked_for_is_never_replaced(
    onnx_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendUnavailable, match=rf"backend {name} is not installed; .*'pip install {name}'"):
        choose_backend(name, onnx_bundle)


@pytest.mark.usefixtures("both_installed")
@pytest.mark.parametrize("name", BACKENDS)
def test_an_engine_that_was_asked_for_is_taken(onnx_bundle: Bundle, name: str) -> None:
    assert choose_backend(name, onnx_bundle) == name


@pytest.mark.usefixtures("both_installed")
def test_an_engine_that_cannot_read_the_bundle_is_refused(ir_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="carries its encoder as openvino; wanted onnx"):
        choose_backend("onnxruntime", ir_bundle)


@pytest.mark.parametrize("name", ["OpenVINO", "torch", ""])
def test_an_unknown_engine_lists_the_known(onnx_bundle: Bundle, name: str) -> None:
    with pytest.raises(BackendError, match=f"backend '{name}'; wanted one of auto, openvino, onnxruntime"):
        choose_backend(name, onnx_bundle)
    with pytest.raises(BackendError, match=f"backend '{name}'; wanted one of openvino, onnxruntime"):
        open_backend(name, onnx_bundle, "encoder", BackendOptions())


@pytest.mark.usefixtures("both_installed")
def test_the_precision_takes_part_in_the_choice(tmp_path: Path, onnx_bundle: Bundle) -> None:
    files = {**IR_FILES, "e.onnx": b"e", "d.onnx": b"d"}
    bundle = open_bundle(write_bundle(tmp_path / "mixed", files, graphs={"float": IR, "int8": ONNX}))
    assert choose_backend("onnxruntime", bundle, "int8") == "onnxruntime"
    with pytest.raises(BundleError, match="carries its encoder as openvino; wanted onnx"):
        choose_backend("onnxruntime", bundle, "fp32")
    with pytest.raises(BundleError, match="has no int8 graphs, only float"):
        choose_backend("auto", onnx_bundle, "int8")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_wants_openvino(onnx_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.setattr("runtime.backends.installed_backends", lambda: ("onnxruntime",))
    with pytest.raises(BackendUnavailable, match=rf"in {precision} is installed; wanted 'pip install openvino'$"):
        choose_backend("auto", onnx_bundle, precision)
    with pytest.raises(BackendError, match=rf"onnxruntime runs fp32 and int8 on CPUs, not {precision}; choose"):
        resolve_precision(precision, "onnxruntime", onnx_bundle)


@pytest.mark.parametrize(("native", "wanted"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_only_where_the_cpu_is_made_for_it(
    onnx_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, native: bool, wanted: str
) -> None:
    monkeypatch.setattr(ov, "has_native_bf16", lambda _directory: native)
    assert resolve_precision("auto", "openvino", onnx_bundle) == wanted
    assert resolve_precision("auto", "onnxruntime", onnx_bundle) == "fp32"


def test_fp32_is_settled_without_asking_the_engine(onnx_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ov, "has_native_bf16")
    assert resolve_precision("fp32", "openvino", onnx_bundle) == "fp32"


def test_forced_bf16_on_a_cpu_without_it_is_allowed_with_a_warning(
    onnx_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ov, "has_native_bf16", lambda _directory: False)
    assert resolve_precision("bf16", "openvino", onnx_bundle) == "bf16"
    assert "may be many times slower than fp32; 'auto' avoids that" in caplog.text
    caplog.clear()
    monkeypatch.setattr(ov, "has_native_bf16", lambda _directory: True)
    assert resolve_precision("bf16", "openvino", onnx_bundle) == "bf16"
    assert caplog.text == ""


def test_fp16_is_refused_where_the_cpu_has_none(onnx_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ov, "capabilities", lambda: frozenset({"FP32", "BF16"}))
    with pytest.raises(BackendError, match="this CPU has no fp16 arithmetic that OpenVINO uses; choose precision"):
        resolve_precision("fp16", "openvino", onnx_bundle)
    monkeypatch.setattr(ov, "capabilities", lambda: frozenset({"FP32", "FP16"}))
    assert resolve_precision("fp16", "openvino", onnx_bundle) == "fp16"


INT8 = {"float": ONNX, "int8": ONNX}


@pytest.mark.parametrize("backend", BACKENDS)
def test_int8_needs_int8_graphs_and_auto_leaves_unmeasured_ones_alone(
    tmp_path: Path, onnx_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setattr(ov, "has_native_bf16", lambda _directory: False)
    monkeypatch.setattr(units, "int8_unit", lambda _: "vnni")
    with pytest.raises(BundleError, match="has no int8 graphs, only float"):
        resolve_precision("int8", backend, onnx_bundle)
    files = {"e.onnx": b"e", "d.onnx": b"d"}
    bundle = open_bundle(write_bundle(tmp_path / "int8", files, graphs=INT8))
    assert resolve_precision("int8", backend, bundle) == "int8"
    assert resolve_precision("auto", backend, bundle) == "fp32"


@pytest.mark.parametrize(
    ("unit", "measured", "wanted"),
    [
        ("vnni", ["vnni"], "int8"),
        ("dotprod", ["vnni", "dotprod"], "int8"),
        ("dotprod", ["vnni"], "fp32"),
        (None, ["vnni", "dotprod"], "fp32"),
        ("vnni", [], "fp32"),
    ],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_auto_is_int8_only_where_it_was_measured_to_be_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, unit: str | None, measured: list[str], wanted: str
) -> None:
    monkeypatch.setattr(ov, "has_native_bf16", lambda _directory: False)
    monkeypatch.setattr(units, "int8_unit", lambda _: unit)
    files = {"e.onnx": b"e", "d.onnx": b"d"}
    bundle = open_bundle(write_bundle(tmp_path / "int8", files, graphs=INT8, int8_faster={backend: measured}))
    assert resolve_precision("auto", backend, bundle) == wanted
    other = next(name for name in BACKENDS if name != backend)
    assert resolve_precision("auto", other, bundle) == "fp32"
    assert resolve_precision("fp32", backend, bundle) == "fp32"


def test_auto_prefers_int8_whose_masks_were_compared_to_bf16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ov, "has_native_bf16")  # not even asked: that takes time
    monkeypatch.setattr(units, "int8_unit", lambda _: "vnni")
    files = {"e.onnx": b"e", "d.onnx": b"d"}
    faster = {"openvino": ["vnni"]}
    bundle = open_bundle(write_bundle(tmp_path / "int8", files, graphs=INT8, int8_faster=faster))
    assert resolve_precision("auto", "openvino", bundle) == "int8"


@pytest.mark.parametrize(
    ("native", "unit", "wanted"),
    [(True, "vnni", "int8-bf16"), (False, "vnni", "int8"), (True, None, "bf16"), (False, None, "fp32")],
)
def test_auto_leaves_float_layers_beside_int8_to_bf16_only_where_bundle_and_cpu_are_made_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: bool, unit: str | None, wanted: str
) -> None:
    monkeypatch.setattr(ov, "has_native_bf16", lambda _directory: native)
    monkeypatch.setattr(units, "int8_unit", lambda _: unit)
    files = {"e.onnx": b"e", "d.onnx": b"d"}
    faster = {"openvino": ["vnni"], "onnxruntime": ["vnni"]}
    bundle = open_bundle(write_bundle(tmp_path / "b", files, graphs=INT8, int8_faster=faster, int8_rest="bf16"))
    assert resolve_precision("auto", "openvino", bundle) == wanted
    assert resolve_precision("auto", "onnxruntime", bundle) == ("int8" if unit else "fp32")
    assert resolve_precision("int8", "openvino", bundle) == "int8"
    assert choose_backend(None, bundle, "int8-bf16") == "openvino"
    with pytest.raises(BackendError, match="onnxruntime runs fp32 and int8 on CPUs, not int8-bf16"):
        resolve_precision("int8-bf16", "onnxruntime", bundle)


def test_int8_beside_bf16_needs_int8_graphs_and_warns_without_a_unit(
    tmp_path: Path, onnx_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ov, "has_native_bf16", lambda _directory: False)
    with pytest.raises(BundleError, match="has no int8 graphs, only float"):
        resolve_precision("int8-bf16", "openvino", onnx_bundle)
    bundle = open_bundle(write_bundle(tmp_path / "b", {"e.onnx": b"e", "d.onnx": b"d"}, graphs=INT8))
    assert resolve_precision("int8-bf16", "openvino", bundle) == "int8-bf16"
    assert "may be many times slower than fp32" in caplog.text
    assert bundle.graph_set("int8-bf16") is bundle.graph_set("int8")


def test_auto_takes_no_int8_graphs_that_the_engine_cannot_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "int8_unit", lambda _: "vnni")
    files = {**IR_FILES, "e.onnx": b"e", "d.onnx": b"d"}
    graphs = {"float": ONNX, "int8": IR}
    faster = {"onnxruntime": ["vnni"]}
    bundle = open_bundle(write_bundle(tmp_path / "ir", files, graphs=graphs, int8_faster=faster))
    assert resolve_precision("auto", "onnxruntime", bundle) == "fp32"


@pytest.mark.parametrize(
    ("found", "limit", "openvino", "onnxruntime"),
    [
        (["avx512_vnni"], "", "vnni", "vnni"),
        (["avx_vnni"], "AVX2_VNNI", "vnni", "vnni"),
        (["avx512_vnni"], "avx2", None, "vnni"),
        (["avx512_vnni", "avx_vnni"], "AVX512_CORE", None, "vnni"),
        (["avx512_vnni"], "AVX512_CORE_VNNI", "vnni", "vnni"),
        (["avx512_vnni"], "AVX2_VNNI", None, "vnni"),
        (["asimddp"], "", "dotprod", "dotprod"),
        ([], "", None, None),
    ],
)
def test_8_bit_products_are_those_of_the_cpu_within_the_limit_of_openvinos_kernels(
    monkeypatch: pytest.MonkeyPatch, found: list[str], limit: str, openvino: str | None, onnxruntime: str | None
) -> None:
    monkeypatch.setattr("runtime._kernels.int8_units", lambda: found)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert units.int8_unit("openvino") == openvino
    assert units.int8_unit("onnxruntime") == onnxruntime


def test_the_cpu_is_asked_itself() -> None:
    from runtime import _kernels

    found = _kernels.int8_units()
    assert set(found) <= {"avx512_vnni", "avx_vnni", "asimddp"}
    information = Path("/proc/cpuinfo")
    if information.is_file():
        words = set(information.read_text().split())
        assert set(found) == words & {"avx512_vnni", "avx_vnni", "asimddp"}


@pytest.mark.parametrize("precision", ["FP32", "float32", "", "int4"])
def test_an_unknown_precision_lists_the_known(onnx_bundle: Bundle, precision: str) -> None:
    with pytest.raises(BackendError, match=f"precision '{precision}'; wanted one of auto, fp32, bf16, fp16, int8"):
        resolve_precision(precision, "openvino", onnx_bundle)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_damaged_graph_is_refused_before_the_engine_sees_it(onnx_bundle: Bundle, name: str) -> None:
    (onnx_bundle.folder / "encoder.onnx").write_bytes(b"AN ENCODER")
    with pytest.raises(BundleIntegrityError, match=r"encoder\.onnx: sha256"):
        open_backend(name, onnx_bundle, "encoder", BackendOptions())


def test_each_engine_is_keyed_by_the_graph_that_it_reads(tmp_path: Path) -> None:
    files = {**IR_FILES, "e.onnx": b"e", "d.onnx": b"d"}
    encoder = {"openvino": "e.xml", "onnx": "e.onnx"}
    graphs = {"float": {"encoder": encoder, "decoder": {"onnx": "d.onnx"}}}
    bundle = open_bundle(write_bundle(tmp_path / "two", files, graphs=graphs))
    digests = {name: graph_sha256(name, bundle, "encoder", "fp32") for name in BACKENDS}
    assert digests["openvino"] != digests["onnxruntime"] == bundle.manifest.files["e.onnx"].sha256
    assert graph_sha256("openvino", bundle, "decoder", "bf16") == graph_sha256("onnxruntime", bundle, "decoder", "fp32")
