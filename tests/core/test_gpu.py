"""The same code on a GPU: against the CPU, and without waiting for it in a meta-gradient."""

import pytest
import torch
from torch import nn

from core import TrainConfig, adapt, evaluate, make_tasks, meta_gradient, meta_train
from core.adaptation import one_replica, replica_meta_gradient
from core.group import Group
from core.inner_loop import InnerLoop
from core.models import make_model
from core.optimizers import make_optimizer
from core.tasks.own import TensorTasks
from tests import naive
from tests.core.own_modules import Recurrent, episodes
from tests.naive import RULES, NaiveRule, Tensors

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: run `pytest -m gpu` on a machine with one"),
]
INNER = {"steps": 2, "lr": 0.1}
# Of the largest tensor: without TF32, sums in another order remain.
TOLERANCE, FLOOR = 1e-4, 5e-2


@pytest.fixture(autouse=True)
def single_precision():
    """No convolution in TF32, which PyTorch has on by default, unlike that of products of matrices."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield
    torch.backends.cudnn.allow_tf32 = before


def moved(tensors: Tensors) -> Tensors:
    """The same on the GPU."""
    return {name: tensor.cuda() for name, tensor in tensors.items()}


def back(tensors: Tensors) -> Tensors:
    """The same on the CPU."""
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def problem(model: str, naive_rule: NaiveRule):
    """A network on three 5-way 1-shot tasks of characters, in float32."""
    source = make_tasks("glyphs", ways=5, shots=1, seed=0)
    options = {"depth": 2, "filters": 8} if model == "cnn" else {}
    module = make_model(model, source, seed=0, **options)
    theta = {name: parameter.detach() for name, parameter in module.named_parameters()}
    rule = make_optimizer(naive_rule.name, **naive_rule.options())
    return module, rule, theta, naive.randomise(rule.init(theta), strength=1e-2), source.sample("train", 3, 0)


FITTING = {
    name: rule for name, rule in RULES.items() if rule.name not in ("linear", "cholesky")
}  # the others are large


@pytest.mark.parametrize("naive_rule", FITTING.values(), ids=FITTING)
@pytest.mark.parametrize("model", ["lr", "cnn"])
def test_the_gpu_computes_what_the_cpu_does(model: str, naive_rule: NaiveRule):
    module, rule, theta, xi, episodes = problem(model, naive_rule)
    expected = meta_gradient(module, rule, theta, xi, episodes, first_order=False, **INNER)
    losses = adapt(module, rule, theta, xi, episodes, **INNER).losses
    module, there = module.cuda(), episodes.to("cuda")
    for options in ({}, {"rematerialise": True}, {"tasks_per_chunk": 2}):
        loss, found = meta_gradient(module, rule, moved(theta), moved(xi), there, first_order=False, **INNER, **options)
        assert loss.item() == pytest.approx(expected[0].item(), rel=1e-5)
        for part, one in zip(found, expected[1], strict=True):
            naive.assert_close(back(part), one, TOLERANCE, floor=FLOOR)
    adapted = adapt(module, rule, moved(theta), moved(xi), there, **INNER)
    torch.testing.assert_close(adapted.losses.cpu(), losses, rtol=1e-4, atol=1e-5)


def test_a_meta_gradient_does_not_wait_for_the_gpu():
    module, rule, theta, xi, episodes = problem("cnn", RULES["kfc unit norm"])
    module, theta, xi, there = module.cuda(), moved(theta), moved(xi), episodes.to("cuda")
    meta_gradient(module, rule, theta, xi, there, first_order=False, **INNER)
    loop = InnerLoop(2, 0.1, first_order=False)
    torch.cuda.set_sync_debug_mode("error")
    try:
        replica_meta_gradient(module, rule, one_replica(theta), one_replica(xi), there, loop)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_an_iteration_does_not_wait_for_the_gpu():
    """Nor do those after it, until the losses are looked at."""
    config = TrainConfig(
        dataset="glyphs", ways=5, shots=1, model="cnn", depth=2, filters=8, method="maml", steps=2, adapt_lr=0.1,
        first_order=False, meta_optimizer="adam", meta_lr=0.001, iterations=20, tasks_per_iteration=4, eval_tasks=50,
    )  # fmt: skip
    source = make_tasks("glyphs", ways=5, shots=1, seed=0, device="cuda")
    group = Group([config], [source], None, torch.device("cuda"))
    batches = [source.sample("train", 4, iteration) for iteration in range(5)]
    group.step(batches[0])
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches[1:]:
            group.step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    group.look()
    assert group.loss.isfinite().all()


@pytest.mark.parametrize("options", [{}, {"compile": True}, {"tasks_per_chunk": "auto"}], ids=str)
def test_training_on_the_gpu_is_training_on_the_cpu(options: dict, tmp_path, monkeypatch):
    monkeypatch.setenv("ADAPTLENS_CACHE", str(tmp_path))
    config = TrainConfig(
        dataset="glyphs", ways=5, shots=1, model="lr", method="kfc", rule_depth=2, steps=2, adapt_lr=0.01,
        first_order=False, meta_optimizer="adam", meta_lr=0.001, iterations=20, tasks_per_iteration=4, eval_tasks=50,
    )  # fmt: skip
    cpu, gpu = (
        meta_train(config, results=None, device=device, progress=False, **(options if device == "cuda" else {}))
        for device in ("cpu", "cuda")
    )
    last = [run.curve.query("split == 'test'")["loss"].iloc[-1] for run in (cpu, gpu)]
    assert last[1] == pytest.approx(last[0], rel=1e-2)


def test_evaluation_on_the_gpu():
    module, rule, theta, xi, episodes = problem("cnn", RULES["sgd"])
    expected = evaluate(module, rule, theta, xi, episodes, **INNER)
    found = evaluate(module.cuda(), rule, moved(theta), moved(xi), episodes.to("cuda"), **INNER)
    assert (found["loss"] - expected["loss"]).abs().max() < 1e-3


@pytest.mark.filterwarnings("ignore:Recurrent cannot be mapped", "ignore:There is a performance drop")
@pytest.mark.parametrize("network", [nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)), Recurrent()])
def test_a_network_and_tasks_from_outside_are_trained_on_the_gpu(network: nn.Module, tiny_config, tmp_path):
    config = tiny_config(
        dataset="own:tasks", model="own:net", method="maml", points=None, iterations=2, tasks_per_iteration=2,
        eval_tasks=2,
    )  # fmt: skip
    pools = {"train": episodes(4, dtype=torch.float32), "test": episodes(4, seed=1, dtype=torch.float32)}
    runs = [
        meta_train(config, model=network, tasks=pools, results=tmp_path / device, progress=False, device=device)
        for device in ("cpu", "cuda")
    ]
    torch.testing.assert_close(back(runs[1].theta), runs[0].theta, rtol=1e-3, atol=1e-4)
    source = TensorTasks(pools, device="cuda")
    again = meta_train(config, model=network, tasks=source, results=None, progress=False, device="cuda")
    torch.testing.assert_close(again.theta, runs[1].theta, rtol=1e-3, atol=1e-4)
