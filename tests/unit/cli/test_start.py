"""The session that opens while the image is read."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from engines import finish, run_python, start_python

from runtime._cli_start import SessionAhead
from runtime.errors import BundleError


class _Session:
    """Counts what is done to it."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.may_go_on = threading.Event()

    def warm_up(self, what: str, *, until: Any) -> None:
        self.done.append(f"decoder for {what}")
        self.may_go_on.wait(10)
        if not until():
            self.done.append("encoder")

    def close(self) -> None:
        self.done.append("closed")


def test_the_session_is_handed_over_before_its_graphs_are_loaded_and_the_rest_is_left_to_who_asks() -> None:
    opened = _Session()
    with SessionAhead(lambda: opened, "image") as ahead:  # type: ignore[arg-type, return-value]
        assert ahead.result() is opened  # type: ignore[comparison-overlap]
        opened.may_go_on.set()
    assert opened.done == ["decoder for image", "closed"]


def test_what_keeps_a_session_from_opening_is_raised_to_who_asks() -> None:
    def fail() -> Any:
        msg = "no bundle"
        raise BundleError(msg)

    with SessionAhead(fail) as ahead, pytest.raises(BundleError, match="no bundle"):
        ahead.result()


def test_an_image_that_cannot_be_read_closes_the_session_all_the_same() -> None:
    opened = _Session()
    opened.may_go_on.set()
    with pytest.raises(KeyError), SessionAhead(lambda: opened):  # type: ignore[arg-type, return-value]
        raise KeyError
    assert opened.done[-1] == "closed"


def test_nibabel_is_loaded_without_pydicom_which_can_be_loaded_afterwards() -> None:
    code = """
import sys
from runtime._cli_start import without_pydicom
with without_pydicom():
    import nibabel
    assert sys.modules["pydicom"] is None
assert "pydicom" not in sys.modules
import pydicom
with without_pydicom():
    import pydicom.dataset
print(nibabel.nifti1.have_dicom, sys.modules["pydicom"] is pydicom)
"""
    assert finish(start_python(code)).split() == ["False", "True"]


@pytest.mark.parametrize("collecting", [True, False])
def test_the_import_leaves_the_search_for_garbage_as_it_was(collecting: bool) -> None:
    code = f"""
import gc
gc.{"enable" if collecting else "disable"}()
import runtime
print(gc.isenabled())
"""
    assert finish(start_python(code)).strip() == str(collecting)


def test_nothing_is_searched_for_garbage_when_the_command_line_ends(tmp_path: Path) -> None:
    code = """
import atexit, gc, sys
sys.argv[1:] = ["cache", "info", "--json"]
from runtime.cli import main
atexit.register(lambda: print("frozen", gc.get_freeze_count() > 1000))  # runs after what main registers
assert main() == 0
print("alive", gc.get_freeze_count())
"""
    found = run_python(code, environment={"LITE_INFER_CACHE": str(tmp_path)})
    assert found.split()[-4:] == ["alive", "0", "frozen", "True"]
