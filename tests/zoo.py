"""What the two zoos of the shared data must give, row by row: ``python tests/zoo.py dicom`` or ``nifti``.

Prints entry, expected and got, one line a row, and ends with 1 if a row falls short. The expectations follow
``table.json`` of each zoo; where that leaves a choice (load or refuse), they say what lite-infer does.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from zoo_dicom import DICOM
from zoo_nifti import NIFTI
from zoo_rows import Outcome, outcome

__all__ = ["ZOOS", "main", "outcomes"]

ZOOS = {"dicom": ("dicom_zoo", DICOM), "nifti": ("nifti_zoo", NIFTI)}
"""Zoo -> its folder under ``data``, and its rows."""


def outcomes(zoo: str, shared: Path) -> list[Outcome]:
    """Go through a zoo: one outcome for each row of its table, in the table's order, and for each row too many."""
    name, rows = ZOOS[zoo]
    folder = shared / "data" / name
    table = {facts["path"]: facts for facts in json.loads((folder / "table.json").read_text())}
    known = {row.entry: row for row in rows}
    assert len(known) == len(rows), "an entry occurs twice"
    found = []
    for entry, facts in table.items():
        row = known.pop(entry, None)
        if row is None:
            found.append(Outcome(entry, facts["expected"], "nothing is known of it here", False))
            continue
        found.append(outcome(row, folder, facts))
    return found + [Outcome(entry, row.wanted, "is not in the table", False) for entry, row in known.items()]


def main(arguments: list[str] | None = None) -> int:
    """Print the table of one zoo."""
    parser = argparse.ArgumentParser(
        prog="python tests/zoo.py", description="Entry, expected, got; 1 if any falls short."
    )
    parser.add_argument("zoo", choices=ZOOS)
    default = os.environ.get("LITE_INFER_SHARED", str(Path(__file__).resolve().parents[2] / "shared"))
    parser.add_argument("--shared", type=Path, default=Path(default), help=f"the shared data (default {default})")
    options = parser.parse_args(arguments)
    found = outcomes(options.zoo, options.shared)
    for one in found:
        print(f"{'ok  ' if one.good else 'SHORT'} {one.entry} | {one.expected} | {one.got}")
    short = sum(not one.good for one in found)
    print(f"{len(found)} rows, {short} fall short")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
