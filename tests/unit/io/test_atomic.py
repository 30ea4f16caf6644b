"""runtime.io._atomic: whole files or none."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from runtime.errors import OutputError
from runtime.io._atomic import atomic_file


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_appears_under_its_name_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "out.bin"
    with atomic_file(target) as stream:
        stream.write(b"half")
        assert not target.exists()
        stream.write(b" and half")
    assert target.read_bytes() == b"half and half"
    assert _names(tmp_path) == ["out.bin"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_whatever_interrupts_writing_leaves_the_old_file_and_no_trace(
    tmp_path: Path, error: type[BaseException]
) -> None:
    target = tmp_path / "out.bin"
    target.write_bytes(b"old")

    def interrupted() -> None:
        with atomic_file(target) as stream:
            stream.write(b"new")
            raise error

    with pytest.raises(error):
        interrupted()
    assert target.read_bytes() == b"old"
    assert _names(tmp_path) == ["out.bin"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"the folder .*absent does not exist"),
        atomic_file(tmp_path / "absent" / "x"),
    ):
        pass


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="is not an ordinary file"), atomic_file(tmp_path / "out"):
        pass
    assert (tmp_path / "out").is_dir()


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="needs a device file")
def test_a_device_is_not_replaced_by_a_file() -> None:
    with pytest.raises(OutputError, match="is not an ordinary file"), atomic_file(Path("/dev/null")):
        pass
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize("alias", ["itself", "symbolic link", "hard link", "detour"])
def test_the_input_is_never_overwritten_under_any_of_its_names(tmp_path: Path, alias: str) -> None:
    source = tmp_path / "input.nii"
    source.write_bytes(b"precious")
    target = tmp_path / "alias.nii"
    if alias == "symbolic link":
        target.symlink_to(source)
    elif alias == "hard link":
        os.link(source, target)
    else:
        target = source if alias == "itself" else tmp_path / ".." / tmp_path.name / "input.nii"
    with pytest.raises(OutputError, match="is the input itself"), atomic_file(target, protected=[source]):
        pass
    assert source.read_bytes() == b"precious"


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_a_folder_without_write_permission_is_reported(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(OutputError, match="writing is not permitted"), atomic_file(tmp_path / "out"):
            pass
    finally:
        tmp_path.chmod(0o755)


def test_a_name_that_the_file_system_refuses_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"), atomic_file(tmp_path / ("x" * 300)) as stream:
        stream.write(b"1")
    assert _names(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_a_full_disk_is_an_output_error_and_leaves_nothing(tmp_path: Path) -> None:
    # A file size limit fails like a full disk, and needs no file system of our own.
    code = f"""
        import resource, signal
        from pathlib import Path
        from runtime.errors import OutputError
        from runtime.io._atomic import atomic_file
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
        try:
            with atomic_file(Path({str(tmp_path / "out.bin")!r})) as stream:
                stream.write(b"x" * (1 << 18))
        except OutputError as error:
            raise SystemExit(str(error))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert "no space left while writing" in done.stderr
    assert _names(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs a umask")
def test_the_umask_decides_who_may_read_the_result(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        with atomic_file(tmp_path / "out") as stream:
            stream.write(b"1")
    finally:
        os.umask(old)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o640
