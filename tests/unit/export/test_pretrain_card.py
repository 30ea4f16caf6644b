"""The model card: figures with their intervals, and only tables that have something to say."""

from __future__ import annotations

from typing import Any

from export.pretrain.card import Facts, write_card


def _summary(value: float, **more: Any) -> dict[str, Any]:
    row = {"mean": value, "ci95": [value - 0.05, value + 0.05], "cases": 29}
    return {"protocols": {"box": row, "jitter": row, "ellipse_box": {**row, "mean": 0.5}}, **more}


def test_a_model_that_was_not_measured_says_so() -> None:
    card = write_card("A model", 2.345, Facts())
    assert card.startswith("# A model\n")
    assert "2.35 million parameters" in card or "2.34 million parameters" in card
    assert card.endswith("Not evaluated.\n")


def test_figures_stand_with_their_intervals_beside_the_baselines() -> None:
    row = {"box": 0.7, "jitter": 0.5, "ellipse_box": 0.4}
    groups = {"by_modality": {"CT": row}, "by_size": {"0 to 99 px": {**row, "objects": 22}}}
    card = write_card("A model", 2.0, Facts(_summary(0.88765, **groups), "some"))
    assert "## Mean Dice on some\n" in card
    assert "| tight box on the largest slice | 29 | 0.888 | 0.838 to 0.938 | 0.500 | 0.838 to 0.938 |  |  |" in card
    assert "| each side of that box moved by up to 3 px | 29 | 0.888 | 0.838 to 0.938 |  |  |  |  |" in card
    assert "| CT | 0.700 | 0.500 | 0.400 |" in card
    assert "| 0 to 99 px, 22 objects | 0.700 | 0.500 | 0.400 |" in card
    assert "| 3-D" not in card, "what was not measured has no row"
    assert "Learning curve" not in card
    assert "other seeds" not in card


def test_the_curve_ascends_and_other_seeds_stand_beside_the_model() -> None:
    curve = (_summary(0.8, images=20000), _summary(0.7, images=8000))
    card = write_card("A model", 2.0, Facts(_summary(0.9), "some", curve, (_summary(0.85, seed=5),)))
    assert "| drawn images seen | box | jitter |" in card
    assert card.index("| 8000 | 0.700 | 0.700 |") < card.index("| 20000 | 0.800 | 0.800 |")
    assert "| this model | 0.900 | 0.900 |" in card
    assert "| seed 5 | 0.850 | 0.850 |" in card


def test_volumes_stand_one_by_one() -> None:
    summary = _summary(0.9)
    for protocol, values in (("box_3d", {"b": 0.5, "a": 0.7}), ("three_boxes", {"a": 0.8, "b": 0.6})):
        summary["protocols"][protocol] = {**summary["protocols"]["box"], "by_case": values}
    card = write_card("A model", 2.0, Facts(summary, "some"))
    assert "| 3-D | box_3d | three_boxes |\n| --- | --- | --- |\n| a | 0.700 | 0.800 |\n| b | 0.500 | 0.600 |" in card
