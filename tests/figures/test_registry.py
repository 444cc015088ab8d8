"""The registry lists every figure module."""

from importlib import import_module
from pathlib import Path

import pytest

import figures
from figures.errors import StudyError
from figures.registry import FIGURES


def test_every_module_that_draws_tables_is_registered():
    names = {path.stem for path in Path(figures.__file__).parent.glob("*.py") if not path.stem.startswith("_")}
    modules = {name: import_module(f"figures.{name}") for name in names}
    assert {n for n, module in modules.items() if hasattr(module, "traces")} == set(FIGURES)


def test_names_load_on_first_use():
    assert figures.FIGURES is FIGURES
    assert "read_runs" in dir(figures)


def test_a_notebook_draws_by_name(results):
    for seed, accuracies in enumerate(([0.5, 0.7], [0.6, 0.8])):
        results.measured("glyphs", "lr", "maml", seed, accuracies)
    drawn = figures.draw("fig1", results.folder)
    assert list(drawn) == list(FIGURES["fig1"].traces(results.folder, ()))
    for _, axes in drawn.values():
        assert axes
    assert not list(results.folder.glob("figures"))
    with pytest.raises(StudyError, match="no run has seed=7"):
        figures.draw("fig1", results.folder, where=["seed=7"])
    with pytest.raises(StudyError, match="unknown figure 'fig9'; known: adaptation_path"):
        figures.draw("fig9", results.folder)
