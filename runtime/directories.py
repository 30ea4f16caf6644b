"""Where lite-infer keeps things on this computer, and how the environment moves that.

Knows environment variables and the platform's folders; makes none of them and knows nothing of what goes in.
"""

from __future__ import annotations

import os
from pathlib import Path

from runtime.errors import LiteInferError

__all__ = ["cache_directory", "data_directory", "models_path"]


def cache_directory() -> Path:
    """Folder for everything that lite-infer may compute again; not made by this call.

    Returns
    -------
    directory : Path
        ``LITE_INFER_CACHE`` if that environment variable is set, else ``cache`` in ``LITE_INFER_HOME``,
        else ``lite-infer`` in the cache folder of the user and platform. Absolute.

    Raises
    ------
    LiteInferError
        If the variable starts with ``~`` and there is no such home folder.
    """
    for variable, parts in (("LITE_INFER_CACHE", ()), ("LITE_INFER_HOME", ("cache",))):
        value = os.environ.get(variable)
        if value:
            return _expanded(variable, value).joinpath(*parts)
    from platformdirs import user_cache_path

    return user_cache_path("lite-infer", appauthor=False).absolute()


def data_directory() -> Path:
    """Folder for what lite-infer was given to keep, such as bundles that were pulled; not made by this call.

    Returns
    -------
    directory : Path
        ``LITE_INFER_HOME`` if that environment variable is set, else ``lite-infer`` in the platform's folder for
        the user's data. Absolute.

    Raises
    ------
    LiteInferError
        If the variable starts with ``~`` and there is no such home folder.
    """
    value = os.environ.get("LITE_INFER_HOME")
    return _expanded("LITE_INFER_HOME", value) if value else _user_data()


def models_path() -> tuple[Path, ...]:
    """Folders of the user in which bundles are looked up by name, in this order.

    Returns
    -------
    folders : tuple of Path
        Those in the environment variable ``LITE_INFER_MODELS`` (separated like ``PATH``), and ``models`` in
        `data_directory` and in the platform's folder for the user's data. They need not exist.

    Raises
    ------
    LiteInferError
        If a variable starts with ``~`` and there is no such home folder.
    """
    listed = [entry for entry in os.environ.get("LITE_INFER_MODELS", "").split(os.pathsep) if entry]
    folders = [_expanded("LITE_INFER_MODELS", entry) for entry in listed]
    folders += [data_directory() / "models", _user_data() / "models"]
    return tuple(dict.fromkeys(folders))


def _user_data() -> Path:
    import platformdirs

    return platformdirs.user_data_path("lite-infer", appauthor=False).absolute()


def _expanded(variable: str, value: str) -> Path:
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError as error:
        msg = f"{variable} is {value!r}, but that home folder is unknown: set it to an absolute path"
        raise LiteInferError(msg) from error
