"""Methods named after what adapts, and how the outer loop learns, against their definitions written out."""

import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from core import evaluate, load_run, make_model, meta_train, meta_train_many
from core.__main__ import main
from core.adaptation import adapt
from core.errors import UserError
from core.experiments import experiment
from core.methods import METHODS, adapted_layers

CNN = {
    "dataset": "glyphs", "model": "cnn", "depth": 2, "filters": 4, "method": "maml", "norm_mode": "batch",
    "points": None,
    "ways": 3, "shots": 2, "endless": True, "adapt_lr": 0.5, "meta_optimizer": "sgd", "meta_lr": 0.1, "iterations": 1,
    "eval_every": 0,
}  # fmt: skip


@pytest.fixture
def cnn(tiny_config):
    """Trains a small network for one step of plain SGD; keyword arguments change the configuration."""

    def train(**changes):
        return meta_train(tiny_config(**{**CNN, **changes}), results=None, progress=False)

    return train


def start_and_tasks(run):
    """The weights that training began with, and the two tasks of its first iteration, one by one."""
    theta = {name: p.detach().clone() for name, p in run.blank_model().named_parameters()}
    episodes = run.tasks().sample("train", 2, 0)
    return theta, [episodes[task : task + 1] for task in range(2)]


def query_loss(run, theta, task):
    return cross_entropy(functional_call(run.model, theta, (task.query_x[0],)), task.query_y[0])


def adapted_naively(run, theta, task, names, create_graph):
    """theta after the run's steps of gradient descent on one task by the tensors `names` alone."""
    for _ in range(run.config.steps):
        loss = cross_entropy(functional_call(run.model, theta, (task.support_x[0],)), task.support_y[0])
        grads = torch.autograd.grad(loss, [theta[name] for name in names], create_graph=create_graph)
        steps = {name: theta[name] - run.config.adapt_lr * g for name, g in zip(names, grads, strict=True)}
        theta = {**theta, **steps}
    return theta


def assert_weights(run, expected):
    for name, tensor in run.theta.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-6)  # float32, up to three steps


@pytest.mark.parametrize(
    ("changes", "adapts"),
    [
        ({"method": "maml"}, lambda name: True),
        ({"method": "anil"}, lambda name: name.startswith("FC.")),
        ({"method": "boil"}, lambda name: not name.startswith("FC.")),
        ({"adapted": ("C2", "FC.bias")}, lambda name: name.startswith("C2.") or name == "FC.bias"),
        ({"adapted": ["*.norm.*"]}, lambda name: ".norm." in name),
    ],
    ids=["maml", "anil", "boil", "by name", "by glob"],
)
@pytest.mark.parametrize("steps", [1, 3])
def test_what_adapts_is_what_the_method_says_and_all_is_learned(cnn, changes, adapts, steps):
    run = cnn(steps=steps, **changes)
    theta, tasks = start_and_tasks(run)
    leaves = {name: tensor.requires_grad_() for name, tensor in theta.items()}
    names = [name for name in leaves if adapts(name)]
    assert (run.adapted or tuple(leaves)) == tuple(names)
    loss = sum(query_loss(run, adapted_naively(run, leaves, task, names, True), task) for task in tasks) / 2
    grads = torch.autograd.grad(loss, list(leaves.values()))
    expected = {n: t.detach() - 0.1 * g for (n, t), g in zip(leaves.items(), grads, strict=True)}
    assert_weights(run, expected)
    assert all(not torch.equal(tensor, theta[name]) for name, tensor in run.theta.items() if name.endswith("weight"))


@pytest.mark.parametrize("chunk", [None, 1])
def test_reptile_goes_to_where_adaptation_ends(tiny_config, chunk):
    config = tiny_config(**{**CNN, "method": "reptile", "first_order": True, "steps": 3})
    run = meta_train(config, results=None, progress=False, tasks_per_chunk=chunk)
    theta, tasks = start_and_tasks(run)
    leaves = {name: tensor.requires_grad_() for name, tensor in theta.items()}
    ends = [adapted_naively(run, leaves, task, list(leaves), False) for task in tasks]
    expected = {n: (t + 0.1 * (sum(end[n] for end in ends) / 2 - t)).detach() for n, t in leaves.items()}
    assert_weights(run, expected)


def test_reptiles_seeds_trained_together_are_as_alone(tiny_config):
    configs = [tiny_config(**{**CNN, "method": "reptile", "first_order": True}, seed=seed) for seed in (0, 1)]
    together = meta_train_many(configs, results=None, progress=False)
    for config, run in zip(configs, together, strict=True):
        assert_weights(run, meta_train(config, results=None, progress=False).theta)


def test_reptile_moves_only_what_adapts(cnn):
    run = cnn(method="reptile", first_order=True, adapted=("FC",))
    theta, _ = start_and_tasks(run)
    assert [n for n in theta if not torch.equal(theta[n], run.theta[n])] == ["FC.weight", "FC.bias"]


@pytest.mark.parametrize(
    ("named", "spelt_out"),
    [
        ({"method": "fomaml", "first_order": True}, {"method": "maml", "first_order": True}),
        ({"method": "alpha_maml"}, {"method": "meta_sgd", "adapt_xi": True}),
        ({"method": "anil"}, {"method": "maml", "adapted": ("FC",)}),
        ({"method": "boil"}, {"method": "maml", "adapted": ("C1", "C2")}),
    ],
    ids=lambda value: value["method"],
)
def test_a_name_stands_for_its_settings(cnn, named, spelt_out):
    one, other = cnn(iterations=3, **named), cnn(iterations=3, **spelt_out)
    assert one.id != other.id
    plain = cnn(iterations=3, method=spelt_out["method"])
    for name, tensor in one.theta.items():
        assert torch.equal(tensor, other.theta[name])
    assert any(not torch.equal(tensor, plain.theta[name]) for name, tensor in one.theta.items())


def test_a_run_is_evaluated_as_it_was_trained(cnn):
    run = cnn(method="anil")
    episodes = run.tasks().sample("test", 3, 0)
    table = run.evaluate(episodes)
    setting = {"steps": 2, "lr": 0.5}
    head = evaluate(run.model, run.rule, run.theta, run.xi, episodes, adapted=("FC.weight", "FC.bias"), **setting)
    assert table.equals(head)
    assert not table.equals(run.evaluate(episodes, adapted=None))
    params = adapt(run.model, run.rule, run.theta, run.xi, episodes, adapted=run.adapted, **setting).params
    assert torch.equal(params["C1.conv.weight"][0], run.theta["C1.conv.weight"])


def test_a_saved_run_knows_what_adapts(tiny_config, tmp_path):
    run = meta_train(tiny_config(**CNN, adapted=("C2",)), results=tmp_path, progress=False)
    assert load_run(run.path).adapted == run.adapted
    assert list(load_run(run.path).theta) == list(run.theta)
    assert all(name.startswith("C2.") for name in run.adapted)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "fomaml"}, "fomaml is first order: first_order must be true"),
        ({"method": "reptile"}, "reptile is first order"),
        ({"method": "anil", "adapted": ("C1",)}, "anil is the head adapting: leave adapted out"),
        ({"method": "alpha_maml", "adapt_xi": False}, "leave adapt_xi out"),
        ({"adapted": ()}, "adapted must name at least one layer"),
        ({"adapted": "FC"}, "adapted must be a list of words, got 'FC'"),
        ({"adapted": ("C9",)}, "unknown layer or parameter 'C9'; known: C1, C2, FC"),
    ],
)
def test_mistakes_are_explained(cnn, changes, message):
    with pytest.raises(UserError, match=message):
        cnn(**changes)


def test_a_model_of_one_layer_has_a_head_and_no_body(tiny_config):
    names = [name for name, _ in make_model("lr", _Shape(), seed=0).named_parameters()]
    assert adapted_layers("anil", names) == tuple(names)
    with pytest.raises(UserError, match="boil adapts all layers but the last, and this model has no other"):
        meta_train(tiny_config(method="boil"), results=None, progress=False)


class _Shape:
    example_shape, num_outputs = (4,), 1


def test_reptile_is_not_compiled(tiny_config):
    with pytest.raises(UserError, match="train it without compile"):
        meta_train(tiny_config(**{**CNN, "method": "reptile", "first_order": True}), results=None, compile=True)


def test_every_method_names_its_paper():
    assert all(method.reference.endswith(")") and "(20" in method.reference for method in METHODS.values())


def test_the_experiment_of_variants_has_each_of_them():
    configs, _ = experiment("glyphs_variants", "quick")
    assert [config.method for config in configs] == [
        "maml", "anil", "boil", "fomaml", "reptile", "meta_sgd", "alpha_maml",
    ]  # fmt: skip
    assert {config.adapt_lr for config in configs if METHODS[config.method].rule == "sgd"} == {0.8}
    assert {config.adapt_lr for config in configs if METHODS[config.method].rule == "meta_sgd"} == {0.5}


def test_the_command_line_takes_what_adapts(tmp_path, capsys):
    settings = (
        "--dataset synthetic --model linnet --hidden 4 --method maml --steps 1 --adapt-lr 1 --first-order false "
        "--meta-optimizer sgd --meta-lr 0.1 --iterations 1 --tasks-per-iteration 2 --points 8 --eval-tasks 2 "
        f"--results {tmp_path} --quiet --adapted"
    ).split()
    assert main(["train", *settings, "layers.0"]) == 0
    assert main(["train", *settings, "layer.0"]) == 2
    assert "unknown layer or parameter 'layer.0'; known: layers.0, layers.1" in capsys.readouterr().err
