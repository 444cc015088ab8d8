"""What was written before is still read, and what a newer version wrote is refused in a sentence."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from analysis import StudyError, read_study, read_table
from analysis.schemas import SCHEMAS
from analysis.store import METADATA_KEY, SCHEMA_VERSION
from core import list_runs, load_run, meta_train
from core.errors import UserError
from core.runs import FORMAT, load_tensors, read_config, save_tensors
from tests.fixtures import make

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "tests" / "fixtures"
QUIET = {"progress": False, "device": "cpu"}


def numbered(kind):
    return sorted(FIXTURES.glob(f"{kind}_*"), key=lambda path: int(path.name.rpartition("_")[2]))


def test_there_are_files_of_every_format_and_they_are_small():
    # A format that is raised without files of the one before would be read by luck.
    assert [path.name for path in numbered("runs")] == [f"runs_{i}" for i in range(1, FORMAT + 1)]
    assert [path.name for path in numbered("tables")] == [f"tables_{i}" for i in range(1, SCHEMA_VERSION + 1)]
    files = [path for kind in ("runs", "tables") for top in numbered(kind) for path in top.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 100_000


@pytest.mark.parametrize("folder", numbered("runs"), ids=lambda path: path.name)
def test_runs_of_every_format_load_adapt_and_go_on(folder, tmp_path, steps_made):
    results = shutil.copytree(folder, tmp_path / "results")
    listed = list_runs(results)
    assert set(listed["status"]) == {"ok", "unfinished"}
    for path in listed.loc[listed["status"] == "ok", "path"]:
        own = {"model": make.network(), "tasks": make.tasks()} if "own." in path else {}
        run = load_run(path, **own)
        assert run.id == Path(path).name
        assert len(run.curve) == run.curve[["iteration", "split"]].drop_duplicates().shape[0] > 0
        found = run.evaluate(run.tasks(seed=0).sample("test", 2, 0))
        assert np.isfinite(found["loss"]).all()
    for path in listed.loc[listed["status"] == "unfinished", "path"]:
        config = read_config(Path(path))
        saved = load_tensors(Path(path) / "state.safetensors")[1]["iteration"]
        done = meta_train(config, results=results, **QUIET)
        assert (done.status, done.info["iterations_done"]) == ("ok", config.iterations)
        assert steps_made == list(range(saved, config.iterations))
        steps_made.clear()
        again = meta_train(config, results=None, **QUIET)
        assert all(torch.allclose(done.theta[name], again.theta[name], rtol=1e-5) for name in done.theta)
        steps_made.clear()


@pytest.mark.parametrize("folder", numbered("tables"), ids=lambda path: path.name)
def test_tables_of_every_version_say_what_their_run_still_does(folder):
    for study in ("training_curves", "ceilings"):
        table = read_study(folder, study)
        assert list(table.columns) == list(SCHEMAS[study])
        assert len(table)
    table = read_study(folder, "post_adaptation")
    runs = FIXTURES / f"runs_{folder.name.rpartition('_')[2]}" / "runs"
    for id, rows in table.groupby("run"):
        run = load_run(runs / id)
        for points_seen, part in rows.groupby("points_seen"):
            source = run.tasks(seed=int(part["task_seed"].iloc[0]), same_points=points_seen == "same")
            for task, expected in part.groupby("task"):
                found = run.evaluate(source.sample("test", 1, index=task))
                for name in ("loss", "accuracy"):
                    # Later code sums in another order; a task of 8 points has accuracies in eighths.
                    np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)


def test_the_committed_results_load():
    results = ROOT / "results"
    for study in SCHEMAS:
        if any((results / study).glob("*.parquet")):
            table = read_study(results, study)
            assert len(table)
            # Each says what data it is of, and which code made it.
            for origin in table.attrs["provenance"].values():
                if study not in ("benchmark", "outer_loop"):  # whose tasks are random images, or drawn and thrown away
                    assert re.fullmatch(r"[0-9a-f]{16}", origin["dataset_fingerprint"])
                assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", origin["code_version"])
    listed = list_runs(results)
    assert len(listed)
    assert [load_run(path).id for path in listed["path"]] == list(listed["id"])


def rewritten(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def rewritten_tensors(path, **changes):
    tensors, metadata = load_tensors(path)
    save_tensors(path, tensors, {**metadata, **changes})


@pytest.mark.parametrize(
    ("name", "rewrite"),
    [("config.json", rewritten), ("run.json", rewritten), ("weights.safetensors", rewritten_tensors)],
)
def test_a_run_of_a_newer_version_is_refused_in_a_sentence(name, rewrite, tmp_path):
    run = next((FIXTURES / f"runs_{FORMAT}" / "runs").glob("synthetic-*-s1-*"))
    folder = shutil.copytree(run, tmp_path / run.name)
    rewrite(folder / name, format=FORMAT + 1)
    told = rf"{name} has format {FORMAT + 1}; this version of adaptlens reads format {FORMAT}, and a newer one wrote"
    with pytest.raises(UserError, match=told):
        load_run(folder)
    rewrite(folder / name, format="old")
    with pytest.raises(UserError, match=rf"{name} has format 'old'; this version of adaptlens reads format {FORMAT}$"):
        load_run(folder)


def test_a_state_of_a_newer_version_is_refused_in_a_sentence(tmp_path):
    results = shutil.copytree(FIXTURES / f"runs_{FORMAT}", tmp_path / "results")
    (path,) = results.rglob("state.safetensors")
    rewritten_tensors(path, format=FORMAT + 1)
    with pytest.raises(UserError, match=rf"state.safetensors has format {FORMAT + 1}; .* a newer one wrote"):
        meta_train(read_config(path.parent), results=results, **QUIET)


def test_a_table_of_a_newer_version_is_refused_in_a_sentence(tmp_path):
    source = next((FIXTURES / f"tables_{SCHEMA_VERSION}").rglob("*.parquet"))
    table = pq.read_table(source)
    found = json.loads(table.schema.metadata[METADATA_KEY])
    text = json.dumps({**found, "schema_version": SCHEMA_VERSION + 1})
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: text.encode()}), tmp_path / "new.parquet")
    with pytest.raises(StudyError, match=rf"new.parquet has schema version {SCHEMA_VERSION + 1}; .* a newer one wrote"):
        read_table(tmp_path / "new.parquet")
