"""The registry lists every figure module."""

from pathlib import Path

import figures
from figures.registry import FIGURES


def test_every_figure_module_is_registered():
    modules = {path.stem for path in Path(figures.__file__).parent.glob("*.py")}
    assert {name for name in modules if name.startswith(("fig", "table", "benchmark"))} == set(FIGURES)


def test_names_load_on_first_use():
    assert figures.FIGURES is FIGURES
    assert "read_runs" in dir(figures)
