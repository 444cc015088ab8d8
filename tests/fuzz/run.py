"""Fuzzes one loader with atheris: `python -m tests.fuzz.run LOADER FOLDER [options of libFuzzer]`; see `__main__`."""

import hashlib
import os
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["bounds", "core", "analysis", "figures", "chain"], enable_loader_override=False
):
    from tests.fuzz.targets import SEEDS, TARGETS, watched

KEPT = 20  # failures of one kind and place count as one, and so many kinds are kept


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    target, failures = TARGETS[name], set()
    warnings.simplefilter("ignore")
    memory = Path("/dev/shm")  # thousands of files a second, which no disk should see
    work = tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None, prefix=f"fuzz-{name}-")

    def attempt(data: bytes, place: str) -> None:
        with tempfile.TemporaryDirectory(dir=place) as empty:
            with watched():
                target(data, Path(empty))

    for seed in sorted((SEEDS / name).iterdir()):  # what is imported on first use is no doing of a file
        with tempfile.TemporaryDirectory(dir=work) as empty:
            try:
                target(seed.read_bytes(), Path(empty))
            except Exception:
                continue

    def once(data: bytes) -> None:
        try:
            attempt(data, work)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}: {str(error)[:60]}"
            if kind in failures or len(failures) >= KEPT:
                return
            failures.add(kind)
            path = folder / f"failure-{hashlib.blake2b(data, digest_size=5).hexdigest()}"
            path.write_bytes(data)
            print(f"FAILURE {path.name} {kind}\n{traceback.format_exc()}", file=sys.stderr, flush=True)

    atheris.Setup([sys.argv[0], *sys.argv[3:], str(folder / "corpus"), str(SEEDS / name)], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
