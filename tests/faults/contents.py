"""What a folder of results holds, without what no two runs have in common: dates, seconds, command lines."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from analysis.store import read_table
from chain.digests import digest_of
from core.files import read_json
from core.runs import load_tensors

# Of runs that are trained together one may be finished when the process dies; the others then go on without it.
# Digests are of such files, or of a curve, which is looked at itself.
_OF_THE_MOMENT = (
    "trained_together", "date", "wall_seconds", "seconds", "command", "digest", "digests", "curve_digest",
)  # fmt: skip
LOCK = ".lock"
DIGITS = 2  # of weights and measurements that are around 1, where rounding is seven digits behind
DRAWN = (".png", ".pdf", ".svg", ".md", ".tex", ".html")


def contents(root: Path, *, rounded: bool = False) -> dict[str, str]:
    """A digest of each file that has its final name, by path.

    Args:
        root: the folder.
        rounded: leave out the digits in which float32 sums in another order may differ, see `PROMISES.md`; pictures and
            texts that are drawn of them have no digest then.

    Raises:
        UserError, StudyError, ValueError: for a file that is not whole.
    """
    return {
        str(path.relative_to(root)): content(path, rounded)
        for path in sorted(root.rglob("*"))
        if path.is_file() and not is_temporary(path) and path.suffix != LOCK and path.name != LOCK
    }


def leftovers(root: Path) -> list[str]:
    """Temporary files, and locks of runs and tables; those of the chain are there for good."""
    return [
        str(path.relative_to(root))
        for path in sorted(root.rglob("*"))
        if path.is_file()
        and (is_temporary(path) or (path.name.startswith(".") and path.suffix == LOCK) or path.name == LOCK)
    ]


def is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.suffix == ".tmp"


def content(path: Path, rounded: bool = False) -> str:
    """A digest of what a file says.

    Raises:
        UserError, StudyError, ValueError: if it is not whole.
    """
    if path.suffix == ".json":
        said = json.dumps(_lasting(_without_digests_of_files(path, read_json(path))), sort_keys=True).encode()
    elif path.suffix == ".safetensors":
        tensors, metadata = load_tensors(path)
        parts = [
            f"{name} {tensor.dtype} {tuple(tensor.shape)} {_bytes(tensor, rounded).hex()}"
            for name, tensor in sorted(tensors.items())
        ]
        said = json.dumps([_lasting(metadata), parts], sort_keys=True).encode()
    elif path.suffix == ".parquet" and path.name != "curve.parquet":
        table = read_table(path)
        origin = json.dumps(_lasting(table.attrs["provenance"]), sort_keys=True).encode()
        said = origin + (table.round(DIGITS) if rounded else table).to_csv().encode()
    elif rounded and path.suffix == ".parquet":
        said = pd.read_parquet(path).round(DIGITS).to_csv().encode()
    elif rounded and path.suffix in DRAWN:
        said = path.name.encode()
    else:
        said = path.read_bytes()
    return hashlib.blake2b(said, digest_size=12).hexdigest()


def stale_records(root: Path) -> list[str]:
    """The records of the chain with another digest than that of the file there.

    Raises:
        UserError: for a record that is not whole.
    """
    told = {}
    for path in sorted((root / "chain" / "trained").glob("*.json")):
        told[path] = {root / "runs" / id / "run.json": digest for id, digest in read_json(path)["files"].items()}
    for path in sorted((root / "chain" / "drawn").glob("*.json")):
        record = read_json(path)
        tables = [root / f"{table}.parquet" for table in record["tables"]]
        told[path] = dict(zip(tables, record["digests"], strict=True))
    return [
        str(path.relative_to(root))
        for path, files in told.items()
        if any(digest_of(file) != digest for file, digest in files.items())
    ]


def _without_digests_of_files(path: Path, record: Any) -> Any:
    """A record of the chain, less the digests of files that have dates in them: see `stale_records`."""
    if path.parts[-3:-1] == ("chain", "trained") and isinstance(record.get("files"), dict):
        return {**record, "files": sorted(record["files"])}
    return record


def _bytes(tensor: torch.Tensor, rounded: bool) -> bytes:
    whole: bytes = (tensor.mul(10**DIGITS).round().long() if rounded else tensor).numpy().tobytes()
    return whole


def _lasting(value: object) -> object:
    if not isinstance(value, dict):
        return value
    return {key: part for key, part in value.items() if key not in _OF_THE_MOMENT}
