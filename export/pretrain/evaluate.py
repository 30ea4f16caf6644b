"""Figures on a labelled folder in 2-D: tight and jittered boxes, clicks, refinement, small objects.

Knows protocols. Must not know how a predictor works or how the folder is stored.

Protocols: the box is the tight box of the true mask on the object's largest slice. ``jitter``: each side moved by a
whole number of pixels from -3 to 3 (generator seeded with ``JITTER_SEED``, objects in file order). ``click_n``: after
the box, n corrections, each at the centre of the largest wrong component of the answer before it, together with that
answer as a mask prompt; ``click_n_bare``: the same without the mask. ``refined``: the same box once more with its own
answer as a mask prompt, ``jitter_refined`` the jittered box so. ``point``: no box, one click at the centre of the
object; ``point_4``: three corrections more.
``small/...``: the same for the small objects, which count nowhere else. ``under_400/...``: all objects of fewer than
400 pixels, small ones or not, with the boxes of ``box`` and ``jitter``.

Beside a protocol stand its baselines, which know no image: ``filled_...``, its box filled, and ``ellipse_...``, the
ellipse inscribed in it.

JSON: ``protocols`` (name -> mean over cases, ci95 over cases, mean_objects, median_objects, by_case, cases, objects),
``by_modality`` (means over cases) and ``by_size`` (pixels of the image, means over objects) of ``box``, ``jitter`` and
``ellipse_box``, ``objects``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.pretrain.cases import Case, SliceObject, read_cases
from export.pretrain.metrics import bootstrap_interval, box_mask, dice, ellipse_mask, mean_over_cases
from export.pretrain.predictors import Answer, Clicks, Predictor
from export.pretrain.prompts import error_click

__all__ = ["JITTER_SEED", "Figures", "evaluate_slices", "format_table"]

JITTER_SEED = 7
_CLICK_ROUNDS = 4
_SIZES = ((0, 100), (100, 400), (400, 1600), (1600, 1 << 30))
_IN_GROUPS = ("box", "jitter", "ellipse_box")
_FEW_PIXELS = 400
_OF_FEW_PIXELS = tuple(f"{kind}{box}" for kind in ("", "filled_", "ellipse_") for box in ("box", "jitter"))
_GROUP = 8  # objects decoded at once


@dataclass
class Figures:
    """Dice of each protocol, by case; ``small/...`` and ``under_400/...`` as the module says."""

    values: dict[str, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    modality: dict[str, str] = field(default_factory=dict)
    objects: list[dict[str, Any]] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Means over cases with intervals, means over objects, and tight-box means by modality."""
        result: dict[str, Any] = {}
        for protocol, cases in self.values.items():
            every = [value for values in cases.values() for value in values]
            result[protocol] = {
                "mean": mean_over_cases(cases),
                "ci95": bootstrap_interval(cases),
                "mean_objects": float(np.mean(every)),
                "median_objects": float(np.median(every)),
                "by_case": {case: float(np.mean(values)) for case, values in cases.items()},
                "cases": len(cases),
                "objects": len(every),
            }
        return {"protocols": result, "by_modality": self._by_modality(), "by_size": self._by_size()}

    def _by_modality(self) -> dict[str, dict[str, float]]:
        found = {}
        for modality in sorted(set(self.modality.values())):
            rows = {
                key: {case: values for case, values in self.values[key].items() if self.modality[case] == modality}
                for key in _IN_GROUPS
                if key in self.values
            }
            if any(rows.values()):
                found[modality] = {key: mean_over_cases(cases) for key, cases in rows.items()}
        return found

    def _by_size(self) -> dict[str, dict[str, float]]:
        found = {}
        for low, high in _SIZES:
            chosen = [one for one in self.objects if low <= one.get("area", -1) < high]
            if chosen:
                name = f"{low} to {high - 1} px" if high < _SIZES[-1][1] else f"from {low} px"
                means = {key: float(np.mean([one[key] for one in chosen])) for key in _IN_GROUPS}
                found[name] = {**means, "objects": len(chosen)}
        return found


def evaluate_slices(
    predictor: Predictor, folder: Path, *, quick: bool = False, report: Callable[[str], None] | None = None
) -> Figures:
    """Evaluate every object of the folder; ``quick`` leaves out clicks and refinement."""
    figures = Figures()
    jitter = np.random.default_rng(JITTER_SEED)
    for case in read_cases(folder):
        figures.modality[case.name] = case.modality
        shared: dict[tuple[int, tuple[float, float] | None], list[tuple[SliceObject, NDArray[np.float64]]]] = {}
        for item in case.objects:
            offset = jitter.integers(-3, 4, 4).astype(np.float64)
            shared.setdefault((item.slice_index, item.window), []).append((item, offset))
        for group in shared.values():
            embedding = predictor.encode(case.slice_image(group[0][0]))
            for start in range(0, len(group), _GROUP):
                _evaluate_group(predictor, embedding, case, group[start : start + _GROUP], figures, quick=quick)
        if report is not None and figures.values["box"].get(case.name):
            report(f"{case.name:32} {np.mean(figures.values['box'][case.name]):.3f}")
    return figures


def _jittered(box: NDArray[np.float64], offset: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Move the sides, keep them ordered and inside the image."""
    moved = box + offset
    x = np.clip(np.sort(moved[[0, 2]]), 0, shape[1] - 1)
    y = np.clip(np.sort(moved[[1, 3]]), 0, shape[0] - 1)
    return np.array([x[0], y[0], x[1], y[1]])


def _evaluate_group(
    predictor: Predictor,
    embedding: Any,
    case: Case,
    group: list[tuple[SliceObject, NDArray[np.float64]]],
    figures: Figures,
    *,
    quick: bool,
) -> None:
    targets = np.stack([case.slice_mask(item) for item, _ in group])
    boxes = np.stack([item.box for item, _ in group])
    shape = (targets.shape[1], targets.shape[2])
    tight = predictor.decode(embedding, boxes)
    loose = np.stack([_jittered(item.box, offset, shape) for item, offset in group])
    off = predictor.decode(embedding, loose)
    answers = {
        "box": tight.masks,
        "jitter": off.masks,
    }
    for protocol, given in (("box", boxes), ("jitter", loose)):
        answers[f"filled_{protocol}"] = np.stack([box_mask(shape, box) for box in given])
        answers[f"ellipse_{protocol}"] = np.stack([ellipse_mask(shape, box) for box in given])
    if not quick:
        answers["refined"] = predictor.decode(embedding, boxes, earlier=tight.low_res_logits).masks
        answers["jitter_refined"] = predictor.decode(embedding, loose, earlier=off.low_res_logits).masks
        answers |= _clicked(predictor, embedding, boxes, targets, tight)
        answers |= _pointed(predictor, embedding, targets)
    for row, (item, _) in enumerate(group):
        prefix = "small/" if item.small else ""
        record: dict[str, Any] = {
            "case": case.name,
            "label": item.label,
            "name": item.name,
            "small": item.small,
            "score": float(tight.scores[row]),
            "area": int(targets[row].sum()),
        }
        for protocol, masks in answers.items():
            record[protocol] = dice(masks[row], targets[row])
            figures.values[prefix + protocol][case.name].append(record[protocol])
        if record["area"] < _FEW_PIXELS:
            for protocol in _OF_FEW_PIXELS:
                figures.values[f"under_{_FEW_PIXELS}/{protocol}"][case.name].append(record[protocol])
        figures.objects.append(record)


def _clicked(
    predictor: Predictor, embedding: Any, boxes: NDArray[np.float64], targets: NDArray[np.bool_], first: Answer
) -> dict[str, NDArray[np.bool_]]:
    """Masks after one and after four corrections, with and (``bare``) without the earlier answer as a prompt."""
    found: dict[str, NDArray[np.bool_]] = {}
    for suffix in ("", "_bare"):
        answer = first
        clicks: Clicks = [[] for _ in boxes]
        for number in range(1, _CLICK_ROUNDS + 1):
            for row, target in enumerate(targets):
                click = error_click(answer.masks[row], target)
                if click is not None:
                    clicks[row].append((float(click[0]), float(click[1]), click[2]))
            earlier = None if suffix else answer.low_res_logits
            answer = predictor.decode(embedding, boxes, clicks, earlier)
            if number in (1, _CLICK_ROUNDS):
                found[f"click_{number}{suffix}"] = answer.masks
    return found


def _pointed(predictor: Predictor, embedding: Any, targets: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
    """Masks after one click and after three corrections, without any box."""
    masks = np.zeros_like(targets)
    clicks: Clicks = [[] for _ in targets]
    found: dict[str, NDArray[np.bool_]] = {}
    for number in range(1, _CLICK_ROUNDS + 1):
        for row, target in enumerate(targets):
            click = error_click(masks[row], target)
            if click is not None:
                clicks[row].append((float(click[0]), float(click[1]), click[2]))
        masks = predictor.decode(embedding, None, clicks).masks
        if number in (1, _CLICK_ROUNDS):
            found["point" if number == 1 else f"point_{number}"] = masks
    return found


def format_table(summary: dict[str, Any]) -> str:
    """Summary as plain text."""
    lines = [f"{'protocol':24} {'cases':>7} {'95 % interval':>17} {'objects':>8} {'median':>7} {'n':>5}"]
    for name, row in summary["protocols"].items():
        low, high = row["ci95"]
        lines.append(
            f"{name:24} {row['mean']:7.4f}  [{low:.4f}, {high:.4f}] "
            f"{row['mean_objects']:8.4f} {row['median_objects']:7.4f} {row['objects']:5d}"
        )
    for title, groups in (("modality", summary["by_modality"]), ("size on the slice", summary["by_size"])):
        if groups:
            lines += ["", f"{title:24}" + "".join(f"{key:>12}" for key in _IN_GROUPS)]
        for name, row in groups.items():
            lines.append(f"{name:24}" + "".join(f"{row[key]:12.4f}" for key in _IN_GROUPS))
    volumes = [name for name in ("box_3d", "slice_range", "slice_only", "three_boxes") if name in summary["protocols"]]
    if volumes:
        lines += ["", f"{'case':32}" + "".join(f"{name:>13}" for name in volumes)]
        for case in summary["protocols"][volumes[0]]["by_case"]:
            values = [summary["protocols"][name]["by_case"].get(case, float("nan")) for name in volumes]
            lines.append(f"{case:32}" + "".join(f"{value:13.4f}" for value in values))
    return "\n".join(lines)
