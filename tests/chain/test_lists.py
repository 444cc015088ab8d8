import pytest

import figures.registry
from analysis.registry import STUDIES
from analysis.store import SCHEMAS
from chain.lists import BEYOND, CHARACTER_DATASETS, CHARACTERS, FIGURES, PRESETS, TABLES
from core.experiments import EXPERIMENTS, IMAGE_DATASETS, experiment

LISTS = {**FIGURES, **TABLES}
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


@pytest.mark.parametrize("name", FIGURES)
def test_a_figures_list_names_the_studies_that_its_module_reads(name, monkeypatch, tmp_path):
    read = set()

    def spy(results, study, *arguments, **options):
        read.add(study)
        raise figures.data.MissingTable("none")

    # Every reader asks for tables by this one; the first refusal must not end the search.
    monkeypatch.setattr("figures.data.read_study", spy)
    monkeypatch.setattr("figures.data._must_exist", lambda results, study, first="": read.add(study))
    for study in STUDIES:
        (tmp_path / study).mkdir()
        (tmp_path / study / "one.parquet").touch()
    with pytest.raises(figures.data.MissingTable):
        figures.registry.FIGURES[name].traces(tmp_path, ())
    assert read <= set(FIGURES[name].studies)


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
