"""Bundles that ask what the image shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bundle import BOX, disc, inside, open_session, scene_volume
from tiny_prompts import modality_bundle

from runtime import Session
from runtime.errors import ManifestError, PromptError
from runtime.manifest import load_manifest

BOXES = [[15, 8, 45, 32]]
WINDOW = (127.5, 255.0)


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def asking(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    folder = modality_bundle(tmp_path_factory.mktemp("modality") / "bundle")
    with open_session(folder, backend=request.param, cache=False) as opened:
        yield opened


@pytest.mark.parametrize("modality", ["CT", "ct", 0, np.int64(0)])
def test_a_modality_is_a_name_in_any_case_or_an_index(asking: Session, modality: Any) -> None:
    image, mask = disc()
    found = asking.decode(asking.encode(image), boxes=BOXES, modality=modality)
    np.testing.assert_array_equal(found.masks[0], mask)


@pytest.mark.parametrize("modality", ["Ultrasound", 1])
def test_another_modality_gives_another_mask(asking: Session, modality: Any) -> None:
    assert not asking.decode(asking.encode(disc()[0]), boxes=BOXES, modality=modality).masks.any()


@pytest.mark.parametrize(
    ("modality", "text"),
    [
        (None, r"no modality; bundle 'tiny' needs one of CT \(0\), MR \(1\), Ultrasound \(2\)"),
        ("PET", r"modality 'PET': bundle 'tiny' knows CT \(0\), MR \(1\), Ultrasound \(2\)"),
        (3, r"modality 3: bundle 'tiny' knows CT \(0\)"),
        (-1, r"modality -1: bundle 'tiny' knows CT \(0\)"),
        (0.5, r"modality 0.5: wanted a whole number"),
        (True, r"modality True: wanted a whole number"),
    ],
)
def test_a_modality_that_the_bundle_does_not_know_is_refused(asking: Session, modality: Any, text: str) -> None:
    embedding = asking.encode(disc()[0])
    with pytest.raises(PromptError, match=text):
        asking.decode(embedding, boxes=BOXES, modality=modality)
    with pytest.raises(PromptError, match=text):
        asking.segment(scene_volume(), box=BOX, modality=modality, window=WINDOW)


def test_every_slice_of_a_volume_is_decoded_with_the_modality(asking: Session) -> None:
    found = asking.segment(scene_volume(), box=BOX, modality="CT", window=WINDOW)
    np.testing.assert_array_equal(found.label_map, inside())
    assert not asking.segment(scene_volume(), box=BOX, modality="MR", window=WINDOW).label_map.any()


def test_an_optional_modality_may_be_left_out(tmp_path: Path) -> None:
    image, mask = disc()
    with open_session(modality_bundle(tmp_path, use="optional"), cache=False) as session:
        embedding = session.encode(image)
        np.testing.assert_array_equal(session.decode(embedding, boxes=BOXES).masks[0], mask)
        assert not session.decode(embedding, boxes=BOXES, modality="MR").masks.any()


def test_a_bundle_that_takes_no_modality_says_so(session: Session) -> None:
    with pytest.raises(PromptError, match=r"modality 'CT': bundle 'tiny' takes no modality; leave it out"):
        session.decode(session.encode(disc()[0]), boxes=BOXES, modality="CT")


def test_a_manifest_that_asks_without_naming_modalities_is_refused(tmp_path: Path) -> None:
    folder = modality_bundle(tmp_path)
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('["CT", "MR", "Ultrasound"]', "[]"))
    with pytest.raises(ManifestError, match=r"modalities: empty, though prompts.modality asks for one of them"):
        load_manifest(folder)
