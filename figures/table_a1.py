"""Table A1: accuracy against depth under MAML and with KFC, the numbers of Figure 3, with what each network costs."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from figures import captions, comparison, data, fig3, style
from figures.comparison import Number
from figures.data import Where
from figures.fig3 import MODELS, Gap, Point
from figures.paper import CNN_PARAMETERS
from figures.tabular import ABSENT, Cell, Column, Trace, describe_cells, estimate_cell, published_cell

# Shared heading, heading and width of each column; the first two get the data set's name and the paper's.
_HEADS = (
    ("accuracy (%)", "", 1.45),
    ("accuracy (%)", "", 1.35),
    ("parameters", "model", 1.2),
    ("parameters", "meta-optimizer", 1.2),
    ("measured", "seeds", 0.6),
    ("measured", "test tasks", 0.65),
    ("trained", "iterations × tasks", 1.15),
)


def traces(results: str | Path, where: Sequence[Where] = ()) -> dict[str, Trace]:
    """A table for each data set on which networks of some depth were measured, by file name; errors as in `fig3`."""
    return {f"table_a1_{dataset}": table(found) for dataset, found in fig3.measured(results, where).items()}


def table(trace: fig3.Trace) -> Trace:
    """The table of what Figure 3 draws of one data set."""
    points = {(p.layers, p.method): p for p in trace.points}
    rows = {style.name_of("cnn", method, layers): _row(trace, (layers, method), points) for layers, method in MODELS}
    for gap in trace.gaps:
        rows[_gap_name(gap)] = _gap_row(trace, gap)
    heads = (style.dataset_name(trace.dataset), captions.paper_label([trace.dataset]))
    columns = [
        Column(group, head or heads[j], tuple(row[j] for row in rows.values()), width)
        for j, (group, head, width) in enumerate(_HEADS)
    ]
    notes = [describe_cells([p.estimate for p in trace.points])]
    if trace.gaps:
        paired = fig3.describe_paired(trace.gaps)
        notes.append(
            "Last rows: KFC less MAML with one layer more, in points; at zero KFC is worth that layer, above it more. "
            f"{paired}".strip()
        )
        notes += [f"{_gap_name(gap)}: {gap.common.strip('()')}." for gap in trace.gaps if gap.common]
    notes.append("Paper: its Table A1, and the parameters that its A.1.2 states.")
    return Trace(
        rows=tuple(rows),
        ruled=(*range(2, len(MODELS), 2), *([len(MODELS)] if trace.gaps else [])),
        columns=tuple(columns),
        notes=(*notes, *trace.about),
        label=f"tab:depth-{trace.dataset}",
        first=0.25,
        numbers=tuple(_numbers(trace)),
    )


def _numbers(trace: fig3.Trace) -> Iterator[Number]:
    points = {(p.layers, p.method): p for p in trace.points}
    for p in trace.points:
        yield comparison.of_estimate("table_a1", trace.dataset, p.estimate, differs=_other_sizes(trace, p))
    for gap in trace.gaps:
        ours, deeper = points[gap.layers, "kfc"].estimate, points[gap.layers + 1, "maml"].estimate
        stated, value = trace.published.get((gap.layers, "kfc")), trace.published_gap(gap.layers)
        paper = None
        if stated is not None and value is not None:
            paper = replace(stated, source="Table A1, two of its numbers", accuracy=round(value, 2), std=None)
        seen = [f"{e.name}: {e.lost_text}, and not averaged in" for e in (ours, deeper) if e.lost]
        seen += [f"{e.name}: {sentence}" for e in (ours, deeper) for sentence in comparison.apart(e)]
        told = comparison.setting_differences(trace.dataset, ours) if paper is not None else (comparison.SILENT,)
        yield Number(
            "table_a1",
            trace.dataset,
            "cnn",
            "kfc",
            gap.layers,
            paper,
            (*told, *seen) or (comparison.SAME,),
            condition=f"less {deeper.name}",
            unit="points",
            mean=gap.mean,
            low=gap.low,
            high=gap.high,
            interval=gap.interval,
            num_runs=len(gap.seeds),
            num_tasks=gap.num_tasks,
            tables=(*ours.tables, *deeper.tables),
        )


def _stated(trace: fig3.Trace, p: Point) -> tuple[int | None, int | None]:
    """Parameters of a network and of its meta-optimizer, as the paper states them."""
    model, rule = CNN_PARAMETERS.get((data.paper_dataset(trace.dataset), p.layers), (None, None))
    return model, rule if p.method == "kfc" else None


def _other_sizes(trace: fig3.Trace, p: Point) -> list[str]:
    """Where a network or its meta-optimizer has not as many parameters as the paper states."""
    ours = {"of the network": p.model_parameters, "of the meta-optimizer": p.rule_parameters}
    return [
        f"{count:,} parameters {what} in place of {paper:,}"
        for (what, count), paper in zip(ours.items(), _stated(trace, p), strict=True)
        if paper not in (None, count)
    ]


def _row(trace: fig3.Trace, pair: tuple[int, str], points: dict[tuple[int, str], Point]) -> tuple[Cell, ...]:
    published = published_cell(trace.published.get(pair))
    if pair not in points:
        return (Cell(ABSENT), published, *[Cell("")] * 5)
    found = points[pair]
    stated = _stated(trace, found)
    config = found.estimate.configs[0]
    return (
        estimate_cell(found.estimate),
        published,
        _count(found.model_parameters, stated[0]),
        _count(found.rule_parameters, stated[1]),
        Cell(str(len(found.estimate.seeds))),
        Cell(f"{found.estimate.num_tasks:,}"),
        Cell(f"{config['iterations']:,} × {config['tasks_per_iteration']}"),
    )


def _gap_name(gap: Gap) -> str:
    return " − ".join((style.name_of("cnn", "kfc", gap.layers), style.name_of("cnn", "maml", gap.layers + 1)))


def _gap_row(trace: fig3.Trace, gap: Gap) -> tuple[Cell, ...]:
    published = trace.published_gap(gap.layers)
    cells = (
        Cell(captions.signed(gap.mean), gap.ends),
        Cell("" if published is None else captions.signed(published, 2)),
    )
    seeds = Cell(str(len(gap.seeds)) if gap.seeds else "")
    return (*cells, Cell(""), Cell(""), seeds, Cell(f"{gap.num_tasks:,}"), Cell(""))


def _count(ours: int, paper: int | None) -> Cell:
    return Cell(f"{ours:,}", "" if paper is None else f"paper: {paper:,}")
