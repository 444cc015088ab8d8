"""One network a figure, whatever it is called and however many layers it has."""

import numpy as np
import pandas as pd
import pytest

from analysis.statistics import Interval
from figures import networks, style
from figures.errors import FigureError, MissingTable

STUDY, NEEDED = "loss_line", ("position",)


def rows(num_tasks=3):
    return pd.DataFrame(
        [(task, p, split, 1.0, 0.5) for task in range(num_tasks) for p in (0.0, 1.0) for split in ("support", "query")],
        columns=["task", "position", "split", "loss", "accuracy"],
    )


def test_networks_are_told_apart_by_data_set_model_and_method(results):
    for seed in (0, 1):
        results.studied(STUDY, rows(), seed)
    results.studied(STUDY, rows(), depth=2)
    results.studied(STUDY, rows(), method="kfc")
    results.studied(STUDY, rows(), model="own:ResNet", dataset="own:tasks", ways=None, shots=None, own="ab12")
    found = networks.tables(results.folder, STUDY, NEEDED)
    names = ["glyphs_cnn2_maml", "glyphs_cnn4_kfc", "glyphs_cnn4_maml", "tasks_ResNet_maml_ab12"]
    assert list(found) == names
    assert found["glyphs_cnn4_maml"]["run"].nunique() == 2


def test_runs_of_a_network_that_differ_otherwise_are_refused(results):
    results.studied(STUDY, rows())
    results.studied(STUDY, rows(), 1, iterations=700)
    with pytest.raises(FigureError, match="differ in iterations"):
        networks.tables(results.folder, STUDY, NEEDED)
    with pytest.raises(MissingTable, match="python -m analysis similarity"):
        networks.tables(results.folder, "similarity", NEEDED)


def test_a_table_in_memory_is_of_one_network(results):
    one = results.studied(STUDY, rows(), write=False)
    other = results.studied(STUDY, rows(), 1, dataset="omniglot", write=False)
    assert networks.check(one, NEEDED, STUDY) is one
    with pytest.raises(FigureError, match=r"differ in dataset \(glyphs, omniglot\)"):
        networks.check(pd.concat([one, other]), NEEDED, STUDY)
    with pytest.raises(FigureError, match="lacks column position"):
        networks.check(one.drop(columns="position"), NEEDED, STUDY)
    with pytest.raises(FigureError, match="empty"):
        networks.check(one.iloc[:0], NEEDED, STUDY)


def test_a_caption_says_what_was_measured(results):
    found = networks.subject(results.studied(STUDY, rows(), method="kfc", write=False))
    assert found.title == "CNN-4 w/ KFC on Glyphs, 10-way 5-shot"
    assert found.chance == 10
    assert "10-way 5-shot, 2 adaptation steps; CNN-4 w/ KFC, 600 iterations of 4 tasks" in found.caption[0]
    assert "1 seed, 3 test tasks. Normalisation: batch norm" in found.caption[0]


def test_a_network_from_outside_has_its_own_name(results):
    table = results.studied(
        STUDY, rows(1), model="own:ResNet", dataset="own:tasks", ways=None, shots=None, iterations=0, norm_mode="",
        steps=1, write=False,
    )  # fmt: skip
    found = networks.subject(table)
    assert found.title == "ResNet on own tasks"
    assert np.isnan(found.chance)
    assert found.caption == ("own tasks: 1 adaptation step; ResNet, MAML, trained elsewhere; 1 seed, 1 test task.",)


def test_a_network_of_ours_without_training_is_not_from_elsewhere(results):
    told = networks.subject(results.studied(STUDY, rows(1), iterations=0, write=False)).caption[0]
    assert "CNN-4, MAML, not trained; 1 seed" in told


def test_a_number_has_a_true_minus_and_zero_has_no_sign():
    assert networks.number(Interval(-0.21, -0.62, -0.04, 0.95, "bca", 3, "tasks")) == "−0.2 [−0.6, 0.0]"
    assert networks.number(Interval(0.21, -0.04, 0.04, 0.95, "bca", 3, "tasks"), "+.1f") == "+0.2 [0.0, 0.0]"
    assert networks.number(Interval(-1e-5, np.nan, np.nan, 0.95, "none", 1, "tasks"), "+.3g") == "−1e-05"


def test_lost_runs_are_named_and_left_out(results):
    lost = results.studied(STUDY, rows().assign(status="diverged", loss=np.nan), 1, write=False)
    table = pd.concat([results.studied(STUDY, rows(), write=False), lost])
    good, told = networks.measured(table)
    assert good["seed"].unique().tolist() == [0]
    assert told == (f"Not averaged in: {lost['run'].iloc[0]} (diverged).",)


def test_what_an_interval_is_over_is_said(results):
    table = results.studied(STUDY, rows(), write=False)
    one, other = (Interval(0.5, 0.4, 0.6, 0.95, "bca", n, "tasks") for n in (3, 2))
    assert networks.describe_mean(table, "band", [one]) == (
        "Mean over test tasks; band: 95 % BCa bootstrap interval over test tasks."
    )
    assert "(2 to 3 of them: fewer where a value does not exist)" in networks.describe_mean(table, "band", [one, other])


def test_the_first_layer_is_on_top(results):
    with style.context():
        _, (ax,) = style.panels(1, height=2.0, caption=[])
    networks.layers_down(ax, ["a", "b", "c"])
    low, high = ax.get_ylim()
    assert low > high
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b", "c"]


def test_data_sets_stand_in_the_order_of_all_figures(results):
    for dataset in ("cifar_fs", "glyphs", "own.letters", "omniglot_small"):
        results.studied(STUDY, rows(), dataset=dataset)
    found = networks.tables(results.folder, STUDY, NEEDED)
    assert [name.split("_cnn")[0] for name in found] == ["omniglot_small", "glyphs", "cifar_fs", "own.letters"]
