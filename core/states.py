"""What there is of runs that are asked for: the finished ones, and where the others were when they were saved."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from core.config import TrainConfig
from core.errors import UserError
from core.locks import claim
from core.outer_optimizer import OPTIMIZER_STATE
from core.runs import check_format, is_finished, load_tensors, tidy


@dataclass(frozen=True)
class Saved:
    """What was found of runs, by id.

    Attributes:
        asked: those asked for.
        finished: those that are finished.
        taken: those that another process is at.
        beside_taken: those that differ from one of them in the seed alone, and so are left out with it.
        states: of others, where they were when they were saved.
        damaged: of those whose state cannot be read, why. The other seeds of their settings are trained without them.
    """

    asked: list[str]
    finished: set[str]
    taken: set[str]
    beside_taken: set[str]
    states: dict[str, tuple[dict[str, Tensor], dict[str, Any]]]
    damaged: dict[str, str]


def find_saved(configs: Sequence[TrainConfig], results: Path | None, claims: ExitStack) -> Saved:
    """What there is of these runs in `results`; those that are not finished are claimed until `claims` is left.

    Runs that differ in nothing but the seed are claimed as one, as they are trained: which of them are trained together
    is decided by what was asked for and what is saved, not by what another process is at.

    Raises:
        UserError: if a run's folder cannot be written.
    """
    found = Saved([config.id for config in configs], set(), set(), set(), {}, {})
    if results is None:
        return found
    families: dict[TrainConfig, list[TrainConfig]] = defaultdict(list)
    for config in dict.fromkeys(configs):
        families[replace(config, seed=0, own=None)].append(config)
    for family in families.values():
        with ExitStack() as own:
            for config in family:
                folder = results / "runs" / config.id
                if is_finished(folder):
                    found.finished.add(config.id)
                    tidy(folder)  # for a process that was killed when it had finished it
                    continue
                claimed = claim(folder)
                if claimed is None:
                    # Finished since the question above, if it is not at work.
                    (found.finished if is_finished(folder) else found.taken).add(config.id)
                    continue
                own.callback(claimed.release)
                if is_finished(folder):
                    found.finished.add(config.id)
                elif (folder / "state.safetensors").exists():
                    try:
                        found.states[config.id] = read_state(folder / "state.safetensors", config)
                    except UserError as error:
                        found.damaged[config.id] = str(error)
            ids = {config.id for config in family} - found.finished
            if ids & found.taken:
                found.beside_taken.update(ids - found.taken)
            else:
                claims.enter_context(own.pop_all())
    return found


def read_state(path: Path, config: TrainConfig) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and metadata that `Group.save_state` wrote for the run `config`.

    Raises:
        UserError: if the file is damaged, incomplete, or of another format or run.
    """
    try:
        tensors, metadata = load_tensors(path)
    except UserError as error:
        raise UserError(f"{error}; delete it to start again") from error
    check_format(path, metadata.get("format"))
    if metadata.get("id") != config.id:
        raise UserError(f"{path} is of another run; delete it to start again")
    needed = {"iteration": metadata, "seconds": metadata, "curve": metadata, "optimizer": metadata}
    counts = OPTIMIZER_STATE[config.meta_optimizer][1] if metadata.get("iteration") else ()
    optimizer = metadata.get("optimizer", {})
    needed |= {name: optimizer for name in counts if isinstance(optimizer, dict)}
    if missing := sorted(name for name, where in needed.items() if name not in where):
        raise UserError(f"{path} lacks {', '.join(missing)}; delete it to start again")
    if not _is_state(metadata, config) or optimizer.keys() != set(counts):
        raise UserError(f"{path} does not say where the training was; delete it to start again")
    return tensors, metadata


def _is_state(metadata: Mapping[str, Any], config: TrainConfig) -> bool:
    """Whether the numbers of a state are of the kinds that they should be, and its curve one."""
    iteration, seconds, curve = (metadata[name] for name in ("iteration", "seconds", "curve"))
    optimizer = metadata["optimizer"]
    if type(iteration) is not int or not 0 <= iteration <= config.iterations:
        return False
    if not isinstance(optimizer, dict) or not isinstance(curve, list) or (iteration and not curve):  # it has its start
        return False
    chunk, loss = metadata.get("tasks_per_chunk"), metadata.get("loss")  # older states have none
    if (chunk is not None and (type(chunk) is not int or chunk < 1)) or not (loss is None or _is_number(loss)):
        return False
    counts = all(_is_number(count) and 0 <= count <= config.iterations for count in optimizer.values())
    if not counts or not _is_number(seconds) or not 0 <= seconds < math.inf:
        return False
    kinds = [(int,), (str,), (float, int), (float, int), (int,)]  # as in CURVE_COLUMNS
    return all(
        isinstance(row, list)
        and len(row) == len(kinds)
        and all(type(value) in kind for value, kind in zip(row, kinds, strict=True))
        and all(type(value) is str or _is_number(value) for value in row)
        and 0 <= row[0] <= iteration
        for row in curve
    )


def _is_number(value: Any) -> bool:
    """Whether it is a number as a state has them: a float, or a whole one that a float can be."""
    return type(value) is float or (type(value) is int and abs(value) <= 2**53)
