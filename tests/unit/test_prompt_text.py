"""Prompts as people write them: texts of the command line, JSON and CSV files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from runtime import prompt_text
from runtime.errors import PromptError
from runtime.prompt_text import parse_box, parse_point, read_prompts
from runtime.prompts import group_prompts
from runtime.types import Box, Point

# --box


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("10,20,80,90", Box((10, 20, 80, 90))),
        ("10,20,5,80,90,40", Box((10, 20, 5, 80, 90, 40))),
        ("liver=10,20,80,90@40", Box((10, 20, 80, 90), 40, "liver")),
        ("left kidney = 1.5, 2, 3, 4", Box((1.5, 2, 3, 4), None, "left kidney")),
        ("[10, 20, 80, 90]", Box((10, 20, 80, 90))),
        ("(10,20,80,90)@0", Box((10, 20, 80, 90), 0)),
        (" 1,2,3,4 @ 7 ", Box((1, 2, 3, 4), 7)),
        ("-5,-6,3,4@-12", Box((-5, -6, 3, 4), -12)),
    ],
)
def test_a_box_text_is_read(text: str, box: Box) -> None:
    assert parse_box(text) == box


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "box '': wanted numbers separated by commas, found ''"),
        ("1,2,3", "box with 3 numbers: wanted 4"),
        ("1,2,3,4,5", "box with 5 numbers"),
        ("1,2,x,4", "box '1,2,x,4': wanted numbers separated by commas, found '1,2,x,4'"),
        ("1;2;3;4", "wanted numbers separated by commas"),
        ("1,2,,4", "wanted numbers separated by commas"),
        ("=1,2,3,4", "box '=1,2,3,4': an empty name"),
        ("1,2,3,4@", "'' after @ is no slice index"),
        ("1,2,3,4@4.5", "'4.5' after @ is no slice index; wanted a whole number"),
        ("1,2,3,nan", "finite number"),
        ("5,2,3,4", "x1 = 3 lies below x0 = 5"),
        ("1,2,3,4,5,6@7", "spans slices already"),
    ],
)
def test_a_bad_box_text_is_refused(text: str, message: str) -> None:
    with pytest.raises(PromptError, match=re.escape(message)):
        parse_box(text)


# --point


@pytest.mark.parametrize(
    ("text", "point"),
    [
        ("12,30,+", Point((12, 30))),
        ("12,30,-", Point((12, 30), positive=False)),
        ("12,30,7,-", Point((12, 30, 7), positive=False)),
        ("liver=12,30,+@40", Point((12, 30), slice_index=40, name="liver")),
        ("12.5, 30 , +", Point((12.5, 30))),
    ],
)
def test_a_point_text_is_read(text: str, point: Point) -> None:
    assert parse_point(text) == point


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "wanted x,y,+ or x,y,z,+"),
        ("12,30", "point '12,30': wanted x,y,+"),
        ("12,30,1", "wanted x,y,+"),
        ("12,+", "point with 1 numbers: wanted 2 (x,y) or 3"),
        ("1,2,3,4,+", "point with 4 numbers"),
        ("a,b,+", "wanted numbers separated by commas, found 'a,b'"),
        ("1,2,3,+@4", "has its slice already"),
        ("1,2,+@x", "'x' after @ is no slice index"),
    ],
)
def test_a_bad_point_text_is_refused(text: str, message: str) -> None:
    with pytest.raises(PromptError, match=re.escape(message)):
        parse_point(text)


# Files


def written(tmp_path: Path, content: Any, name: str = "prompts.json") -> Path:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_the_example_of_the_documentation_is_read(tmp_path: Path) -> None:
    content = [
        {"name": "liver", "box": [10, 20, 80, 90], "slice": 40, "points": [[30, 40, 1], [5, 5, 0]]},
        {"name": "spleen", "box": [100, 30, 10, 130, 70, 35]},
    ]
    assert read_prompts(written(tmp_path, content)) == [
        Box((10, 20, 80, 90), 40, "liver"),
        Point((30, 40), True, 40, "liver"),
        Point((5, 5), False, 40, "liver"),
        Box((100, 30, 10, 130, 70, 35), None, "spleen"),
    ]


def test_a_point_of_a_file_with_three_coordinates_brings_its_own_slice(tmp_path: Path) -> None:
    content = [{"box": [1, 2, 3, 4], "slice": 6, "points": [[1, 2, 8, 0]]}]
    assert read_prompts(written(tmp_path, content))[1:] == [Point((1, 2, 8), False, None, "object 1")]


def test_box_and_points_of_one_unnamed_entry_are_one_object(tmp_path: Path) -> None:
    content = [
        {"box": [1, 2, 3, 4], "points": [[2, 3, 1]]},
        {"box": [5, 6, 7, 8]},
        {"box": [9, 9, 12, 12], "points": [[10, 11, 0]]},
    ]
    groups = group_prompts(read_prompts(written(tmp_path, content)))
    assert [(group.name, len(group.boxes), len(group.points)) for group in groups] == [
        ("object 1", 1, 1),
        ("object 2", 1, 0),
        ("object 3", 1, 1),
    ]


def test_entries_with_a_type_are_read(tmp_path: Path) -> None:
    content = [
        {"type": "rectangle", "data": [1, 2, 3, 4], "name": "a", "slice": 3},
        {"type": "point", "data": [5, 6], "label": 0},
        {"type": "point", "data": [5, 6]},
    ]
    assert read_prompts(written(tmp_path, content)) == [
        Box((1, 2, 3, 4), 3, "a"),
        Point((5, 6), False),
        Point((5, 6), True),
    ]


def test_a_csv_file_is_read(tmp_path: Path) -> None:
    text = "name,slice,x0,y0,z0,x1,y1,z1\nliver,40,10,20,,80,90,\n,,1,2,3,4,5,6\r\n\nliver,60.0,14,22,,78,88,\n"
    assert read_prompts(written(tmp_path, text, "boxes.CSV")) == [
        Box((10, 20, 80, 90), 40, "liver"),
        Box((1, 2, 3, 4, 5, 6)),
        Box((14, 22, 78, 88), 60, "liver"),
    ]


def test_a_csv_file_needs_no_optional_column_and_may_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert read_prompts(written(tmp_path, "\ufeffx0, y0 ,x1,y1\n1,2,3,4\n", "boxes.csv")) == [Box((1, 2, 3, 4))]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "prompts.json: not valid JSON"),
        ("[" * 100_000, "prompts.json: not valid JSON"),
        ('{"box": [1, 2, 3, 4]}', "holds a dict; wanted a JSON list of prompts"),
        ("[]", "prompts.json: holds no prompt"),
        ('[{"box": null}]', "holds no prompt"),
        ("[7]", "entry 0: a int; wanted an object with a box or points"),
        ('[{"name": "liver"}]', "entry 0: keys 'name'; wanted box or points"),
        ('[{"box": [1,2,3,4]}, {"bbox": [1,2,3,4]}]', "entry 1: keys 'bbox'; wanted box or points"),
        ('[{"box": [1,2,3,4], "slcie": 3}]', "keys 'box', 'slcie'; wanted box or points, and optionally name"),
        ('[{"box": [1,2,3,4], "name": 7}]', "entry 0: name 7; wanted a text"),
        ('[{"box": [1,2,3,4], "name": ""}]', "name ''; wanted a text"),
        ('[{"box": [1,2,3,4], "slice": 3.5}]', "entry 0: slice 3.5; wanted a whole number"),
        ('[{"box": [1,2,3,4], "slice": true}]', "slice True; wanted a whole number"),
        ('[{"box": [1,2,3,4], "slice": 1e999}]', "slice inf; wanted a whole number"),
        ('[{"box": [1,2,3]}]', "entry 0: box with 3 numbers"),
        ('[{"box": [1,2,3,true]}]', "entry 0: box: wanted numbers"),
        ('[{"box": [1,2,3,NaN]}]', "entry 0: box (1.0, 2.0, 3.0, nan): every coordinate must be a finite"),
        ('[{"box": [1,2,3,1' + "0" * 400 + "]}]", "entry 0: box: wanted numbers"),
        ('[{"box": "1234"}]', "entry 0: wanted a box of 4 or 6 numbers"),
        ('[{"box": {"1": 1, "2": 2, "3": 3, "4": 4}}]', "entry 0: wanted a box of 4 or 6 numbers"),
        ('[{"box": 7}]', "entry 0: wanted a box of 4 or 6 numbers"),
        ('[{"points": 7}]', "entry 0: wanted a box of 4 or 6 numbers and points of x, y[, z], label"),
        ('[{"points": [7]}]', "points of x, y[, z], label"),
        ('[{"points": [[1, 2, 3]]}]', "entry 0: point label 3; wanted 1 (on the object) or 0 (beside it)"),
        ('[{"points": [[1]]}]', "entry 0: point with 0 numbers"),
        ('[{"type": "circle", "data": [1, 2]}]', "entry 0: type 'circle'; wanted rectangle or point"),
        ('[{"type": "point", "data": 3}]', "type 'point'; wanted rectangle or point with data"),
        ('[{"type": "rectangle", "data": [1, 2]}]', "entry 0: box with 2 numbers"),
    ],
)
def test_a_bad_json_file_is_refused_with_its_entry(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(PromptError, match=re.escape(message)):
        read_prompts(written(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "columns ; wanted name,slice,x0"),
        ("x0,y0,x1\n1,2,3\n", "columns x0,y0,x1; wanted name,slice,x0,y0,z0,x1,y1,z1"),
        ("x0,y0,x1,y1,label\n1,2,3,4,5\n", "columns x0,y0,x1,y1,label; wanted"),
        ("x0,y0,x1,y1\n", "holds no prompt"),
        ("x0,y0,x1,y1\n\n\n1,2,x,4\n", "boxes.csv, line 4: box: wanted numbers"),
        ("x0,y0,x1,y1\n1,2,3\n", "line 2: box: wanted numbers separated by commas, found '1,2,3,None'"),
        ("x0,y0,x1,y1\n1,2,3,4,5\n", "line 2: 5 cells; the header has 4"),
        ("x0,y0,z0,x1,y1\n1,2,3,4,5\n", "line 2: box: wanted numbers"),
        ("slice,x0,y0,x1,y1\n2.5,1,2,3,4\n", "line 2: slice '2.5'; wanted a whole number"),
        ("x0,y0,x1,y1\n" + "1" * 200_000 + ",2,3,4\n", "boxes.csv: not valid CSV"),
    ],
)
def test_a_bad_csv_file_is_refused_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(PromptError, match=re.escape(message)):
        read_prompts(written(tmp_path, content, "boxes.csv"))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PromptError, match=r"missing.json: cannot be read \(No such file"):
        read_prompts(tmp_path / "missing.json")
    with pytest.raises(PromptError, match=r"cannot be read \(Is a directory\)|cannot be read \(Permission denied\)"):
        read_prompts(tmp_path)
    (tmp_path / "latin.json").write_bytes('[{"name": "Milz\xe4"}]'.encode("latin-1"))
    with pytest.raises(PromptError, match=r"latin.json: not UTF-8 text"):
        read_prompts(tmp_path / "latin.json")
    monkeypatch.setattr(prompt_text, "MAX_PROMPT_FILE_BYTES", 10)
    with pytest.raises(PromptError, match=r"prompts.json: larger than 10 bytes"):
        read_prompts(written(tmp_path, [{"box": [1, 2, 3, 4]}]))
