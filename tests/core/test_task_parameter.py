"""The thin form of a task's parameter is the dense one."""

import pytest
import torch

from core import task_parameter
from core.task_parameter import Gradient, Side, TaskParameter, collecting

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


def adapted_parameter(rows: int) -> TaskParameter:
    """A parameter after one step on so many rows: in thin form for one, dense for many."""
    torch.manual_seed(0)
    parameter = TaskParameter(torch.randn(REPLICAS, P, Q, dtype=torch.float64, requires_grad=True), TASKS)
    out = parameter.right(torch.randn(REPLICAS * TASKS, rows, P, dtype=torch.float64))
    record = parameter.take_record()
    parameter.adapt(record, torch.autograd.grad(out.pow(3).sum(), record.watched()), 0.1, constant=True)
    return parameter


@pytest.mark.parametrize("rows", [1, 20], ids=["thin", "dense"])
def test_an_unmultiplied_product_is_the_product(rows: int):
    parameter = adapted_parameter(rows)
    p = torch.randn(REPLICAS * TASKS, 3, P, dtype=torch.float64)
    before = parameter.materialise()
    product = parameter.later(p)
    cotangent = torch.randn(REPLICAS * TASKS, 3, Q, dtype=torch.float64)
    product.adapt(cotangent, 0.1, constant=True)
    torch.testing.assert_close(parameter.materialise(), before - 0.1 * p.mT @ cotangent)
    # The product is that with the matrix as it was.
    torch.testing.assert_close(product.dense(), p @ before)
    torch.testing.assert_close(product.pull_back(Gradient(cotangent)), cotangent @ before.mT)
    c, x = torch.randn(6, 2, 3, dtype=torch.float64), torch.randn(6, 2, Q, dtype=torch.float64)
    torch.testing.assert_close(product.pull_back(Gradient(c.mT @ x, (c, x))), c.mT @ x @ before.mT)
    torch.testing.assert_close(product.right_t(x), x @ (p @ before).mT)


@pytest.mark.parametrize("examples", [2, 20], ids=["few examples", "more examples than rows"])
def test_subtracted_products_are_subtracted(examples: int):
    torch.manual_seed(0)
    weight = TaskParameter(torch.randn(REPLICAS, 3, Q, dtype=torch.float64, requires_grad=True), TASKS)
    expected = weight.materialise()
    matrix = adapted_parameter(1)
    for _ in range(2):
        product = matrix.later(torch.randn(REPLICAS * TASKS, 3, P, dtype=torch.float64))
        weight.subtract(product, 0.5, constant=False)
        expected = expected - 0.5 * product.dense()
    torch.testing.assert_close(weight.materialise(), expected)
    x = torch.randn(REPLICAS * TASKS, examples, Q, dtype=torch.float64)
    torch.testing.assert_close(weight.right_t(x), x @ expected.mT)
    z = torch.randn(REPLICAS * TASKS, 1, 3, dtype=torch.float64)
    torch.testing.assert_close(weight.right(z), z @ expected)
    assert weight.common() is None
    # A dense update, a thin one and a reading end what was put off; nothing is subtracted twice.
    y, step = torch.randn(6, 1, 3, dtype=torch.float64), torch.randn(6, 3, Q, dtype=torch.float64)
    weight.add([(y, x[:, :1])])
    weight.subtract(step, 0.5, constant=False)
    torch.testing.assert_close(weight.materialise(), expected - y.mT @ x[:, :1] - 0.5 * step)


def test_the_data_s_product_is_made_once_a_matrix_and_mode(monkeypatch):
    made = []
    apply = task_parameter._SharedProduct.apply
    monkeypatch.setattr(task_parameter._SharedProduct, "apply", lambda *args: made.append(1) or apply(*args))
    parameter = TaskParameter(torch.randn(1, P, Q, requires_grad=True), TASKS)
    x, same_numbers_elsewhere = (torch.ones(TASKS, 2, Q) for _ in range(2))
    for data in (x, x.flatten(2), x.view(TASKS, 2, Q)):
        parameter.later(torch.ones(TASKS, 1, P)).right_t(data)
    assert len(made) == 1
    parameter.product(same_numbers_elsewhere, Side.RIGHT_T, keep=True)
    assert len(made) == 2
    with torch.no_grad():
        assert not parameter.product(x, Side.RIGHT_T, keep=True).requires_grad
    assert parameter.product(x, Side.RIGHT_T, keep=True).requires_grad
    assert len(made) == 3
    parameter.product(x.detach().requires_grad_(), Side.RIGHT_T, keep=True)  # no data: it belongs to another graph
    parameter.right_t(x)
    assert len(made) == 5
    square = TaskParameter(torch.randn(1, Q, Q), TASKS)
    for side, expected in ((Side.RIGHT, x @ square.shared), (Side.RIGHT_T, x @ square.shared.mT)):
        torch.testing.assert_close(square.product(x, side, keep=True), expected)


@pytest.mark.parametrize("side", [Side.RIGHT, Side.RIGHT_T])
def test_data_s_product_with_each_change_is_made_once(monkeypatch, side: Side):
    """By whom ever it is asked for: the parameter, and what it was earlier."""
    torch.manual_seed(0)
    made = []
    less_product = task_parameter._less_product
    monkeypatch.setattr(task_parameter, "_less_product", lambda *args: made.append(1) or less_product(*args))
    parameter = TaskParameter(torch.randn(REPLICAS, P, P, dtype=torch.float64), TASKS)
    x = torch.randn(REPLICAS * TASKS, 2, P, dtype=torch.float64)
    dense, earlier = [parameter.materialise()], [parameter.later(x[:, :1]).matrix]
    for _ in range(3):
        y, z = torch.randn(2, REPLICAS * TASKS, 1, P, dtype=torch.float64)
        parameter.add([(y, z)])
        dense.append(dense[-1] - y.mT @ z)
        earlier.append(parameter.later(x[:, :1]).matrix)
    for when in (3, 1, 0, 2):
        found = earlier[when].product(x, side, keep=True)
        torch.testing.assert_close(found, x @ (dense[when].mT if side is Side.RIGHT_T else dense[when]))
    assert len(made) == 3


def test_mapped_it_is_the_same_of_other_tensors():
    """Thin, whole, and with products that are to be subtracted; who shared a tensor still does."""
    torch.manual_seed(0)
    n = REPLICAS * TASKS

    def changed(parameter: TaskParameter, rank: int) -> TaskParameter:
        parameter.add([(normals(n, rank, P), normals(n, rank, Q))])
        return parameter

    def normals(*shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=torch.float64)

    factor = TaskParameter(normals(REPLICAS, P, Q), TASKS)
    weight = TaskParameter(normals(REPLICAS, 2, Q), TASKS)
    for _ in range(2):
        weight.subtract(factor.later(normals(n, 2, P)), 0.5, constant=True)
        changed(factor, 1)
    whole = changed(TaskParameter(normals(REPLICAS, P, Q), TASKS), 20)
    family: dict = {}
    found = [parameter.mapped(lambda tensor: 2 * tensor, family) for parameter in (factor, weight, whole)]
    for parameter in (factor, weight, whole):
        same = parameter.mapped(torch.clone, {})
        torch.testing.assert_close(same.materialise(), parameter.materialise())
    torch.testing.assert_close(found[2].materialise(), 2 * whole.materialise())
    factor_of_both = [product.matrix for product in found[1]._later]
    assert [len(matrix._thin) for matrix in factor_of_both] == [0, 1]
    assert all(matrix.shared is found[0].shared for matrix in factor_of_both)
    assert all(matrix.collected is found[0].collected for matrix in factor_of_both)
    assert found[0].collected is not factor.collected
    assert len({id(parameter._record) for parameter in (factor, found[0], *factor_of_both)}) == 4
    y, z = factor._thin[0]
    found[0].add([(y, z)])
    assert (len(found[0]._thin), len(factor._thin)) == (3, 2)


@pytest.mark.parametrize(
    ("rows", "is_data", "has_factors"), [(3, True, True), (4, True, False), (3, False, False)], ids=str
)
def test_a_gradient_has_factors_where_they_are_few_and_data(rows: int, is_data: bool, has_factors: bool):
    torch.manual_seed(0)
    weight = TaskParameter(torch.randn(1, 3, Q, dtype=torch.float64, requires_grad=True), TASKS)
    x = torch.randn(TASKS, rows, Q, dtype=torch.float64, requires_grad=not is_data)
    out = weight.right_t(x)
    record = weight.take_record()
    (c,) = torch.autograd.grad(out.pow(3).sum(), record.watched())
    gradient = weight.gradient_of(record, [c], constant=True)
    torch.testing.assert_close(gradient.dense, c.mT @ x.detach())
    assert (gradient.factors is not None) == has_factors
    torch.testing.assert_close(
        weight.gradient_of(task_parameter.Record(), [], constant=True).dense.abs().max().item(), 0.0
    )


def test_no_record_is_kept_of_what_does_not_adapt():
    """It would hold the graph of every step."""
    parameter = TaskParameter(torch.randn(1, 3, 4), 2)
    for adapts in (True, False):
        parameter.adapts = adapts
        parameter.right_t(torch.randn(2, 5, 4))
        assert len(parameter.take_record().applications) == adapts


@pytest.mark.parametrize("by", ["adapt", "gradient_of"])
def test_a_tensor_used_as_what_all_have_and_read_in_one_step_gets_all_gradients(by):
    torch.manual_seed(0)
    shared = torch.randn(1, 3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, TASKS, 3, dtype=torch.float64)

    def after_a_step():
        parameter = TaskParameter(shared, TASKS)
        total = (parameter.value().pow(3) * x[0]).sum()
        for data in x:
            product = data * parameter.undivided()
            parameter.record(product, lambda gradient, data=data: gradient * data)
            total = total + product.pow(3).sum()
        record = parameter.take_record()
        gradients = torch.autograd.grad(total, record.watched(), create_graph=True)
        if by == "adapt":
            parameter.adapt(record, gradients, 0.1, constant=False)
        else:
            parameter.subtract(parameter.gradient_of(record, gradients, constant=False).dense, 0.1, constant=False)
        assert parameter.undivided() is None
        return parameter.materialise()

    def plainly():
        each = shared.expand(TASKS, -1) + 0
        total = (each.pow(3) * x[0]).sum() + sum((data * each).pow(3).sum() for data in x)
        (gradient,) = torch.autograd.grad(total, each, create_graph=True)
        return each - 0.1 * gradient

    for found, expected in zip(
        (after_a_step(), torch.autograd.grad(after_a_step().sin().sum(), shared)[0]),
        (plainly(), torch.autograd.grad(plainly().sin().sum(), shared)[0]),
        strict=True,
    ):
        torch.testing.assert_close(found, expected)


def test_a_use_of_what_does_not_adapt_is_not_recorded():
    parameter = TaskParameter(torch.ones(1, 3), 2)
    for adapts in (True, False):
        parameter.adapts = adapts
        parameter.record(torch.ones(2, 3), lambda gradient: gradient)
        assert len(parameter.take_record().watched()) == adapts
