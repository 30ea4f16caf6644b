"""Carry out one task: prepare folders, start processes, check the answers, note the figures.

Knows the command line's options and its JSON summary, and the worker's specification; knows neither rounds nor
reports. Every measured process has a cache folder of its own, so that the user's is neither used nor changed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perf.cases import Case
from perf.extras import KINDS, run_extra
from perf.peers import check_labels
from perf.plan import FLOOR, Configuration, Task
from perf.processes import CLI, Finished, Launch, ProcessFailed, python_command
from perf.recorder import AnswersDiffer, Opened, Recorder
from perf.records import BundleFacts

__all__ = ["Measurer"]

_CAPABILITIES = """\
import json, openvino
print(json.dumps(list(openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))))"""


@dataclass(slots=True)
class Measurer:
    """Carries out tasks in a scratch folder and notes what it finds in a recorder."""

    folder: Path
    recorder: Recorder
    launch: Launch
    repeat_seconds: float = 2.0
    labelled: Path | None = None
    _number: int = field(default=0, repr=False)

    def capabilities(self) -> tuple[str, ...] | None:
        """Inference precisions that OpenVINO sees in this CPU; None where it is not installed."""
        try:
            finished = self._python(["-c", _CAPABILITIES], self.folder / "cache")
            return tuple(json.loads(finished.stdout.strip().splitlines()[-1]))
        except (ProcessFailed, ValueError, IndexError):
            return None

    def prime(self, one: Configuration, cases: Sequence[Case] = ()) -> None:
        """Fill the cache of compiled graphs of a configuration, unmeasured, and learn what it turns out to be.

        A program of somebody else is run once on the smallest of its cases, so that it can fill a cache of its own.
        """
        try:
            if one.peer is not None:
                self._prime_peer(one, cases)
                return
            facts = self._prepared(one) if one.is_reference else self._worker(one, None, self._primed(one))["facts"]
        except ProcessFailed as error:
            self.recorder.fail(one.name, "", str(error))
            return
        bundle = BundleFacts(facts["name"], facts["version"], facts["sha256"])
        opened = Opened(bundle, facts["backend"], facts["precision"], facts["threads"], one.isa)
        for name, other in self.recorder.opened.items():
            if other == opened and name not in self.recorder.same_as:
                self.recorder.same_as[one.name] = name
        self.recorder.opened[one.name] = opened

    def run(self, task: Task) -> None:
        """Measure once; an error is noted with its configuration and case, and what depends on it is skipped."""
        if task.kind in KINDS:
            self._extra(task)
            return
        if task.configuration is None:
            self._floor(task.name)
            return
        one, case = task.configuration, task.case
        if one.name in self.recorder.same_as or self.recorder.failed(one.name, case.name if case else ""):
            return
        try:
            if case is None:
                self._start(one, task.name)
            elif task.kind == "stages":
                self._stages(one, case)
            else:
                self._processes(one, case)
        except (ProcessFailed, AnswersDiffer) as error:
            self.recorder.fail(one.name, case.name if case else "", str(error))

    def _extra(self, task: Task) -> None:
        name = task.configuration.name if task.configuration else ""
        if name in self.recorder.same_as or (name and self.recorder.failed(name)):
            return
        try:
            with self._scratch() as cache:

                def ask(module: str, spec: dict[str, Any], one: Configuration | None) -> dict[str, Any]:
                    return self._ask(module, spec, cache, one)

                run_extra(task, ask, self.recorder, self.labelled, self.folder)
        except ProcessFailed as error:
            self.recorder.fail(name, task.kind, str(error))

    def _floor(self, name: str) -> None:
        if self.recorder.failed("", name):
            return
        try:
            with self._scratch() as scratch:
                finished = self._python(["-c", FLOOR[name]], scratch)
        except ProcessFailed as error:
            self.recorder.fail("", name, str(error))
            return
        self.recorder.add_process(("", "", "floor", name), finished)

    def _start(self, one: Configuration, name: str) -> None:
        with self._scratch(None if name == "cold" else one) as cache:
            for stage, samples in self._worker(one, None, cache)["stages"].items():
                self.recorder.add((one.name, "", "start", name, stage), samples[0])

    def _processes(self, one: Configuration, case: Case) -> None:
        """Cold; warm; and in the folder that the warm run stored its embeddings in once more, and with another box.

        Of somebody's program, whose caches are its own affair, one process.
        """
        if one.peer is not None:
            with self._scratch() as scratch:
                output = scratch / "answer.npz"
                self._note(one, case, "warm", self._peer(one, case, output), output)
            return
        with self._scratch() as cache:
            self._segment(one, case, "cold", cache)
        with self._scratch(one) as cache:
            self._segment(one, case, "warm", cache)
            if one.is_own:
                self._segment(one, case, "stored", cache)
                self._segment(one, case.with_second_box(), "second", cache)

    def _prime_peer(self, one: Configuration, cases: Sequence[Case]) -> None:
        case = min(cases, key=lambda case: case.facts.file_bytes, default=None)
        if case is not None:
            with self._scratch() as scratch:
                self._peer(one, case, scratch / "answer.npz")

    def _peer(self, one: Configuration, case: Case, output: Path) -> Finished:
        """Run somebody's program in the user's own working folder, and see that it wrote a label map."""
        assert one.peer is not None
        finished = self.launch(one.peer.command(case.path, output), {}, Path.cwd())
        check_labels(output, case)
        return finished

    def _segment(self, one: Configuration, case: Case, name: str, cache: Path) -> None:
        """Run one whole process, check its answer, note what it cost."""
        output = cache / f"answer{case.suffix}"
        if one.is_reference:
            options = [*self._reference_options(one, cache), "--modality", str(one.subject.modality_index)]
            arguments = ["-m", "perf.reference", str(case.path), str(output), *options]
        else:
            chosen = [*case.arguments(), *one.arguments(), "--json", "--output", str(output)]
            arguments = ["-c", CLI, *chosen]
        finished = self._python(arguments, cache, one)
        self._note(one, case, name, finished, output)

    def _note(self, one: Configuration, case: Case, name: str, finished: Finished, output: Path) -> None:
        self.recorder.check_answer(one.name, case.answer_name, output, self.folder / "answers")
        self.recorder.add_process((one.name, case.name, "process", name), finished)
        if one.is_reference and name == "warm":
            self._note_stages(one, case, json.loads(finished.stdout))

    def _stages(self, one: Configuration, case: Case) -> None:
        with self._scratch(one) as cache:
            output = cache / f"answer{case.suffix}"
            found = self._worker(one, case, cache, output)
            self.recorder.check_answer(one.name, case.answer_name, output, self.folder / "answers")
        self._note_stages(one, case, found)
        if self._logits(one, case).is_file():
            self.recorder.logits[one.name, case.name] = self._logits(one, case)

    def _note_stages(self, one: Configuration, case: Case, found: dict[str, Any]) -> None:
        self.recorder.counts[one.name, case.name] = found["counts"]
        for stage, samples in found["stages"].items():
            for sample in samples:
                self.recorder.add((one.name, case.name, "stage", stage), sample)

    def _worker(self, one: Configuration, case: Case | None, cache: Path, output: Path | None = None) -> dict[str, Any]:
        subject = one.subject
        spec: dict[str, Any] = {"bundle": subject.bundle, "modality": subject.modality, "expert": subject.expert}
        spec |= {"backend": one.backend, "precision": one.precision, "threads": one.threads, "case": None}
        spec["repeat_seconds"] = self.repeat_seconds
        if case is not None:
            spec["case"] = {"path": str(case.path), "volume": case.volume, "boxes": case.boxes, "output": str(output)}
            spec["case"] |= {"second_box": case.second_box, "logits": str(self._logits(one, case))}
        return self._ask("perf.worker", spec, cache, one)

    def _ask(self, module: str, spec: dict[str, Any], cache: Path, one: Configuration | None = None) -> dict[str, Any]:
        """Run a worker; what it wrote."""
        result = self.folder / "worker.json"
        result.unlink(missing_ok=True)
        self._python(["-m", module, json.dumps({**spec, "result": str(result)})], cache, one)
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return found

    def _logits(self, one: Configuration, case: Case) -> Path:
        return self.folder / f"logits {one.name} {case.name}.npy"

    def _prepared(self, one: Configuration) -> dict[str, Any]:
        """Store the reference pipeline's graphs, and fill its cache of compiled ones; facts of them."""
        primed = self._primed(one)
        primed.mkdir(parents=True, exist_ok=True)
        options = [*self._reference_options(one, primed), "--prepare", str(one.subject.plain)]
        finished = self._python(["-m", "perf.reference", *options], primed, one)
        facts: dict[str, Any] = json.loads(finished.stdout)
        return facts

    def _python(self, arguments: list[str], cache: Path, one: Configuration | None = None) -> Finished:
        """Run Python with a cache folder of its own, in an empty working folder."""
        command, variables = python_command()
        variables |= {} if one is None else one.variables()
        here = self.folder / "here"
        here.mkdir(exist_ok=True)
        return self.launch([*command, *arguments], {**variables, "LITE_INFER_CACHE": str(cache)}, here)

    def _reference_options(self, one: Configuration, cache: Path) -> list[str]:
        graphs = self.folder / "graphs" / one.name.replace(" ", "-")
        return ["--graphs", str(graphs), "--cache", str(cache), "--precision", one.precision]

    def _primed(self, one: Configuration) -> Path:
        return self.folder / "primed" / one.name.replace(" ", "-")

    @contextmanager
    def _scratch(self, primed: Configuration | None = None) -> Iterator[Path]:
        """A new cache folder: empty, or with the compiled graphs of a configuration; removed afterwards."""
        self._number += 1
        cache = self.folder / f"cache-{self._number}"
        source = None if primed is None else self._primed(primed)
        if source is not None and source.is_dir():
            shutil.copytree(source, cache)
        else:
            cache.mkdir(parents=True)
        try:
            yield cache
        finally:
            shutil.rmtree(cache, ignore_errors=True)
