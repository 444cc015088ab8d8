"""Studies of saved runs, their statistics, and the store of their tables.

Names are loaded when they are first used: `analysis.store` and `analysis.statistics`, which figures import, load no
torch, while the studies do.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "Interval": "analysis.statistics",
    "Intervention": "analysis.interventions",
    "SCHEMAS": "analysis.schemas",
    "STUDIES": "analysis.registry",
    "Spread": "analysis.statistics",
    "StudyError": "analysis.errors",
    "adapt_only": "analysis.interventions",
    "first_steps": "analysis.changes",
    "freeze": "analysis.interventions",
    "interval": "analysis.statistics",
    "intervene": "analysis.engine",
    "modify": "analysis.changes",
    "paired_interval": "analysis.statistics",
    "paired_task_interval": "analysis.statistics",
    "permute_labels": "analysis.interventions",
    "perturb": "analysis.interventions",
    "read_study": "analysis.store",
    "read_table": "analysis.store",
    "reset": "analysis.changes",
    "scale_update": "analysis.changes",
    "seed_spread": "analysis.statistics",
    "sign_of_update": "analysis.changes",
    "swap": "analysis.changes",
    "task_interval": "analysis.statistics",
    "task_intervals": "analysis.statistics",
    "top_of_update": "analysis.changes",
    "write_table": "analysis.store",
}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Load a public name from the module that defines it (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
