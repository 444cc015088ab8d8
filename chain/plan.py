"""From what is wanted to what is to be done: groups of runs to train, tables to measure, figures to draw.

What is there already is judged by what the files say, and by whether a record is newer than its runs.
"""

import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from analysis.errors import StudyError, unknown_name
from analysis.files import read_json
from analysis.registry import STUDIES, is_of_the_data, table_of
from analysis.store import read_provenance, table_path
from chain.digests import digest_of
from chain.lists import FIGURES, TABLES, Needs
from chain.settings import Settings
from core.config import TrainConfig
from core.experiments import EXPERIMENTS, experiment
from core.runs import is_whole

# Seed of the test tasks, which pairs the runs.
TASK_SEED = 0


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        settings: what was asked for.
        groups: configurations that are trained in one job, by the group's name.
        tables: the run that each table is made of, by (study, table).
        figures: the tables behind each figure, as (study, table).
        reductions: a sentence for each way in which this is shorter than the paper's.
    """

    settings: Settings
    groups: Mapping[str, tuple[TrainConfig, ...]]
    tables: Mapping[tuple[str, str], TrainConfig]
    figures: Mapping[str, tuple[tuple[str, str], ...]]
    reductions: tuple[str, ...]

    @cached_property
    def results(self) -> Path:
        """The folder of results."""
        return Path(self.settings.results)

    def group(self, name: str) -> tuple[TrainConfig, ...]:
        """The configurations of a group.

        Raises:
            StudyError: for an unknown name.
        """
        if name not in self.groups:
            raise unknown_name("group of runs", name, self.groups)
        return self.groups[name]

    def told(self, group: str) -> str:
        """What training a group is, for people: its runs, their lengths, models and methods.

        Raises:
            StudyError: for an unknown group.
        """
        configs = self.group(group)
        lengths = sorted({config.iterations for config in configs})
        names = dict.fromkeys(f"{c.model}{c.depth or ''} {c.method}" for c in configs)
        return (
            f"train {group}: {len(configs)} run{'s' if len(configs) > 1 else ''} "
            f"of {' or '.join(f'{length:,}' for length in lengths)} iterations ({', '.join(names)})"
        )

    def source(self, study: str, table: str) -> TrainConfig:
        """The run that a table is made of.

        Raises:
            StudyError: for a table that is none of the plan's.
        """
        if (study, table) not in self.tables:
            raise unknown_name(f"table of {study}", table, [id for of_study, id in self.tables if of_study == study])
        return self.tables[study, table]

    def group_of(self, study: str, table: str) -> str:
        """The group that trains the run of a table.

        Raises:
            StudyError: as `source`.
        """
        return self._group_of_run[self.source(study, table).id]

    @cached_property
    def _group_of_run(self) -> dict[str, str]:
        return {config.id: name for name, configs in self.groups.items() for config in configs}

    def record(self, group: str) -> Path:
        """Where it is written down that a group was trained: the digest of each of its runs, and of its run.json."""
        return self.results / "chain" / "trained" / f"{group}.json"

    def path(self, study: str, table: str) -> Path:
        """Where a table lies."""
        return table_path(self.results, study, table)

    def is_trained(self, group: str) -> bool:
        """Whether the runs of a group are finished and whole, and those that the record tells of.

        The record may tell of more: of seeds, or of runs of other figures, that are not asked for now.
        """
        record, ids = self.record(group), [config.id for config in self.group(group)]
        folders = [self.results / "runs" / id for id in ids]
        if not set(ids) <= digests_of_runs(record).keys() or not all(map(is_whole, folders)):
            return False
        # A run that was trained again since, or another in its place, may have another digest. Records of earlier
        # versions say nothing of files: there the times alone tell.
        told = digests_of_runs(record, "files")
        now = {id: digest_of(folder / "run.json") for id, folder in zip(ids, folders, strict=True)}
        if told and {id: told.get(id) for id in ids} != now:
            return False
        return max((folder / "run.json").stat().st_mtime for folder in folders) <= record.stat().st_mtime

    def is_measured(self, study: str, table: str) -> bool:
        """Whether a table is there and readable, of the run as it is now, with the test tasks that are asked for."""
        config = self.source(study, table)
        try:
            provenance = read_provenance(self.path(study, table))
        except StudyError:
            return False
        if provenance["study"] != study:
            return False
        found = provenance["settings"]
        if not is_of_the_data(study, self.path(study, table), _trained_on(self.results / "runs" / config.id)):
            return False
        expected: dict[str, Any] = {}
        if STUDIES[study].meets_tasks:
            expected |= {"num_tasks": self.settings.all_num_tasks, "seed": TASK_SEED}
        if "run_digest" in found:
            expected["run_digest"] = digests_of_runs(self.record(self.group_of(study, table))).get(config.id)
        return all(found.get(key) == value for key, value in expected.items())


def _trained_on(folder: Path) -> str | None:
    """The fingerprint of the data that a run was trained on, None where it does not say."""
    try:
        found = read_json(folder / "run.json")
    except StudyError:
        return None
    return found.get("dataset_fingerprint") if isinstance(found, dict) else None


def digests_of_runs(record: Path, of: str = "runs") -> dict[str, str]:
    """The digest of each run of a trained group, or of its file run.json ("files"), by id; none without a record."""
    try:
        found = read_json(record)
    except StudyError:
        return {}
    runs = found.get(of) if isinstance(found, dict) else None
    return runs if isinstance(runs, dict) and all(isinstance(digest, str) for digest in runs.values()) else {}


def group_name(config: TrainConfig, *, together: bool) -> str:
    """The name of the group that a run is trained in: its id without the seed, or what its tasks are."""
    if not together:
        first = replace(config, seed=0)
        return f"{config.dataset}-{config.model}-{config.method}-{first.id.rpartition('-')[2]}"
    tasks = json.dumps([config.task_options(), config.tasks_per_iteration], sort_keys=True)
    return f"{config.dataset}-together-{hashlib.blake2b(tasks.encode(), digest_size=5).hexdigest()}"


def make_plan(settings: Settings) -> Plan:
    """What the settings ask for.

    Raises:
        StudyError: if nothing is left to do on the data sets named.
        UserError: for lengths that the experiments do not have.
    """
    wanted: dict[str, Needs] = {
        name: needs
        for name, needs in {**FIGURES, **TABLES}.items()
        if settings.figures is None or name in settings.figures
    }
    runs: dict[str, list[TrainConfig]] = {}
    groups: dict[str, dict[str, TrainConfig]] = {}
    tables: dict[tuple[str, str], TrainConfig] = {}
    figures: dict[str, tuple[tuple[str, str], ...]] = {}
    reductions: dict[str, None] = {}
    done: set[str] = set()
    for name, needs in wanted.items():
        behind: dict[tuple[str, str], None] = {}
        for of_paper in needs.experiments_on(settings.all_datasets):
            if of_paper not in runs:
                accepted = inspect.signature(EXPERIMENTS[of_paper]).parameters
                lengths = {key: value for key, value in settings.lengths.items() if key in accepted}
                runs[of_paper], sentences = experiment(of_paper, settings.preset, **lengths)
                reductions |= dict.fromkeys(sentences)
            for config in [config for config in runs[of_paper] if needs.of(config)]:
                for study in needs.studies:
                    if STUDIES[study].suits(config) and STUDIES[study].drawn(config):
                        table = study, table_of(study, config, seed=TASK_SEED)
                        tables.setdefault(table, config)
                        behind[table] = None
                        # All seeds of a configuration, whichever of them a table is made of.
                        groups.setdefault(group_name(config, together=settings.together), {})[config.id] = config
        if behind:
            done.add(name)
            if name in FIGURES:
                figures[name] = tuple(behind)
    asked = [name for name in settings.figures or () if name not in done]
    if asked and done:
        raise StudyError(f"no experiment of {' or '.join(asked)} is on {', '.join(settings.all_datasets)}")
    if not tables:
        raise StudyError(f"nothing to do: no figure named has an experiment on {', '.join(settings.all_datasets)}")
    if settings.all_num_tasks < 600:
        reductions[f"{settings.all_num_tasks} test tasks in place of 600 (Figure 2: of 100)"] = None
    return Plan(
        settings, {name: tuple(group.values()) for name, group in groups.items()}, tables, figures, tuple(reductions)
    )
