"""The thin form of a task's parameter is the dense one."""

import pytest
import torch

from core.task_parameter import TaskParameter, collecting

REPLICAS, TASKS = 2, 3
P, Q = 9, 8


def dense_step(matrix, x, c, lr, transposed):
    """One gradient step of sum(c * (x M)) or sum(c * (x M^T)) for each task, in plain autograd."""
    matrix = matrix.detach().requires_grad_()
    out = x @ (matrix.mT if transposed else matrix)
    (grad,) = torch.autograd.grad((out * c).sum(), matrix)
    return (matrix - lr * grad).detach()


@pytest.mark.parametrize("rows", [1, 20], ids=["thin", "dense"])
@pytest.mark.parametrize("transposed", [False, True])
def test_steps_are_those_of_autograd(rows, transposed):
    torch.manual_seed(0)
    shared = torch.randn(REPLICAS, P, Q, dtype=torch.float64, requires_grad=True)
    parameter = TaskParameter(shared, TASKS)
    dense = shared.detach().repeat_interleave(TASKS, 0)
    inner, outer = (Q, P) if transposed else (P, Q)
    for _ in range(3):
        x = torch.randn(REPLICAS * TASKS, rows, inner, dtype=torch.float64)
        c = torch.randn(REPLICAS * TASKS, rows, outer, dtype=torch.float64)
        apply = parameter.right_t if transposed else parameter.right
        out = apply(x)
        torch.testing.assert_close(out, x @ (dense.mT if transposed else dense))
        record = parameter.take_record()
        grads = torch.autograd.grad((out * c).sum(), record.watched(), retain_graph=True)
        parameter.adapt(record, grads, 0.1, constant=True)
        dense = dense_step(dense, x, c, 0.1, transposed)
        torch.testing.assert_close(parameter.materialise(), dense)
    assert (parameter._own is None) == (rows == 1), "few rows must stay thin, many must not"


def test_a_left_product_takes_the_step_of_autograd():
    torch.manual_seed(0)
    shared = torch.randn(REPLICAS, P, Q, dtype=torch.float64, requires_grad=True)
    parameter = TaskParameter(shared, TASKS)
    dense = shared.detach().repeat_interleave(TASKS, 0)
    for columns in (2, 1):
        x = torch.randn(REPLICAS * TASKS, Q, columns, dtype=torch.float64)
        c = torch.randn(REPLICAS * TASKS, P, columns, dtype=torch.float64)
        out = parameter.left(x)
        torch.testing.assert_close(out, dense @ x)
        record = parameter.take_record()
        grads = torch.autograd.grad((out * c).sum(), record.watched(), retain_graph=True)
        parameter.adapt(record, grads, 0.1, constant=True)
        dense = dense - 0.1 * c @ x.mT
        torch.testing.assert_close(parameter.materialise(), dense)


def test_one_matrix_used_twice_gets_both_gradients():
    torch.manual_seed(0)
    shared = torch.randn(1, 6, 2, dtype=torch.float64, requires_grad=True)
    parameter = TaskParameter(shared, TASKS)
    x = torch.randn(TASKS, 1, 6, dtype=torch.float64)
    out = parameter.right_t(parameter.right(x))  # x M M^T
    record = parameter.take_record()
    parameter.adapt(record, torch.autograd.grad(out.square().sum(), record.watched()), 0.1, constant=True)
    leaf = shared.detach().repeat_interleave(TASKS, 0).requires_grad_()
    (grad,) = torch.autograd.grad((x @ leaf @ leaf.mT).square().sum(), leaf)
    torch.testing.assert_close(parameter.materialise(), leaf - 0.1 * grad)


def test_a_value_read_twice_gets_both_gradients():
    parameter = TaskParameter(torch.tensor([[2.0]], requires_grad=True), 2)
    out = 3.0 * parameter.value() + parameter.value().square()
    record = parameter.take_record()
    parameter.adapt(record, torch.autograd.grad(out.sum(), record.watched()), 0.1, constant=True)
    # By hand: 2 - 0.1 * (3 + 2 * 2).
    torch.testing.assert_close(parameter.materialise(), torch.full((2, 1), 1.3))


def test_a_record_is_taken_once():
    parameter = TaskParameter(torch.eye(3).unsqueeze(0), 1)
    parameter.right(torch.ones(1, 2, 3))
    assert len(parameter.take_record().watched()) == 1
    assert parameter.take_record().watched() == []


@pytest.mark.parametrize("replicas", [1, 2])
def test_collected_and_read_gradients_together_are_the_whole(replicas):
    """Products both ways, one behind an inner gradient, and an element-wise use: against plain autograd."""
    torch.manual_seed(0)
    tasks = 2
    shared = torch.randn(replicas, P, Q, dtype=torch.float64, requires_grad=True)
    x = torch.randn(replicas * tasks, 3, P, dtype=torch.float64, requires_grad=True)

    def loss_of(right, right_t, value):
        hidden = right(x)
        (inner,) = torch.autograd.grad(hidden.pow(3).sum(), x, create_graph=True)
        return (right(inner).square().sum() + right_t(hidden).pow(3).sum() + value.pow(3).sum()) / 100

    parameter = TaskParameter(shared, tasks)
    loss = loss_of(parameter.right, parameter.right_t, parameter.value())
    with collecting([parameter]):
        (reads,) = torch.autograd.grad(loss, shared)
    own = shared.repeat_interleave(tasks, 0)
    (expected,) = torch.autograd.grad(loss_of(lambda r: r @ own, lambda r: r @ own.mT, own), shared)
    torch.testing.assert_close(parameter.gradient(reads), expected)
    assert not torch.allclose(reads, expected), "the products must have been collected"


def test_a_tensor_that_nothing_used_has_no_gradient():
    parameter = TaskParameter(torch.eye(3).unsqueeze(0), 1)
    with collecting([parameter]):
        pass
    assert parameter.gradient(None) is None
