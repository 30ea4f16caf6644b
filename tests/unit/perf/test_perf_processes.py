"""Real processes, small ones: what is counted, and what happens to those that fail or hang."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from perf.machine import ISA_FLAGS, _field, _isa, _physical_cores, _quota, describe_machine
from perf.processes import Finished, OutOfTime, ProcessFailed, launch, launch_within, python_command

MIB = 1 << 20


def run(text: str, tmp_path: Path, **options: float) -> object:
    command, variables = python_command()
    return launch([*command, "-c", text], variables, tmp_path, **options)


def test_a_process_has_wall_time_cpu_seconds_peak_memory_and_its_output(tmp_path: Path) -> None:
    command, variables = python_command()
    finished = launch([*command, "-c", "print('hello')"], variables, tmp_path)
    assert finished.stdout.strip() == "hello"
    assert finished.wall_s > 0
    assert finished.cpu_s is not None
    assert finished.peak_rss_bytes is not None
    assert MIB < finished.peak_rss_bytes < 200 * MIB


def test_peak_memory_is_the_process_s_own_whatever_the_suite_holds(tmp_path: Path) -> None:
    command, variables = python_command()
    ballast = np.ones(400 * MIB, np.uint8)
    small = launch([*command, "-c", "pass"], variables, tmp_path)
    large = launch([*command, "-c", f"x = b'1' * {300 * MIB}"], variables, tmp_path)
    assert ballast[-1] == 1
    assert small.peak_rss_bytes is not None
    assert large.peak_rss_bytes is not None
    assert small.peak_rss_bytes < 100 * MIB
    assert 300 * MIB < large.peak_rss_bytes < 400 * MIB


def test_the_process_imports_the_runtime_and_the_perf_of_this_process(tmp_path: Path) -> None:
    import perf
    import runtime

    command, variables = python_command()
    text = "import runtime, perf; print(runtime.__file__); print(perf.__file__)"
    finished = launch([*command, "-c", text], variables, tmp_path)
    assert finished.stdout.split() == [runtime.__file__, perf.__file__]


def test_variables_reach_the_process_and_the_folder_is_its_working_folder(tmp_path: Path) -> None:
    command, variables = python_command()
    text = "import os; print(os.environ['LITE_INFER_CACHE'], os.getcwd())"
    finished = launch([*command, "-c", text], {**variables, "LITE_INFER_CACHE": "here"}, tmp_path)
    assert finished.stdout.split() == ["here", str(tmp_path.resolve())]


def test_a_process_that_fails_says_why_with_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailed, match=r"^last words$"):
        run("import sys; print('first', file=sys.stderr); sys.exit('last words')", tmp_path)
    with pytest.raises(ProcessFailed, match=r"exit code 3 without a message"):
        run("raise SystemExit(3)", tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_process_that_crashes_is_a_failure_that_names_the_signal(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailed, match=r"ended by signal 9 \(SIGKILL\)"):
        run("import os; os.kill(os.getpid(), 9)", tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="the launcher cannot take its child along there")
def test_a_process_that_hangs_is_ended_with_its_launcher(tmp_path: Path) -> None:
    text = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    with pytest.raises(ProcessFailed, match="no answer within 3 s"):
        run(text, tmp_path, timeout_s=3)
    pid = (tmp_path / "pid").read_text(encoding="utf-8")
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_the_launcher_writes_figures_even_for_a_process_that_fails(tmp_path: Path) -> None:
    import perf.launch

    figures = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-I", "-S", perf.launch.__file__, str(figures), sys.executable, "-c", "raise SystemExit(7)"],
        check=False,
    )
    assert done.returncode == 7
    assert set(json.loads(figures.read_text(encoding="utf-8"))) == {"wall_s", "cpu_s", "peak_rss_bytes"}


def test_the_description_of_the_machine_names_neither_computer_nor_user() -> None:
    import getpass
    import socket

    found = describe_machine(("FP32",))
    assert found.cpu
    assert found.usable_cores >= 1
    assert "numpy" in found.packages
    text = repr(found)
    assert str(Path.home()) not in text
    for secret in (socket.gethostname(), getpass.getuser()):
        assert len(secret) < 5 or secret not in text


CPUINFO = """\
processor\t: 0
model name\t: Some CPU @ 2 GHz
physical id\t: 0
core id\t: 0
flags\t\t: fpu avx2 amx_int8 avx512_vnni

processor\t: 1
model name\t: Some CPU @ 2 GHz
physical id\t: 0
core id\t: 0
flags\t\t: fpu avx2 amx_int8 avx512_vnni

processor\t: 2
physical id\t: 1
core id\t: 0
"""


def test_flags_and_cores_are_read_from_cpuinfo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    assert _field(CPUINFO, "model name") == "Some CPU @ 2 GHz"
    assert _isa(CPUINFO) == ("avx2", "avx512_vnni", "amx_int8")
    assert set(_isa(CPUINFO)) <= set(ISA_FLAGS)
    assert _physical_cores(CPUINFO) == 2
    assert _physical_cores("") is None


@pytest.mark.parametrize(("text", "cores"), [("max 100000", None), ("150000 100000", 1.5), ("nonsense", None)])
def test_the_quota_of_a_container_is_in_cores(text: str, cores: float | None, tmp_path: Path) -> None:
    path = tmp_path / "cpu.max"
    path.write_text(text, encoding="utf-8")
    assert _quota(path) == cores
    assert _quota(tmp_path / "missing") is None


def test_a_process_that_outlasts_the_time_of_all_is_out_of_time_and_not_a_failure(tmp_path: Path) -> None:
    left = iter([7.0, -1.0])

    def hang(*_: object, timeout_s: float) -> Finished:
        assert timeout_s == 12.0
        raise ProcessFailed("no answer")

    with pytest.raises(OutOfTime):
        launch_within(lambda: next(left), hang)(["python"], {}, tmp_path)


def test_a_process_that_fails_in_time_has_failed(tmp_path: Path) -> None:
    def fail(*_: object, timeout_s: float = 0.0) -> Finished:
        raise ProcessFailed("out of memory")

    for left in (7.0, float("inf")):
        with pytest.raises(ProcessFailed, match="out of memory"):
            launch_within(lambda left=left: left, fail)(["python"], {}, tmp_path)
