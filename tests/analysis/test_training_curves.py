from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.errors import StudyError
from analysis.schemas import SCHEMAS
from analysis.store import provenance, read_table, write_table
from analysis.training_curves import training_curves
from core import meta_train


@pytest.fixture(scope="module")
def run(tiny):
    return meta_train(tiny(), results=None, progress=False)


def stored(table, folder):
    return read_table(write_table(folder, "training_curves", "x", table, provenance()))


def test_the_table_is_the_curve_of_the_run(tmp_path, run):
    table = stored(training_curves(run), tmp_path)
    assert list(table.columns) == list(SCHEMAS["training_curves"])
    pd.testing.assert_frame_equal(table[list(run.curve.columns)], run.curve)
    assert set(table["run"]) == {run.id}
    assert set(table["status"]) == {"ok"}
    assert sorted(set(table["iteration"])) == [0, 2, 4]


def test_a_diverged_run_keeps_what_was_measured_before(tmp_path, run):
    table = stored(training_curves(replace(run, status="diverged at iteration 3")), tmp_path)
    assert set(table["status"]) == {"diverged"}
    np.testing.assert_array_equal(table["loss"], run.curve["loss"])


def test_a_point_whose_tasks_diverged_is_diverged_by_itself(run):
    curve = run.curve.copy()
    curve.loc[0, ["loss", "accuracy"]] = np.nan
    curve.loc[1, "loss"] = 2.0**25
    table = training_curves(replace(run, curve=curve))
    assert table["status"].tolist() == ["diverged", "diverged", *["ok"] * (len(curve) - 2)]
    assert table.loc[:1, ["loss", "accuracy"]].isna().all(axis=None)
    pd.testing.assert_frame_equal(table.loc[2:, list(curve.columns)], curve.loc[2:])


def test_a_run_that_diverged_at_once_has_a_row_that_says_so(tmp_path, run):
    lost = replace(run, status="diverged at iteration 0", curve=run.curve.iloc[:0])
    table = stored(training_curves(lost), tmp_path)
    assert table["status"].tolist() == ["diverged"]
    assert table[["loss", "accuracy"]].isna().all(axis=None)
    assert table["num_tasks"].tolist() == [0]


def test_a_run_that_was_not_trained_here_has_no_curve(run):
    with pytest.raises(StudyError, match=f"run {run.id} has no training curve: it was not trained here"):
        training_curves(replace(run, curve=run.curve.iloc[:0]))
