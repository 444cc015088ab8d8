"""How the benchmark measures: time in shuffled rounds, arithmetic by operation, memory of a step, the peak."""

import ctypes
import os
import platform
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from core.device import cpu_entry
from core.products import has_onednn, onednn_product

PEAK_SIZE = 2048  # rows and columns of the products that give the machine's peak
CALL_SECONDS = 0.2  # a measurement calls a faster step several times
aten = torch.ops.aten


# The machine


@dataclass(frozen=True)
class Machine:
    """What measured.

    Attributes:
        cpu: name of the processor.
        cores: logical cores of the machine.
        threads: those that PyTorch was allowed.
        peak_gflop_per_second: of float32 matrix products, measured, by the faster of PyTorch's libraries for them.
    """

    cpu: str
    cores: int
    threads: int
    peak_gflop_per_second: float


def this_machine() -> Machine:
    """This one, as it is now: another process beside this one lowers the peak as it lowers everything."""
    cpu = cpu_entry("model name") or platform.processor() or platform.machine()
    return Machine(cpu, os.cpu_count() or 1, torch.get_num_threads(), matrix_peak())


def matrix_peak(calls: int = 8) -> float:
    """GFLOP/s of the fastest of some square float32 products; 2 n^3 operations each."""
    a, b = torch.randn(2, PEAK_SIZE, PEAK_SIZE)
    out = a @ b
    ways = [lambda: torch.mm(a, b, out=out), *([lambda: onednn_product(a, b)] if has_onednn() else [])]
    fastest = min(timed(way) for way in ways for _ in range(calls))
    return 2 * PEAK_SIZE**3 / fastest / 1e9


# Time


def timed(run: Callable[[], object]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def paired(steps: Mapping[str, Callable[[], object]], rounds: int, seconds: float = float("inf")) -> pd.DataFrame:
    """Seconds a call of every step, one row a round; the order within a round is shuffled.

    A step that takes less than `CALL_SECONDS` is called so often in a row that it takes that long.

    Args:
        steps: by name; each was called before, so that nothing is set up here.
        rounds: how many at most.
        seconds: after so many no further round is begun, once there are three.
    """
    order = random.Random(0)
    calls = {name: max(1, round(CALL_SECONDS / max(timed(step), 1e-6))) for name, step in steps.items()}
    rows: list[dict[str, float]] = []
    started = time.perf_counter()
    while len(rows) < rounds and (len(rows) < 3 or time.perf_counter() - started < seconds):
        row = {}
        for name in order.sample(list(steps), len(steps)):
            row[name] = timed(lambda name=name: [steps[name]() for _ in range(calls[name])]) / calls[name]
        rows.append(row)
    return pd.DataFrame(rows)[list(steps)]


# Arithmetic


def gflop(run: Callable[[], object]) -> float:
    """Billions of additions and multiplications in matrix products and convolutions of one call.

    Counted operation by operation as PyTorch carries them out. Element-wise work, sums and normalisation are not in it.
    """
    with FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter:
        run()
    return counter.get_total_flops() / 1e9


# PyTorch's own formulas leave out products in place, and count each group of a convolution's backward pass as all.


def _convolution(x, weight, bias, stride, padding, dilation, transposed, *rest, out_val=None, **kwargs) -> int:
    """Every number of what comes out (of what goes in, if transposed) meets a filter's numbers."""
    pixels = x.numel() if transposed else out_val.numel()
    return 2 * pixels * weight[0].numel()


def _convolution_backward(
    grad, x, weight, sizes, stride, padding, dilation, transposed, padding_out, groups, mask, **kwargs
) -> int:
    """By input and by weight, if they are wanted: as much as the convolution itself, each."""
    pixels = x.numel() if transposed else grad.numel()
    return (mask[0] + mask[1]) * 2 * pixels * weight[0].numel()


def _product(x, y, **kwargs) -> int:
    """(..., n, m) times (..., m, q)."""
    return 2 * x.numel() * y.shape[-1]


def _product_in_place(total, x, y, **kwargs) -> int:
    return _product(x, y)


for _formula in (_convolution, _convolution_backward, _product, _product_in_place):
    _formula._get_raw = True  # they take tensors, not shapes
_FORMULAS = {
    aten.addmm_: _product_in_place,
    aten.baddbmm_: _product_in_place,
    torch.ops.adaptlens.onednn_product: _product,
    aten.convolution: _convolution,
    aten._convolution: _convolution,
    aten.convolution_backward: _convolution_backward,
}


# Memory


def step_memory(step: Callable[[], object]) -> float:
    """MiB that a call takes at most above what the process holds between calls; NaN where the system cannot tell.

    The call is one of many: what is set up by the first, a compiler's memory among it, is no part. For a process of its
    own, as pages that another engine has left would hide what is taken.
    """
    step()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # pages that were given back, but are still the process's
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
        before = _status("VmRSS")
        step()
        return (_status("VmHWM") - before) / 1024
    except (OSError, AttributeError, StopIteration):
        return float("nan")


def _status(name: str) -> int:
    """KiB, as Linux says of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))
