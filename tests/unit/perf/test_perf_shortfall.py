"""Parts of what missed a budget: that they add up, what the roofline says of them, and when nothing is said."""

from __future__ import annotations

import msgspec
import pytest
from perf_fakes import case_figures, configuration_figures, processes, report

from perf.budget import check_budgets, parse_budget
from perf.html import html_report
from perf.records import GraphFigures, Report, RooflineFigures
from perf.shortfall import Shortfall, shortfalls
from perf.stats import summarise
from perf.table import format_report

STAGES = {
    "read_ms": 100.0,
    "propagate_ms": 300.0,
    "stored_propagate_ms": 210.0,
    "second_box_ms": 90.0,
    "write_ms": 50.0,
}
COUNTS = {"slices_encoded": 10.0, "prompts_decoded": 20.0, "second_prompts_decoded": 8.0}
GRAPHS = (
    GraphFigures("openvino auto", "encoder", 6.0, 1.0, 5.0, ()),
    GraphFigures("openvino auto", "decoder", 9.0, 0.5, 1.0, ()),
    GraphFigures("openvino auto", "one_box", 4.0, 0.5, 1.5, ()),
    GraphFigures("openvino fp32", "encoder", 60.0, 1.0, 50.0, ()),
)


@pytest.fixture
def measured() -> Report:
    figures = case_figures(
        "ct-1-npz",
        stages={name: summarise([ms]) for name, ms in STAGES.items()},
        warm=(1.0, 1.1, 0.9),
        stored=(0.8,),
        second=(0.7,),
    )
    own = configuration_figures("openvino auto", "openvino", [msgspec.structs.replace(figures, counts=COUNTS)])
    reference = configuration_figures("reference", "reference", [case_figures("ct-1-npz", warm=(2.0, 2.0, 2.0))])
    roofline = RooflineFigures({"f32": 100.0}, 10.0, GRAPHS)
    return report([own, reference], floor=processes(floor=(0.4,)), roofline=roofline)


def missed(measured: Report, *budgets: str) -> list[Shortfall]:
    return list(shortfalls(held(measured, *budgets)))


def held(measured: Report, *budgets: str) -> Report:
    checked = check_budgets(measured, [parse_budget(text) for text in budgets])
    return msgspec.structs.replace(measured, budgets=checked)


def test_the_parts_of_a_process_add_up_and_graphs_stand_beside_what_the_peaks_allow(measured: Report) -> None:
    (one,) = missed(measured, "ct-1-npz=floor+0.1")
    assert [(part.name, part.ms, part.least_ms) for part in one.parts] == [
        ("the floor", 400.0, None),
        ("imports, opening, storing, end", pytest.approx(150.0), None),
        ("reading", 100.0, None),
        ("encoder, 10 slices", 60.0, 50.0),
        ("one_box, 20 boxes", 80.0, 30.0),
        ("segmentation around its graphs", 160.0, None),
        ("writing", 50.0, None),
    ]
    assert one.found_ms == pytest.approx(1000.0)
    assert one.at_peaks_ms == pytest.approx(1000.0 - 10.0 - 50.0)
    assert one.wanted_ms == (500.0,)


def test_what_is_stored_is_not_encoded_again(measured: Report) -> None:
    second, session = missed(measured, "ct-1-npz:second=floor+0.1", "ct-1-npz:session=0.08s")
    assert [part.name for part in session.parts] == ["one_box, 8 boxes", "segmentation around its graphs"]
    assert [part.ms for part in session.parts] == [32.0, 58.0]
    assert (session.found_ms, session.wanted_ms) == (90.0, (80.0,))
    assert not any("encoder" in part.name for part in second.parts)
    assert second.found_ms == pytest.approx(700.0)


def test_shares_of_the_reference_are_wanted_in_its_time_and_one_table_holds_all_limits(measured: Report) -> None:
    (one,) = missed(measured, "ct-1-npz=0.4", "ct-1-npz=0.25", "ct-1-npz=0.9s")
    assert one.wanted_ms == (pytest.approx(800.0), pytest.approx(500.0), pytest.approx(900.0))


def test_an_image_is_answered_by_the_decoder(measured: Report) -> None:
    (facts,) = measured.cases
    image = msgspec.structs.replace(measured, cases=(msgspec.structs.replace(facts, shape=(4, 5, 1)),))
    (one,) = missed(image, "ct-1-npz=floor+0.1")
    assert "decoder, 20 boxes" in [part.name for part in one.parts]


def test_nothing_is_said_of_what_was_met_of_memory_or_of_what_was_not_measured(measured: Report) -> None:
    assert not missed(measured, "ct-1-npz=0.9", "ct-1-npz:memory=1MB", "ct-1-npz:cold=floor+0.1", "ct-5-npz=0.1")
    assert not missed(msgspec.structs.replace(measured, roofline=None), "ct-1-npz=0.1")
    without = msgspec.structs.replace(measured.configurations[0].cases[0], counts={})
    own = msgspec.structs.replace(measured.configurations[0], cases=(without,))
    assert not missed(
        msgspec.structs.replace(measured, configurations=(own, measured.configurations[1])), "ct-1-npz=0.1"
    )


def test_both_reports_show_it(measured: Report) -> None:
    shown = held(measured, "ct-1-npz=floor+0.1")
    text, page = format_report(shown), html_report(shown)
    title = "tiny, ct-1-npz, warm: 1000, wanted 500; with its graphs at the peaks 940"
    assert "Where the time of what is missed goes, ms" in text
    assert title in text
    assert title in page
    assert "Where the time of what is missed goes" not in format_report(held(measured, "ct-1-npz=0.9"))
