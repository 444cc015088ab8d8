"""Figures and tables: stored tables in, pictures out.

Every figure is made in two steps, from tables to plain trace data and from trace data to axes, so that what is drawn
can be tested without pixels. Figures read tables through `analysis.store` only; nothing here loads torch.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "FIGURES": "figures.registry",
    "FigureError": "figures.errors",
    "draw": "figures.registry",
    "explore": "figures.explorer",
    "read_runs": "figures.data",
    "read_ceilings": "figures.estimation",
}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Load a public name from the module that defines it (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'figures' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
