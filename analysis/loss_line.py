"""Loss along the line from where adaptation starts to where it ends, and beyond (as in Goodfellow et al., 2015)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from analysis.errors import StudyError
from analysis.tasks import draw_test_tasks, mark_diverged, run_columns, setting_columns
from core import Run, adapt
from core.crew import shared_out
from core.evaluation import default_chunk, diverged_rows
from core.forward import batched_forward
from core.losses import task_accuracies, task_losses
from core.task_parameter import TaskParameter

POSITIONS = tuple(np.linspace(-0.5, 2.0, 26).round(6).tolist())


def loss_line(run: Run, *, num_tasks: int = 100, seed: int = 0, positions: Sequence[float] = POSITIONS) -> pd.DataFrame:
    """Measure each task's loss at theta_0 + p (theta_T - theta_0), theta_T being where its adaptation ends.

    A loss that falls to p = 1 and rises beyond says that adaptation ends in a valley; one that falls on says that it
    stops short of it. The support loss need not be lowest at 1, nor the query loss where the support loss is.

    Args:
        run: the run.
        num_tasks: test tasks.
        seed: seed of the test tasks.
        positions: the numbers p; 0 is before and 1 after adaptation.

    Returns:
        The table `loss_line` of `analysis.schemas.SCHEMAS`: one row a task, position and split. A task of which a loss
        from 0 to 1 is no measurement is "diverged" everywhere, and beyond that each position by itself.

    Raises:
        StudyError: for no position, or more test tasks than there are.
        UserError: for a data set whose files are not found.
    """
    if not positions:
        raise StudyError("name at least one position on the line")
    config = run.config
    episodes = draw_test_tasks(run.tasks(seed=seed), num_tasks)
    crew, size = shared_out(run.model, run.rule, episodes, each=default_chunk(run.model, episodes))

    def of_part(first: int) -> list[pd.DataFrame]:
        part, rows = episodes[first : first + size], []
        end = adapt(
            run.model, run.rule, run.theta, run.xi, part, steps=config.steps, lr=config.adapt_lr,
            lr_scope=config.lr_scope, adapted=run.adapted,
        ).params  # fmt: skip
        for position in positions:
            theta = {
                name: TaskParameter.of_tasks(torch.lerp(run.theta[name].expand_as(tensor), tensor, position))
                for name, tensor in end.items()
            }
            for split, x, y in (("support", part.support_x, part.support_y), ("query", part.query_x, part.query_y)):
                with torch.no_grad():
                    outputs = batched_forward(run.model, theta, x, ())
                    measured = task_losses(outputs, y, part.kind), task_accuracies(outputs, y, part.kind)
                loss, accuracy = (values.double().cpu().numpy() for values in measured)
                rows.append(
                    pd.DataFrame(
                        {
                            "task": range(first, first + part.num_tasks),
                            "position": position,
                            "split": split,
                            "loss": loss,
                            "accuracy": accuracy,
                        }
                    )
                )
        return rows

    parts = crew.each(of_part, range(0, num_tasks, size))
    # In an order that is the same in whatever parts.
    table = pd.concat([rows for alike in zip(*parts, strict=True) for rows in alike], ignore_index=True)
    table = table.assign(**run_columns(run), task_seed=seed, **setting_columns(run, len(table)))
    # A task diverged if adaptation did, which its line says from 0 to 1. What lies beyond says nothing of that.
    lost = diverged_rows(table, episodes.kind) & table["position"].between(0, 1)
    table.loc[lost.groupby(table["task"]).transform("any"), "loss"] = np.nan
    return mark_diverged(table, run, ["task", "position"], episodes.kind)
