"""The first two steps of the chain: train a group of runs, and measure one table."""

import os
from pathlib import Path

from analysis.registry import carry_out, is_made, run_digest
from chain.digests import digest_of
from chain.locks import locked
from chain.plan import TASK_SEED, Plan, digests_of_runs
from core.device import checked_device
from core.errors import UserError
from core.files import write_json
from core.runs import Run, is_finished, load_run
from core.training import meta_train_many


def train(plan: Plan, group: str, *, progress: bool = False) -> list[Run]:
    """Train the runs of a group, or go on with them; finished ones are loaded.

    A second process at the same group waits for the first, so that a job that outlived its scheduler is not repeated
    beside itself.

    Raises:
        StudyError: for an unknown group.
        UserError: for missing data or damaged files.
        Interrupted: after Ctrl-C or SIGTERM, with the state saved.
    """
    configs, record, settings = plan.group(group), plan.record(group), plan.settings
    with locked(record.with_suffix(".lock"), f"training {group}"):
        runs = meta_train_many(
            configs,
            results=plan.results,
            root=settings.data_dir,
            device=settings.device,
            tasks_per_chunk=settings.tasks_per_chunk,
            compile=settings.compile,
            progress=progress,
        )
        files = {run.id: digest_of(plan.results / "runs" / run.id / "run.json") for run in runs}
        digests = {run.id: run_digest(run) for run in runs}
        # What it told of other runs of the group, such as of more seeds, stays, where they are as they were.
        told = digests_of_runs(record)
        for id, digest in digests_of_runs(record, "files").items():
            if id not in files and id in told and digest == digest_of(plan.results / "runs" / id / "run.json"):
                files[id], digests[id] = digest, told[id]
        write_json(record, {"runs": digests, "files": files})
    return runs


def measure(plan: Plan, study: str, table: str, *, command: str | None = None, progress: bool = False) -> Path:
    """Make a table of the plan, or find that it is there: of the run as it is now, with the same test tasks.

    A table that was made otherwise is replaced. One that is up to date is only marked as looked at, by its time.

    Args:
        plan: what is to be done.
        study: name of the study.
        table: name of the table.
        command: what was typed, for the provenance.
        progress: whether studies that take long show a progress bar.

    Returns:
        The table's path.

    Raises:
        StudyError: for a table that is none of the plan's, or what the study refuses.
        UserError: if the run is not finished, or for missing data.
    """
    folder = plan.results / "runs" / plan.source(study, table).id
    device = checked_device(plan.settings.device)
    try:
        run = load_run(folder, device=device, root=plan.settings.data_dir)
    except UserError as error:
        if is_finished(folder):
            raise UserError(f"{error}; remove {folder} to train it again") from error
        raise
    num_tasks, path = plan.settings.all_num_tasks, plan.path(study, table)
    with locked(plan.results / "chain" / "measured" / f"{study}-{table}.lock", f"measuring {study}/{table}"):
        if is_made(plan.results, study, run, num_tasks=num_tasks, seed=TASK_SEED):
            os.utime(path)
            return path
        return carry_out(
            plan.results, study, run, num_tasks=num_tasks, seed=TASK_SEED, command=command, progress=progress
        )
