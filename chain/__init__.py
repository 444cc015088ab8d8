"""The whole chain, from run to figure: what each figure needs, what of it is there, and the three steps that make it.

`Snakefile` calls these functions, on one machine or on a cluster; a person in a notebook calls them as they are:

    from chain import Settings, draw, make_plan, measure, train

    plan = make_plan(Settings(results="mine", figures=("fig1",)))
    for group in plan.groups:
        train(plan, group)
    for study, id in plan.tables:
        measure(plan, study, id)
    draw("mine", "fig1", plan.figures["fig1"])

Names are loaded when they are first used: what only draws loads no torch.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "FIGURES": "chain.lists",
    "PRESETS": "chain.lists",
    "Needs": "chain.lists",
    "Plan": "chain.plan",
    "Settings": "chain.settings",
    "draw": "chain.drawing",
    "make_plan": "chain.plan",
    "measure": "chain.steps",
    "train": "chain.steps",
}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Load a public name from the module that defines it (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'chain' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
