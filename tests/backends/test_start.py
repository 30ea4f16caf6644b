"""Starting: what is imported, what leaves the machine, and the cache of compiled graphs."""

from __future__ import annotations

import errno
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_factory import write_bundle
from engines import finish, open_file, run_python, skip_without, start_python
from tiny_graphs import PRODUCT, SUM, Graph, rows

from runtime.backends import BackendOptions, graph_sha256, open_backend
from runtime.bundle import open_bundle

OPEN_AND_RUN = """
import sys
from pathlib import Path
from engines import open_file
from runtime.backends import BackendOptions
from tiny_graphs import PRODUCT, rows
engine, path, cache = sys.argv[1:4]
backend = open_file(engine, Path(path), BackendOptions(threads=1, cache_directory=Path(cache)))
y = backend.run({"x": rows(0, 8)})["y"]
assert abs(y - PRODUCT.function(rows(0, 8))["y"]).max() < 1e-5
"""
CACHED = OPEN_AND_RUN + "print(backend._copies[0].get_property('LOADED_FROM_CACHE'))"

WATCHED = (
    """
import sys
def watch(event, arguments):
    if event.startswith("socket.") and event != "socket.gethostname":
        print("NETWORK", event, arguments)
sys.addaudithook(watch)
"""
    + OPEN_AND_RUN
    + """
import time
time.sleep(1)
print("MODULES", *sorted(sys.modules))
"""
)


def _modules(engine: str, tmp_path: Path) -> tuple[set[str], Path, str]:
    home = tmp_path / "home"
    home.mkdir()
    path = PRODUCT.save(tmp_path / "a.onnx")
    quiet = ("CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "TF_BUILD", "XDG_CACHE_HOME")
    environment = {"HOME": str(home), "LOCALAPPDATA": str(home), **dict.fromkeys(quiet, "")}
    output = run_python(WATCHED, engine, path, tmp_path / "cache", environment=environment)
    return set(output[output.index("MODULES") :].split()), home, output


def test_neither_engine_imports_the_other_or_what_training_needs(engine: str, tmp_path: Path) -> None:
    modules, _, _ = _modules(engine, tmp_path)
    assert engine in modules
    other = {"openvino": "onnxruntime", "onnxruntime": "openvino"}[engine]
    assert not {other, "torch", "nncf", "openvino.tools.ovc", "openvino_telemetry"} & modules


def test_no_engine_talks_to_the_network_or_leaves_an_identifier(engine: str, tmp_path: Path) -> None:
    _, home, output = _modules(engine, tmp_path)
    assert "NETWORK" not in output
    assert [str(path) for path in home.rglob("*") if path.is_file()] == []


def test_the_converter_is_there_for_other_code_that_wants_it() -> None:
    skip_without("openvino")
    code = (
        "import sys\n"
        "sys.modules['openvino_telemetry'] = None\n"
        "from runtime.backends.ov import capabilities\n"
        "capabilities()\n"
        "import openvino\n"
        "assert 'openvino.tools.ovc' not in sys.modules\n"
        "assert not hasattr(openvino, 'no_such_name')\n"
        "print(openvino.convert_model.__name__)\n"
        "from openvino.tools.ovc import convert_model\n"
    )
    assert run_python(code).strip() == "convert_model"


def test_an_openvino_that_is_imported_already_is_left_as_it_is() -> None:
    skip_without("openvino")
    code = (
        "import sys\n"
        "sys.modules['openvino_telemetry'] = None\n"
        "import openvino\n"
        "before = openvino.convert_model\n"
        "from runtime.backends.ov import capabilities\n"
        "assert 'FP32' in capabilities()\n"
        "assert vars(openvino)['convert_model'] is before\n"
        "assert '__getattr__' not in vars(openvino)\n"
    )
    run_python(code)


def test_the_switch_against_telemetry_is_taken_back_and_respects_the_user() -> None:
    skip_without("onnxruntime")
    code = (
        "import os, sys\n"
        "from runtime.backends.ort import _import_onnxruntime\n"
        "_import_onnxruntime()\n"
        "print(os.environ.get('ORT_DISABLE_TELEMETRY'))\n"
    )
    environment = {"ORT_RUNNING_UNIT_TESTS": "1"}
    script = "import os; os.environ.pop('ORT_DISABLE_TELEMETRY', None)\n" + code
    assert run_python(script, environment=environment).strip() == "None"
    assert run_python(code, environment={**environment, "ORT_DISABLE_TELEMETRY": ""}).strip() == ""
    assert run_python(code, environment={**environment, "ORT_DISABLE_TELEMETRY": "0"}).strip() == "0"


def test_the_second_process_finds_the_compiled_graph(tmp_path: Path) -> None:
    skip_without("openvino")
    path = PRODUCT.save(tmp_path / "a.onnx")
    arguments = ("openvino", path, tmp_path / "cache" / "of a graph")
    assert run_python(CACHED, *arguments).strip() == "False"
    assert run_python(CACHED, *arguments).strip() == "True"
    assert list((tmp_path / "cache" / "of a graph").rglob("*.blob"))


def test_processes_that_start_together_do_not_disturb_each_other(tmp_path: Path) -> None:
    skip_without("openvino")
    path = PRODUCT.save(tmp_path / "a.onnx")
    arguments = ("openvino", path, tmp_path / "cache")
    for process in [start_python(OPEN_AND_RUN, *arguments) for _ in range(3)]:
        finish(process)
    assert run_python(CACHED, *arguments).strip() == "True"


def test_a_compiled_graph_that_another_process_removes_is_compiled_without_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without("openvino")
    from runtime.backends import ov

    original, asked = ov._compile_graph, []

    def removed(core: Any, model: Any, properties: dict[str, Any]) -> Any:
        asked.append("CACHE_DIR" in properties)
        if asked[-1]:
            msg = "Exception from core.cpp\nfilesystem error: cannot set permissions: No such file or directory"
            raise RuntimeError(msg)
        return original(core, model, properties)

    monkeypatch.setattr(ov, "_compile_graph", removed)
    path = PRODUCT.save(tmp_path / "a.onnx")
    backend = open_file("openvino", path, BackendOptions(threads=1, cache_directory=tmp_path / "cache"))
    x = rows(0, 8)
    np.testing.assert_allclose(backend.run({"x": x})["y"], PRODUCT.function(x)["y"], rtol=0, atol=1e-5)
    assert asked[:2] == [True, False]


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "header", "weights", "unproven"])
def test_a_damaged_compiled_graph_is_compiled_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    skip_without("openvino")
    path = PRODUCT.save(tmp_path / "a.onnx")
    options = BackendOptions(threads=1, cache_directory=tmp_path / "cache")
    open_file("openvino", path, options).close()
    (blob,) = (tmp_path / "cache").rglob("*.blob")
    content = blob.read_bytes()
    weights = PRODUCT.constants["weights"].tobytes()[:2000]
    blob.chmod(0o600)
    damaged = {
        "truncated": content[: len(content) // 2],
        "garbage": bytes(range(256)) * (len(content) // 256),
        "empty": b"",
        "header": b"\0" * 32 + content[32:],
        "weights": content.replace(weights, bytes(len(weights))),  # OpenVINO reads these without a word
        "unproven": content,
    }
    assert content.count(weights) == 1
    blob.write_bytes(damaged[damage])
    if damage == "unproven":
        blob.with_suffix(".sha256").unlink()
    backend: Any = open_file("openvino", path, options)
    assert not backend._copies[0].get_property("LOADED_FROM_CACHE")
    assert ("a compiled graph was damaged; it is compiled again" in caplog.text) is (damage != "unproven")
    again: Any = open_file("openvino", path, options)
    assert again._copies[0].get_property("LOADED_FROM_CACHE"), "what was compiled again is kept"
    x = rows(0, 8)
    np.testing.assert_allclose(backend.run({"x": x})["y"], PRODUCT.function(x)["y"], rtol=0, atol=1e-5)


@pytest.fixture
def cache_of(tmp_path: Path) -> Any:
    """Run a graph through a bundle that always lies in the same place, with one cache."""

    def run(graph: Graph, precision: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        content = graph.save(tmp_path / "graph.onnx").read_bytes()
        bundle = open_bundle(write_bundle(tmp_path / "bundle", {"encoder.onnx": content, "decoder.onnx": content}))
        options = BackendOptions(precision, threads=1, cache_directory=tmp_path / "cache")
        backend = open_backend("openvino", bundle, "encoder", options)
        outputs = backend.run(inputs)
        backend.close()
        return outputs

    return run


def test_a_graph_that_replaces_another_in_its_place_is_not_mistaken_for_it(cache_of: Any) -> None:
    skip_without("openvino")
    a, b = rows(0, 2, 3), rows(1, 2, 3)
    difference = Graph((("Sub", ["a", "b"], ["sum"]),), SUM.inputs, SUM.outputs, lambda a, b: {"sum": a - b}, {})
    for graph in (SUM, difference, SUM):
        np.testing.assert_array_equal(cache_of(graph, "fp32", {"a": a, "b": b})["sum"], graph.function(a, b)["sum"])


def test_precisions_do_not_share_compiled_graphs(cache_of: Any) -> None:
    skip_without("openvino")
    from runtime.backends.ov import capabilities

    if "FP16" not in capabilities():
        pytest.skip("this CPU does not run float16")
    x = rows(0, 64)
    exact = PRODUCT.function(x)["y"]
    errors = [
        np.abs(cache_of(PRODUCT, precision, {"x": x})["y"] - exact).max() for precision in ("fp16", "fp32", "fp16")
    ]
    assert errors[1] < 1e-5 < errors[0] == errors[2]


def test_bundles_share_what_is_compiled_from_the_same_graph_alone(tmp_path: Path) -> None:
    skip_without("openvino")
    files = {"encoder.onnx": PRODUCT.save(tmp_path / "a.onnx"), "decoder.onnx": SUM.save(tmp_path / "b.onnx")}
    contents = {name: path.read_bytes() for name, path in files.items()}
    bundle = open_bundle(write_bundle(tmp_path / "bundle", contents))
    options = BackendOptions(threads=1, cache_directory=tmp_path / "cache")
    for role in ("encoder", "decoder"):
        open_backend("openvino", bundle, role, options)
    wanted = {graph_sha256("openvino", bundle, role, "fp32")[:16] for role in ("encoder", "decoder")}
    assert {path.name for path in (tmp_path / "cache").iterdir()} == wanted
    assert len(wanted) == 2


def test_a_cache_that_cannot_be_made_is_reported_and_done_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    skip_without("openvino")
    (tmp_path / "a file").write_text("")
    options = BackendOptions(threads=1, cache_directory=tmp_path / "a file" / "cache")
    with caplog.at_level(logging.WARNING):
        backend = open_file("openvino", SUM.save(tmp_path / "sum.onnx"), options)
    assert "compiled graphs cannot be kept (Not a directory); the next start is slower" in caplog.text
    a = rows(0, 2, 3)
    np.testing.assert_array_equal(backend.run({"a": a, "b": a})["sum"], a + a)


@pytest.mark.parametrize("step", ["drop_damaged", "record_digests"])
def test_what_cannot_be_checked_is_not_used(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    skip_without("openvino")
    from runtime.backends import ov

    def refused(_: Path) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    path, options = PRODUCT.save(tmp_path / "a.onnx"), BackendOptions(threads=1, cache_directory=tmp_path / "cache")
    if step == "drop_damaged":
        open_file("openvino", path, options).close()
    with monkeypatch.context() as patch:
        patch.setattr(ov, step, refused)
        backend: Any = open_file("openvino", path, options)
    assert "compiled graphs cannot be" in caplog.text
    assert not backend._copies[0].get_property("LOADED_FROM_CACHE")
    again: Any = open_file("openvino", path, options)
    assert again._copies[0].get_property("LOADED_FROM_CACHE") is (step == "drop_damaged")


SIGNALLED = """
import faulthandler, gc, os, signal, sys
from pathlib import Path
from engines import open_file
from runtime.backends import BackendOptions
from tiny_graphs import PRODUCT, SUM
faulthandler.enable()  # as pytest and many applications do; it brings a signal stack
folder = Path(sys.argv[1])
options = BackendOptions(threads=1)
backends = [open_file("openvino", graph.save(folder / f"{n}.onnx"), options) for n, graph in enumerate((PRODUCT, SUM))]
for _ in range(2):
    backends.pop(0).close()
    gc.collect()
signal.signal(signal.SIGINT, lambda *_: print("alive"))
os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signal stacks are a matter of POSIX systems")
def test_a_signal_after_graphs_were_closed_in_the_order_of_their_opening_is_survived(tmp_path: Path) -> None:
    skip_without("openvino")
    assert run_python(SIGNALLED, tmp_path).strip() == "alive"


FULL_DISK = (
    """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
"""
    + OPEN_AND_RUN
)


def test_a_full_disk_costs_the_cache_and_nothing_else(tmp_path: Path) -> None:
    skip_without("openvino")
    pytest.importorskip("resource", reason="a full disk is imitated by a limit that this system lacks")
    arguments = ("openvino", PRODUCT.save(tmp_path / "a.onnx"), tmp_path / "cache")
    run_python(FULL_DISK, *arguments, environment={"PYTHONDONTWRITEBYTECODE": "1"})
    run_python(OPEN_AND_RUN, *arguments)


def test_onnxruntime_leaves_the_cache_alone(tmp_path: Path) -> None:
    skip_without("onnxruntime")
    open_file("onnxruntime", SUM.save(tmp_path / "s.onnx"), BackendOptions(cache_directory=tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()
