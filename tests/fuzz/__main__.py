"""Fuzzes every loader, or those named, and says in a line of each how it went: `make fuzz`.

Files that broke a loader, and the log, are kept in `--keep`; one that is mended goes into `corpus` as `found-...`.
"""

import argparse
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.targets import TARGETS as NAMES

RSS_MIB = 2048  # more than which is a failure; the engine itself takes 600
TIMEOUT = 20  # seconds for one file of at most 64 kB; the slowest seed takes a tenth of one
LONGEST = 1 << 16  # bytes of a file


@dataclass(frozen=True)
class Outcome:
    """How fuzzing one loader went."""

    name: str
    runs: int
    seconds: float
    peak_mib: int
    failures: int
    code: int

    def __str__(self) -> str:
        told = (
            f"{self.name}: {self.runs} runs, {self.seconds:.0f} s, peak {self.peak_mib} MiB, {self.failures} failures"
        )
        return told if self.code == 0 else f"{told}, exit code {self.code}"


def fuzz(name: str, seconds: int, keep: Path) -> Outcome:
    folder = keep / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "corpus").mkdir(parents=True)
    log = folder / "log.txt"
    command = [
        sys.executable, "-m", "tests.fuzz.run", name, str(folder),
        f"-max_total_time={seconds}", f"-timeout={TIMEOUT}",
        f"-rss_limit_mb={RSS_MIB}", f"-max_len={LONGEST}", f"-artifact_prefix={folder}/failure-",
        "-print_final_stats=1",
    ]  # fmt: skip
    start = time.monotonic()
    with open(log, "w", encoding="utf-8") as file:
        code = subprocess.run(command, stdout=file, stderr=file, check=False).returncode
    text = log.read_text(encoding="utf-8", errors="replace")
    runs, peak = (
        max([0, *map(int, re.findall(pattern, text, re.MULTILINE))])
        for pattern in (r"number_of_executed_units: +(\d+)", r"peak_rss_mb: +(\d+)")
    )
    failures = len(list(folder.glob("failure-*")))
    return Outcome(name, runs, time.monotonic() - start, peak, failures, code)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("loaders", nargs="*", help=f"by default all: {', '.join(NAMES)}")
    parser.add_argument("--seconds", type=int, default=600, help="for each loader")
    parser.add_argument("--jobs", type=int, default=1, help="loaders at a time")
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="folder of logs and of files that fail")
    options = parser.parse_args()
    names = options.loaders or list(NAMES)
    if unknown := set(names) - set(NAMES):
        parser.error(f"unknown loader {', '.join(sorted(unknown))}; known: {', '.join(NAMES)}")
    outcomes = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for outcome in pool.map(lambda name: fuzz(name, options.seconds, options.keep), names):
            print(outcome, flush=True)
            outcomes.append(outcome)
    failed = sum(max(outcome.failures, int(outcome.code != 0)) for outcome in outcomes)
    print(
        f"in all: {sum(outcome.runs for outcome in outcomes)} runs, "
        f"{sum(outcome.seconds for outcome in outcomes):.0f} s of {len(outcomes)} loaders, {failed} failures"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
