"""Adaptation step by step: how each layer's weights and outputs move, by every probe of `analysis.probes`."""

from collections.abc import Mapping

import pandas as pd

from analysis.engine import intervene
from analysis.errors import StudyError
from analysis.probes import PROBES
from analysis.snapshots import Probe
from analysis.tasks import setting_columns
from core import Run


def adaptation_path(
    run: Run,
    *,
    num_tasks: int = 100,
    seed: int = 0,
    probes: Mapping[str, Probe] = PROBES,
    progress: bool = False,
) -> pd.DataFrame:
    """Adapt `run` as it was trained to, and probe it before adaptation and after each step.

    Args:
        run: the run.
        num_tasks: test tasks.
        seed: seed of the test tasks.
        probes: by name, each giving numbers by layer.
        progress: whether to show a progress bar.

    Returns:
        The table `adaptation_path` of `analysis.schemas.SCHEMAS`: one row a task, step, probe and layer. A probe that
        has nothing to say at a step, or of a layer, has no row there; a task that diverged has NaN.

    Raises:
        StudyError: for more test tasks than there are, or a probe that does not tell layers apart.
        UserError: for a data set whose files are not found.
    """
    table = intervene(run, {"none": None}, probes=probes, num_tasks=num_tasks, seed=seed, progress=progress)
    wide = table[table["split"] == "query"]
    parts = []
    for probe in probes:
        if probe in wide:
            raise StudyError(f"probe {probe!r} gives one number, not one of each layer; `intervene` takes such")
        for layer in run.layers:
            if (column := f"{probe} {layer}") in wide:
                part = wide[["task", "step", "status", column]].rename(columns={column: "value"})
                parts.append(part.assign(probe=probe, layer=layer))
    if not parts:
        raise StudyError(f"no number of any layer of {', '.join(run.layers)} is given by {', '.join(probes)}")
    long = pd.concat(parts, ignore_index=True)
    long = long[long["value"].notna() | (long["status"] != "ok")]
    common = {name: wide[name].iloc[0] for name in ("run", "dataset", "model", "method", "seed", "task_seed")}
    return long.assign(**common, **setting_columns(run, len(long))).reset_index(drop=True)
