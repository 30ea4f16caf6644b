"""Open graphs with the real engines, and run scripts in interpreters of their own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from runtime.backends import Backend, BackendOptions

ENGINES = ("openvino", "onnxruntime")
REPOSITORY = Path(__file__).resolve().parent.parent


def skip_without(engine: str) -> None:
    """Skip the test where an engine is not installed."""
    if importlib.util.find_spec(engine) is None:
        pytest.skip(f"{engine} is not installed")


def open_file(engine: str, path: Path, options: BackendOptions) -> Backend:
    """Open a graph's file, without a bundle."""
    if engine == "openvino":
        from runtime.backends.ov import OpenVinoBackend

        return OpenVinoBackend(path, options)
    from runtime.backends.ort import OrtBackend

    return OrtBackend(path, options)


def start_python(code: str, *arguments: object, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a script in a fresh interpreter that sees the tests' modules and whatever `runtime` these tests see."""
    import runtime

    paths = [str(Path(runtime.__file__).parent.parent), str(REPOSITORY / "tests"), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=REPOSITORY / "tests",  # Python 3.10 always looks there first: the source tree may lack the extension
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path), **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a script; return what it printed, or fail with its errors."""
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output


def run_python(code: str, *arguments: object, environment: Mapping[str, str] | None = None) -> str:
    """Run a script as `start_python` does; return what it printed."""
    return finish(start_python(code, *arguments, environment=environment))
