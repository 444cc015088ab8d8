import shutil

import pytest

from chain import Settings, draw, make_plan, measure, train


@pytest.fixture(scope="session")
def tiny():
    """Settings of a chain that takes a blink: two groups of two seeds, five tables, one figure."""

    def make(results, **changes):
        settings = {"datasets": ("synthetic",), "figures": ("fig1",), "iterations": 4, "seeds": 2, "num_tasks": 2}
        return Settings(results=results, **{**settings, **changes})

    return make


@pytest.fixture(scope="session")
def made_once(tiny, tmp_path_factory):
    plan = make_plan(tiny(tmp_path_factory.mktemp("made")))
    for group in plan.groups:
        train(plan, group)
    for table in plan.tables:
        measure(plan, *table)
    draw(plan.results, "fig1", plan.figures["fig1"])
    return plan.results


@pytest.fixture
def made(made_once, tmp_path):
    """A results folder in which the whole tiny chain was carried out; a copy, with the times of the original."""
    return shutil.copytree(made_once, tmp_path / "made")
