"""Whether two folders of results hold the same: runs and tables equal in all but times, and the same pictures."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import load_file

from analysis.store import read_table

# What tells when, how long and by which command, in a run and in a table; and the digest of it all.
TIMES = {"date", "wall_seconds", "command", "digest"}


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
            ours_from, theirs_from = (_untimed(frame.attrs.pop("provenance")) for frame in (left, right))
            assert ours_from == theirs_from, f"{name}: {_difference(ours_from, theirs_from)}"
            pd.testing.assert_frame_equal(left, right, check_exact=True, obj=name)
            assert not left.duplicated().any(), f"{name} has a row twice"
        else:
            assert path.read_bytes() == theirs[name].read_bytes(), name
    return num_tables


def _assert_same_file_of_run(name: str, path: Path, other: Path) -> None:
    if path.suffix == ".safetensors":
        left, right = load_file(path), load_file(other)
        assert left.keys() == right.keys(), name
        assert all(left[key].equal(right[key]) for key in left), name
    elif path.suffix == ".parquet":
        pd.testing.assert_frame_equal(pd.read_parquet(path), pd.read_parquet(other), check_exact=True, obj=name)
    else:
        ours, theirs = (_untimed(json.loads(one.read_text(encoding="utf-8"))) for one in (path, other))
        assert ours == theirs, f"{name}: {_difference(ours, theirs)}"


def _untimed(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in TIMES}


def _difference(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    keys = sorted(ours.keys() | theirs.keys())
    return "; ".join(f"{k} {ours.get(k)!r} and {theirs.get(k)!r}" for k in keys if ours.get(k) != theirs.get(k))
