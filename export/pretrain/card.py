"""The model card: what a trained bundle says about its making, its figures and its failures, as Markdown.

Knows text and the JSON that `evaluate` writes. Must not know networks, graphs or the manifest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["PROTOCOLS", "Facts", "write_card"]

Summary = dict[str, Any]  # what ``evaluate --json`` writes

PROTOCOLS = {
    "box": "tight box on the largest slice",
    "jitter": "each side of that box moved by up to 3 px",
    "refined": "tight box, then the same box and its own answer",
    "jitter_refined": "jittered box, then the same box and its own answer",
    "click_1": "tight box, then one correction of its answer",
    "click_4": "tight box, then four corrections of its answers",
    "click_1_bare": "tight box and one correction without the answer",
    "click_4_bare": "tight box and four corrections without the answers",
    "point": "one click and no box",
    "point_4": "four clicks and no box",
    "small/box": "tight box, objects of 20 to 99 px",
    "under_400/box": "tight box, all objects under 400 px",
    "box_3d": "3-D: box of six numbers",
    "slice_range": "3-D: box on the largest slice, first and last slice given",
    "slice_only": "3-D: box on the largest slice alone",
    "three_boxes": "3-D: boxes on three slices, first and last slice given",
    "every_slice": "3-D: true box on every slice",
}
_IN_3D = ("box_3d", "slice_range", "slice_only", "three_boxes", "every_slice")
_HEAD = ["prompt", "cases", "Dice", "95 %", "ellipse", "95 %", "filled", "95 %"]
_ON_THE_WAY = ("box", "jitter", "click_4", *_IN_3D)
_CARD = """# {title}

A convolutional encoder and a decoder that works in a window around the box, {parameters:.2f} million parameters,
trained on synthetic images and volumes that `export/pretrain` draws: no medical image and no published weight went
into it. Licence: Apache-2.0, as lite-infer itself.

Give a box around the object; correct with clicks, together with the earlier answer. Clicks and strokes alone work,
less well. Several boxes of one object on different slices help most in a volume. The mask of a slice, and the slice
itself, prompt the next one. The model finds the boundary of what is in the box; it knows no anatomy.

## Where it fails

Rings (a box cannot tell a wall from what it encloses: look at the other candidates), long thin structures, structures
without contrast in the window, a box that holds several things of about its size, and long propagation, which leaks
into neighbours of the same grey. `docs/images/failures.jpg` of the source shows its worst answers on drawn images;
`python -m export.pretrain gallery FOLDER --output PICTURES` draws every answer on yours. Check every mask: this is
research software and not a medical device.

{figures}
"""

_LIMITS = """## What limits it

The figures grow slowly with the images drawn: above, four checkpoints of a first stage of 32,000 images from seed 1,
then the ends of this model's five stages, the fifth from seed 15, the mean of its first two runs, and what ships. The
second stage, on volumes, gives the propagation, and its running statistics fit no kind of prompt: with those of images,
without roll-outs, its weights have .902 with the tight box and .880 with the jittered one, and .496 of the example CT's
organs from a 3-D box. The third stage counts one set over all kinds and trains on with it
(`docs/adr/0011-statistics-are-counted-once.md`); of the jittered box .005 are lost to that. The fourth has more boxes
that are off by some pixels and more rectangles of 3-D boxes: .001 and .020 more. The fifth moves sides by up to 16 px,
since a pixel of a coarse image is several of the network's; from it on, coarse images are enlarged by Lanczos. It was
run three times from the same weights: from seeds 15 and 16, whose mean has .880 with the jittered box where they have
.878 and .879, and .583 of the CT's organs from a 3-D box where they have .567 and .561
(`docs/adr/0013-two-seeds-and-lanczos.md`); and from seed 17 with nearly half of the scenes drawn on coarse pixels. What
ships is the mean of that run and of the mean of the first two: as the curve's last two lines show, it has .001 to .007
more for nearly every prompt, .014 less for four clicks alone, all of it one glioma, and .006 and .008 less of the CT
with the range and with a box alone (`docs/adr/0014-coarse-pixels.md`). Of every third object here 3 px of a jittered
box are more than a seventh of the side. Neither a vote of seven boxes around the given one nor boxes moved as a whole
in training (.874) mend that.

Boxes of up to an eighth of an image are answered by two looks from closer (`docs/adr/0015-closer-looks.md`). The other
seeds and the learning curve are without them, so that this model is to be compared by the curve's last line: .903 with
the tight box, .881 with the jittered one, .859 for objects of 20 to 99 px. Objects under 400 px have .903 with them and
.894 without, over the five cases that have such, the first recipe's weights .874: of the .03 more that were
wanted .029. Coarse pixels in training did not move that. What loses by the looks is a tumour in the lung (.88 to .81).

In volumes the true box on every slice shows what the decoder could do, and the difference is drift, most of it into
neighbours of the same grey.

Inside a 3-D box it is the first slice: the rectangle is not the object's there, and where several things fill it no
score tells which is meant. With the third stage's weights the 45 organs of the example CT have .525 from one plane and
.571 where boxes in doubt are followed in all three (`docs/adr/0012-the-other-planes.md`); the best run of nine for
every organ, which nothing tells, would have .658. Where slices are far apart there are no other planes, and the runs
of a box in doubt are weighed instead.

Tried in propagation (`docs/adr/0010-propagation-looks-where-things-go.md`), and within .01 or worse: other candidates
by score, wider margins, masks between interpolated boxes, other stops, limits to what a mask grows or moves from slice
to slice. One organ more or less that leaks counts for .04 in the means of volumes. Faded edges and clutter in the drawn
images moved single cases by -.07 to +.08 and the mean by less than its interval: what is missing is likeness to real
images.
"""

_MADE = """## Making it again

`python -m export.pretrain reproduce --output RUNS` makes the weights from their seed, `--seed N` others; every figure
is from `python -m export.pretrain evaluate FOLDER --bundle BUNDLE --precision fp32`, those in 3-D with `--volumes`.
"""


@dataclass(frozen=True)
class Facts:
    """What is known of a trained model besides its weights.

    Attributes
    ----------
    summary : dict, optional
        Figures of `evaluate`, 2-D and 3-D together.
    dataset : str
        What they were measured on.
    curve : sequence of dict
        Figures of checkpoints on the way, each with ``images``, how many it had seen.
    seeds : sequence of dict
        Figures of models that were trained in the same way from another seed.
    """

    summary: Summary | None = None
    dataset: str = "labelled development folder"
    curve: Sequence[Summary] = field(default_factory=tuple)
    seeds: Sequence[Summary] = field(default_factory=tuple)


def write_card(title: str, parameters: float, facts: Facts) -> str:
    """Markdown of the card; ``parameters`` in millions."""
    figures = _figures(facts) if facts.summary else "Not evaluated."
    return _CARD.format(title=title, parameters=parameters, figures=figures).rstrip() + "\n"


def _figures(facts: Facts) -> str:
    assert facts.summary is not None
    protocols = facts.summary["protocols"]
    parts = [
        f"## Mean Dice on {facts.dataset}\n\n"
        "Measured in float32; means over cases, with 95 % intervals from resampling the cases. No image of the folder\n"
        "trained the model, but settings of the generator and of propagation were chosen by looking at it, so that\n"
        "expect somewhat less on other images. Beside it what the ellipse in the box, and the box filled, would have:\n"
        "in volumes on every slice, with sides interpolated between boxes.\n\n"
        + _table(_HEAD, [_row(protocols, *item) for item in PROTOCOLS.items()]),
        _table(["", "tight box", "jittered", "ellipse in the tight box"], _groups(facts.summary)),
        _volumes(facts.summary),
        _seeds(facts),
        _curve(facts),
        _LIMITS,
        _MADE,
    ]
    return "\n\n".join(part.strip() for part in parts if part)


def _table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown table of the rows that are not empty; nothing where there are none."""
    lines = ["| " + " | ".join(cells) + " |" for cells in rows if cells]
    return "\n".join(["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *lines]) if lines else ""


def _row(protocols: dict[str, Any], key: str, text: str) -> list[str]:
    """A protocol with its interval, and its baselines where it has them."""
    if key not in protocols:
        return []
    prefix, _, protocol = key.rpartition("/")
    baselines = [f"{prefix}{'/' if prefix else ''}{kind}_{protocol}" for kind in ("ellipse", "filled")]
    cells = [_mean_and_interval(protocols.get(name)) for name in (key, *baselines)]
    return [text, str(protocols[key]["cases"]), *cells[0], *cells[1], *cells[2]]


def _mean_and_interval(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return ["", ""]
    low, high = found.get("ci95", (float("nan"),) * 2)
    return [f"{found['mean']:.3f}", f"{low:.3f} to {high:.3f}"]


def _groups(summary: Summary) -> list[list[str]]:
    """Boxes by modality and by size."""
    groups = summary.get("by_modality", {}) | {
        f"{name}, {row['objects']} objects": row for name, row in summary.get("by_size", {}).items()
    }
    return [[name, *(f"{row[key]:.3f}" for key in ("box", "jitter", "ellipse_box"))] for name, row in groups.items()]


def _volumes(summary: Summary) -> str:
    """3-D protocols, volume by volume."""
    found = {key: summary["protocols"][key] for key in _IN_3D if key in summary["protocols"]}
    cases = sorted({case for row in found.values() for case in row.get("by_case", {})})
    rows = [[case, *(f"{row['by_case'].get(case, float('nan')):.3f}" for row in found.values())] for case in cases]
    return _table(["3-D", *found], rows)


def _means(summary: Summary, keys: Sequence[str]) -> list[str]:
    return [f"{summary['protocols'][key]['mean']:.3f}" if key in summary["protocols"] else "" for key in keys]


def _seeds(facts: Facts) -> str:
    """The same command from other seeds, beside the model itself."""
    if not facts.seeds or facts.summary is None:
        return ""
    keys = [key for key in PROTOCOLS if all(key in seed["protocols"] for seed in facts.seeds)]
    rows = [["this model", *_means(facts.summary, keys)]]
    rows += [[f"seed {seed.get('seed', '?')}", *_means(seed, keys)] for seed in facts.seeds]
    return "## Models from other seeds\n\n" + _table(["", *keys], rows)


def _curve(facts: Facts) -> str:
    """How the figures grew with the images that were drawn."""
    keys = [key for key in _ON_THE_WAY if any(key in one["protocols"] for one in facts.curve)]
    rows = [[f"{one['images']}", *_means(one, keys)] for one in sorted(facts.curve, key=lambda one: int(one["images"]))]
    table = _table(["drawn images seen", *keys], rows)
    return f"## Learning curve\n\n{table}" if table else ""
