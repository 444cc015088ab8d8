"""How every benchmark measures: sides in a shuffled order, ratios within a round, the reference at its best."""

import random
import statistics
import time
from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor

from tests import naive


def on_threads(num_threads: int, run: Callable[[], object]) -> Callable[[], object]:
    """`run` with so many threads of PyTorch."""

    def run_so() -> object:
        torch.set_num_threads(num_threads)
        return run()

    return run_so


def paired(sides: dict[str, tuple[Callable[[], object], int]], rounds: int, *, warm_up: bool = True) -> pd.DataFrame:
    """Seconds a step of every side, one row a round; the order within a round is shuffled.

    A side is a function and how many steps a call of it makes. First calls set things up: without `warm_up`, they
    were made before.
    """
    order = random.Random(0)
    for run, _ in sides.values():
        if warm_up:
            run()
    rows = []
    for _ in range(rounds):
        row = {}
        for name in order.sample(list(sides), len(sides)):
            run, num_steps = sides[name]
            started = time.perf_counter()
            run()
            row[name] = (time.perf_counter() - started) / num_steps
        rows.append(row)
    return pd.DataFrame(rows)[list(sides)]


def report(seconds: pd.DataFrame, reference: str = "naive") -> pd.DataFrame:
    """Median seconds of each side, and how many times faster it is: median and range of the ratios of the rounds.

    The reference is every side whose name starts so; a ratio is to the one that was fastest in that round.
    """
    fastest = seconds[[name for name in seconds if name.startswith(reference)]].min(axis=1)
    rows = []
    for name in seconds:
        ratios = fastest / seconds[name]
        rows.append(
            {
                "side": name,
                "median seconds": round(statistics.median(seconds[name]), 5),
                f"times faster than {reference}": round(statistics.median(ratios), 2),
                "lowest": round(ratios.min(), 2),
                "highest": round(ratios.max(), 2),
            }
        )
    return pd.DataFrame(rows)


def largest_difference(ours: dict[str, Tensor], reference: dict[str, Tensor]) -> str:
    """That both sides computed the same, before either is called fast."""
    return f"largest relative difference of a tensor: {max(naive.relative_errors(ours, reference).values()):.1e}"
