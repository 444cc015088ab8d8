import shutil

import pytest

from analysis.store import read_provenance
from chain.__main__ import main
from chain.drawing import is_drawn
from chain.plan import make_plan
from core import list_runs

TINY = ("--datasets", "synthetic", "--figures", "fig1", "--iterations", "4", "--seeds", "2", "--num-tasks", "2")


def test_the_steps_one_by_one(tiny, tmp_path, capsys):
    plan = make_plan(tiny(tmp_path))
    where = ("--results", str(tmp_path), *TINY)
    for group in plan.groups:
        assert main(["train", group, *where]) == 0
    assert list(list_runs(tmp_path)["status"]) == ["ok"] * 4
    for table in plan.tables:
        assert main(["study", *table, *where]) == 0
        assert read_provenance(plan.path(*table))["command"].startswith(f"python -m chain study {table[0]} ")
    capsys.readouterr()
    assert main(["draw", "fig1", *where]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'figures' / 'fig1_synthetic.png'}\n"
    assert is_drawn(tmp_path, "fig1", plan.figures["fig1"])
    assert main(["left", *where]) == 0
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "to train: nothing",
        "to measure: 0 of 5 tables, on 2 test tasks each",
        "to draw: nothing",
    ]


def test_whatever_was_measured_is_drawn(made, capsys):
    shutil.rmtree(made / "figures")
    shutil.rmtree(made / "runs")
    assert main(["draw-all-there", "fig1", "--results", str(made)]) == 0
    assert (made / "figures" / "fig1_synthetic.png").exists()
    assert main(["draw-all-there", "fig_a3", "--results", str(made)]) == 0
    assert "fig_a3: nothing of it was measured" in capsys.readouterr().out
    assert is_drawn(made, "fig_a3", ())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train", "x", *TINY], "unknown group of runs 'x'"),
        (["study", "ceilings", "x", *TINY], "unknown table of ceilings 'x'"),
        (["draw", "table1", *TINY], "table1 is no figure of the plan; known: fig1"),
        (["left", "--preset", "fast"], "unknown preset 'fast'"),
        (["left", "--eval-tasks", "0"], "eval_tasks must be at least 1"),
        (["draw-all-there", "fig9"], "unknown figure 'fig9'"),
    ],
)
def test_a_mistake_is_told_in_a_line(arguments, told, capsys):
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert told in line
