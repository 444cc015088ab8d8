"""The compiled meta-gradient is the plain one."""

import pytest
import torch

from core import compilation, make_model, make_optimizer, make_tasks, products
from core.adaptation import replica_meta_gradient
from core.compilation import compile_meta_gradient
from core.errors import UserError
from core.inner_loop import InnerLoop
from core.products import has_onednn
from core.threads import threads


@pytest.fixture
def setting():
    tasks = make_tasks("synthetic", points=10)
    model = make_model("lr", tasks, seed=0)
    rule = make_optimizer("klin")
    theta = {name: p.detach().unsqueeze(0) for name, p in model.named_parameters()}
    xi = {name: tensor.unsqueeze(0) for name, tensor in rule.init({n: t[0] for n, t in theta.items()}).items()}
    return model, rule, theta, xi, tasks, InnerLoop(steps=2, lr=1.0, first_order=False)


def test_compiled_is_plain_on_other_numbers_than_it_was_made_with(setting):
    model, rule, theta, xi, tasks, loop = setting
    compiled = compile_meta_gradient(model, rule, theta, xi, tasks.sample("train", 3, 0), loop)
    other = {name: tensor + 0.1 for name, tensor in theta.items()}
    episodes = tasks.sample("train", 3, 1)
    loss, g_theta, g_xi = compiled(other, xi, episodes)
    expected_loss, expected_theta, expected_xi = replica_meta_gradient(model, rule, other, xi, episodes, loop)
    torch.testing.assert_close(loss, expected_loss)
    torch.testing.assert_close(g_theta, expected_theta)
    torch.testing.assert_close(g_xi, expected_xi)


@pytest.mark.skipif(not has_onednn(), reason="PyTorch was built without oneDNN")
@pytest.mark.parametrize("num_replicas", [1, 2])
@pytest.mark.parametrize(("model", "method", "steps"), [("lr", "kfc", 2), ("cnn", "sgd", 1)])
def test_what_is_recorded_is_plain_by_either_library(model, method, steps, num_replicas, monkeypatch):
    """Recorded and not compiled, which would take a minute. LR's products are so large that oneDNN makes them."""
    monkeypatch.setattr(torch, "compile", lambda recorded: recorded)
    tasks = make_tasks("glyphs", ways=5, shots=1, query_shots=1)
    networks = [make_model(model, tasks, seed=seed) for seed in range(num_replicas)]
    rule = make_optimizer(method, **({"depth": 2} if method == "kfc" else {}))
    theta = {name: torch.stack([dict(net.named_parameters())[name].detach() for net in networks])
             for name, _ in networks[0].named_parameters()}  # fmt: skip
    xi = {name: torch.stack([tensor + 0.01 * i for i in range(num_replicas)])
          for name, tensor in rule.init({n: t[0] for n, t in theta.items()}).items()}  # fmt: skip
    loop = InnerLoop(steps=steps, lr=0.01, first_order=False)
    first, other = (tasks.sample("train", 4 * num_replicas, i) for i in range(2))
    found, made = {}, []
    multiply = products.onednn_product
    monkeypatch.setattr(products, "onednn_product", lambda x, y: (made.append(1), multiply(x, y))[1])
    for by_onednn in (False, True):
        monkeypatch.setattr(products, "onednn_is_faster", lambda by_onednn=by_onednn: by_onednn)
        compiled = compile_meta_gradient(networks[0], rule, theta, xi, first, loop)
        plain = replica_meta_gradient(networks[0], rule, theta, xi, other, loop)
        torch.testing.assert_close(compiled(theta, xi, other), plain, rtol=1e-4, atol=1e-6)
        found[by_onednn] = plain
    for ours, theirs in zip(found[True][1:], found[False][1:], strict=True):
        for name, gradient in theirs.items():
            assert (ours[name] - gradient).norm() <= 1e-5 * gradient.norm(), name
    assert bool(made) is (model == "lr")


@pytest.mark.parametrize(("tasks_per_chunk", "num_replicas"), [(None, 1), (4, 1), (2, 2)])
def test_long_lists_are_replayed_and_not_compiled(tasks_per_chunk, num_replicas, monkeypatch):
    def fail(recorded):
        raise AssertionError("compiled")

    monkeypatch.setattr(torch, "compile", fail)
    monkeypatch.setattr(compilation, "MOST_FUSED", 100)
    tasks = make_tasks("glyphs", ways=3, shots=1, query_shots=1)
    networks = [make_model("cnn", tasks, seed=seed, depth=2, filters=4) for seed in range(num_replicas)]
    rule = make_optimizer("kfc", depth=2)
    theta = {name: torch.stack([dict(net.named_parameters())[name].detach() for net in networks]).double()
             for name, _ in networks[0].named_parameters()}  # fmt: skip
    xi = {name: torch.stack([tensor + 0.01 * i for i in range(num_replicas)])
          for name, tensor in rule.init({n: t[0] for n, t in theta.items()}).items()}  # fmt: skip
    loop = InnerLoop(steps=2, lr=0.01, first_order=False)
    first, other = (
        tasks.sample("train", 6 * num_replicas, i).map(lambda x: x.double() if x.is_floating_point() else x)
        for i in range(2)
    )
    with threads(1):
        compiled = compile_meta_gradient(networks[0], rule, theta, xi, first, loop, tasks_per_chunk=tasks_per_chunk)
        theta = {name: tensor * 1.1 for name, tensor in theta.items()}
        found = compiled(theta, xi, other)
    plain = replica_meta_gradient(networks[0], rule, theta, xi, other, loop)
    torch.testing.assert_close(found, plain, rtol=1e-9, atol=1e-12)


def test_without_a_compiler_the_error_says_what_to_do(setting, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("no C++ compiler was found\nand many lines more")

    monkeypatch.setattr(torch, "compile", fail)
    model, rule, theta, xi, tasks, loop = setting
    with pytest.raises(
        UserError, match="cannot be compiled here, train without compile: no C\\+\\+ compiler"
    ) as caught:
        compile_meta_gradient(model, rule, theta, xi, tasks.sample("train", 3, 0), loop)
    assert "\n" not in str(caught.value)
