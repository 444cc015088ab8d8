"""What is left to do of a plan, in words, with an estimate of what the training will take on this machine."""

from pathlib import Path

from chain.drawing import is_drawn
from chain.plan import Plan
from core.costs import Cost, duration, estimate
from core.errors import UserError


def left_to_do(plan: Plan) -> list[str]:
    """One sentence for training on each data set, one for measuring, one for drawing.

    The hours are estimated from a few iterations of each kind of run, which takes seconds; where the data are not at
    hand the sentence says so in place of hours.
    """
    groups: dict[str, list[str]] = {}
    for name, configs in plan.groups.items():
        if not plan.is_trained(name):
            groups.setdefault(configs[0].dataset, []).append(name)
    tables = [table for table in plan.tables if not plan.is_measured(*table)]
    figures = [
        name
        for name, behind in plan.figures.items()
        if not is_drawn(plan.results, name, behind) or not set(tables).isdisjoint(behind)
    ]
    return [
        *([_training(plan, dataset, names) for dataset, names in groups.items()] or ["to train: nothing"]),
        f"to measure: {len(tables)} of {len(plan.tables)} tables, on {plan.settings.all_num_tasks} test tasks each",
        f"to draw: {', '.join(figures) or 'nothing'}",
    ]


def training_cost(plan: Plan, groups: list[str]) -> Cost:
    """What training these groups will take, one after the other, finished runs left out.

    Raises:
        UserError: for missing data.
    """
    settings = plan.settings
    return estimate(
        [config for name in groups for config in plan.groups[name]],
        results=Path(settings.results),
        root=settings.data_dir,
        device=settings.device,
        tasks_per_chunk=settings.tasks_per_chunk,
    )


def _training(plan: Plan, dataset: str, groups: list[str]) -> str:
    jobs = f"to train on {dataset}: {len(groups)} job{'s' if len(groups) > 1 else ''}"
    try:
        cost = training_cost(plan, groups)
    except UserError as error:
        return f"{jobs}; no estimate: {error}"
    return (
        f"{jobs}, {cost.iterations:,} iterations in {cost.runs} runs: {duration(cost.hours)} here, one after the other"
    )
