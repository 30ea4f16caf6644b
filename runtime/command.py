"""What every command line of this project does alike: refuse words, run, say errors in one line, end with a code.

Knows argparse, exit codes and the error tree; knows no command.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from runtime import errors

__all__ = ["EXIT_CODES", "CommandParser", "run_command"]

EXIT_CODES: tuple[tuple[type[errors.LiteInferError], int], ...] = (
    (errors.PromptError, 2),
    (errors.ImageError, 3),
    (errors.BundleError, 4),
    (errors.CheckpointError, 4),
    (errors.DownloadError, 4),
    (errors.BackendError, 5),
    (errors.OutputError, 6),
    (errors.Cancelled, 130),
)
"""Exit code of each kind of error; 1 for any other."""


class CommandParser(argparse.ArgumentParser):
    """Parser that raises `PromptError` where argparse prints its usage and exits."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found."""
        raise errors.PromptError(f"{message}; see {self.prog} --help")  # noqa: EM102 - argparse hands it over


def run_command(prog: str, command: Callable[[list[str]], int], argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Parameters
    ----------
    prog : str
        Its name, which its messages begin with.
    command : callable
        Takes the words after the name; returns the exit code.
    argv : sequence of str, optional
        The words; by default those of the process. With ``--debug`` among them errors are not caught.

    Returns
    -------
    code : int
        What the command returned; or that of the error, which was printed to standard error in one line.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    _print_whatever_comes()
    try:
        return command(words)
    except errors.LiteInferError as error:
        if debug:
            raise
        label = "" if isinstance(error, errors.Cancelled) else "error: "
        print(f"{prog}: {label}{error}", file=sys.stderr)
        return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 1)
    except BrokenPipeError:  # the reader of our output went away, as `head` does; so must what is still buffered
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        if debug:
            raise
        print(f"{prog}: interrupted; nothing was written", file=sys.stderr)
        return 130


def _print_whatever_comes() -> None:
    """Have standard output write signs that its encoding lacks as escapes: a name must not end what is nearly done.

    Redirected output has an old code page on Windows, and names of files need not be text at all elsewhere.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
