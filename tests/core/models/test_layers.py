"""Layers by name, by a user's groups, and where their outputs are."""

import pytest

from core.errors import UserError
from core.models.layers import layers_of, output_module, select

NAMES = ["conv1.weight", "bn1.weight", "layer1.0.conv.weight", "layer1.0.bn.weight", "layer1.1.conv.weight", "fc.bias"]


def test_a_layer_is_what_holds_parameters_at_the_top_or_one_of_a_list_of_layers():
    assert list(layers_of(NAMES)) == ["conv1", "bn1", "layer1.0", "layer1.1", "fc"]
    assert layers_of(NAMES)["layer1.0"] == ["layer1.0.conv.weight", "layer1.0.bn.weight"]


def test_groups_take_their_parameters_and_leave_the_others():
    layers = layers_of(NAMES, {"head": "fc.*", "stem": ["conv1", "bn1.*"]})
    assert list(layers) == ["stem", "layer1.0", "layer1.1", "head"]
    assert layers["stem"] == ["conv1.weight", "bn1.weight"]
    assert select(NAMES, ["head", "layer1.1"], layers) == ("layer1.1.conv.weight", "fc.bias")
    assert select(NAMES, ["fc"], layers) == ("fc.bias",)  # the names by themselves still hold


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"head": "fcc.*"}, "unknown layer or parameter 'fcc.*'; known: bn1, conv1, fc, layer1.0, layer1.1"),
        ({"a": "conv1", "b": "conv*"}, "parameter 'conv1.weight' is in layers 'a' and 'b'; it can be in one"),
        (["conv1"], "layers are given as names with patterns, such as {'head': 'fc.*'}, not as ['conv1']"),
    ],
)
def test_groups_that_cannot_be_are_told(groups, message):
    with pytest.raises(UserError) as caught:
        layers_of(NAMES, groups)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("members", "module"),
    [
        (["fc.weight", "fc.bias"], "fc"),
        (["layer1.0.conv.weight", "layer1.0.bn.weight"], "layer1.0"),
        (["conv1.weight", "bn1.weight"], "bn1"),
        (["layer1.0.conv.weight", "layer1.1.conv.weight"], "layer1"),
        (["scale"], None),
        (["fc.weight", "scale"], None),
        (["scale", "fc.weight"], "fc"),
    ],
)
def test_the_output_of_a_layer_is_that_of_the_smallest_module_that_holds_it(members, module):
    assert output_module(members) == module
