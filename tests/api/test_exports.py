"""What the package offers: no name by accident, every name documented."""

from __future__ import annotations
import __future__

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import runtime

FIXED = {
    "Box",
    "EmbeddingCache",
    "Point",
    "Prediction",
    "Segmentation",
    "Session",
    "Volume",
    "errors",
    "load",
}
"""Names that desktop applications depend on."""


def modules() -> list[str]:
    found = [name for _, name, _ in pkgutil.walk_packages(runtime.__path__, "runtime.")]
    return [name for name in found if name not in ("runtime._kernels", "runtime.__main__")]


def as_ruff_sorts(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest, each in order (RUF022)."""
    kind = 0 if name.isupper() else 1 if name[:1].isupper() else 2
    return kind, name


def test_the_package_offers_at_most_25_names_in_order() -> None:
    assert len(runtime.__all__) <= 25
    assert runtime.__all__ == sorted(runtime.__all__, key=as_ruff_sorts)
    assert len(set(runtime.__all__)) == len(runtime.__all__)


def test_the_package_offers_what_it_says_and_nothing_else() -> None:
    features = vars(__future__).values()
    offered = {
        name
        for name, value in vars(runtime).items()
        if not name.startswith("_") and not isinstance(value, ModuleType) and value not in features
    }
    assert offered | {"__version__", "errors"} == set(runtime.__all__)
    assert set(runtime.__all__) >= FIXED


@pytest.mark.parametrize("name", modules())
def test_every_module_says_what_it_offers(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, "a module says what it knows and must not know"
    names = module.__all__
    assert names == sorted(names, key=as_ruff_sorts)
    assert [one for one in names if not hasattr(module, one)] == []


def public() -> Iterator[tuple[str, Any]]:
    """Public functions and classes of the package, and the public methods of the classes."""
    for name in runtime.__all__:
        value = getattr(runtime, name)
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        yield name, value
        if inspect.isclass(value):
            for member, method in vars(value).items():
                if not member.startswith("_") and inspect.isfunction(method):
                    yield f"{name}.{member}", method


def documented(text: str) -> set[str]:
    """Names that a numpydoc docstring describes: `name : type` and `a, b : type`."""
    found: set[str] = set()
    for line in re.findall(r"^ *([\w, *]+) : ", text, flags=re.M):
        found |= {one.strip(" *") for one in line.split(",")}
    return found


PUBLIC = list(public())


@pytest.mark.parametrize(("name", "value"), PUBLIC, ids=[name for name, _ in PUBLIC])
def test_every_parameter_of_the_public_api_is_documented(name: str, value: Any) -> None:
    text = inspect.getdoc(value)
    assert text
    parameters = [one for one in inspect.signature(value).parameters if one not in ("self", "cls")]
    assert [one for one in parameters if one not in documented(text)] == [], name


def test_the_version_is_the_one_of_the_distribution() -> None:
    assert re.match(r"\d+\.\d+\.\d+", runtime.__version__)


def test_every_error_is_part_of_the_tree_and_of_its_drawing() -> None:
    from runtime import errors

    kinds = {name: getattr(errors, name) for name in errors.__all__}
    drawn = re.findall(r"^[ │├└─]*(\w+)(?: +\(also \w+\))?$", str(errors.__doc__), flags=re.M)
    assert set(drawn) == set(kinds)
    assert all(issubclass(kind, errors.LiteInferError) for kind in kinds.values())
    assert all(kind.__doc__ for kind in kinds.values())
    assert issubclass(errors.BackendUnavailable, ImportError)
    assert issubclass(errors.PromptError, ValueError)
    assert issubclass(errors.SessionStateError, RuntimeError)
