"""The page: it needs nothing else, nothing in it is taken for markup, and its plots are well-formed."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from perf_fakes import case_figures, configuration_figures, processes, report

import runtime.cli
from perf.figures import pairs
from perf.html import html_report
from perf.isa_note import isa_note
from perf.records import (
    Agreement,
    BudgetFigures,
    ConfigurationFigures,
    GraphFigures,
    LabelledFigures,
    LayerFigures,
    Report,
    RooflineFigures,
    encode_report,
)
from perf.stats import summarise
from perf.svg import Bar, Line, bars, lines, ticks
from perf.table import case_rows, format_report


@pytest.fixture
def full() -> Report:
    stages = {name: summarise([5.0, 6.0]) for name in ("read_ms", "encode_ms", "decode_ms", "rest_ms", "write_ms")}
    counts = {"slices_encoded": 3.0, "prompts_decoded": 4.0}
    names = ("ct-1-npz", "slices-5", "slices-10")
    own = [msgspec.structs.replace(case_figures(name, warm=(1.0, 1.2), stages=stages), counts=counts) for name in names]
    layer = LayerFigures("Convolution", "int8", 7, 2.0, 0.5, 3.0, 1.0)
    labelled = LabelledFigures("openvino auto", 183, 0.88, Agreement("openvino fp32", 0.997, 0.91), 9.5)
    return report(
        [
            configuration_figures("reference", "reference", [case_figures("ct-1-npz", warm=(3.0, 3.1))]),
            configuration_figures("openvino auto", "openvino", own),
            configuration_figures("openvino auto AVX2_VNNI", "openvino", own[:1], isa="AVX2_VNNI", error="a < b & c"),
        ],
        floor=processes(floor=(0.4,)),
        budgets=(BudgetFigures("tiny", None, "ct-1-npz", "warm", "reference", 0.5, "times", 0.35, 0.3, 0.4, met=True),),
        roofline=RooflineFigures(
            {"f32": 100.0, "bf16": None, "int8": 400.0},
            9.0,
            (GraphFigures("openvino auto", "encoder", 4.0, 1.9, 2.5, (layer,)),),
        ),
        labelled=(labelled, LabelledFigures("grabcut", None, 0.4, None, 80.0)),
    )


def test_the_page_needs_no_other_file_and_no_network(full: Report) -> None:
    page = html_report(full)
    assert not re.search(r"<script|<link|<img|src=|href=|url\(|https?:", page)
    assert "a < b & c" not in page
    assert "a &lt; b &amp; c" in page


def test_every_part_is_on_the_page_and_its_pictures_are_well_formed(full: Report) -> None:
    page = html_report(full)
    for part in ("Budgets and goals", ">met<", "What cost grows with", "Labelled images", "Roofline"):
        assert part in page
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) >= 5
    for picture in pictures:
        ElementTree.fromstring(picture)
    ElementTree.fromstring(re.sub(r"<!doctype html>|<meta[^>]*>", "", page))


def test_the_table_has_the_same_parts(full: Report) -> None:
    text = format_report(full)
    for part in (
        *("tiny, ct-1-npz, warm <= reference x 0.5", "0.35 (0.3-0.4)", "grabcut  baseline", "0.9970"),
        *("Roofline: at most f32 100, int8 400 x 10^9", "Convolution int8", "the peaks allow 2.50 ms"),
    ):
        assert re.sub(r"\s+", " ", part) in re.sub(r"\s+", " ", text)


def test_a_limit_of_instructions_says_what_it_is_and_what_it_is_not(full: Report) -> None:
    limited, only_part = isa_note(full)
    assert "as on a CPU that has no others" in limited
    assert "Not emulated" in limited
    assert "AVX2_VNNI is AVX2 here" in only_part  # the CPU of these tests has no avx_vnni
    assert not list(isa_note(msgspec.structs.replace(full, configurations=full.configurations[:2])))


def test_an_empty_report_is_a_page_too() -> None:
    assert "<h2>" not in html_report(report([]))


def test_a_page_is_made_of_an_earlier_run(full: Report, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out.json").write_text(encode_report(full), encoding="utf-8")
    assert runtime.cli.main(["perf", "report", str(tmp_path / "out.json")]) == 0
    assert (tmp_path / "out.html").read_text(encoding="utf-8") == html_report(full)
    assert "openvino auto" in capsys.readouterr().out


@pytest.mark.parametrize(("largest", "found"), [(1.0, 6), (0.0, 1), (37.0, 4), (4200.0, 5)])
def test_ticks_are_few_round_and_within_the_range(largest: float, found: int) -> None:
    made = ticks(largest)
    assert len(made) == found
    assert made[0] == 0
    assert made[-1] <= largest


def test_bars_are_as_long_as_their_values_say() -> None:
    picture = ElementTree.fromstring(bars([Bar("a", [(0, 1.0), (1, 3.0)], 4.0, 4.0, "4"), Bar("b", [], 0, 0, "")], "s"))
    first, second = (float(rect.attrib["width"]) for rect in picture.iter("rect"))
    assert second == pytest.approx(3 * first, abs=0.2)


def test_lines_go_up_where_values_do() -> None:
    picture = ElementTree.fromstring(lines([Line("a", 0, [(1, 2.0, 2.0, 2.0), (2, 4.0, 3.0, 5.0)])], "n", "ms"))
    (line,) = picture.iter("polyline")
    heights = [float(point.split(",")[1]) for point in line.attrib["points"].split()]
    assert heights[0] > heights[1]


def test_precisions_are_compared_with_float32_under_the_same_limit() -> None:
    def one(name: str, used: str, milliseconds: float, isa: str | None = None) -> ConfigurationFigures:
        figures = case_figures("ct-1", stages={"propagate_ms": summarise([milliseconds])})
        figures = msgspec.structs.replace(figures, counts={"slices_encoded": 3.0, "prompts_decoded": 4.0})
        return configuration_figures(name, "openvino", [figures], precision_used=used, isa=isa)

    made = report([one("auto", "int8", 40.0), one("fp32", "fp32", 80.0), one("auto AVX2", "int8", 90.0, "AVX2"),
                   one("fp32 AVX2", "fp32", 60.0, "AVX2")])  # fmt: skip
    _, stages = case_rows(made, list(pairs(made, "ct-1")))
    column = stages[0].index("of fp32")
    assert [row[column] for row in stages[1:]] == ["0.50", "-", "1.50", "-"]
