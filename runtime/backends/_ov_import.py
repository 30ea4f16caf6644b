"""How OpenVINO is imported: without its model converter.

Importing the converter reports the import to a web analytics service, and costs more than OpenVINO itself. Inference
needs none, so it stays out; other code in this process that asks for it gets it. Knows OpenVINO's modules, no graph.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from runtime.errors import BackendUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

__all__ = ["foreign", "import_openvino"]

_CONVERTER = "openvino.tools.ovc"


def import_openvino() -> ModuleType:
    """Import OpenVINO without its converter, which phones home and doubles the time the import takes."""
    if "openvino" not in sys.modules:
        with _without_converter():
            _try_import()
    return _try_import()


def _try_import() -> ModuleType:
    try:
        import openvino
    except (ImportError, OSError) as error:
        msg = (
            f"backend openvino does not load ({error}); install it with 'pip install openvino', "
            "or choose backend 'onnxruntime'"
        )
        raise BackendUnavailable(msg) from error
    if "convert_model" not in vars(openvino):
        openvino.__getattr__ = _convert_model_on_demand
    module: ModuleType = openvino
    return module


@contextmanager
def _without_converter() -> Iterator[None]:
    """Make ``import openvino.tools.ovc`` fail, which ``openvino/__init__.py`` provides for, then lift that again."""
    if _CONVERTER in sys.modules:
        yield
        return
    sys.modules[_CONVERTER] = None  # type: ignore[assignment] # documented: such an import raises ImportError
    try:
        yield
    finally:
        del sys.modules[_CONVERTER]


def _convert_model_on_demand(name: str) -> Any:
    """Serve ``openvino.convert_model`` to other code in this process that expects it there."""
    msg = f"module 'openvino' has no attribute {name!r}"
    if name != "convert_model":
        raise AttributeError(msg)
    try:
        from openvino.tools.ovc import convert_model
    except ImportError as error:
        raise AttributeError(msg) from error
    return convert_model


def foreign() -> tuple[type[Exception], ...]:
    """Every exception that OpenVINO's Python layer defines, and those that pybind11 makes of C++ ones."""
    from openvino import exceptions

    own = [value for value in vars(exceptions).values() if isinstance(value, type) and issubclass(value, Exception)]
    return (*own, RuntimeError, TypeError, ValueError, OSError, MemoryError, LookupError, AttributeError)
