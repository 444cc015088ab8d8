import shutil

import pytest

from chain import costs
from chain.costs import Left, left_to_do
from chain.plan import make_plan
from chain.settings import Settings
from core.costs import Cost
from core.errors import UserError


def test_nothing_is_left(made, tiny):
    assert left_to_do(make_plan(tiny(made))) == Left(
        ("to train: nothing", "to measure: 0 of 5 tables, on 2 test tasks each", "to draw: nothing")
    )


def test_a_figure_hangs_on_its_tables(made, tiny):
    plan = make_plan(tiny(made))
    plan.path(*next(iter(plan.tables))).unlink()
    measure, draw = left_to_do(plan).sentences[1:]
    assert (measure, draw) == ("to measure: 1 of 5 tables, on 2 test tasks each", "to draw: fig1")


def test_tables_and_figures_of_runs_that_are_looked_at_are_looked_at_too(made, tiny):
    plan = make_plan(tiny(made))
    group = next(iter(plan.groups))
    plan.record(group).unlink()
    behind = sum(plan.group_of(*table) == group for table in plan.tables)
    assert left_to_do(plan) == Left(
        (
            "to train on synthetic: 1 job, whose runs are finished, and are looked at",
            f"to measure or find up to date: {behind} of 5 tables, on 2 test tasks each",
            "to draw: fig1",
        )
    )
    shutil.rmtree(made / "runs" / plan.groups[group][0].id)
    assert left_to_do(plan).sentences[0].startswith("to train on synthetic: 1 job, 4 iterations in 1 run: ")


def test_all_is_left(tiny, tmp_path):
    train, measure, draw = left_to_do(make_plan(tiny(tmp_path))).sentences
    assert train.startswith("to train on synthetic: 2 jobs, 16 iterations in 4 runs: ")
    assert train.endswith(" minutes here, one after the other")
    assert measure == "to measure or find up to date: 5 of 5 tables, on 2 test tasks each"
    assert draw == "to draw: fig1"


@pytest.mark.parametrize(
    ("hours", "told"),
    [(0.25, "15.0 minutes"), (3.04, "3.0 hours"), (2400, "2,400 hours (100 days)")],
)
def test_hours_in_words(tiny, tmp_path, monkeypatch, hours, told):
    monkeypatch.setattr(costs, "estimate", lambda configs, **options: Cost(len(configs), 7, hours))
    assert left_to_do(make_plan(tiny(tmp_path))).sentences[0] == (
        f"to train on synthetic: 2 jobs, 7 iterations in 4 runs: {told} here, one after the other"
    )


def test_without_the_data_there_is_no_estimate(tiny, tmp_path, monkeypatch):
    def refuse(configs, **options):
        raise UserError("no files")

    monkeypatch.setattr(costs, "estimate", refuse)
    found = left_to_do(make_plan(tiny(tmp_path)))
    assert found.sentences[0] == "to train on synthetic: 2 jobs; no estimate: no files"
    assert found.missing == ("no files",)


def test_each_data_set_has_its_estimate(tmp_path, monkeypatch):
    def only_synthetic(configs, **options):
        if configs[0].dataset != "synthetic":
            raise UserError("no files")
        return Cost(len(configs), 9, 0.5)

    monkeypatch.setattr(costs, "estimate", only_synthetic)
    plan = make_plan(Settings(results=tmp_path, preset="paper", images="omniglot", figures=("table1",)))
    assert left_to_do(plan).sentences[:2] == (
        "to train on synthetic: 4 jobs, 9 iterations in 20 runs: 30.0 minutes here, one after the other",
        "to train on omniglot: 4 jobs; no estimate: no files",
    )
