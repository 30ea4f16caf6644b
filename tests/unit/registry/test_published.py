"""The list of published checkpoints agrees with itself and with what lite-infer converts."""

from __future__ import annotations

import pytest

from export.families import FAMILIES
from runtime.registry.published import Published, all_published, find_published

EACH = pytest.mark.parametrize("published", all_published(), ids=lambda each: each.name)


def test_every_family_that_converts_is_published_under_its_name() -> None:
    named = {each.name for each in all_published() if each.family is not None}
    assert named == set(FAMILIES)
    assert all(each.family in (None, each.name) for each in all_published())


def test_names_are_unique() -> None:
    names = [each.name for each in all_published()]
    assert len(set(names)) == len(names)
    assert find_published("medsam") is not None
    assert find_published("nothing") is None


@EACH
def test_places_are_on_the_web_over_https(published: Published) -> None:
    urls = [published.repository, *published.direct, *(page.url for page in published.pages)]
    assert all(url.startswith("https://") for url in urls)


@EACH
def test_what_does_not_convert_says_why(published: Published) -> None:
    assert published.family is not None or published.note


@EACH
def test_a_file_with_a_digest_has_a_name_a_size_and_a_licence(published: Published) -> None:
    known = [published.sha256 is not None, published.bytes is not None]
    assert known[0] == known[1]
    if published.sha256 is not None:
        assert published.file
        assert published.licence
        assert published.direct


def test_what_has_no_licence_is_listed_as_such() -> None:
    assert [each.name for each in all_published() if each.licence is None] == ["imedsam"]
