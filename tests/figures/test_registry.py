"""The registry lists every figure module."""

from importlib import import_module
from pathlib import Path

import figures
from figures.registry import FIGURES


def test_every_module_that_draws_tables_is_registered():
    names = {path.stem for path in Path(figures.__file__).parent.glob("*.py") if not path.stem.startswith("_")}
    modules = {name: import_module(f"figures.{name}") for name in names}
    assert {n for n, module in modules.items() if hasattr(module, "traces")} == set(FIGURES)


def test_names_load_on_first_use():
    assert figures.FIGURES is FIGURES
    assert "read_runs" in dir(figures)
