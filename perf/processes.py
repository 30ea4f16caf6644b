"""Fresh processes: start one, wait for it, say what it cost.

Knows how to start this interpreter so that it imports the same `runtime`; knows nothing of what is run.
"""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import perf
from runtime.errors import LiteInferError

__all__ = ["CLI", "Finished", "Launch", "OutOfTime", "ProcessFailed", "launch", "launch_within", "python_command"]

CLI = "import sys; from runtime.cli import main; sys.exit(main())"
"""What the console script ``lite-infer`` does."""

_GRACE_S = 10.0
_LAST_S = 5.0


class ProcessFailed(LiteInferError):
    """A measured process ended with an error; the message is what it said last."""


class OutOfTime(Exception):
    """The time for all processes was over before this one ended; nothing is known of it."""


@dataclass(frozen=True, slots=True)
class Finished:
    """One process that ended well."""

    wall_s: float
    cpu_s: float | None
    peak_rss_bytes: int | None
    stdout: str = ""


Launch = Callable[[Sequence[str], Mapping[str, str], Path], Finished]
"""(command, environment variables to set, working folder) -> what it cost."""


def python_command() -> tuple[list[str], dict[str, str]]:
    """Command that starts this interpreter, and variables it needs to import this very `runtime`."""
    variables: dict[str, str] = {}
    executable = sys.executable
    base = getattr(sys, "_base_executable", executable)
    if sys.platform == "win32" and base != executable:
        # A virtual environment's python.exe there only starts the real one, whose memory would go uncounted.
        executable, variables["__PYVENV_LAUNCHER__"] = base, executable
    home = Path(perf.__file__).resolve().parents[1]
    if str(home) not in {str(Path(folder).resolve()) for folder in site.getsitepackages()}:
        inherited = os.environ.get("PYTHONPATH")
        variables["PYTHONPATH"] = os.pathsep.join([str(home), *([inherited] if inherited else [])])
    return [executable], variables


def launch(command: Sequence[str], variables: Mapping[str, str], folder: Path, *, timeout_s: float = 1800) -> Finished:
    """Run a command in a fresh process; ProcessFailed if it fails or takes longer than ``timeout_s``."""
    with tempfile.TemporaryDirectory(prefix="lite-infer-perf-") as scratch:
        figures = Path(scratch) / "figures.json"
        script = str(Path(__file__).with_name("launch.py"))
        with subprocess.Popen(
            [sys.executable, "-I", "-S", script, str(figures), *command],
            env={**os.environ, **variables},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        ) as process:
            try:
                stdout, stderr = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired as error:
                _end(process)
                msg = f"no answer within {timeout_s:g} s"
                raise ProcessFailed(msg) from error
            except BaseException:
                _end(process)
                raise
        if process.returncode != 0 or not figures.is_file():
            lines = [line.strip() for line in stderr.splitlines() if line.strip()]
            raise ProcessFailed(lines[-1] if lines else f"exit code {process.returncode} without a message")
        cost = json.loads(figures.read_text(encoding="utf-8"))
    return Finished(cost["wall_s"], cost["cpu_s"], cost["peak_rss_bytes"], stdout)


def launch_within(time_left: Callable[[], float], run: Callable[..., Finished] = launch) -> Launch:
    """Launch processes that end when the time of all is over, give or take some seconds; then OutOfTime."""

    def limited(command: Sequence[str], variables: Mapping[str, str], folder: Path) -> Finished:
        left = time_left()
        if left == float("inf"):
            return run(command, variables, folder)
        try:
            return run(command, variables, folder, timeout_s=max(0.0, left) + _LAST_S)
        except ProcessFailed as error:
            if time_left() <= 0:
                raise OutOfTime from error
            raise

    return limited


def _end(process: subprocess.Popen[str]) -> None:
    """Stop the launcher, which takes its child along."""
    process.terminate()
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
