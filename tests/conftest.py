"""What all tests share: the folder of shared data, a cache of their own, and the versions that were tested."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_VARIABLE = "LITE_INFER_SHARED"
hypothesis.settings.register_profile("lite-infer", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("lite-infer")
_TESTED = ("lite-infer", "numpy", "onnxruntime", "openvino", "opencv-python-headless", "nibabel", "pydicom", "torch")


def shared_folder() -> Path | None:
    """Folder with goldens and sample images: `LITE_INFER_SHARED`, else `shared` beside the repository."""
    given = os.environ.get(SHARED_VARIABLE)
    folder = Path(given).expanduser() if given else REPOSITORY.parent / "shared"
    return folder.resolve() if folder.is_dir() else None


def _version(name: str) -> str:
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{name} absent"


def pytest_report_header() -> list[str]:
    folder = shared_folder()
    return [
        ", ".join(map(_version, _TESTED)),
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} logical processors",
        f"shared data: {folder or f'absent; tests that need it are skipped ({SHARED_VARIABLE} tells where it is)'}",
    ]


@pytest.fixture(autouse=True, scope="session")
def _children_see_the_package_under_test() -> Iterator[None]:
    """Python processes that tests start import what the tests import, not the source tree they are started in."""
    import runtime

    paths = [str(Path(runtime.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))
        patch.setenv("PYTHONSAFEPATH", "1")
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared folder; the test is skipped where it is absent."""
    folder = shared_folder()
    if folder is None:
        pytest.skip(f"the shared data are absent; set {SHARED_VARIABLE} to their folder")
    return folder


@pytest.fixture(scope="session")
def conformance(shared: Path) -> Path:
    """The goldens of the published systems; the test is skipped where they are absent."""
    folder = shared / "conformance"
    if not folder.is_dir():
        pytest.skip(f"{SHARED_VARIABLE} names a folder without conformance/")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _no_cache_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep fixtures of a wider scope than a test out of the user's cache as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LITE_INFER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that belongs to one test alone, not yet made."""
    folder = tmp_path_factory.mktemp("cache") / "lite-infer"
    monkeypatch.setenv("LITE_INFER_CACHE", str(folder))
    monkeypatch.delenv("LITE_INFER_HOME", raising=False)
    return folder
