"""What is left to do of a plan, in words, with an estimate of what the training will take on this machine."""

from dataclasses import dataclass
from pathlib import Path

from chain.drawing import is_drawn
from chain.plan import Plan
from core.costs import Cost, duration, estimate
from core.errors import UserError


@dataclass(frozen=True)
class Left:
    """What is left to do: one sentence for training on each data set, one for measuring, one for drawing.

    Attributes:
        sentences: these.
        missing: why there is no estimate for a data set, such as that it is not at hand.
    """

    sentences: tuple[str, ...]
    missing: tuple[str, ...] = ()


def left_to_do(plan: Plan) -> Left:
    """What is left, as the chain would do it.

    The hours are estimated from a few iterations of each kind of run, which takes seconds; where the data are not at
    hand the sentence says so in place of hours.
    """
    late = [name for name in plan.groups if not plan.is_trained(name)]
    groups: dict[str, list[str]] = {}
    for name in late:
        groups.setdefault(plan.groups[name][0].dataset, []).append(name)
    # A table of runs that are looked at is looked at, too, whether or not it turns out to be up to date.
    tables = [table for table in plan.tables if plan.group_of(*table) in late or not plan.is_measured(*table)]
    figures = [
        name
        for name, behind in plan.figures.items()
        if not is_drawn(plan.results, name, behind) or not set(tables).isdisjoint(behind)
    ]
    missing: list[str] = []
    training = [_training(plan, dataset, names, missing) for dataset, names in groups.items()]
    measuring = "to measure or find up to date" if late else "to measure"
    sentences = (
        *(training or ["to train: nothing"]),
        f"{measuring}: {len(tables)} of {len(plan.tables)} tables, on {plan.settings.all_num_tasks} test tasks each",
        f"to draw: {', '.join(figures) or 'nothing'}",
    )
    return Left(sentences, tuple(missing))


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


def _training(plan: Plan, dataset: str, groups: list[str], missing: list[str]) -> str:
    jobs = f"to train on {dataset}: {len(groups)} job{'s' if len(groups) > 1 else ''}"
    try:
        cost = training_cost(plan, groups)
    except UserError as error:
        missing.append(str(error))
        return f"{jobs}; no estimate: {error}"
    if not cost.runs:
        return f"{jobs}, whose runs are finished, and are looked at"
    runs = f"{cost.runs} run{'s' if cost.runs > 1 else ''}"
    return f"{jobs}, {cost.iterations:,} iterations in {runs}: {duration(cost.hours)} here, one after the other"
