"""Which runs are put together, and the estimates, against numbers on paper."""

import inspect
import math
from dataclasses import replace

import numpy as np
import pytest

from analysis.store import read_table, write_table
from core.models.conv import CNN
from core.tasks.synthetic import SyntheticTasks
from figures import captions, data, estimation
from figures.data import Where
from figures.errors import FigureError, MissingTable, StudyError
from figures.fig1 import NEEDED

STUDY = "post_adaptation"


def groups(results, dataset, *where):
    return data.by_method(data.in_setting(data.read_runs(results.folder, STUDY, NEEDED, where), dataset))


def test_an_estimate_is_the_mean_of_the_runs_at_the_last_step_in_percent(results):
    results.measured("glyphs", "lr", "maml", 0, [0.2, 0.4, 0.6, 0.4])
    results.measured("glyphs", "lr", "maml", 7, [0.6, 0.4, 0.8, 0.6])
    found = estimation.estimate(groups(results, "glyphs")["lr", "maml"], "")
    assert found.seeds == ((0, pytest.approx(40)), (7, pytest.approx(60)))
    assert found.mean == pytest.approx(50)
    assert found.std == pytest.approx(math.sqrt(200))  # (10^2 + 10^2) / (2 - 1)
    assert found.num_tasks == 4
    # Over the four tasks' means 40, 40, 70, 50, whatever the seeds' spread.
    assert 40 <= found.low < 50 < found.high <= 70
    assert found.interval == "95 % BCa bootstrap interval over test tasks"
    assert found.lost == ()


def test_a_renamed_table_is_told(results):
    results.measured("glyphs", "lr", "maml", 0, [0.2, 0.4])
    (path,) = (results.folder / STUDY).glob("*.parquet")
    path.rename(path.with_name("renamed.parquet"))
    with pytest.raises(FigureError, match=rf"no table in {STUDY} is named {path.stem}.parquet, after its run"):
        groups(results, "glyphs")


def test_methods_may_have_unequal_numbers_of_seeds(results):
    for seed in range(3):
        results.measured("glyphs", "lr", "maml", seed, [0.1 * seed, 0.1 * seed + 0.2])
    results.measured("glyphs", "lr", "kfc", 5, [0.5, 0.75])
    found = {pair: estimation.estimate(group, "") for pair, group in groups(results, "glyphs").items()}
    assert list(found) == [("lr", "maml"), ("lr", "kfc")]  # the table's order, not the files'
    assert found["lr", "maml"].mean == pytest.approx(20)
    assert found["lr", "kfc"].mean == pytest.approx(62.5)
    assert math.isnan(found["lr", "kfc"].std)


def test_own_and_fresh_points_are_kept_apart(results):
    results.measured("synthetic", "lr", "klin", 0, {"same": [0.9, 0.92], "fresh": [0.8, 0.84]})
    group = groups(results, "synthetic")["lr", "klin"]
    assert estimation.estimate(group, "same").mean == pytest.approx(91)
    assert estimation.estimate(group, "fresh").mean == pytest.approx(82)
    assert estimation.estimate(group, "") is None


def test_a_diverged_run_is_counted_and_named_and_not_averaged(results):
    results.measured("glyphs", "lr", "kfc", 0, [0.7, 0.9])
    lost = results.measured("glyphs", "lr", "kfc", 1, [0.2, 0.2], status="diverged")
    partly = results.measured("glyphs", "lr", "kfc", 2, [0.2, 0.2, 0.2], lost_tasks=[1])
    found = estimation.estimate(groups(results, "glyphs")["lr", "kfc"], "")
    assert found.mean == pytest.approx(80)
    assert found.seeds == ((0, pytest.approx(80)),)
    assert found.lost == ((lost, "diverged"), (partly, "diverged on 1 of 3 tasks"))
    assert found.lost_text == "1 of 3 diverged, 1 of 3 diverged in part"


def test_if_all_runs_diverged_there_is_no_mean(results):
    results.measured("glyphs", "lr", "kfc", 0, [0.2], status="diverged")
    results.measured("glyphs", "lr", "kfc", 1, [0.2], status="failed: no memory")
    found = estimation.estimate(groups(results, "glyphs")["lr", "kfc"], "")
    assert math.isnan(found.mean)
    assert found.seeds == ()
    assert found.lost_text == "1 of 2 diverged, 1 of 2 failed"


def test_runs_that_met_other_tasks_are_refused(results):
    results.measured("glyphs", "lr", "maml", 0, [0.2, 0.3])
    results.measured("glyphs", "lr", "maml", 1, [0.2, 0.3, 0.4])
    with pytest.raises(StudyError, match="did not meet the same tasks"):
        estimation.estimate(groups(results, "glyphs")["lr", "maml"], "")


def test_runs_of_two_lengths_are_never_pooled(results):
    short = results.measured("glyphs", "lr", "maml", 0, [0.2, 0.4])
    long = results.measured("glyphs", "lr", "maml", 1, [0.6, 0.8], iterations=60_000)
    with pytest.raises(FigureError, match="LR on glyphs differ in iterations") as error:
        groups(results, "glyphs")
    for told in (short, long, "--where glyphs:iterations=VALUE"):
        assert told in str(error.value)
    chosen = groups(results, "glyphs", Where.parse("glyphs:iterations=60000"))
    assert estimation.estimate(chosen["lr", "maml"], "").mean == pytest.approx(70)


def test_maml_of_which_a_part_adapts_is_never_pooled_with_maml(results):
    results.measured("glyphs", "lr", "maml", 0, [0.2, 0.4])
    results.measured("glyphs", "lr", "maml", 1, [0.6, 0.8], adapted=["layers.0"])
    with pytest.raises(FigureError, match="differ in adapted"):
        groups(results, "glyphs")


def test_methods_may_differ_in_length_but_not_in_their_tasks(results):
    results.measured("synthetic", "lr", "maml", 0, [0.5, 0.6])
    results.measured("synthetic", "linnet", "maml", 0, [0.5, 0.6], iterations=10)
    assert len(groups(results, "synthetic")) == 2
    results.measured("synthetic", "lr", "klin", 0, [0.5, 0.6], points=10)
    with pytest.raises(FigureError, match="differ in points"):
        groups(results, "synthetic")


def test_a_setting_left_to_the_data_set_equals_the_data_sets_own(results):
    results.measured("synthetic", "lr", "maml", 0, [0.5, 0.6])
    results.measured("synthetic", "linnet", "maml", 0, [0.5, 0.6], points=1000, same_points=True)
    assert len(groups(results, "synthetic")) == 2
    assert len(groups(results, "synthetic", Where.parse("synthetic:points=1000"))) == 2
    with pytest.raises(FigureError, match=r"no run has synthetic:points=10; there are runs with 1000$"):
        groups(results, "synthetic", Where.parse("synthetic:points=10"))


def test_a_legend_names_the_levels_there_are(results):
    results.measured("glyphs", "lr", "maml", 0, [0.2, 0.4])
    (group,) = groups(results, "glyphs").values()
    found = estimation.estimate(group, "")
    assert estimation.interval_label([found]) == "95 % interval over tasks"
    assert estimation.interval_label([found, replace(found, level=0.9)]) == "90 % or 95 % interval over tasks"
    assert estimation.interval_label([replace(found, interval="")]) == ""


def test_runs_of_other_experiments_are_left_out(results):
    results.measured("glyphs", "lr", "maml", 0, [0.2, 0.4])
    results.measured("glyphs", "lr", "maml", 1, [0.9, 0.9], ways=10, iterations=601)
    results.measured("glyphs", "cnn", "maml", 0, [0.9, 0.9])
    found = groups(results, "glyphs")
    assert list(found) == [("lr", "maml")]
    assert estimation.estimate(found["lr", "maml"], "").mean == pytest.approx(30)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("iterations=600", Where(None, "iterations", 600)),
        ("glyphs:same_points=false", Where("glyphs", "same_points", False)),
        ("meta_optimizer=sgd", Where(None, "meta_optimizer", "sgd")),
    ],
)
def test_a_choice_of_runs_is_read(text, where):
    assert Where.parse(text) == where


@pytest.mark.parametrize("text", ["iterations", "=3", "glyphs:=3", ":iterations=3", "iterations="])
def test_a_choice_that_is_none_is_refused(text):
    with pytest.raises(FigureError, match="KEY=VALUE"):
        Where.parse(text)


def test_a_choice_leaves_other_data_sets_alone(results):
    results.measured("glyphs", "lr", "maml", 0, [0.2])
    results.measured("synthetic", "lr", "maml", 0, [0.2])
    for choices in (["glyphs:iterations=600"], ["glyphs:iterations=600", "omniglot:iterations=7"]):
        runs = data.read_runs(results.folder, STUDY, NEEDED, [Where.parse(choice) for choice in choices])
        assert len(runs.configs) == 2


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ("glyphs:iterations=7", "no run has glyphs:iterations=7; there are runs with 600"),
        ("mnist:iterations=7", "unknown dataset 'mnist'; known: .*glyphs"),
        ("itterations=600", "unknown setting 'itterations'; known: .*iterations"),
    ],
)
def test_a_choice_that_nothing_fits_says_what_there_is(results, choice, told):
    results.measured("glyphs", "lr", "maml", 0, [0.2])
    with pytest.raises(StudyError, match=told):
        data.read_runs(results.folder, STUDY, NEEDED, [Where.parse(choice)])


def test_a_missing_table_names_the_command_that_makes_it(results):
    with pytest.raises(MissingTable, match=r"python -m analysis post_adaptation --results .*results"):
        data.read_runs(results.folder, STUDY, NEEDED)


def test_a_missing_column_is_named(results):
    results.measured("glyphs", "lr", "maml", 0, [0.2])
    with pytest.raises(FigureError, match="post_adaptation lacks column luck, charm"):
        data.read_runs(results.folder, STUDY, [*NEEDED, "luck", "charm"])


def test_ceilings_by_points_and_kind(results):
    results.ceilings(
        {("mean classifier", "same"): [0.9, 0.94], ("bayes", "same"): [1, 1], ("bayes", "fresh"): [0.8, 0.9]}
    )
    # A longer table of the same tasks: its first two are no new evidence.
    results.ceilings({("mean classifier", "same"): [0.9, 0.94, 0.98]}, id="longer")
    results.ceilings({("mean classifier", "same"): [0.6, 0.6]}, points=5, id="a first one")
    found = estimation.ceiling_estimates(estimation.read_ceilings(results.folder), points=1000, evaluated_on="same")
    assert [(c.name, c.num_tasks) for c in found] == [("mean classifier", 3), ("bayes", 2)]
    np.testing.assert_allclose([c.mean for c in found], [94, 100])
    assert found[1].interval == ""  # no length, no interval
    assert estimation.ceiling_estimates(None, points=1000, evaluated_on="same") == ()


def test_a_caption_states_lengths_against_the_papers(results):
    results.measured("omniglot_small", "lr", "maml", 0, [0.2, 0.3])
    results.measured("omniglot_small", "linnet", "maml", 0, [0.2, 0.3], iterations=60_000, tasks_per_iteration=4)
    results.measured("omniglot_small", "linnet", "maml", 1, [0.2, 0.3], iterations=60_000, tasks_per_iteration=4)
    estimates = [estimation.estimate(group, "") for group in groups(results, "omniglot_small").values()]
    assert captions.describe("omniglot_small", estimates) == (
        "Omniglot, small archives: 5-way 1-shot, 2 adaptation steps; LR 600, LinNet 60,000 iterations (paper: 60,000); "
        "LR 32, LinNet 4 tasks an iteration (paper: 32); LR 1, LinNet 2 seeds; 2 test tasks (paper: 600)."
    )


def test_the_full_length_is_said_to_be_the_papers(results):
    results.measured("synthetic", "lr", "maml", 0, [0.5, 0.6])
    (group,) = groups(results, "synthetic").values()
    assert captions.describe("synthetic", [estimation.estimate(group, "same")], "same") == (
        "Synthetic: 2 classes, 1,000 points a task, standard normal times 0.1 (paper: 1), measured on the points "
        "adapted to; 1 adaptation step; 30,000 iterations (as in the paper); 1 seed; 2 test tasks."
    )


def test_settings_left_to_the_data_set_are_those_of_the_data_set():
    source = SyntheticTasks()
    assert {key: getattr(source, key) for key in data.SYNTHETIC_DEFAULTS} == data.SYNTHETIC_DEFAULTS


def test_settings_left_to_the_network_are_those_of_the_network():
    defaults = {name: p.default for name, p in inspect.signature(CNN).parameters.items()}
    assert {key: defaults[key] for key in data.CNN_DEFAULTS} == data.CNN_DEFAULTS


@pytest.mark.parametrize(
    ("datasets", "label"),
    [
        (["synthetic", "omniglot"], "paper"),
        (["synthetic", "glyphs"], "paper (right: full Omniglot)"),
        (["omniglot_small"], "paper (full Omniglot)"),
    ],
)
def test_the_papers_values_say_which_data_they_are_of(datasets, label):
    assert captions.paper_label(datasets) == label


def rewrite(results, study, run, **changes):
    """The same table with another provenance."""
    table = read_table(results.folder / study / f"{run}.parquet")
    write_table(results.folder, study, run, table, {**table.attrs["provenance"], **changes})


def test_runs_on_other_data_are_never_pooled_or_compared(results):
    one, two = (results.measured("glyphs", "lr", "maml", seed, [0.5, 0.6]) for seed in (0, 1))
    other = results.measured("glyphs", "linnet", "maml", 0, [0.7, 0.8])
    for run in (one, two, other):
        rewrite(results, "post_adaptation", run, dataset_fingerprint="aaaa")
    assert len(groups(results, "glyphs")) == 2
    rewrite(results, "post_adaptation", other, dataset_fingerprint="bbbb")
    with pytest.raises(
        FigureError, match=r"on glyphs differ in dataset_fingerprint and do not belong together \(aaaa: "
    ):
        groups(results, "glyphs")
    chosen = data.choose(data.read_runs(results.folder, STUDY, NEEDED), [Where(None, "dataset_fingerprint", "aaaa")])
    assert list(data.by_method(data.in_setting(chosen, "glyphs"))) == [("lr", "maml")]


def test_versions_of_the_code_may_differ_and_are_named(results):
    runs = [results.measured("glyphs", "lr", "maml", seed, [0.5, 0.6]) for seed in (0, 1, 2)]
    versions = ["a" * 40, "b" * 40 + "-dirty", "a" * 40]
    for run, version in zip(runs, versions, strict=True):
        rewrite(results, "post_adaptation", run, code_version=version)
    found = estimation.estimate(groups(results, "glyphs")["lr", "maml"])
    told = "Tables of 2 versions of the code: aaaaaaaaa (2), bbbbbbbbb-dirty (1)."
    assert captions.describe("glyphs", [found]).endswith(told)
    assert captions.describe_versions([{"code_version": "a"}, {"code_version": "a"}, {}]) == []


def test_one_run_in_two_tables_does_not_count_twice(results):
    run = results.measured("glyphs", "lr", "maml", 0, [0.5, 0.6])
    table = read_table(results.folder / "post_adaptation" / f"{run}.parquet")
    write_table(results.folder, "post_adaptation", "copy", table.assign(run="copy"), table.attrs["provenance"])
    with pytest.raises(FigureError, match=f"copy and {run} are one run, with seed 0, and would count twice"):
        groups(results, "glyphs")


def test_a_model_that_was_not_measured_is_named():
    assert captions.describe_missing("glyphs", data.LINEAR, data.LINEAR) == []
    assert captions.describe_missing("glyphs", data.LINEAR, data.LINEAR[:2]) == [
        "Not measured on Glyphs: LR w/ KLin, LR w/ KFC."
    ]
