"""Stand-ins for what perf measures: a launcher that only pretends, a configuration, a machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from perf.plan import Configuration, Subject
from perf.processes import Finished, ProcessFailed
from perf.records import (
    BundleFacts,
    CaseFacts,
    CaseFigures,
    ConfigurationFigures,
    Machine,
    ProcessFigures,
    Report,
    Stat,
)
from perf.stats import summarise

TRUTH = np.zeros((3, 5, 4), np.uint8)
TRUTH[1:, 1:4, 1:3] = 1
FACTS = {"name": "tiny", "version": "1", "sha256": "ab" * 32}
SUBJECT = Subject("tiny", None, Path("tiny"), Path("tiny"))


@dataclass
class FakeLaunch:
    """Answers as the command line and the worker would, at once; every process costs more than the one before."""

    label_map: np.ndarray = field(default_factory=lambda: TRUTH.copy())
    precision: str = "fp32"
    commands: list[list[str]] = field(default_factory=list)
    variables: list[dict[str, str]] = field(default_factory=list)
    cold: list[bool] = field(default_factory=list)
    refuse: Callable[[list[str]], str | None] = lambda _command: None

    def __call__(
        self, command: Sequence[str], variables: Mapping[str, str], folder: Path, *, timeout_s: float = 1800
    ) -> Finished:
        self.commands.append(list(command))
        self.variables.append(dict(variables))
        if "LITE_INFER_CACHE" not in variables:
            return self._peer(list(command))
        cache = Path(variables["LITE_INFER_CACHE"])
        self.cold.append(not cache.is_dir() or not any(cache.iterdir()))
        message = self.refuse(list(command))
        if message is not None:
            raise ProcessFailed(message)
        cache.mkdir(parents=True, exist_ok=True)
        (cache / "graph").touch()
        stdout = '["FP32"]\n'
        if "perf.worker" in command:
            self._worker(json.loads(command[-1]))
        elif {"perf.roofline_worker", "perf.labelled_worker"} & set(command):
            Path(json.loads(command[-1])["result"]).write_text('{"worker": "found this"}', encoding="utf-8")
        elif "perf.reference" in command:
            stdout = self._reference(list(command))
        elif "--output" in command:
            np.savez(Path(command[command.index("--output") + 1]), segs=self.label_map)
        cost = float(len(self.commands))
        return Finished(cost, cost / 2, 1000 * len(self.commands), stdout)

    def _peer(self, command: list[str]) -> Finished:
        message = self.refuse(command)
        if message is not None:
            raise ProcessFailed(message)
        np.savez(Path(command[-1]), segs=self.label_map)
        return Finished(100.0, 50.0, 5000)

    def _reference(self, command: list[str]) -> str:
        precision = "bf16" if command[command.index("--precision") + 1] == "default" else "fp32"
        if "--prepare" in command:
            return json.dumps(FACTS | {"backend": "reference", "precision": precision, "threads": 2})
        np.savez(Path(command[command.index("perf.reference") + 2]), segs=self.label_map)
        return json.dumps(
            {"stages": {"encode_per_slice_ms": [9.0]}, "counts": {"slices_encoded": 3, "prompts_decoded": 4}}
        )

    def _worker(self, spec: dict[str, Any]) -> None:
        facts = FACTS | {"backend": spec["backend"]}
        facts |= {"precision": self.precision if spec["precision"] == "auto" else spec["precision"], "threads": 2}
        stages: dict[str, list[float]] = {name: [1.5] for name in ("import_ms", "open_ms", "compile_ms", "start_ms")}
        counts = {}
        if spec["case"] is not None:
            stages |= {"read_ms": [7.0], "encode_per_slice_ms": [3.0, 5.0], "propagate_ms": [20.0, 30.0]}
            counts = {"slices_encoded": 3.0, "prompts_decoded": 4.0}
            np.savez(spec["case"]["output"], segs=self.label_map)
        found = {"facts": facts, "counts": counts, "stages": stages}
        Path(spec["result"]).write_text(json.dumps(found), encoding="utf-8")


def configuration(name: str = "openvino auto", precision: str = "auto") -> Configuration:
    return Configuration(SUBJECT, name.split()[0], precision, None, name)


def machine(**changes: Any) -> Machine:
    facts: dict[str, Any] = {
        "cpu": "A CPU",
        "architecture": "x86_64",
        "isa": ("avx2",),
        "physical_cores": 2,
        "logical_cores": 4,
        "usable_cores": 4,
        "quota_cores": None,
        "memory_bytes": 8 << 30,
        "system": "An OS 1",
        "governor": None,
        "load_average": 0.1,
        "openvino_capabilities": ("FP32",),
        "environment": {},
        "python": "CPython 3.11.7",
        "packages": {"numpy": "2.0"},
    }
    return Machine(**{**facts, **changes})


def processes(**walls: Sequence[float]) -> dict[str, ProcessFigures]:
    """Processes by kind, of 0.8 CPU seconds a second and 100 MB each."""
    return {
        kind: ProcessFigures(summarise(times), summarise([0.8 * time for time in times]), summarise([100e6]))
        for kind, times in walls.items()
        if times
    }


def case_figures(name: str, *, stages: dict[str, Stat] | None = None, **walls: Sequence[float]) -> CaseFigures:
    return CaseFigures(name, "ok", None, processes(**walls), stages or {}, {}, None)


def configuration_figures(
    name: str, backend: str, cases: Sequence[CaseFigures], **changes: Any
) -> ConfigurationFigures:
    precision = "default" if backend == "reference" else "auto"
    facts: dict[str, Any] = {"name": name, "subject": "tiny", "bundle": BundleFacts("tiny", "1", "ab" * 32)}
    facts |= {"backend": backend, "precision": precision, "precision_used": "fp32", "threads": None, "threads_used": 2}
    facts |= {"isa": None, "status": "ok", "error": None, "same_as": None, "start": {}, "cases": tuple(cases)}
    return ConfigurationFigures(**{**facts, **changes})


def report(
    configurations: Sequence[ConfigurationFigures],
    *,
    floor: dict[str, ProcessFigures] | None = None,
    machine_: Machine | None = None,
    sha256: str = "ef" * 32,
    **changes: Any,
) -> Report:
    """A report of the cases that the configurations have figures of."""
    names = dict.fromkeys(case.case for one in configurations for case in one.cases)
    cases = tuple(CaseFacts(name, "a case", (4, 5, 3), "int16", 1, (), sha256, 99) for name in names)
    made = machine_ or machine()
    start = Report(2, "0.1", "2026-01-01T00:00Z", 9.0, None, 3, {}, made, floor or {}, cases, tuple(configurations))
    return msgspec.structs.replace(start, **changes)
