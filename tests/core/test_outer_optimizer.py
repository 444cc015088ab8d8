"""The outer optimizers against PyTorch's classes."""

from functools import partial

import pytest
import torch

from core.outer_optimizer import OPTIMIZER_STATE, OuterOptimizer

CLASSES = {"sgd": torch.optim.SGD, "adam": partial(torch.optim.Adam, fused=True)}
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-14}  # relative, of another order of the same operations
SHAPES = {"a": (3, 4, 5), "b": (3, 2), "c": (3,)}


def gradients(steps):
    generator = torch.Generator().manual_seed(1)
    return [{name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()} for _ in range(steps)]


@pytest.mark.parametrize("kind", sorted(OPTIMIZER_STATE))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_pytorchs_class_bit_for_bit(kind, dtype):
    ours = {name: torch.ones(shape, dtype=dtype) for name, shape in SHAPES.items()}
    theirs = {name: tensor.clone() for name, tensor in ours.items()}
    optimizer, expected = OuterOptimizer(kind, 0.1), CLASSES[kind](theirs.values(), lr=0.1)
    for grads in gradients(4):
        grads = {name: grad.to(dtype) for name, grad in grads.items()}
        optimizer.step(ours, {name: grads[name] for name in reversed(grads)})  # by name, in any order
        for name, tensor in theirs.items():
            tensor.grad = grads[name]
        expected.step()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert optimizer.steps == 4
    moments, counts = OPTIMIZER_STATE[kind]
    for name, tensor in theirs.items():
        state = expected.state[tensor]
        assert {k for k, v in state.items() if v is not None} == {*moments, *counts}
        assert all(torch.equal(optimizer.moments[moment][name], state[moment]) for moment in moments)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_adam_is_the_plain_one_whatever_the_strides_of_a_gradient(dtype):
    ours, theirs = torch.ones(3, 4, 50, dtype=dtype), torch.ones(3, 4, 50, dtype=dtype)
    optimizer, expected = OuterOptimizer("adam", 0.1), torch.optim.Adam([theirs], lr=0.1, fused=False, foreach=False)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        grad = torch.randn(50, 4, 3, generator=generator, dtype=dtype).permute(2, 1, 0)
        assert not grad.is_contiguous()
        theirs.grad = grad.contiguous()
        optimizer.step({"w": ours}, {"w": grad})
        expected.step()
        torch.testing.assert_close(ours, theirs, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_replicas_that_are_left_out_change_nothing_for_the_others():
    kept = [0, 2]
    ours = {name: torch.ones(shape) for name, shape in SHAPES.items()}
    fewer = {name: tensor[kept].clone() for name, tensor in ours.items()}
    optimizer, alone = OuterOptimizer("adam", 0.1), OuterOptimizer("adam", 0.1)
    for i, grads in enumerate(gradients(4)):
        optimizer.step(ours, grads if i < 2 else {name: grad[kept] for name, grad in grads.items()})
        alone.step(fewer, {name: grad[kept] for name, grad in grads.items()})
        if i == 1:
            ours = {name: tensor[kept].clone() for name, tensor in ours.items()}
            optimizer.keep(kept)
    assert all(torch.equal(ours[name], fewer[name]) for name in ours)


@pytest.mark.parametrize("kind", sorted(OPTIMIZER_STATE))
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)], ids=["contiguous", "transposed"])
def test_a_step_may_be_left_out(kind, order):
    ours, expected = torch.ones(4, 4, 4), torch.ones(4, 4, 4)
    optimizer, plain = OuterOptimizer(kind, 0.1), OuterOptimizer(kind, 0.1)
    generator = torch.Generator().manual_seed(1)
    for left_out in (False, True, True, False):
        grad = torch.randn(4, 4, 4, generator=generator).permute(order)
        if not left_out:
            plain.step({"w": expected}, {"w": grad.contiguous()})
        given = grad * torch.nan if left_out else grad
        optimizer.step({"w": ours}, {"w": given}, unless=torch.tensor(float(left_out)))
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(optimizer.moments, plain.moments)
    assert (optimizer.steps, plain.steps) == (4, 2)
