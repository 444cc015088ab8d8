"""The studies by name, and how one is carried out for one run: measured, and stored with its provenance.

To add a study: a module with a function from a run to a table, the table's columns in `analysis.schemas.SCHEMAS`, and a
line in `STUDIES`; one that trains runs of its own has its line in `STANDALONE`.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from analysis.adaptation_path import adaptation_path
from analysis.ceilings import ceilings
from analysis.comparison import comparison
from analysis.errors import StudyError, unknown_name
from analysis.fc_noise import fc_noise
from analysis.inside_optimizer import inside_optimizer
from analysis.inside_optimizer import suits as has_inside
from analysis.label_permutation import label_permutation
from analysis.layer_roles import layer_roles
from analysis.linear_collapse import linear_collapse
from analysis.linear_collapse import suits as collapses
from analysis.loss_line import loss_line
from analysis.post_adaptation import post_adaptation
from analysis.similarity import similarity
from analysis.store import is_done, provenance, read_provenance, table_path, write_table
from analysis.training_curves import training_curves
from analysis.upper_bound import upper_bound
from analysis.when_shallow_fails import DEFAULT, Size, when_shallow_fails
from core import Run, TrainConfig, make_tasks
from core.config import is_own
from core.models.conv import MAX_DEPTH
from core.tasks.base import TaskSource, bytes_of
from core.version import code_version


@dataclass(frozen=True)
class Study:
    """How a study goes from a run to a table.

    Attributes:
        about: one line for `--help`.
        measure: from a run, a number of test tasks, their seed and whether to show progress to a table.
        suits: whether a run of a configuration can be studied.
        drawn: whether `all` measures it, too: no figure of the paper draws the others.
        meets_tasks: whether the table depends on the test tasks, or on the run alone.
        of_tasks: for a table that depends on no run's weights, its name from a run and the tasks' seed; runs with one
            name share the table.
    """

    about: str
    measure: Callable[[Run, int, int, bool], pd.DataFrame]
    suits: Callable[[TrainConfig], bool] = lambda config: True
    drawn: Callable[[TrainConfig], bool] = lambda config: True
    meets_tasks: bool = True
    of_tasks: Callable[[Run, int], str] | None = None


@dataclass(frozen=True)
class Standalone:
    """A study that needs no saved run, as it trains its own, on the CPU and in memory.

    Attributes:
        about: one line for `--help`.
        measure: from a number of test tasks, their seed and whether to show progress to a table.
        settings: what else, together with the code, decides the numbers.
        of_tasks: its table's name from the tasks' seed.
        fingerprint: of the tasks in its central setting, from their seed.
    """

    about: str
    measure: Callable[[int, int, bool], pd.DataFrame]
    settings: dict[str, Any]
    of_tasks: Callable[[int], str]
    fingerprint: Callable[[int], str]


def _is_cnn(config: TrainConfig) -> bool:
    return config.model == "cnn"


def _has_layers(config: TrainConfig) -> bool:
    return config.model != "lr"  # a network of the user's own may turn out to have but one, and is then refused


def _is_deepest_maml(config: TrainConfig) -> bool:
    return config.method == "maml" and config.num_layers == MAX_DEPTH


def _is_scnn(config: TrainConfig) -> bool:
    return config.num_layers == 2  # what the paper calls SCNN


STUDIES: dict[str, Study] = {
    "post_adaptation": Study(
        "loss and accuracy of linear models on test tasks before and after adaptation (Fig. 1, Table 1)",
        lambda run, num_tasks, seed, progress: post_adaptation(run, num_tasks=num_tasks, seed=seed),
        suits=lambda config: not _is_cnn(config),  # which depth_sweep measures
    ),
    "training_curves": Study(
        "loss and accuracy along meta-training (Fig. A.1, A.2, A.3)",
        lambda run, num_tasks, seed, progress: training_curves(run),
        suits=lambda config: config.iterations > 0 or not is_own(config.model),  # else there is no curve
        meets_tasks=False,
    ),
    "layer_roles": Study(
        "each layer frozen alone, and adapting alone (Fig. 2)",
        lambda run, num_tasks, seed, progress: layer_roles(run, num_tasks=num_tasks, seed=seed, progress=progress),
        suits=_has_layers,
        drawn=_is_deepest_maml,
    ),
    "fc_noise": Study(
        "noise on the last layer before adaptation, the early layers held fixed (Fig. 2)",
        lambda run, num_tasks, seed, progress: fc_noise(run, num_tasks=num_tasks, seed=seed, progress=progress),
        suits=_has_layers,
        drawn=_is_deepest_maml,
    ),
    "depth_sweep": Study(
        "accuracy against the number of convolutional layers (Fig. 3, Table A1)",
        lambda run, num_tasks, seed, progress: comparison(run, num_tasks=num_tasks, seed=seed),
        suits=_is_cnn,
        drawn=lambda config: config.method in ("maml", "kfc"),
    ),
    "optimizer_comparison": Study(
        "accuracy of the methods on one model (Table 2)",
        lambda run, num_tasks, seed, progress: comparison(run, num_tasks=num_tasks, seed=seed),
        suits=lambda config: _is_cnn(config) or is_own(config.model),
        drawn=_is_scnn,
    ),
    "upper_bound": Study(
        "the model trained on all images of each test task alone (Table 2); one table for each model and kind of task",
        lambda run, num_tasks, seed, progress: upper_bound(run, num_tasks=num_tasks, seed=seed, progress=progress),
        suits=_is_cnn,
        drawn=_is_scnn,
        of_tasks=lambda run, seed: f"{run.config.dataset}-cnn-{run.config.num_layers}-{_setting_digest(run)}-s{seed}",
    ),
    "similarity": Study(
        "what each layer represents after adaptation, and untrained, against before (CKA, SVCCA, PWCCA)",
        lambda run, num_tasks, seed, progress: similarity(run, num_tasks=num_tasks, seed=seed, progress=progress),
        drawn=lambda config: False,
    ),
    "adaptation_path": Study(
        "how each layer's weights and outputs move, step by step: distances, cosines, CKA, prototypes",
        lambda run, num_tasks, seed, progress: adaptation_path(run, num_tasks=num_tasks, seed=seed, progress=progress),
        drawn=lambda config: False,
    ),
    "loss_line": Study(
        "loss along the line from where adaptation starts to where it ends, and beyond",
        lambda run, num_tasks, seed, progress: loss_line(run, num_tasks=num_tasks, seed=seed),
        drawn=lambda config: False,
    ),
    "label_permutation": Study(
        "accuracy with each task's classes in random orders: what hangs on the number of a class",
        lambda run, num_tasks, seed, progress: label_permutation(
            run, num_tasks=num_tasks, seed=seed, progress=progress
        ),
        suits=lambda config: config.dataset not in ("synthetic", "sinusoid"),
        drawn=lambda config: False,
    ),
    "inside_optimizer": Study(
        "spectra of a learned meta-optimizer, its updates against gradients, and what it and the model each adapt",
        lambda run, num_tasks, seed, progress: inside_optimizer(run, num_tasks=num_tasks, seed=seed, progress=progress),
        suits=has_inside,
        drawn=lambda config: False,
    ),
    "ceilings": Study(
        "the mean and the Bayes classifier on synthetic tasks; one table for each number of points, not for each run",
        lambda run, num_tasks, seed, progress: ceilings(_fresh(run, seed), num_tasks=num_tasks),
        suits=lambda config: config.dataset == "synthetic",
        of_tasks=lambda run, seed: f"synthetic-{_fresh(run, seed).points}-points-s{seed}",
    ),
    "linear_collapse": Study(
        "LinNet as one matrix, and the update map that its depth amounts to, beside KLin's",
        lambda run, num_tasks, seed, progress: linear_collapse(run, num_tasks=num_tasks, seed=seed),
        suits=collapses,
    ),
}


def shallow(size: Size) -> Standalone:
    """The study `when_shallow_fails` of that size."""
    return Standalone(
        "where LR cannot be meta-learned and LinNet can: trains its own runs (some 18 minutes), and not part of all",
        lambda num_tasks, seed, progress: when_shallow_fails(
            size=size, num_tasks=num_tasks, seed=seed, progress=progress
        ),
        settings=asdict(size),
        of_tasks=lambda seed: f"synthetic-{size.iterations}-iterations-s{seed}",
        fingerprint=lambda seed: make_tasks("synthetic", same_points=False, seed=seed).fingerprint(),
    )


STANDALONE: dict[str, Standalone] = {"when_shallow_fails": shallow(DEFAULT)}


def study_named(name: str) -> Study:
    """The study of runs called `name`.

    Raises:
        StudyError: for an unknown name, listing the known ones, or one of a study that needs no run.
    """
    if name in STANDALONE:
        raise StudyError(f"study {name!r} trains its own runs: leave the run out")
    if name not in STUDIES:
        raise unknown_name("study", name, [*STUDIES, *STANDALONE])
    return STUDIES[name]


def table_id(study: str, run: Run | None, *, seed: int = 0) -> str:
    """The name of a run's table: the run's id, but where the table depends on the tasks alone.

    Raises:
        StudyError: for an unknown study, or a run where none is needed or none where one is.
    """
    if run is None:
        return _standalone(study).of_tasks(seed)
    of_tasks = study_named(study).of_tasks
    return run.id if of_tasks is None else of_tasks(run, seed)


def _standalone(study: str) -> Standalone:
    """The study called `study`, which needs no run.

    Raises:
        StudyError: for an unknown study, or one of runs.
    """
    if study not in STANDALONE:
        study_named(study)
        raise StudyError(f"study {study!r} needs a run")
    return STANDALONE[study]


def table_of(study: str, config: TrainConfig, *, seed: int = 0) -> str:
    """The name of the table of a run that need not be trained yet.

    Raises:
        StudyError: for an unknown study.
    """
    return table_id(study, Run(config, {}, {}, pd.DataFrame(), "not trained", {}), seed=seed)


def settings_of(study: str, run: Run | None, *, num_tasks: int, seed: int) -> dict[str, Any]:
    """What, together with the code, decides the numbers of a table.

    Raises:
        StudyError: as `table_id`.
    """
    if run is None:
        return {"num_tasks": num_tasks, "seed": seed, **_standalone(study).settings}
    settings: dict[str, Any] = {}
    if study_named(study).meets_tasks:
        settings |= {"num_tasks": num_tasks, "seed": seed}
    if study == "ceilings":
        settings["points"] = _fresh(run, seed).points
    elif study == "upper_bound":
        settings["setting"] = _setting_digest(run)
    else:
        settings["run_digest"] = run_digest(run)
    return settings


def is_made(results: str | Path, study: str, run: Run | None, *, num_tasks: int, seed: int) -> bool:
    """Whether the table is there, made of this very run (None: the study needs none), with these settings, on its data.

    Raises:
        StudyError: as `table_id`.
    """
    id, settings = table_id(study, run, seed=seed), settings_of(study, run, num_tasks=num_tasks, seed=seed)
    if not is_done(results, study, id, settings):
        return False
    return run is None or is_of_the_data(study, table_path(results, study, id), run.info.get("dataset_fingerprint"))


def up_to_date(
    results: str | Path, study: str, run: Run | None, *, num_tasks: int, seed: int, force: bool = False
) -> bool:
    """Whether the table is there already, made of this very run (None: the study needs none) with these settings.

    A table of the same run trained again is stale, and may be replaced.

    Raises:
        StudyError: unless `force`, if there is a table that was made with other settings, or cannot be read: it is
            somebody's, and is not replaced by the way.
    """
    path = table_path(results, study, table_id(study, run, seed=seed))
    if force or not path.exists():
        return False
    if is_made(results, study, run, num_tasks=num_tasks, seed=seed):
        return True
    settings = settings_of(study, run, num_tasks=num_tasks, seed=seed)
    try:
        provenance = read_provenance(path)
    except StudyError as error:
        raise StudyError(f"{error}; --force replaces it") from None
    if provenance["study"] != study:
        raise StudyError(f"{path} is a table of study {provenance['study']!r}; --force replaces it")
    found = provenance["settings"]
    chosen = {k: v for k, v in json.loads(json.dumps(settings)).items() if k != "run_digest"}  # as JSON has them
    if differ := [
        f"{key} {found.get(key)!r}, not {value!r}" for key, value in chosen.items() if found.get(key) != value
    ]:
        raise StudyError(f"{path} was made with {', '.join(differ)}; --force replaces it")
    return False


def carry_out(
    results: str | Path,
    study: str,
    run: Run | None,
    *,
    num_tasks: int = 100,
    seed: int = 0,
    command: str | None = None,
    progress: bool = False,
) -> Path:
    """Measure, and write the table with its provenance; an older table is replaced (ask `up_to_date` before).

    Args:
        results: folder of results.
        study: name in `STUDIES`, or in `STANDALONE`.
        run: the run to study, None for a study in `STANDALONE`.
        num_tasks: test tasks.
        seed: seed of the test tasks.
        command: what was typed, for the provenance.
        progress: whether studies that take long show a progress bar.

    Returns:
        The table's path.

    Raises:
        StudyError: for a run that does not suit the study or was trained on other data, or what the study refuses.
        UserError: for a data set whose files are not found.
    """
    if run is None:
        return _carry_out_standalone(results, study, num_tasks, seed, command, progress)
    chosen = study_named(study)
    if not chosen.suits(run.config):
        raise StudyError(f"run {run.id} does not suit study {study!r}: {chosen.about}")
    code_version("core", "analysis")  # asked once a process: by the end of a long study another may be checked out
    fingerprint = _fingerprint(study, run, seed)
    _check_data(study, run, fingerprint)
    start = time.perf_counter()
    frame = chosen.measure(run, num_tasks, seed, progress)
    seconds = time.perf_counter() - start
    device = torch.device("cpu") if study == "ceilings" else next(iter(run.theta.values())).device
    origin = provenance(
        config=_configuration(study, run),
        settings=settings_of(study, run, num_tasks=num_tasks, seed=seed),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        dataset_fingerprint=fingerprint,
        wall_seconds=seconds,
        command=command,
    )
    if chosen.of_tasks is None:  # else the run is one of many that have such tasks
        origin["run_status"] = run.status
    return write_table(results, study, table_id(study, run, seed=seed), frame, origin)


def _carry_out_standalone(
    results: str | Path, study: str, num_tasks: int, seed: int, command: str | None, progress: bool
) -> Path:
    chosen = _standalone(study)
    code_version("core", "analysis")  # as in `carry_out`
    start = time.perf_counter()
    frame = chosen.measure(num_tasks, seed, progress)
    origin = provenance(
        settings=settings_of(study, None, num_tasks=num_tasks, seed=seed),
        device="cpu",
        dataset_fingerprint=chosen.fingerprint(seed),
        wall_seconds=time.perf_counter() - start,
        command=command,
    )
    return write_table(results, study, table_id(study, None, seed=seed), frame, origin)


def is_of_the_data(study: str, path: Path, fingerprint: str | None) -> bool:
    """Whether the table at `path` was measured on the data that a run with this fingerprint was trained on.

    Only a bound of networks trained on test tasks alone can be of others: no digest of a run is among its settings.

    Raises:
        StudyError: for a bound that cannot be read.
    """
    return study != "upper_bound" or fingerprint in (None, read_provenance(path)["dataset_fingerprint"])


def run_digest(run: Run) -> str:
    """Digest of what was trained, weights and curve, and of the names of its layers, where they were given.

    The id does not tell whether a run was trained again, or measured by other layers.
    """
    digest = hashlib.blake2b(digest_size=8)
    parts = [("", run.theta), ("xi.", run.xi), ("buffer.", run.buffers)]
    for name, tensor in sorted((f"{start}{name}", tensor) for start, part in parts for name, tensor in part.items()):
        digest.update(name.encode())
        digest.update(bytes_of(tensor))
    digest.update(run.curve.to_csv(index=False).encode())
    if run.groups is not None:
        digest.update(json.dumps(list(run.layers.items())).encode())
    return digest.hexdigest()


def _fingerprint(study: str, run: Run, seed: int) -> str:
    """Of the tasks that a study meets; where it meets none, of those that the run was trained on."""
    if study == "ceilings" or (study == "linear_collapse" and run.config.dataset == "synthetic"):
        return _fresh(run, seed).fingerprint()
    if not study_named(study).meets_tasks:
        return str(run.info.get("dataset_fingerprint", ""))  # runs of the first versions have none
    return run.tasks(seed=seed).fingerprint()


def _check_data(study: str, run: Run, fingerprint: str) -> None:
    """See that a study meets the data that the run was trained on: with other files, test classes may be known to it.

    Raises:
        StudyError: if it does not.
    """
    trained = run.info.get("dataset_fingerprint")
    has_other_tasks = study == "ceilings" or (study == "linear_collapse" and run.config.dataset == "synthetic")
    if trained is not None and fingerprint != trained and not has_other_tasks:
        raise StudyError(
            f"run {run.id} was trained on other data than are found here (fingerprint {trained}, not {fingerprint}): "
            "their test classes may be among those that it was trained on; name the folder of its data by --data-dir"
        )


def _configuration(study: str, run: Run) -> dict[str, Any]:
    """What a table says of its run: the configuration, or what its numbers hang on, where others have the same."""
    config = run.config
    if study == "upper_bound":
        options = {**config.model_options(), **config.task_options()}
        return {"dataset": config.dataset, "model": config.model, **options}
    return {} if study_named(study).of_tasks else asdict(config)


def _setting_digest(run: Run) -> str:
    """Digest of the model's options and the tasks', without seeds."""
    text = json.dumps([run.config.model_options(), run.config.task_options()], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()


def _fresh(run: Run, seed: int) -> Any:
    """The half-space tasks of a run with fresh query points. Neither their scale nor the run's seed matters here."""
    options = {} if run.config.points is None else {"points": run.config.points}
    source: TaskSource = make_tasks("synthetic", same_points=False, seed=seed, **options)
    return source
