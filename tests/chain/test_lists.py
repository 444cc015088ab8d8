from pathlib import Path

import pytest

import analysis.store
import figures.registry
from analysis.registry import STUDIES
from analysis.schemas import SCHEMAS
from chain.lists import BEYOND, CHARACTER_DATASETS, CHARACTERS, FIGURES, PRESETS, TABLES
from core.experiments import EXPERIMENTS, IMAGE_DATASETS, experiment

LISTS = {**FIGURES, **TABLES}
ALL = {**FIGURES, **BEYOND}
RECORD = Path(__file__).parents[2] / "results"
OF_NO_RECORD = ["fig_a3"]  # its data set was not at hand
# What a preset may shorten. The curve is measured more often where training is shorter.
OF_LENGTH = {"iterations", "tasks_per_iteration", "eval_tasks", "eval_every", "seed"}


def on_all_data_sets(needs):
    return needs.experiments_on([*PRESETS["paper"].datasets, *CHARACTER_DATASETS])


def test_every_figure_has_its_list():
    assert FIGURES.keys() | BEYOND.keys() == figures.registry.FIGURES.keys()
    assert not FIGURES.keys() & (TABLES.keys() | BEYOND.keys())
    assert {study for needs in BEYOND.values() for study in needs.studies} <= SCHEMAS.keys()


def test_the_data_sets_of_characters_are_those_of_the_experiments():
    assert sorted(CHARACTER_DATASETS) == sorted(IMAGE_DATASETS)


@pytest.mark.parametrize("name", LISTS)
def test_lists_name_experiments_and_studies_that_exist(name):
    assert set(on_all_data_sets(LISTS[name])) <= EXPERIMENTS.keys()
    assert set(LISTS[name].studies) <= STUDIES.keys()


@pytest.mark.parametrize("name", [name for name in ALL if name not in OF_NO_RECORD])
def test_a_figures_list_names_the_studies_that_its_module_reads(name, monkeypatch):
    read, read_arrow = set(), analysis.store._read_arrow

    def spy(path):
        read.add(path.parent.name)
        return read_arrow(path)

    monkeypatch.setattr(analysis.store, "_read_arrow", spy)  # the one place that reads
    assert figures.registry.FIGURES[name].traces(RECORD, ())
    assert read == set(ALL[name].studies)


@pytest.mark.parametrize("name", OF_NO_RECORD)
def test_what_is_not_of_record_is_missing(name):
    with pytest.raises(figures.data.MissingTable):
        figures.registry.FIGURES[name].traces(RECORD, ())


@pytest.mark.parametrize("name", LISTS)
def test_every_study_of_a_list_suits_a_run_of_it(name):
    needs = LISTS[name]
    configs = [c for one in on_all_data_sets(needs) for c in experiment(one, "paper")[0] if needs.of(c)]
    for study in needs.studies:
        assert any(STUDIES[study].suits(config) and STUDIES[study].drawn(config) for config in configs), study


@pytest.mark.parametrize("name", LISTS)
def test_presets_differ_in_lengths_alone(name):
    for one in on_all_data_sets(LISTS[name]):
        quick, paper = (
            {
                tuple(sorted((k, v) for k, v in vars(c).items() if k not in OF_LENGTH))
                for c in experiment(one, preset)[0]
            }
            for preset in ("quick", "paper")
        )
        assert quick == paper


def test_the_quick_preset_needs_no_files_and_the_paper_has_all_data_sets():
    assert PRESETS["quick"].datasets == ("synthetic", CHARACTERS)
    assert set(PRESETS["paper"].datasets) == {"synthetic", CHARACTERS, "cifar_fs", "mini_imagenet"}
    assert PRESETS["quick"].num_tasks < PRESETS["paper"].num_tasks == 600


def test_experiments_on_the_data_sets_at_hand():
    assert FIGURES["fig1"].experiments_on(["synthetic", "glyphs"]) == ["synthetic_linear", "glyphs_linear"]
    assert FIGURES["fig1"].experiments_on(["omniglot"]) == ["omniglot_linear"]
    assert FIGURES["table2"].experiments_on(["mini_imagenet", "omniglot_small"]) == [
        "omniglot_small_optimizers",
        "mini_imagenet_optimizers",
    ]
    assert FIGURES["fig_a3"].experiments_on(["synthetic", "glyphs"]) == []
