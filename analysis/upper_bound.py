"""What a model reaches on a task that it is trained on alone, from scratch: the upper bound of the paper's Table 2."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from analysis.errors import StudyError
from analysis.tasks import draw_test_tasks
from core import Episodes, Run, make_model
from core.adaptation import batched_forward
from core.evaluation import default_chunk
from core.losses import task_accuracies, task_losses
from core.seeds import derive_seed
from core.task_parameter import TaskParameter
from core.tasks.base import TaskShape

LR = 0.003  # of Adam
LOSS = 0.01  # nats: the support set is learned by heart
MAX_STEPS = 500


def upper_bound(
    run: Run, *, num_tasks: int = 100, seed: int = 0, lr: float = LR, loss: float = LOSS, max_steps: int = MAX_STEPS
) -> pd.DataFrame:
    """Train the architecture of `run` on the support set of each test task alone, and measure it on the query set.

    Nothing that the run has learned is used: each task starts from random weights of its own. Training (Adam, the whole
    support set in every step) stops for a task at the first step whose support loss is at most `loss`, or after
    `max_steps`; `converged` says which. All tasks are trained at once, on the task axis.

    Args:
        run: a saved run, for its model and its tasks.
        num_tasks: test tasks.
        seed: seed of the test tasks and of the initial weights.
        lr: learning rate of Adam.
        loss: support loss, in nats, at which a task is learned.
        max_steps: steps after which training stops in any case.

    Returns:
        The table `upper_bound` of `analysis.store.SCHEMAS`, one row a task.

    Raises:
        StudyError: for fewer than one step, or more test tasks than there are.
        UserError: for a data set whose files are not found.
    """
    if max_steps < 1:
        raise StudyError(f"max_steps must be at least 1, got {max_steps}")
    config = run.config
    episodes = draw_test_tasks(run.tasks(seed=seed), num_tasks)
    size = default_chunk(run.model, episodes)
    shape = TaskShape(tuple(run.info["example_shape"]), run.info["num_outputs"])
    parts = []
    for first in range(0, num_tasks, size):
        part = episodes[first : first + size]
        models = [
            make_model(
                config.model, shape, seed=derive_seed(seed, "upper bound", first + i), **config.model_options()
            ).to(part.support_x.device)
            for i in range(part.num_tasks)
        ]
        theta = {name: torch.stack(list(tensors)).detach() for name, tensors in _by_name(models).items()}
        parts.append(_train(run, theta, part, lr, loss, max_steps).assign(task=range(first, first + part.num_tasks)))
    table = pd.concat(parts, ignore_index=True).assign(
        dataset=config.dataset,
        model=config.model,
        layers=pd.array([config.num_layers] * num_tasks, dtype="Int64"),
        norm_mode=config.norm_mode or "",
        ways=pd.array([config.ways] * num_tasks, dtype="Int64"),
        shots=pd.array([config.shots] * num_tasks, dtype="Int64"),
        task_seed=seed,
    )
    lost = ~np.isfinite(table["support_loss"]) | ~np.isfinite(table["loss"])
    table["status"] = np.where(lost, "diverged", "ok")
    table.loc[lost, ["support_loss", "loss", "accuracy"]] = np.nan
    return table


def _by_name(models: list[torch.nn.Module]) -> dict[str, tuple[Tensor, ...]]:
    named = [dict(model.named_parameters()) for model in models]
    return {name: tuple(parameters[name] for parameters in named) for name in named[0]}


def _train(
    run: Run, theta: dict[str, Tensor], episodes: Episodes, lr: float, loss: float, max_steps: int
) -> pd.DataFrame:
    """Support loss, query loss and accuracy of each task where it stopped, and after how many steps."""
    theta = {name: tensor.requires_grad_() for name, tensor in theta.items()}
    # Adam works element by element, so that one optimizer of stacked tensors trains every task on its own.
    optimizer = torch.optim.Adam(theta.values(), lr=lr)
    num_tasks = episodes.num_tasks
    found = torch.full((num_tasks, 3), torch.nan)
    steps = torch.zeros(num_tasks, dtype=torch.int64)
    converged = torch.zeros(num_tasks, dtype=torch.bool)
    running = torch.ones(num_tasks, dtype=torch.bool)
    for step in range(max_steps + 1):
        losses = task_losses(_forward(run, theta, episodes.support_x), episodes.support_y, episodes.kind)
        values = losses.detach().cpu()
        reached = values <= loss
        # A loss that is not finite stays so: the task has diverged, and stops.
        stopping = running & (reached | ~torch.isfinite(values) | (step == max_steps))
        if stopping.any():
            with torch.no_grad():
                outputs = _forward(run, theta, episodes.query_x)
                query = task_losses(outputs, episodes.query_y, episodes.kind)
                accuracy = task_accuracies(outputs, episodes.query_y, episodes.kind)
            found[stopping] = torch.stack([values, query.cpu(), accuracy.cpu()], dim=1)[stopping]
            steps[stopping], converged[stopping] = step, reached[stopping]
            running &= ~stopping
        if not running.any():
            break
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
    numbers = found.double().numpy()
    return pd.DataFrame(
        {
            "support_loss": numbers[:, 0],
            "loss": numbers[:, 1],
            "accuracy": numbers[:, 2],
            "training_steps": steps.numpy(),
            "converged": converged.numpy(),
        }
    )


def _forward(run: Run, theta: dict[str, Tensor], x: Tensor) -> Tensor:
    parameters = {name: TaskParameter(tensor, 1) for name, tensor in theta.items()}
    return batched_forward(run.model, parameters, x, tuple(theta))
