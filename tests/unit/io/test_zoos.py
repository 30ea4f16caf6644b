"""The two zoos of the shared data, row by row: read with the table's values, or refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from zoo import ZOOS
from zoo_rows import Facts, Row, outcome

SIZES = {"dicom": 96, "nifti": 125}


def facts_of(folder: Path) -> dict[str, Facts]:
    return {row["path"]: row for row in json.loads((folder / "table.json").read_text())}


@pytest.mark.parametrize("zoo", ZOOS)
def test_every_row_of_a_zoo_is_known(shared: Path, zoo: str) -> None:
    folder, rows = ZOOS[zoo]
    entries = [row.entry for row in rows]
    assert len(entries) == len(set(entries)) == SIZES[zoo]
    assert set(entries) == set(facts_of(shared / "data" / folder))


@pytest.mark.parametrize(
    ("name", "row"), [pytest.param(name, row, id=row.entry) for name, rows in ZOOS.values() for row in rows]
)
def test_a_row_gives_what_the_table_says(shared: Path, name: str, row: Row) -> None:
    folder = shared / "data" / name
    found = outcome(row, folder, facts_of(folder)[row.entry])
    assert found.good, found.got
