from dataclasses import replace

import pandas as pd
import pytest

from analysis import registry
from analysis.errors import StudyError
from analysis.registry import (
    STANDALONE,
    STUDIES,
    carry_out,
    run_digest,
    shallow,
    study_named,
    table_id,
    table_of,
    up_to_date,
)
from analysis.schemas import SCHEMAS
from analysis.store import read_table
from analysis.when_shallow_fails import QUICK
from core import list_runs, load_run


def runs_in(results):
    return {(r.config.model, r.config.method): r for r in map(load_run, list_runs(results)["path"])}


def test_every_study_has_a_schema_and_a_line():
    assert {*STUDIES, *STANDALONE} == set(SCHEMAS) - {
        "benchmark",
        "outer_loop",
        "half_precision",
    }  # measured by no study
    assert not STUDIES.keys() & STANDALONE.keys()
    assert all(study.about for study in (STUDIES | STANDALONE).values())
    with pytest.raises(StudyError, match="unknown study 'post'; known: adaptation_path, ceilings, depth_sweep"):
        study_named("post")


@pytest.mark.filterwarnings("ignore:. of .* tasks diverged")
@pytest.mark.parametrize("name", STUDIES)
def test_every_study_of_every_run_that_suits_it_can_be_stored(saved_cnn, name):
    saved = saved_cnn
    suited = [run for run in runs_in(saved).values() if STUDIES[name].suits(run.config)]
    assert suited
    for run in suited:
        assert not up_to_date(saved, name, run, num_tasks=2, seed=1, force=STUDIES[name].of_tasks is not None)
        frame = read_table(carry_out(saved, name, run, num_tasks=2, seed=1, command="typed"))
        assert len(frame)
        if STUDIES[name].meets_tasks:
            assert set(frame["task_seed"]) == {1}
            # Rows of linear_collapse may be of no task.
            assert frame["task"].dropna().nunique() in (2, 0 if name == "linear_collapse" else 2)
        origin = frame.attrs["provenance"]
        assert origin["study"] == name
        assert origin["command"] == "typed"
        assert origin["dataset_fingerprint"]
        assert origin["wall_seconds"] > 0
        assert origin["config"].get("method", run.config.method) == run.config.method
        assert ("num_tasks" in origin["settings"]) == STUDIES[name].meets_tasks
        assert up_to_date(saved, name, run, num_tasks=2, seed=1)


@pytest.mark.parametrize("study", ["post_adaptation", "depth_sweep", "upper_bound"])
def test_a_run_is_not_measured_on_other_data_than_it_was_trained_on(saved_cnn, study):
    run = next(run for run in runs_in(saved_cnn).values() if STUDIES[study].suits(run.config))
    carry_out(saved_cnn, study, run, num_tasks=1)
    run.info["dataset_fingerprint"] = "0123456789abcdef"
    with pytest.raises(
        StudyError, match=r"was trained on other data than are found here \(fingerprint 0123456789abcdef"
    ):
        carry_out(saved_cnn, study, run, num_tasks=1)
    del run.info["dataset_fingerprint"]  # as runs of the first versions are
    carry_out(saved_cnn, study, run, num_tasks=1)
    carry_out(saved_cnn, "training_curves", run)


def test_a_bound_says_of_which_model_and_tasks_it_is(saved_cnn):
    run = next(run for run in runs_in(saved_cnn).values() if STUDIES["upper_bound"].suits(run.config))
    stated = read_table(carry_out(saved_cnn, "upper_bound", run, num_tasks=1)).attrs["provenance"]["config"]
    assert stated == {
        "dataset": "glyphs", "model": "cnn", "depth": 2, "filters": 4, "norm_mode": "batch", "ways": 3, "shots": 2,
        "endless": True,
    }  # fmt: skip


def test_a_bound_on_other_data_is_stale(saved_cnn):
    run = next(run for run in runs_in(saved_cnn).values() if STUDIES["upper_bound"].suits(run.config))
    carry_out(saved_cnn, "upper_bound", run, num_tasks=1)
    assert up_to_date(saved_cnn, "upper_bound", run, num_tasks=1, seed=0)
    run.info["dataset_fingerprint"] = "0123456789abcdef"
    assert not up_to_date(saved_cnn, "upper_bound", run, num_tasks=1, seed=0)


def test_the_version_is_that_of_the_code_that_measures(saved, monkeypatch):
    run, asked = runs_in(saved)["lr", "maml"], []
    monkeypatch.setattr(registry, "code_version", lambda *folders: asked.append(folders))

    def measure(*arguments):
        assert asked == [("core", "analysis")]
        raise StudyError("far enough")

    monkeypatch.setitem(STUDIES, "post_adaptation", replace(STUDIES["post_adaptation"], measure=measure))
    with pytest.raises(StudyError, match="far enough"):
        carry_out(saved, "post_adaptation", run, num_tasks=2)


def test_the_digest_is_of_the_bytes_and_takes_any_precision(saved):
    run = runs_in(saved)["lr", "maml"]
    low = replace(run, theta={name: tensor.bfloat16() for name, tensor in run.theta.items()})
    assert run_digest(low) not in (
        run_digest(run),
        run_digest(replace(low, theta=run.theta | {"fc.weight": low.theta["fc.weight"] + 1})),
        run_digest(low.with_layers({"head": "fc.*"})),  # studies of layers by other names measure something else
    )


def test_ceilings_are_of_the_tasks_and_not_of_the_run(saved):
    ids = {table_id("ceilings", run) for run in runs_in(saved).values()}
    assert ids == {"synthetic-30-points-s0"}


def test_ceilings_and_runs_meet_the_same_tasks(saved):
    run = runs_in(saved)["lr", "maml"]
    run.theta["fc.weight"].zero_()  # one step from the origin goes along the mean classifier
    a = read_table(carry_out(saved, "post_adaptation", run, num_tasks=5, seed=1))
    b = read_table(carry_out(saved, "ceilings", run, num_tasks=5, seed=1))
    for seen in ("same", "fresh"):
        ours = a[(a["points_seen"] == seen) & (a["step"] == 1) & (a["split"] == "query")]
        ceiling = b[(b["evaluated_on"] == seen) & (b["ceiling"] == "mean classifier")]
        assert ours["accuracy"].tolist() == pytest.approx(ceiling["accuracy"].tolist())


def test_a_table_with_other_settings_is_not_replaced_by_the_way(saved):
    run = runs_in(saved)["lr", "maml"]
    path = carry_out(saved, "post_adaptation", run, num_tasks=2, seed=1)
    with pytest.raises(StudyError, match="was made with num_tasks 2, not 3, seed 1, not 0; --force replaces it"):
        up_to_date(saved, "post_adaptation", run, num_tasks=3, seed=0)
    assert not up_to_date(saved, "post_adaptation", run, num_tasks=3, seed=0, force=True)
    path.write_bytes(b"not parquet")
    with pytest.raises(StudyError, match=r"damaged.*--force replaces it"):
        up_to_date(saved, "post_adaptation", run, num_tasks=2, seed=1)


def test_a_run_trained_again_has_a_stale_table(saved):
    run = runs_in(saved)["lr", "klin"]
    carry_out(saved, "post_adaptation", run, num_tasks=2)
    for again in (
        replace(run, theta={name: tensor + 1e-6 for name, tensor in run.theta.items()}),
        replace(run, xi={name: tensor + 1e-6 for name, tensor in run.xi.items()}),
        replace(run, curve=pd.concat([run.curve, run.curve])),
    ):
        assert run_digest(again) != run_digest(run)
        assert not up_to_date(saved, "post_adaptation", again, num_tasks=2, seed=0)


def test_a_run_that_does_not_suit_is_refused(saved):
    run = runs_in(saved)["lr", "maml"]
    with pytest.raises(StudyError, match="does not suit study 'linear_collapse'"):
        carry_out(saved, "linear_collapse", run)


def test_a_study_without_a_run_is_stored_with_its_provenance(tmp_path, monkeypatch):
    name = "when_shallow_fails"
    monkeypatch.setitem(STANDALONE, name, shallow(QUICK))
    assert not up_to_date(tmp_path, name, None, num_tasks=2, seed=1)
    path = carry_out(tmp_path, name, None, num_tasks=2, seed=1, command="typed")
    assert path == tmp_path / name / "synthetic-20-iterations-s1.parquet"
    origin = read_table(path).attrs["provenance"]
    assert (origin["study"], origin["command"], origin["device"]) == (name, "typed", "cpu")
    assert origin["settings"]["num_tasks"] == 2
    assert origin["settings"]["iterations"] == QUICK.iterations
    assert origin["dataset_fingerprint"]
    assert origin["wall_seconds"] > 0
    assert up_to_date(tmp_path, name, None, num_tasks=2, seed=1)
    with pytest.raises(StudyError, match="was made with num_tasks 2, not 3; --force replaces it"):
        up_to_date(tmp_path, name, None, num_tasks=3, seed=1)
    monkeypatch.setitem(STANDALONE, name, shallow(replace(QUICK, points=(30,))))
    with pytest.raises(StudyError, match=r"was made with points \[10\], not \[30\]; --force replaces it"):
        up_to_date(tmp_path, name, None, num_tasks=2, seed=1)


def test_runs_and_studies_without_a_run_are_not_mixed_up(saved):
    run = runs_in(saved)["lr", "maml"]
    with pytest.raises(StudyError, match="study 'when_shallow_fails' trains its own runs: leave the run out"):
        carry_out(saved, "when_shallow_fails", run)
    with pytest.raises(StudyError, match="study 'ceilings' needs a run"):
        carry_out(saved, "ceilings", None)
    with pytest.raises(StudyError, match=r"unknown study 'shallow'; known: .*when_shallow_fails"):
        carry_out(saved, "shallow", None)


@pytest.mark.parametrize("study", STUDIES)
def test_a_tables_name_is_known_before_the_run_is_trained(saved_cnn, study):
    for run in runs_in(saved_cnn).values():
        if STUDIES[study].suits(run.config):
            assert table_of(study, run.config, seed=3) == table_id(study, run, seed=3)
