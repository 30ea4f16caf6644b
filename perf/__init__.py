"""How fast lite-infer is on this computer: ``lite-infer perf`` or ``python -m perf``.

Knows the public names of `runtime` and processes; must not know how a session works inside. Nothing here judges a
time: it measures, asserts the answers, and writes down what was measured (``perf/README.md``).
"""

from __future__ import annotations

__all__: list[str] = []
