"""A long run, whose memory and files have to stay as they are: `python -m tests.faults.long`.

The smallest model is trained by the command that a user types, in a process of its own. From outside, its resident
memory and the sizes of its files are read a few times a second.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The share of the time that fills every cache and every pool of the allocator, the first states saved among it; memory
# is compared with that after it.
WARM_UP = 0.25
# The share of the time, at the end, in which the run is measured and saved: seconds, more on a busy machine. More of
# the libraries is loaded for it, once, which is told apart.
FINISHING = 0.04
# What may come on top after the warm-up. The allocator gives back in pages, and keeps what it may need again: some MiB
# of noise. A tensor of one task kept in each of 300,000 iterations would be 120 MiB, a float of Python 7 MiB.
MAY_GROW_MIB = 6.0
# A state holds the curve, whose points are as many whatever the number of iterations; its numbers have more digits.
STATE_MAY_GROW = 0.05


def command(results: Path, steps: int) -> list[str]:
    """Train the smallest model, with the same number of points in its curve whatever `steps` is."""
    settings = {
        "dataset": "synthetic", "model": "lr", "method": "maml", "steps": 1, "adapt-lr": 0.5, "first-order": "true",
        "meta-optimizer": "adam", "meta-lr": 0.001, "iterations": steps, "tasks-per-iteration": 1, "points": 4,
        "eval-every": 0, "eval-tasks": 2, "results": results,
    }  # fmt: skip
    options = [str(word) for key, value in settings.items() for word in (f"--{key}", value)]
    return [sys.executable, "-m", "core", "train", "--quiet", *options]


def resident_mib(process: int) -> float | None:
    """Resident memory of a process in MiB; None if it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), None)


def main(arguments: list[str] | None = None) -> int:
    """Train, look on, and print what was seen; the exit code is 1 if memory or files grew."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.long", description=__doc__)
    parser.add_argument("--steps", type=int, default=300_000, help="iterations (default 300,000)")
    parser.add_argument("--interval", type=float, default=0.25, help="seconds between two readings (default 0.25)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="adaptlens-long-") as folder:
        return _watch(Path(folder), options.steps, options.interval)


def _watch(results: Path, steps: int, interval: float) -> int:
    started = time.monotonic()
    process = subprocess.Popen(command(results, steps), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    memory: list[tuple[float, float]] = []  # seconds, MiB
    states: list[int] = []  # bytes
    most_files = 0
    while process.poll() is None:
        time.sleep(interval)
        resident = resident_mib(process.pid)
        folders = list((results / "runs").glob("*"))
        if resident is None or not folders or not (folders[0] / "config.json").exists():
            continue  # it has not begun, or has ended
        memory.append((time.monotonic() - started, resident))
        files = list(folders[0].iterdir())
        most_files = max(most_files, len(files))
        states += [path.stat().st_size for path in files if path.name == "state.safetensors"]
        if len(memory) % round(30 / interval) == 1:
            print(f"{memory[-1][0]:7.0f} s  {resident:8.1f} MiB", flush=True)
    seconds = time.monotonic() - started
    told, _ = process.communicate()
    if process.returncode != 0 or not memory:
        print(f"the training ended with exit code {process.returncode}: {told}")
        return 1
    warm = [value for at, value in memory if WARM_UP * seconds <= at <= (1 - FINISHING) * seconds]
    most, grown = max(warm), max(warm) - warm[0]
    print(told, end="")
    print(
        f"{steps:,} iterations in {seconds:.0f} s; {len(memory)} readings of memory, {len(states)} of the state's size"
    )
    print(
        f"resident memory: first {memory[0][1]:.1f}, after the warm-up {warm[0]:.1f}, last {warm[-1]:.1f}, "
        f"most {most:.1f}, while it was saved {memory[-1][1]:.1f} MiB; grown after the warm-up by {grown:.1f} MiB "
        f"(at most {MAY_GROW_MIB})"
    )
    if states:
        print(f"state.safetensors: first {states[0]:,}, last {states[-1]:,}, most {max(states):,} bytes")
    left = len(list((results / "runs").glob("*/*")))
    print(f"files in the run's folder: at most {most_files} at once, {left} at the end")
    flat = not states or max(states) <= (1 + STATE_MAY_GROW) * states[0]
    good = grown <= MAY_GROW_MIB and flat and most_files <= 6
    print("flat" if good else "it grew")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
