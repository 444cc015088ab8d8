import os
import shutil
from dataclasses import replace

import pytest

from analysis.errors import StudyError
from analysis.registry import table_id
from analysis.store import read_provenance
from chain.lists import FIGURES, TABLES
from chain.plan import group_name, make_plan
from chain.settings import Settings
from chain.steps import train
from core import load_run
from core.experiments import experiment
from core.files import read_json, write_json


def test_one_group_for_the_seeds_of_a_configuration(tiny, tmp_path):
    plan = make_plan(tiny(tmp_path, seeds=3))
    assert len(plan.groups) == 2  # LR and LinNet under MAML
    for name, configs in plan.groups.items():
        assert [config.seed for config in configs] == [0, 1, 2]
        assert {replace(config, seed=0) for config in configs} == {configs[0]}
        assert {group_name(config, together=False) for config in configs} == {name}


def test_a_group_is_told_in_words(tiny, tmp_path):
    plan = make_plan(tiny(tmp_path, seeds=3, iterations=1_200))
    name = next(iter(plan.groups))
    assert plan.told(name) == f"train {name}: 3 runs of 1,200 iterations (lr maml)"
    (together,) = make_plan(tiny(tmp_path, together=True)).groups
    assert "(lr maml, linnet maml)" in make_plan(tiny(tmp_path, together=True)).told(together)


def test_together_train_all_runs_that_meet_the_same_tasks(tiny, tmp_path):
    plan = make_plan(Settings(results=tmp_path, together=True))
    tasks = {
        name: {(c.dataset, tuple(c.task_options().items()), c.tasks_per_iteration) for c in configs}
        for name, configs in plan.groups.items()
    }
    assert all(len(found) == 1 for found in tasks.values())
    assert len(set.union(*tasks.values())) == len(tasks) == 3  # synthetic, characters 5-way 1-shot, 10-way 5-shot
    apart = make_plan(Settings(results=tmp_path))
    assert plan.tables == apart.tables
    assert {c.id for configs in plan.groups.values() for c in configs} == {
        c.id for configs in apart.groups.values() for c in configs
    }


def test_trained_together_or_apart_the_tables_are_up_to_date(made, tiny):
    plan = make_plan(tiny(made, together=True))
    (group,) = plan.groups
    assert not plan.is_trained(group)
    train(plan, group)  # finds its runs finished
    assert left(plan) == ([], [])


@pytest.mark.parametrize(("preset", "images"), [("quick", "glyphs"), ("paper", "omniglot")])
def test_every_run_of_the_experiments_is_trained_once_and_no_other(preset, images):
    plan = make_plan(Settings(preset=preset, images=images))
    names = [f"{images}_{kind}" for kind in ("linear", "depth", "optimizers")] + ["synthetic_linear"]
    if preset == "paper":
        names += ["cifar_fs_depth", "cifar_fs_optimizers", "mini_imagenet_optimizers"]
    expected = {config.id for name in names for config in experiment(name, preset)[0]}
    trained = [config.id for configs in plan.groups.values() for config in configs]
    assert sorted(trained) == sorted(expected)


def test_tables_are_those_that_the_figures_draw_and_those_beside_them():
    plan = make_plan(Settings())
    assert plan.figures.keys() == FIGURES.keys() - {"fig_a3"}  # no mini-ImageNet among the quick data sets
    drawn = {table for tables in plan.figures.values() for table in tables}
    assert {study for study, _ in plan.tables.keys() - drawn} == set(TABLES)
    for name, tables in plan.figures.items():
        assert {study for study, _ in tables} == set(FIGURES[name].studies)
    assert sum(study == "ceilings" for study, _ in plan.tables) == 1  # shared by all synthetic runs
    assert sum(study == "upper_bound" for study, _ in plan.tables) == 1


def test_a_figure_has_the_runs_that_it_shows():
    plan = make_plan(Settings(datasets=("synthetic",)))
    shown = {plan.tables[table].method for table in plan.figures["fig1"]}
    assert shown == {"maml"} < {plan.tables[table].method for table in plan.figures["table1"]}


def test_reductions_are_told():
    assert make_plan(Settings(preset="paper", images="omniglot")).reductions == ()
    told = make_plan(Settings(num_tasks=20)).reductions
    assert "20 test tasks in place of 600 (Figure 2: of 100)" in told
    assert "glyphs_linear: 200 iterations in place of 60,000" in told


def test_lengths_apply_to_the_experiments_that_have_them(tmp_path):
    plan = make_plan(Settings(results=tmp_path, iterations=7, tasks_per_iteration=3))
    configs = [config for group in plan.groups.values() for config in group]
    assert {config.iterations for config in configs} == {7}
    assert {config.tasks_per_iteration for config in configs if config.model == "cnn"} == {3}
    assert {config.tasks_per_iteration for config in configs if config.dataset == "synthetic"} == {1}


def test_a_plan_knows_its_tables_by_the_names_that_they_get(made, tiny):
    plan = make_plan(tiny(made))
    for (study, table), config in plan.tables.items():
        assert plan.path(study, table).exists()
        assert table_id(study, load_run(made / "runs" / config.id)) == table


def test_names_that_are_none_of_the_plans(tiny, tmp_path):
    plan = make_plan(tiny(tmp_path))
    with pytest.raises(StudyError, match="unknown group of runs 'x'; known: synthetic-linnet-maml-"):
        plan.group("x")
    with pytest.raises(StudyError, match="unknown table of ceilings 'x'; known: synthetic-1000-points-s0"):
        plan.source("ceilings", "x")
    with pytest.raises(StudyError, match="nothing to do: no figure named has an experiment on cifar_fs"):
        make_plan(tiny(tmp_path, datasets=("cifar_fs",)))


def left(plan):
    groups = [name for name in plan.groups if not plan.is_trained(name)]
    return groups, [table for table in plan.tables if not plan.is_measured(*table)]


def test_all_is_there_and_stays_so_in_a_copy_with_other_times(made, tiny):
    assert left(make_plan(tiny(made))) == ([], [])
    for path in sorted(made.rglob("*")):
        os.utime(path, (1e9, 1e9))
    assert left(make_plan(tiny(made))) == ([], [])


def test_nothing_is_there_at_first(tiny, tmp_path):
    plan = make_plan(tiny(tmp_path))
    assert left(plan) == (list(plan.groups), list(plan.tables))


def test_one_table_deleted_or_damaged(made, tiny):
    plan = make_plan(tiny(made))
    first, second, *_ = plan.tables
    plan.path(*first).unlink()
    plan.path(*second).write_bytes(plan.path(*second).read_bytes()[:-100])
    assert left(plan) == ([], [first, second])


def test_other_test_tasks_make_the_tables_late_but_no_run(made, tiny):
    plan = make_plan(tiny(made, num_tasks=3))
    assert left(plan) == ([], list(plan.tables))


def test_one_more_seed_makes_late_what_it_adds(made, tiny):
    plan = make_plan(tiny(made, seeds=3))
    groups, tables = left(plan)
    assert groups == list(plan.groups)
    assert {plan.tables[table].seed for table in tables} == {2}


@pytest.mark.parametrize("lost", ["run.json", "folder", "config.json", "weights.safetensors", "curve.parquet"])
def test_a_lost_run_is_trained_again(made, tiny, lost):
    plan = make_plan(tiny(made))
    group, (config, _) = next(iter(plan.groups.items()))
    folder = made / "runs" / config.id
    shutil.rmtree(folder) if lost == "folder" else (folder / lost).unlink()
    assert left(plan)[0] == [group]


def test_less_than_the_record_tells_of_is_trained_and_more_is_kept_in_it(made, tiny):
    whole, one = make_plan(tiny(made)), make_plan(tiny(made, seeds=1))
    assert left(one) == ([], [])
    group = next(iter(one.groups))
    before = read_json(one.record(group))
    train(one, group)
    assert read_json(one.record(group)) == before
    assert left(whole) == ([], [])
    other = next(config for config in whole.groups[group] if config not in one.groups[group])
    path = made / "runs" / other.id / "run.json"
    write_json(path, {**read_json(path), "wall_seconds": 1e3})  # another than the record tells of
    assert left(one) == ([], [])
    train(one, group)
    assert read_json(one.record(group))["runs"].keys() == before["runs"].keys() - {other.id}
    assert left(whole)[0] == [group]


def test_a_figure_that_is_on_none_of_the_data_sets_is_told(tmp_path):
    with pytest.raises(StudyError, match=r"no experiment of fig2 or fig_a3 is on synthetic"):
        make_plan(Settings(results=tmp_path, datasets=("synthetic",), figures=("fig2", "fig1", "fig_a3")))


def test_a_table_of_another_study_is_none(made, tiny):
    plan = make_plan(tiny(made))
    (wrong, _), right = (next(t for t in plan.tables if t[0] == study) for study in ("ceilings", "post_adaptation"))
    plan.path(*right).write_bytes(next((made / wrong).glob("*.parquet")).read_bytes())
    assert left(plan) == ([], [right])


def test_a_finished_run_that_the_record_does_not_know_is_looked_at(made, tiny):
    plan = make_plan(tiny(made))
    group, (config, _) = next(iter(plan.groups.items()))
    record = read_json(plan.record(group))
    del record["runs"][config.id]
    write_json(plan.record(group), record)
    assert left(plan)[0] == [group]


def test_a_run_trained_again_since_is_looked_at_again(made, tiny):
    plan = make_plan(tiny(made))
    group, (config, _) = next(iter(plan.groups.items()))
    os.utime(made / "runs" / config.id / "run.json")
    assert left(plan)[0] == [group]


def test_another_run_of_the_same_name_and_an_older_time_is_looked_at_again(made, tiny):
    """As a copy of an earlier state has it."""
    plan = make_plan(tiny(made))
    group, (config, _) = next(iter(plan.groups.items()))
    path = made / "runs" / config.id / "run.json"
    content = {key: value for key, value in read_json(path).items() if key != "digest"} | {"wall_seconds": 1e3}
    write_json(path, content)
    os.utime(path, (1e9, 1e9))
    assert left(plan)[0] == [group]
    train(plan, group)
    assert left(plan) == ([], [])


def test_a_record_of_an_earlier_version_knows_runs_by_their_times(made, tiny):
    plan = make_plan(tiny(made))
    for group in plan.groups:
        write_json(plan.record(group), {"runs": read_json(plan.record(group))["runs"]})
    assert left(plan) == ([], [])


def test_a_table_of_another_training_of_the_run_is_late(made, tiny):
    plan = make_plan(tiny(made))
    table = next(table for table in plan.tables if table[0] == "post_adaptation")
    digest = read_provenance(plan.path(*table))["settings"]["run_digest"]
    record = plan.record(plan.group_of(*table))
    record.write_text(record.read_text().replace(digest, "0" * 16))
    assert left(plan) == ([], [table])


def test_a_bound_on_other_data_than_the_runs_is_late(made, tiny, monkeypatch):
    """No figure of the tiny plan has one: any of its tables stands for it."""
    monkeypatch.setattr(
        "chain.plan.is_of_the_data",
        lambda study, path, trained_on: read_provenance(path)["dataset_fingerprint"] == trained_on,
    )
    plan = make_plan(tiny(made))
    study, table = next(pair for pair in plan.tables if pair[0] == "post_adaptation")
    assert plan.is_measured(study, table)
    path = made / "runs" / plan.source(study, table).id / "run.json"
    write_json(path, read_json(path) | {"dataset_fingerprint": "0123456789abcdef"})
    assert not plan.is_measured(study, table)
