"""One table for all published systems: each converts, and its bundle gives what its authors' code gave, or not.

Takes a folder with a folder of goldens for each system, makes the checkpoints by the goldens' own rule, converts and
verifies them, stage by stage, on every backend. Knows goldens, conversion and verification. Must not know what any one
system is, but for the second file that a checkpoint of one of them is converted with.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from export.convert import ConvertOptions, convert
from export.families import FAMILIES, load_family
from export.verify import Check, verify
from runtime.errors import BundleError, LiteInferError
from runtime.manifest import MANIFEST_NAME

__all__ = ["Outcome", "Row", "make_bundle", "make_checkpoint", "outcomes", "systems_of", "table_rows"]

_RULE = "make_checkpoint.py"
_LARGE_GFLOPS = 500
_SECOND_FILE = {"imedsam": "sam_vit_b"}
"""Whose checkpoint a system is converted with beside its own."""


@dataclass(frozen=True)
class Outcome:
    """What became of one system: its checks, or why there are none."""

    system: str
    checks: tuple[Check, ...]
    failure: str | None = None

    @property
    def passed(self) -> bool:
        """Whether it converted and every check passed."""
        return self.failure is None and bool(self.checks) and all(check.passed for check in self.checks)


@dataclass(frozen=True)
class Row:
    """One stage of one case of one system: the limit, and what was found, by backend ("-" where none takes part)."""

    system: str
    case: str
    stage: str
    limit: float
    found: dict[str, float]
    passed: bool


def systems_of(folder: Path, *, wanted: Sequence[str] = (), large: bool = False) -> list[str]:
    """List the systems with goldens in a folder, in the order of `FAMILIES`, those that do not convert last.

    All that are `wanted`, else those of at most 500 GFLOPs a slice, or all with `large`. BundleError if the folder has
    none, or not those wanted, or not the rule that makes their checkpoints.
    """
    found = {path.parent.name for path in folder.glob("*/case_0.npz")}
    if not found or not (folder / _RULE).is_file():
        msg = f"{folder}: wanted {_RULE} and a folder with manifest.json and case_0.npz for each system"
        raise BundleError(msg)
    absent = [name for name in wanted if name not in found]
    if absent:
        msg = f"{folder} has no goldens of {', '.join(absent)}; it has those of {', '.join(sorted(found))}"
        raise BundleError(msg)
    if wanted:
        return list(dict.fromkeys(wanted))
    known = [name for name in FAMILIES if name in found]
    small = [name for name in known if load_family(name).gflops[0] <= _LARGE_GFLOPS]
    return (known if large else small) + sorted(found - set(FAMILIES))


def outcomes(
    folder: Path, systems: Iterable[str], work: Path, *, backends: Sequence[str], report: Callable[[str], None]
) -> Iterator[Outcome]:
    """Convert and verify systems, one after the other; `work` holds their checkpoints and bundles, and may have some.

    What fails is an outcome and no error.
    """
    for system in systems:
        try:
            bundle = make_bundle(folder, system, work, report=report)
            report(f"{system}: verifying")
            yield Outcome(system, tuple(verify(bundle, folder / system, backends=backends)))
        except LiteInferError as error:
            yield Outcome(system, (), str(error))


def make_bundle(
    folder: Path, system: str, work: Path, *, precision: str = "fp32", report: Callable[[str], None] = lambda _: None
) -> Path:
    """Bundle of a system in `work`, converted unless it is there, from a checkpoint by the rule of the goldens."""
    family = load_family(system)
    output = work / f"{system}_{precision}"
    if not (output / MANIFEST_NAME).is_file():
        report(f"{system}: converting")
        second = _SECOND_FILE.get(system)
        options = ConvertOptions(
            precision="fp16" if precision == "fp16" else "fp32",
            extra=None if second is None else make_checkpoint(folder, second, work),
        )
        convert(make_checkpoint(folder, system, work), output, family=family.name, options=options)
    return output


def make_checkpoint(folder: Path, system: str, work: Path) -> Path:
    """Checkpoint of a system in `work`, laid out as the published file, made unless it is there."""
    path = work / f"{system}.pth"
    if not path.exists():
        part = path.with_suffix(".part")
        runpy.run_path(str(folder / _RULE))["build"](folder / system / MANIFEST_NAME, part)
        part.replace(path)
    return path


def table_rows(outcome: Outcome) -> list[Row]:
    """Put the checks of all backends side by side, in the order of cases and stages."""
    sides: dict[tuple[str, str], list[Check]] = {}
    for check in outcome.checks:
        sides.setdefault((check.case, check.stage), []).append(check)
    return [
        Row(
            outcome.system,
            case,
            stage,
            checks[0].limit,
            {check.backend: check.found for check in checks},
            all(check.passed for check in checks),
        )
        for (case, stage), checks in sorted(sides.items(), key=lambda item: item[0][0])
    ]
