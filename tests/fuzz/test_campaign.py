"""Random damage to files of all formats and to manifests, in a process apart: a short run by default.

``LITE_INFER_FUZZ=N`` makes it, and the property-based fuzzing beside it, N times as long, and starts from a seed of
chance. What a run found lies in the test's temporary folder.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz_length import FUZZ_TIMES

pytest.importorskip("resource", reason="limits of memory and time are those of Unix")
TESTS = Path(__file__).resolve().parents[1]
INPUTS = 250


def _run(folder: Path, seed: str, first: int, count: int) -> tuple[int, list[str]]:
    """One process; its end and what it reported."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(part for part in (os.environ.get("PYTHONPATH"), str(TESTS)) if part),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(TESTS / "fuzz_campaign.py"), str(folder), seed, str(first), str(count)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (folder / "number").is_file(), done.stderr
    return done.returncode, [f"{json.loads(line)}" for line in done.stdout.splitlines()]


def test_damaged_files_raise_nothing_but_our_own_errors_soon_and_in_little_memory(tmp_path: Path) -> None:
    seed = "0" if FUZZ_TIMES == 1 else secrets.token_hex(4)
    findings: list[str] = []
    first, end = 0, INPUTS * FUZZ_TIMES
    while first < end and len(findings) < 100:
        code, found = _run(tmp_path, seed, first, end - first)
        findings += found
        if code == 0:
            break
        number = int((tmp_path / "number").read_text())
        reason = "more than 10 s" if code == -signal.SIGPROF else f"ended with {code}"
        findings.append(f"{number}: {reason}")
        shutil.copytree(tmp_path / "now", tmp_path / f"finding_{number}", dirs_exist_ok=True)
        first = number + 1
    listed = "\n".join(findings)
    assert not findings, f"seed {seed}; the inputs are in {tmp_path}:\n{listed}"
