"""What the chain is asked for: one frozen dataclass, the same from Snakemake's `--config` and on a command line."""

import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any

from analysis.errors import StudyError, unknown_name
from chain.lists import CHARACTER_DATASETS, CHARACTERS, FIGURES, PRESETS, TABLES

# How long the experiments are trained, where that differs from the preset's; as `core.experiments.experiment` takes it.
LENGTHS = ("iterations", "seeds", "tasks_per_iteration", "eval_tasks")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to make, and where.

    Attributes:
        results: folder of runs, tables and figures.
        preset: a name in `chain.lists.PRESETS`.
        images: the data set of characters.
        datasets: data sets in place of the preset's.
        figures: names in `chain.lists.FIGURES` (or of `TABLES`) that are wanted, default all of them.
        num_tasks: test tasks in place of the preset's.
        iterations, seeds, tasks_per_iteration, eval_tasks: lengths of training in place of the preset's, for those
            experiments that have them.
        data_dir: folder of the data sets' files, see `core.make_tasks`.
        device: such as cpu or cuda; default the GPU if there is one.
        tasks_per_chunk: tasks that go through at once in training, which bounds the memory.
        compile: whether training is compiled first.
        together: whether all runs that meet the same tasks train in one job, which draws the tasks once; by default a
            job is of one configuration and all its seeds. The runs are the same, bit for bit on the CPU.

    Raises:
        StudyError: for an unknown name, or a number below 1.
    """

    results: Path | str = "reproduced"
    preset: str = "quick"
    images: str = "glyphs"
    datasets: tuple[str, ...] | None = None
    figures: tuple[str, ...] | None = None
    num_tasks: int | None = None
    iterations: int | None = None
    seeds: int | None = None
    tasks_per_iteration: int | None = None
    eval_tasks: int | None = None
    data_dir: str | None = None
    device: str | None = None
    tasks_per_chunk: int | None = None
    compile: bool = False
    together: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "results", Path(self.results))
        if self.preset not in PRESETS:
            raise unknown_name("preset", self.preset, PRESETS)
        if self.images not in CHARACTER_DATASETS:
            raise unknown_name("data set of characters", self.images, CHARACTER_DATASETS)
        if self.datasets is not None and self.images != Settings.images:
            raise StudyError(
                "images stands for the characters among the preset's data sets; with datasets, name them there"
            )
        known = {*PRESETS["paper"].datasets, *CHARACTER_DATASETS} - {CHARACTERS}
        for name in self.datasets or ():
            if name not in known:
                raise unknown_name("dataset", name, known)
        for name in self.figures or ():
            if name not in FIGURES and name not in TABLES:
                raise unknown_name("figure", name, [*FIGURES, *TABLES])
        for name in ("num_tasks", *LENGTHS, "tasks_per_chunk"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise StudyError(f"{name} must be at least 1, got {value}")

    @property
    def all_datasets(self) -> tuple[str, ...]:
        """The data sets, those of the preset unless others were named."""
        chosen = PRESETS[self.preset].datasets if self.datasets is None else self.datasets
        return tuple(self.images if name == CHARACTERS else name for name in chosen)

    @property
    def all_num_tasks(self) -> int:
        """Test tasks, those of the preset unless another number was named."""
        return PRESETS[self.preset].num_tasks if self.num_tasks is None else self.num_tasks

    @property
    def lengths(self) -> dict[str, int]:
        """The lengths of training that differ from the preset's."""
        return {name: value for name in LENGTHS if (value := getattr(self, name)) is not None}

    @classmethod
    def from_config(cls, values: Mapping[str, Any]) -> "Settings":
        """From plain values by name, as `--config` and configuration files have them; lists may be words in a row.

        Raises:
            StudyError: for an unknown setting, or a value of another type.
        """
        kinds = typing.get_type_hints(cls)
        known = [field.name for field in fields(cls)]
        found = {}
        for name, value in values.items():
            if name not in known:
                raise unknown_name("setting", name, [*known, "threads"])  # which Snakefile takes itself
            if value is not None:
                found[name] = as_setting(name, value, kinds[name])
        return cls(**found)

    def arguments(self) -> list[str]:
        """The settings as `python -m chain` takes them; those at their defaults are left out."""
        told = []
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "results" and value == field.default:
                continue
            told.append(f"--{field.name.replace('_', '-')}")
            if value is not True:
                told += [str(one) for one in value] if isinstance(value, tuple) else [str(value)]
        return told


def kind_of(hint: Any) -> Any:
    """The type of a field, without None and, for the results folder, without text."""
    return (
        next(part for part in typing.get_args(hint) if part is not type(None)) if isinstance(hint, UnionType) else hint
    )


def words_of(value: Any) -> tuple[str, ...]:
    """A list of words as it is, or of words in a row, between spaces or commas."""
    return tuple(value) if isinstance(value, list | tuple) else tuple(str(value).replace(",", " ").split())


def as_setting(name: str, value: Any, hint: Any) -> Any:
    """The value of a setting as what its hint says.

    Raises:
        StudyError: for a value of another type.
    """
    kind = kind_of(hint)
    if typing.get_origin(kind) is tuple:
        return words_of(value)
    if kind in (str, Path):
        if not isinstance(value, str | Path):  # 2026_01 is a number to Snakemake, and its underscore is lost
            raise StudyError(
                f"{name} must be text, and {value!r} was read as no text; a folder may be written as ./NAME"
            )
        return kind(value)
    # Snakemake hands on some of what was typed as text.
    if isinstance(value, str):
        words = {"true": True, "false": False} if kind is bool else {value: int(value)} if value.isdecimal() else {}
        value = words.get(value.lower(), value)
    if type(value) is not kind:
        wanted = {int: "a whole number", bool: "true or false"}[kind]
        raise StudyError(f"{name} must be {wanted}, got {value!r}")
    return value
