from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.errors import StudyError
from analysis.post_adaptation import post_adaptation
from analysis.schemas import SCHEMAS
from analysis.store import provenance, read_table, write_table
from analysis.tasks import draw_test_tasks
from core import Run, meta_train
from core.tasks import ImageTasks


@pytest.fixture(scope="module")
def run(tiny):
    return meta_train(tiny(seed=7, steps=2), results=None, progress=False)


def stored(table, folder):
    return read_table(write_table(folder, "post_adaptation", "x", table, provenance()))


def test_the_table_of_a_synthetic_run(tmp_path, run):
    table = stored(post_adaptation(run, num_tasks=5, seed=3), tmp_path)
    assert list(table.columns) == list(SCHEMAS["post_adaptation"])
    assert len(table) == 2 * 5 * 3 * 2  # kinds of points, tasks, steps 0 to 2, splits
    assert not table.duplicated(["points_seen", "task", "step", "split"]).any()
    only = table.iloc[0]
    assert (only["run"], only["dataset"], only["model"], only["method"]) == (run.id, "synthetic", "lr", "klin")
    assert (only["seed"], only["task_seed"], only["steps"], only["adapt_lr"], only["status"]) == (7, 3, 2, 1.0, "ok")
    assert table["ways"].isna().all()
    assert table["accuracy"].between(0, 1).all()


def test_same_and_fresh_points_are_what_they_say(run):
    table = post_adaptation(run, num_tasks=4)
    wide = table.pivot(index=["task", "step"], columns=["points_seen", "split"], values="loss")
    assert wide["same", "query"].equals(wide["same", "support"].rename(("same", "query")))
    assert not np.isclose(wide["fresh", "query"], wide["fresh", "support"]).any()
    # Adaptation sees the same support points either way.
    np.testing.assert_allclose(wide["fresh", "support"], wide["same", "support"], rtol=1e-6)


def test_the_numbers_are_those_of_one_task_alone(run):
    table = post_adaptation(run, num_tasks=4, seed=3)
    episodes = run.tasks(seed=3, same_points=False).sample("test", 1, index=2)
    alone = run.evaluate(episodes).drop(columns=["task", "status"]).set_index(["step", "split"])
    rows = table[(table["task"] == 2) & (table["points_seen"] == "fresh")].set_index(["step", "split"])
    pd.testing.assert_frame_equal(rows[["loss", "accuracy"]], alone, rtol=1e-6)


def test_a_task_is_the_same_whatever_the_number_of_tasks_and_the_run(tiny, run):
    few, many = post_adaptation(run, num_tasks=2, seed=3), post_adaptation(run, num_tasks=5, seed=3)
    both = few.merge(many, on=["points_seen", "task", "step", "split"], suffixes=("", "_many"))
    assert len(both) == len(few)
    np.testing.assert_allclose(both["loss"], both["loss_many"], rtol=1e-6)
    other = post_adaptation(replace(run, config=replace(run.config, seed=8)), num_tasks=2, seed=3)
    assert other["loss"].tolist() == few["loss"].tolist()
    assert post_adaptation(run, num_tasks=2, seed=4)["loss"].tolist() != few["loss"].tolist()


def test_a_run_that_diverged_has_no_numbers(tmp_path, run):
    # Weights that still give numbers: it is the run's status that counts.
    table = stored(post_adaptation(replace(run, status="diverged at iteration 9"), num_tasks=2), tmp_path)
    assert set(table["status"]) == {"diverged"}
    assert table[["loss", "accuracy"]].isna().all(axis=None)
    assert len(table) == 2 * 2 * 3 * 2


def test_a_task_that_diverges_loses_all_its_rows_and_no_other_does(run, monkeypatch):
    evaluate = Run.evaluate

    def blows_up(self, episodes, **changes):
        table = evaluate(self, episodes, **changes)
        table.loc[(table["task"] == 1) & (table["step"] == 2) & (table["split"] == "query"), "loss"] = np.inf
        return table

    monkeypatch.setattr(Run, "evaluate", blows_up)
    table = post_adaptation(run, num_tasks=3)
    assert (table["status"] == np.where(table["task"] == 1, "diverged", "ok")).all()
    assert (table["accuracy"].isna() == (table["task"] == 1)).all()


def test_images_have_ways_and_shots_and_one_kind_of_points(tmp_path, tiny, monkeypatch):
    images = {s: torch.randint(256, (6, 4, 1, 8, 8), dtype=torch.uint8) for s in ("train", "validation", "test")}
    source = ImageTasks(images, 3, 1, pool_sizes={"train": 5, "validation": 5, "test": 5}, name="glyphs")
    monkeypatch.setattr(Run, "tasks", lambda self, **changes: source)
    config = tiny(dataset="glyphs", points=None, ways=3, shots=1)
    theta = {"fc.weight": torch.randn(3, 64)}
    rule_xi = {"fc.weight.L": torch.eye(3), "fc.weight.R": torch.eye(64)}
    run = Run(config, theta, rule_xi, pd.DataFrame(), "ok", {"example_shape": [1, 8, 8], "num_outputs": 3})
    table = stored(post_adaptation(run, num_tasks=5), tmp_path)
    assert set(table["points_seen"]) == {""}
    assert set(table["ways"]) == {3}
    assert set(table["shots"]) == {1}
    with pytest.raises(StudyError, match="6 tasks asked for, but the test pool of glyphs has 5"):
        post_adaptation(run, num_tasks=6)


def test_at_least_one_task(run):
    with pytest.raises(StudyError, match="num_tasks must be at least 1, got 0"):
        draw_test_tasks(run.tasks(), 0)
