"""The version of lite-infer, which the build reads from here.

Asking the installed distribution for it would import the standard library's mail parser at each start.
"""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
