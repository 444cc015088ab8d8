"""Whether two folders of results hold the same: runs and tables equal in all but times, and the same pictures."""

import json
from pathlib import Path

import pandas as pd
from safetensors.torch import load_file

from analysis.store import read_table

# What tells when, how long and by which command, in a run and in a table.
TIMES = {"date", "wall_seconds", "command"}


def contents(results: Path) -> dict[str, Path]:
    """Every file of a run, a table or a picture, by its name in the folder; a finished chain has no others."""
    found = {str(path.relative_to(results)): path for path in sorted(results.rglob("*")) if path.is_file()}
    # Locks, records and logs of the chain itself, and what a killed process did not come to rename.
    return {name: path for name, path in found.items() if not name.startswith("chain/") and not name.endswith(".tmp")}


def assert_same_results(one: Path, other: Path) -> int:
    """Compare all files; returns how many tables there are.

    Raises:
        AssertionError: for a file that only one of them has, or that differs in more than times.
    """
    ours, theirs = contents(one), contents(other)
    assert ours.keys() == theirs.keys(), f"only in one: {sorted(ours.keys() ^ theirs.keys())}"
    num_tables = 0
    for name, path in ours.items():
        if name.startswith("runs/"):
            _assert_same_file_of_run(name, path, theirs[name])
        elif path.suffix == ".parquet":
            num_tables += 1
            left, right = read_table(path), read_table(theirs[name])
            origins = [frame.attrs.pop("provenance") for frame in (left, right)]
            assert (
                len({json.dumps({k: v for k, v in o.items() if k not in TIMES}, sort_keys=True) for o in origins}) == 1
            ), name
            pd.testing.assert_frame_equal(left, right, check_exact=True, obj=name)
            assert not left.duplicated().any(), f"{name} has a row twice"
        else:
            assert path.read_bytes() == theirs[name].read_bytes(), name
    return num_tables


def _assert_same_file_of_run(name: str, path: Path, other: Path) -> None:
    if path.suffix == ".safetensors":
        left, right = load_file(path), load_file(other)
        assert left.keys() == right.keys() and all(left[key].equal(right[key]) for key in left), name
    elif path.suffix == ".parquet":
        pd.testing.assert_frame_equal(pd.read_parquet(path), pd.read_parquet(other), check_exact=True, obj=name)
    else:
        left, right = json.loads(path.read_text()), json.loads(other.read_text())
        assert {k: v for k, v in left.items() if k not in TIMES} == {
            k: v for k, v in right.items() if k not in TIMES
        }, name
