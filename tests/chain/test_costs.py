import pytest

from chain import costs
from chain.costs import left_to_do
from chain.plan import make_plan
from chain.settings import Settings
from core.costs import Cost
from core.errors import UserError


def test_nothing_is_left(made, tiny):
    assert left_to_do(make_plan(tiny(made))) == [
        "to train: nothing",
        "to measure: 0 of 5 tables, on 2 test tasks each",
        "to draw: nothing",
    ]


def test_a_figure_hangs_on_its_tables(made, tiny):
    plan = make_plan(tiny(made))
    plan.path(*next(iter(plan.tables))).unlink()
    assert left_to_do(plan)[1:] == ["to measure: 1 of 5 tables, on 2 test tasks each", "to draw: fig1"]


def test_all_is_left(tiny, tmp_path):
    train, measure, draw = left_to_do(make_plan(tiny(tmp_path)))
    assert train.startswith("to train on synthetic: 2 jobs, 16 iterations in 4 runs: ")
    assert train.endswith(" minutes here, one after the other")
    assert measure == "to measure: 5 of 5 tables, on 2 test tasks each"
    assert draw == "to draw: fig1"


@pytest.mark.parametrize(
    ("hours", "told"),
    [(0.25, "15.0 minutes"), (3.04, "3.0 hours"), (2400, "2,400 hours (100 days)")],
)
def test_hours_in_words(tiny, tmp_path, monkeypatch, hours, told):
    monkeypatch.setattr(costs, "estimate", lambda configs, **options: Cost(len(configs), 7, hours))
    assert left_to_do(make_plan(tiny(tmp_path)))[0] == (
        f"to train on synthetic: 2 jobs, 7 iterations in 4 runs: {told} here, one after the other"
    )


def test_without_the_data_there_is_no_estimate(tiny, tmp_path, monkeypatch):
    def refuse(configs, **options):
        raise UserError("no files")

    monkeypatch.setattr(costs, "estimate", refuse)
    assert left_to_do(make_plan(tiny(tmp_path)))[0] == "to train on synthetic: 2 jobs; no estimate: no files"


def test_each_data_set_has_its_estimate(tmp_path, monkeypatch):
    def only_synthetic(configs, **options):
        if configs[0].dataset != "synthetic":
            raise UserError("no files")
        return Cost(len(configs), 9, 0.5)

    monkeypatch.setattr(costs, "estimate", only_synthetic)
    plan = make_plan(Settings(results=tmp_path, preset="paper", images="omniglot", figures=("table1",)))
    assert left_to_do(plan)[:2] == [
        "to train on synthetic: 4 jobs, 9 iterations in 20 runs: 30.0 minutes here, one after the other",
        "to train on omniglot: 4 jobs; no estimate: no files",
    ]
