"""A CNN treats many tasks at once as it treats each of them alone."""

import pytest
import torch
from torch.func import functional_call

from core.models.conv import CNN
from core.task_parameter import TaskParameter

N, n = 3, 4
CASES = [(2, "batch", "stride"), (2, "instance", "stride"), (1, "none", "stride"), (4, "batch", "max_pool")]


def task_parameters(model, num_shared):
    """The first `num_shared` parameters are common to all tasks and frozen, each task has its own of the others."""
    parameters = {}
    for i, (name, p) in enumerate(model.named_parameters()):
        frozen = i < num_shared
        values = torch.randn(1 if frozen else N, *p.shape, dtype=torch.float64)
        parameters[name] = TaskParameter(values, N) if frozen else TaskParameter.of_tasks(values)
        parameters[name].adapts = not frozen
    return parameters


@pytest.mark.parametrize("num_shared", [0, 4, 1, None], ids=["own", "first block shared", "kernel shared", "shared"])
@pytest.mark.parametrize(("depth", "norm_mode", "downsample"), CASES)
def test_forward_of_many_tasks(depth, norm_mode, downsample, num_shared):
    torch.manual_seed(0)
    size = 84 if downsample == "max_pool" else 28
    model = CNN(2, 5, depth=depth, filters=3, norm_mode=norm_mode, downsample=downsample).double()
    num_parameters = len(list(model.parameters()))
    theta = task_parameters(model, num_parameters if num_shared is None else num_shared)
    x = torch.randn(N, n, 2, size, size, dtype=torch.float64)
    together = model.forward_tasks(theta, x)
    for i in range(N):
        own = {name: p.value()[i] for name, p in theta.items()}
        torch.testing.assert_close(together[i], functional_call(model, own, (x[i],)))
