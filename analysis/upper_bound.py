"""What a model reaches on a task that it is trained on alone, from scratch: the upper bound of the paper's Table 2."""

from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from analysis.errors import StudyError, unknown_name
from analysis.tasks import check_num_tasks
from core import Episodes, Run, make_model
from core.config import is_own
from core.evaluation import default_chunk, diverged_rows
from core.forward import batched_forward
from core.losses import task_accuracies, task_losses
from core.outer_optimizer import OuterOptimizer
from core.progress import progress_bar
from core.seeds import derive_seed
from core.task_parameter import TaskParameter
from core.tasks.base import TaskShape, concatenate
from core.tasks.images import ImageTasks

LR = 0.03  # of Adam; of 0.003, 0.01 and 0.03 it came to the stopping rule in the fewest steps
LOSS = 0.01  # nats: what it learns from is learned by heart
MAX_STEPS = 500

LearnsFrom = Literal["class", "support"]


def upper_bound(
    run: Run,
    *,
    num_tasks: int = 100,
    seed: int = 0,
    learns_from: LearnsFrom = "class",
    lr: float = LR,
    loss: float = LOSS,
    max_steps: int = MAX_STEPS,
    progress: bool = False,
) -> pd.DataFrame:
    """Train the architecture of `run` on each test task alone, and measure it on the query set.

    Nothing that the run has learned is used: each task starts from random weights of its own. Training (Adam, all
    examples in every step) stops for a task at the first step whose loss is at most `loss`, or after `max_steps`;
    `converged` says which. Tasks are trained many at once, on the task axis.

    The paper says that the model is trained on each task to convergence, but not on which examples. The few of the
    support set cannot be meant: trained on them from scratch, the network does worse than MAML, and 58 % on
    mini-ImageNet from one image a class are out of reach. So by default it learns from every image of the task's
    classes that is not in the query set.

    Args:
        run: a saved run, for its model and its tasks.
        num_tasks: test tasks.
        seed: seed of the test tasks and of the initial weights.
        learns_from: "class", all images of the task's classes but its query set, or "support", its support set.
        lr: learning rate of Adam.
        loss: training loss, in nats, at which a task is learned.
        max_steps: steps after which training stops in any case.
        progress: whether to show a progress bar.

    Returns:
        The table `upper_bound` of `analysis.schemas.SCHEMAS`, one row a task.

    Raises:
        StudyError: for a module of the user's own, fewer than one step, more test tasks than there are, an unknown
            `learns_from`, or one of "class" where the tasks are not made of classes of images.
        UserError: for a data set whose files are not found.
    """
    if max_steps < 1:
        raise StudyError(f"max_steps must be at least 1, got {max_steps}")
    if learns_from not in get_args(LearnsFrom):
        raise unknown_name("learns_from", learns_from, get_args(LearnsFrom))
    config = run.config
    if is_own(config.model):
        raise StudyError(f"upper_bound trains new networks, and does not know how to make {config.model!r}")
    source = run.tasks(seed=seed)
    check_num_tasks(source, num_tasks)
    if learns_from == "support":
        draw = source.draw
    elif isinstance(source, ImageTasks):
        draw = source.draw_whole
    else:
        raise StudyError(f"{config.dataset} has no further examples of a task; use learns_from='support'")
    shape = TaskShape(source.example_shape, source.num_outputs)
    size = default_chunk(run.model, draw("test", 1, 0))
    parts: list[pd.DataFrame] = []
    training_shots: int | None = None
    with progress_bar(total=num_tasks, unit="task", shown=progress, leave=False) as bar:
        for first in range(0, num_tasks, size):
            # Drawn one by one, as for the other studies, so that tasks are paired.
            part = concatenate([draw("test", 1, task) for task in range(first, min(first + size, num_tasks))])
            if source.ways:  # else there are no classes that it is of
                training_shots = part.support_x.shape[1] // source.ways
            models = [
                make_model(
                    config.model, shape, seed=derive_seed(seed, "upper bound", first + i), **config.model_options()
                ).to(part.support_x.device)
                for i in range(part.num_tasks)
            ]
            theta = {name: torch.stack(list(tensors)).detach() for name, tensors in _by_name(models).items()}
            found = _train(run, theta, part, lr, loss, max_steps)
            parts.append(found.assign(task=range(first, first + part.num_tasks)))
            bar.update(part.num_tasks)
    table = pd.concat(parts, ignore_index=True).assign(
        dataset=config.dataset,
        model=config.model,
        layers=pd.array([config.num_layers] * num_tasks, dtype="Int64"),
        norm_mode=config.norm_mode or "",
        ways=pd.array([config.ways] * num_tasks, dtype="Int64"),
        shots=pd.array([config.shots] * num_tasks, dtype="Int64"),
        training_shots=pd.array([training_shots] * num_tasks, dtype="Int64"),
        task_seed=seed,
    )
    lost = diverged_rows(table, source.kind) | diverged_rows(table.assign(loss=table["training_loss"]), source.kind)
    table["status"] = np.where(lost, "diverged", "ok")
    table.loc[lost, ["training_loss", "loss", "accuracy"]] = np.nan
    return table


def _by_name(models: list[torch.nn.Module]) -> dict[str, tuple[Tensor, ...]]:
    named = [dict(model.named_parameters()) for model in models]
    return {name: tuple(parameters[name] for parameters in named) for name in named[0]}


def _train(
    run: Run, theta: dict[str, Tensor], episodes: Episodes, lr: float, loss: float, max_steps: int
) -> pd.DataFrame:
    """Training loss, query loss and accuracy of each task where it stopped, and after how many steps."""
    theta = {name: tensor.requires_grad_() for name, tensor in theta.items()}
    optimizer = OuterOptimizer("adam", lr)
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
        # Zero for what nothing hangs on: the biases that batch normalisation takes out.
        grads = torch.autograd.grad(losses.sum(), list(theta.values()), materialize_grads=True)
        optimizer.step(theta, dict(zip(theta, grads, strict=True)))
    numbers = found.double().numpy()
    return pd.DataFrame(
        {
            "training_loss": numbers[:, 0],
            "loss": numbers[:, 1],
            "accuracy": numbers[:, 2],
            "training_steps": steps.numpy(),
            "converged": converged.numpy(),
        }
    )


def _forward(run: Run, theta: dict[str, Tensor], x: Tensor) -> Tensor:
    # Of tasks that share nothing: what is shared has a gradient that is collected, and autograd's is not all of it.
    parameters = {name: TaskParameter.of_tasks(tensor) for name, tensor in theta.items()}
    return batched_forward(run.model, parameters, x, tuple(theta))
