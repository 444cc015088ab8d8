from pathlib import Path

import pytest

from analysis.errors import StudyError
from chain.settings import Settings


def test_the_presets_own_unless_others_are_named():
    quick = Settings()
    assert (quick.all_datasets, quick.all_num_tasks, quick.lengths) == (("synthetic", "glyphs"), 50, {})
    paper = Settings(preset="paper", datasets=("cifar_fs",), num_tasks=7, seeds=2)
    assert (paper.all_datasets, paper.all_num_tasks, paper.lengths) == (("cifar_fs",), 7, {"seeds": 2})
    assert Settings(preset="paper", images="omniglot").all_datasets == (
        "synthetic",
        "omniglot",
        "cifar_fs",
        "mini_imagenet",
    )


def test_from_the_values_of_a_configuration():
    values = {"results": "here", "figures": "fig1, table1", "datasets": ["glyphs"], "num_tasks": 3, "compile": True}
    settings = Settings.from_config({**values, "data_dir": None, "device": "cpu"})
    assert settings == Settings(
        results=Path("here"), figures=("fig1", "table1"), datasets=("glyphs",), num_tasks=3, compile=True, device="cpu"
    )


@pytest.mark.parametrize(("text", "value"), [("true", True), ("True", True), ("false", False), (True, True)])
def test_yes_and_no_may_be_words(text, value):
    assert Settings.from_config({"together": text}).together is value


def test_whole_numbers_may_be_text():
    assert Settings.from_config({"num_tasks": "12"}).num_tasks == 12


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"presets": "quick"}, "unknown setting 'presets'; known: compile, data_dir,"),
        ({"preset": "fast"}, "unknown preset 'fast'; known: paper, quick"),
        ({"images": "letters"}, "unknown data set of characters 'letters'; known: glyphs, omniglot, omniglot_small"),
        ({"datasets": "mnist"}, "unknown dataset 'mnist'; known: cifar_fs,"),
        ({"figures": "fig9"}, "unknown figure 'fig9'; known: fig1,"),
        ({"num_tasks": 0}, "num_tasks must be at least 1, got 0"),
        ({"iterations": -1}, "iterations must be at least 1, got -1"),
        ({"seeds": "two"}, "seeds must be a whole number, got 'two'"),
        ({"seeds": "-2"}, "seeds must be a whole number, got '-2'"),
        ({"compile": "yes"}, "compile must be true or false, got 'yes'"),
        ({"seeds": True}, "seeds must be a whole number, got True"),
        ({"results": 2024}, "results must be text, and 2024 was read as no text; a folder may be written as ./NAME"),
        ({"data_dir": 202601}, "data_dir must be text"),
        ({"images": "omniglot", "datasets": "synthetic"}, "with datasets, name them there"),
        ({"thread": 3}, "unknown setting 'thread'; known: .*, tasks_per_iteration, threads, together"),
        ({"compile": 1}, "compile must be true or false, got 1"),
    ],
)
def test_mistakes_are_told(values, told):
    with pytest.raises(StudyError, match=told):
        Settings.from_config(values)


@pytest.mark.parametrize(
    "settings",
    [
        Settings(results="here"),
        Settings(results="a b", preset="paper", figures=("fig1", "fig2"), seeds=2, compile=True, data_dir="x y"),
    ],
)
def test_arguments_are_read_back_as_the_same_settings(settings):
    from chain.__main__ import _parser, _settings

    assert _settings(_parser().parse_args(["left", *settings.arguments()])) == settings


def test_defaults_are_left_out_of_the_arguments():
    assert Settings(results="here", num_tasks=3).arguments() == ["--results", "here", "--num-tasks", "3"]
