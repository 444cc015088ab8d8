"""Configurations of any valid settings, and of anything else."""

import json
from dataclasses import asdict, fields

from hypothesis import assume, given
from hypothesis import strategies as st

from core import TrainConfig
from core.errors import UserError
from core.methods import METHODS
from core.models import MODELS
from core.runs import read_config, write_config
from core.tasks import DATASETS
from tests.fuzz.targets import refused

whole = st.integers(0, 10**6)
rates = st.floats(0, 1e6, allow_nan=False)
options = {
    "seed": st.integers(-(2**63), 2**63),
    "lr_scope": st.sampled_from(["both", "xi"]),
    **{
        name: st.none() | st.integers(1, 100) for name in ("ways", "shots", "query_shots", "points", "depth", "filters")
    },
    **{
        name: st.none() | st.booleans()
        for name in ("rotations", "normalize", "endless", "same_points", "bias", "unit_norm")
    },
    **{name: st.none() | rates for name in ("input_scale", "init_scale")},
    "hidden": st.none() | st.lists(st.integers(1, 100), max_size=4).map(tuple),
    "norm_mode": st.sampled_from([None, "batch", "instance", "none"]),
    "downsample": st.sampled_from([None, "stride", "max_pool"]),
    "rule_depth": st.none() | st.integers(1, 5),
    "rule_rank": st.none() | st.integers(1, 5),
    "rule_bias": st.none() | st.booleans(),
    "eval_every": whole,
    "eval_tasks": st.integers(1, 1000),
    "own": st.none() | st.text(),
}


@st.composite
def valid_settings(draw):
    """Settings that make a configuration, but for those that only some methods have."""
    method = draw(st.sampled_from(sorted(METHODS)))
    chosen = {
        "dataset": draw(st.sampled_from(sorted(DATASETS))),
        "model": draw(st.sampled_from(sorted(MODELS))),
        "method": method,
        "steps": draw(whole),
        "adapt_lr": draw(rates),
        "first_order": METHODS[method].first_order or draw(st.booleans()),
        "meta_optimizer": draw(st.sampled_from(["sgd", "adam"])),
        "meta_lr": draw(rates),
        "iterations": draw(whole),
        "tasks_per_iteration": draw(st.integers(1, 1000)),
    }
    if METHODS[method].adapts == "all":
        chosen["adapted"] = draw(st.none() | st.lists(st.text(), min_size=1, max_size=3).map(tuple))
    if not METHODS[method].options.get("adapts"):
        chosen["adapt_xi"] = draw(st.none() | st.booleans())
    return chosen | draw(st.fixed_dictionaries({}, optional=options))


@given(valid_settings())
def test_a_configuration_comes_back_from_its_file(tmp_path, chosen):
    config = TrainConfig(**chosen)
    write_config(config, tmp_path)
    again = read_config(tmp_path)
    assert again == config
    assert again.id == config.id
    assert again.canonical_json() == config.canonical_json()
    for name, value in chosen.items():
        assert getattr(again, name) == value
        assert type(getattr(again, name)) is (
            float if name.endswith(("_lr", "_scale")) and value is not None else type(value)
        )


@given(valid_settings(), st.data())
def test_another_value_of_any_setting_is_another_run(chosen, data):
    one = TrainConfig(**chosen)
    name = data.draw(st.sampled_from(sorted(chosen)))
    other = data.draw(valid_settings().filter(lambda found: name in found and found[name] != chosen[name]))
    try:
        changed = TrainConfig(**{**chosen, name: other[name]})
    except UserError:  # settings that do not go together
        assume(False)
    assume(changed != one)  # such as a list, and the tuple of it
    assert changed.canonical_json() != one.canonical_json()
    assert changed.id != one.id


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


NAMES = [field.name for field in fields(TrainConfig)]


def read(folder):
    """The configuration in a folder, or None where it is refused as it should be."""
    found = []
    with refused(UserError, name="config.json"):
        found.append(read_config(folder))
    return found[0] if found else None


@given(valid_settings(), st.dictionaries(st.sampled_from([*NAMES, "warp"]), anything, min_size=1, max_size=3))
def test_any_json_is_a_configuration_or_an_error_that_names_the_file(tmp_path, chosen, changes):
    text = json.dumps({"format": 1, "id": "x", "config": {**chosen, **changes}})
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    config = read(tmp_path)
    if config is not None:
        assert TrainConfig.from_dict(json.loads(json.dumps(asdict(config)))) == config


@given(anything)
def test_any_json_in_place_of_all_is_an_error_that_names_the_file(tmp_path, value):
    (tmp_path / "config.json").write_text(json.dumps(value), encoding="utf-8")
    assert read(tmp_path) is None
