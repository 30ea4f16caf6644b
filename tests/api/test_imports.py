"""What importing the package costs: nothing heavy is loaded before it is used."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from engines import finish, start_python

import runtime

HEAVY = (
    "PIL",
    "cv2",
    "export",
    "nibabel",
    "onnx",
    "onnxruntime",
    "openvino",
    "perf",
    "pydicom",
    "scipy",
    "sqlite3",
    "torch",
    "tqdm",
)
EXPORT_ONLY = ("export", "nncf", "onnx", "torch")
SHOW = "import sys; import {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"


@pytest.mark.parametrize("module", ["runtime", "runtime.cli"])
def test_importing_loads_no_engine_and_no_file_library(module: str) -> None:
    loaded = set(finish(start_python(SHOW.format(module=module))).split())
    assert loaded & set(HEAVY) == set()
    assert {"runtime", "numpy"} <= loaded, "the test looks at the right interpreter"


def test_the_test_would_notice() -> None:
    assert "sqlite3" in finish(start_python(SHOW.format(module="sqlite3"))).split()


def test_opening_a_session_loads_its_own_engine_alone(tmp_path: Path) -> None:
    from tiny_bundle import tiny_bundle

    code = """
import sys
import numpy
import runtime
image = numpy.arange(48 * 64, dtype=numpy.uint8).reshape(48, 64)
with runtime.Session(sys.argv[1], backend="onnxruntime", cache=False) as session:
    session.segment(image, box=(3, 4, 50, 40))
print(*sorted({name.partition('.')[0] for name in sys.modules}))
"""
    loaded = set(finish(start_python(code, tiny_bundle(tmp_path))).split())
    assert "onnxruntime" in loaded
    assert loaded & (set(HEAVY) - {"onnxruntime"}) == set()


def test_nothing_in_the_runtime_imports_what_only_export_may_import() -> None:
    """Also inside functions, where the tests above do not look."""
    found = []
    for path in sorted(Path(runtime.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"{path.name}: {name}" for name in names if name.partition(".")[0] in EXPORT_ONLY]
    assert found == []
