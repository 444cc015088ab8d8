import json
from dataclasses import asdict

import numpy as np
import pytest

from core import TrainConfig
from core.errors import UserError


def test_the_id_is_what_it_was(tiny_config):
    # Golden: were ids to change, saved runs would be trained again. New fields with defaults must not change them.
    assert tiny_config().id == "synthetic-lr-klin-s0-b2da16b106"


def test_the_id_sees_every_choice(tiny_config):
    changes = [
        {}, {"steps": 3}, {"seed": 1}, {"adapt_lr": 0.5}, {"first_order": True}, {"lr_scope": "xi"}, {"points": 9},
        {"same_points": False}, {"adapt_xi": False}, {"method": "kfc", "rule_depth": 2}, {"eval_tasks": 4},
        {"init_scale": 2},
    ]  # fmt: skip
    assert len({tiny_config(**change).id for change in changes}) == len(changes)


def test_zero_is_not_absent(tiny_config):
    assert tiny_config(iterations=0).iterations == 0
    assert '"bias":false' in tiny_config(bias=False).canonical_json()
    assert tiny_config(bias=False).model_options() == {"bias": False}
    assert tiny_config(init_scale=0).model_options() == {"init_scale": 0.0}


def test_equal_numbers_are_one_run(tiny_config):
    assert tiny_config(adapt_lr=1).id == tiny_config(adapt_lr=1.0).id
    assert tiny_config(input_scale=1).id == tiny_config(input_scale=1.0).id


def test_json_round_trip(tiny_config):
    config = tiny_config(model="linnet", method="maml", hidden=(4, 3))
    again = TrainConfig.from_dict(json.loads(json.dumps(asdict(config))))
    assert again == config
    assert again.id == config.id


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "omniglut"}, r"unknown dataset 'omniglut'; known: .*omniglot"),
        ({"method": "mamal"}, "unknown method 'mamal'; known: .*maml"),
        ({"model": "CNN"}, "unknown model 'CNN'; known: cnn, linnet, lr"),
        ({"meta_optimizer": "rmsprop"}, "known: adam, sgd"),
        ({"lr_scope": "theta"}, "known: both, xi"),
        ({"steps": -1}, "steps must be at least 0, got -1"),
        ({"steps": True}, "steps must be a whole number, got True"),
        ({"first_order": "false"}, "first_order must be true or false, got 'false'"),
        ({"points": "5"}, "points must be a whole number, got '5'"),
        ({"hidden": (64, 0.5)}, "hidden must be a whole number, got 0.5"),
        ({"hidden": 64}, "hidden must be a list of whole numbers, got 64"),
        ({"norm_mode": "layer"}, "unknown norm_mode 'layer'; known: batch, instance, none"),
        ({"iterations": 2.5}, "iterations must be a whole number"),
        ({"adapt_lr": float("nan")}, "adapt_lr must be a finite number"),
        ({"meta_lr": -0.1}, "meta_lr must be at least 0"),
        ({"tasks_per_iteration": 0}, "at least 1"),
        ({"hidden": (64, 0)}, r"at least 1 output, got filters None and hidden \(64, 0\)"),
        ({"filters": -1}, "at least 1 output, got filters -1 and hidden None"),
    ],
)
def test_mistakes_are_explained(tiny_config, changes, message):
    with pytest.raises(UserError, match=message):
        tiny_config(**changes)


def test_unknown_and_missing_settings_are_named(tiny_config):
    values = asdict(tiny_config())
    with pytest.raises(UserError, match=r"unknown setting 'step'; known: .*steps"):
        TrainConfig.from_dict({**values, "step": 1})
    del values["adapt_lr"]
    with pytest.raises(UserError, match="the configuration lacks adapt_lr"):
        TrainConfig.from_dict(values)


def test_what_is_missing_or_unknown_is_told_in_a_sentence():
    told = "the configuration lacks steps, adapt_lr, .*, tasks_per_iteration; it needs dataset, model, method, steps"
    with pytest.raises(UserError, match=told):
        TrainConfig(dataset="synthetic", model="lr", method="maml")
    with pytest.raises(UserError, match="unknown setting 'stepz'; known: adapt_lr"):
        TrainConfig(dataset="synthetic", stepz=1)


@pytest.mark.parametrize(("method", "option"), [("cholesky", "rule_rank"), ("kfc", "rule_depth")])
def test_a_missing_option_of_a_rule_has_the_name_it_has_here(tiny_config, method, option):
    with pytest.raises(UserError, match=f"method '{method}' needs {option}$"):
        tiny_config(method=method).make_rule()


def test_numbers_of_an_array_are_numbers(tiny_config):
    config = tiny_config(iterations=np.int64(5), adapt_lr=np.float32(0.5))
    assert config == tiny_config(iterations=5, adapt_lr=0.5)
    assert type(config.iterations) is int
