"""The grid of noise says what the engine says of each strength alone."""

import numpy as np
import pandas as pd
import pytest

from analysis import StudyError, intervene, perturb
from analysis.noise_grid import noise_grid
from analysis.probes import cka_to_start
from core import list_runs, load_run
from core.errors import UserError


@pytest.fixture(scope="module")
def run(trained_cnn):
    return load_run(list_runs(trained_cnn)["path"].iloc[0])


def test_each_strength_is_an_intervention_of_its_own(run):
    table = noise_grid(run, layer="C2", strengths=(0, 2.0), num_tasks=3, draws=2)
    assert list(table["std"].unique()) == [0, 2]
    assert set(table["layer"]) == {"C2"}
    assert set(table["step"]) == {0, 1, 2}
    assert set(table.columns) >= {"cka C1", "cka C2", "cka FC", "ways", "steps"}
    alone = intervene(run, {"x": perturb("C2", std=2.0)}, probes={"cka": cka_to_start}, num_tasks=3, draws=2)
    noisy = table[table["std"] == 2].reset_index(drop=True)
    for column in ("loss", "accuracy", "cka C1", "cka FC"):
        pd.testing.assert_series_equal(noisy[column], alone[column])
    clean = table[(table["std"] == 0) & (table["split"] == "query")]
    plain = intervene(run, {"none": None}, num_tasks=3)
    assert clean["draw"].eq(0).all()
    np.testing.assert_allclose(clean["loss"], plain[plain["split"] == "query"]["loss"], rtol=1e-6)
    # Before adaptation nothing has moved, noise or not.
    np.testing.assert_allclose(table[table["step"] == 0]["cka C2"], 1, atol=1e-6)
    assert (table[table["step"] == 2]["cka FC"] < 1 - 1e-6).all()


def test_the_last_layer_is_the_default(run):
    table = noise_grid(run, strengths=(1.0,), num_tasks=1)
    assert set(table["intervention"]) == {"FC noise 1"}


def test_what_cannot_be_measured_is_refused(run):
    with pytest.raises(StudyError, match="different numbers, at least one, got 1, 1"):
        noise_grid(run, strengths=(1, 1), num_tasks=1)
    with pytest.raises(StudyError, match="at least one"):
        noise_grid(run, strengths=(), num_tasks=1)
    with pytest.raises(StudyError, match="std must be a finite number"):
        noise_grid(run, strengths=(-1.0,), num_tasks=1)
    with pytest.raises(UserError, match="C9"):
        noise_grid(run, layer="C9", strengths=(1.0,), num_tasks=1)
