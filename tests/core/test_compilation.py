"""The compiled meta-gradient is the plain one."""

import pytest
import torch

from core import make_model, make_optimizer, make_tasks
from core.adaptation import replica_meta_gradient
from core.compilation import compile_meta_gradient
from core.errors import UserError
from core.inner_loop import InnerLoop


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
