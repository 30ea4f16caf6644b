"""Budgets: their texts, what they are held against, and what a missing figure means."""

from __future__ import annotations

import pytest
from perf_fakes import case_figures, configuration_figures, processes, report

from perf.budget import GOALS, check_budgets, parse_budget
from perf.extra_tables import budget_texts
from perf.records import Report, Stat
from perf.stats import summarise
from runtime.errors import PromptError


@pytest.fixture
def measured() -> Report:
    reference = configuration_figures("reference", "reference", [case_figures("ct-1-npz", warm=(2.0, 2.2, 2.1))])
    single = configuration_figures(
        "reference fp32", "reference", [case_figures("ct-1-npz", warm=(6.0, 6.0, 6.0))], precision="fp32"
    )
    stages: dict[str, Stat] = {"second_box_ms": summarise([90.0, 110.0])}
    own = case_figures("ct-1-npz", warm=(1.0, 1.1, 1.05), second=(0.5,), stages=stages)
    return report(
        [reference, single, configuration_figures("openvino auto", "openvino", [own])],
        floor=processes(floor=(0.4,)),
    )


@pytest.mark.parametrize(
    ("text", "value", "met"),
    [
        ("ct-1-npz=0.6", 0.5, True),
        ("ct-1-npz=0.4", 0.5, False),
        ("ct-1-npz=0.2*fp32", 0.175, True),
        ("tiny/ct-1-npz=floor+0.6", 0.65, False),
        ("ct-1-npz:second=floor+0.3", 0.1, True),
        ("ct-1-npz:second=0.4s", 0.5, False),
        ("ct-1-npz:session=0.15s", 0.1, True),
        ("ct-1-npz:memory=350MB", 100.0, True),
    ],
)
def test_a_budget_is_held_against_what_it_names(text: str, value: float, met: bool, measured: Report) -> None:
    (found,) = check_budgets(measured, [parse_budget(text)])
    assert found.value == pytest.approx(value)
    assert (found.subject, found.configuration, found.met, found.asked) == ("tiny", "openvino auto", met, True)


def test_a_ratio_comes_with_its_interval(measured: Report) -> None:
    (found,) = check_budgets(measured, [parse_budget("ct-1-npz=0.6")])
    assert found.low is not None
    assert found.high is not None
    assert 1.0 / 2.2 <= found.low <= 0.5 <= found.high <= 1.1 / 2.0


@pytest.mark.parametrize("text", ["ct-5-npz=0.6", "other/ct-1-npz=0.6", "ct-1-npz:cold=floor+1"])
def test_what_was_not_measured_is_missed_where_it_was_asked_for_and_listed_where_it_is_a_goal(
    text: str, measured: Report
) -> None:
    (found,) = check_budgets(measured, [parse_budget(text)])
    assert (found.value, found.met) == (None, False)
    assert budget_texts(found)[1:] == ("not measured", "MISSED")
    (goal,) = check_budgets(measured, [parse_budget(text)], asked=False)
    assert budget_texts(goal)[1:] == ("not measured", "-")


@pytest.fixture
def beside_a_peer() -> Report:
    """One object takes .5 of the peer's program, five take .25 of it."""
    own = [case_figures("ct-1-npz", warm=(1.0,)), case_figures("ct-5-npz", warm=(2.0,))]
    theirs = [case_figures("ct-1-npz", warm=(2.0,)), case_figures("ct-5-npz", warm=(8.0,))]
    peer = configuration_figures("pytorch", "peer", theirs, subject="pytorch", bundle=None, precision="default")
    return report([configuration_figures("openvino auto", "openvino", own), peer])


@pytest.mark.parametrize(
    ("text", "value", "limit", "met", "shown"),
    [
        ("ct-1-npz=0.5*pytorch", 0.5, 0.5, True, "tiny, ct-1-npz, warm <= pytorch x 0.5"),
        ("tiny/ct-5-npz=0.2*pytorch", 0.25, 0.2, False, "tiny, ct-5-npz, warm <= pytorch x 0.2"),
        ("ct-5-npz=ct-1-npz*pytorch", 0.25, 0.5, True, "tiny, ct-5-npz, warm <= pytorch x 0.5 (as on ct-1-npz)"),
        ("ct-1-npz=ct-5-npz*pytorch", 0.5, 0.25, False, "tiny, ct-1-npz, warm <= pytorch x 0.25 (as on ct-5-npz)"),
        ("ct-1-npz=grey-1*pytorch", 0.5, None, False, "tiny, ct-1-npz, warm <= pytorch x - (as on grey-1)"),
        ("ct-1-npz=1*other", None, 1.0, False, "tiny, ct-1-npz, warm <= other x 1"),
        ("ct-1-npz=1*reference", None, 1.0, False, "tiny, ct-1-npz, warm <= reference x 1"),
    ],
)
def test_a_budget_may_be_a_share_of_a_peer_s_program_and_no_larger_than_on_another_case(
    text: str, value: float | None, limit: float | None, met: bool, shown: str, beside_a_peer: Report
) -> None:
    (found,) = check_budgets(beside_a_peer, [parse_budget(text)])
    assert (found.subject, found.value, found.limit, found.met) == ("tiny", value, limit, met)
    assert budget_texts(found)[0] == shown


def test_a_reference_that_is_the_default_one_in_disguise_is_followed() -> None:
    own = configuration_figures("openvino auto", "openvino", [case_figures("ct-1-npz", warm=(1.0,))])
    first = configuration_figures("reference", "reference", [case_figures("ct-1-npz", warm=(4.0,))])
    same = configuration_figures("reference fp32", "reference", [], precision="fp32", same_as="reference")
    (found,) = check_budgets(report([first, same, own]), [parse_budget("ct-1-npz=0.34*fp32")])
    assert found.value == pytest.approx(0.25)


def test_limits_of_instructions_are_not_judged() -> None:
    limited = configuration_figures("openvino auto AVX2", "openvino", [case_figures("ct-1", warm=(1.0,))], isa="AVX2")
    (found,) = check_budgets(report([limited]), [parse_budget("ct-1=5s")])
    assert found.value is None


@pytest.mark.parametrize(
    "text",
    [
        *("ct-1", "ct-1=", "ct-1=fast", "=0.5", "ct-1:hot=0.5", "ct-1=-1", "ct-1=floor+1MB", "ct-1=350MB"),
        *("ct-1=*fp32", "ct-1=0.5*", "ct-1=0.5*a b", "ct-1:memory=0.5*fp32", "ct-1:session=ct-5*fp32"),
        *("ct-1:memory=0.5", "ct-1:session=0.5", "ct-1:session=floor+0.1", "a/b/ct-1=0.5"),
    ],
)
def test_a_text_that_is_no_budget_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(PromptError, match="wanted") as caught:
        parse_budget(text)
    assert "\n" not in str(caught.value)


def test_the_project_s_goals_are_budgets() -> None:
    goals = [parse_budget(text) for text in GOALS]
    assert {goal.bundle for goal in goals} == {"lite-infer-synthetic", "daft", "medficientsam-l0", "lite-medsam"}
    assert {goal.peer for goal in goals} == {None, "daft-cpp", "pytorch"}
    assert len(set(GOALS)) == len(GOALS)
