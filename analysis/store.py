"""The one place that reads and writes the tables of studies: `<results>/<study>/<id>.parquet`.

A table is long and tidy, has exactly the columns of its study in `SCHEMAS`, and carries its provenance as JSON in the
parquet schema metadata. Readers never write. Neither torch nor the engine is imported here.
"""

import hashlib
import json
import platform
import sys
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

import bounds.parquet
import bounds.text
from analysis.errors import StudyError, unknown_name
from analysis.files import write_atomically
from analysis.schemas import MEASUREMENTS, SCHEMAS, Column
from bounds.words import listed

SCHEMA_VERSION = 1
METADATA_KEY = b"adaptlens"
DIGEST_KEY = b"adaptlens digest"  # of what METADATA_KEY holds, as each page of the table has its checksum
PACKAGES = ("torch", "torchvision", "numpy", "pandas", "pyarrow", "scipy")
# What every table must say of where it comes from; `write_table` adds schema_version and study.
PROVENANCE_KEYS = (
    "config",
    "settings",
    "code_version",
    "packages",
    "device",
    "dataset_fingerprint",
    "date",
    "wall_seconds",
    "command",
)

_PROVENANCE_TYPES: dict[str, type | tuple[type, ...]] = dict.fromkeys(PROVENANCE_KEYS, str)
_PROVENANCE_TYPES |= dict.fromkeys(("config", "settings", "packages"), dict) | {"wall_seconds": (int, float)}
# What it may say beyond that, as words and numbers that are shown and compared wherever they are there.
_CONFIG_TYPES: dict[str, type] = {"dataset": str, "model": str, "method": str, "seed": int}

_ARROW = {"str": pa.string(), "int64": pa.int64(), "Int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}


def table_path(results: str | Path, study: str, id: str) -> Path:
    """Where the table of `study` called `id` lies.

    Raises:
        StudyError: for an unknown study or an id that is no plain file name.
    """
    schema_of(study)
    if not id or id.startswith(".") or Path(id).name != id or "\\" in id:
        raise StudyError(f"{id!r} cannot name a table: it must be a plain file name")
    return Path(results) / study / f"{id}.parquet"


def schema_of(study: str) -> dict[str, Column]:
    """The columns of `study`, in order.

    Raises:
        StudyError: for an unknown study.
    """
    if study not in SCHEMAS:
        raise unknown_name("study", study, SCHEMAS)
    return SCHEMAS[study]


def write_table(results: str | Path, study: str, id: str, frame: pd.DataFrame, provenance: Mapping[str, Any]) -> Path:
    """Write a table whole or not at all, in place of an older one of the same name.

    Args:
        results: folder of results.
        study: name in `SCHEMAS`, which says which columns the table has.
        id: name of the table, for most studies that of the run.
        frame: its rows; columns in any order.
        provenance: at least `PROVENANCE_KEYS`, see the function `provenance`.

    Returns:
        The file's path.

    Raises:
        StudyError: for columns that are missing, extra or of another type, a measurement that is not finite in a row
            whose status is ok, for incomplete provenance, or if the file cannot be written.
    """
    path = table_path(results, study, id)
    if absent := [key for key in PROVENANCE_KEYS if key not in provenance]:
        raise StudyError(f"the provenance of {study}/{id} lacks {', '.join(absent)}")
    try:
        text = json.dumps(
            {**provenance, "schema_version": SCHEMA_VERSION, "study": study}, sort_keys=True, allow_nan=False
        )
    except (TypeError, ValueError) as error:
        raise StudyError(f"the provenance of {study}/{id} is not plain JSON: {error}") from error
    _check_measured(study, frame)
    words = {METADATA_KEY: text.encode(), DIGEST_KEY: _digest(text.encode())}
    table = _to_arrow(study, frame).replace_schema_metadata(words)
    return write_atomically(path, lambda temporary: pq.write_table(table, temporary, write_page_checksum=True))


def read_table(path: str | Path) -> pd.DataFrame:
    """One table, typed as `SCHEMAS` says, with its provenance (a dict) in `.attrs["provenance"]`.

    Raises:
        StudyError: if the file is missing, damaged, no table of ours, or of another version.
    """
    table, provenance = _read_arrow(Path(path))
    frame = _to_frame(table, provenance["study"])
    frame.attrs["provenance"] = provenance
    return frame


def read_provenance(path: str | Path) -> dict[str, Any]:
    """The provenance of the table at `path`.

    Raises:
        StudyError: if the file is missing, damaged, no table of ours, or of another version.
    """
    return _read_arrow(Path(path))[1]


def table_paths(results: str | Path, study: str) -> list[Path]:
    """The files of a study's tables, in order of their names; hidden ones are not ours."""
    return sorted(path for path in (Path(results) / study).glob("*.parquet") if not path.name.startswith("."))


def read_study(results: str | Path, study: str) -> pd.DataFrame:
    """All tables of `study` below one another, in order of their names.

    Returns:
        One frame; `.attrs["provenance"]` maps each table's id (for most studies the run) to its provenance, and
        `.attrs["num_rows"]` to how many rows of the frame are the table's, in their order.

    Raises:
        StudyError: for an unknown study, if there is no table, or if one is damaged or a copy of another.
    """
    schema_of(study)
    paths = table_paths(results, study)
    if not paths:
        raise StudyError(
            f"no table of study {study!r} in {Path(results) / study}; make it with: "
            f"python -m analysis {study} --results {results}"
        )
    tables: list[pa.Table] = []
    provenance = {}
    of_one_origin: dict[str, list[tuple[Path, pa.Table]]] = defaultdict(list)
    for path in paths:
        table, provenance[path.stem] = _read_arrow(path)
        if (found := provenance[path.stem]["study"]) != study:
            raise StudyError(f"{path} is a table of study {found!r}, not of {study!r}")
        alike = of_one_origin[json.dumps(provenance[path.stem], sort_keys=True)]
        for other, earlier in alike:
            if earlier.to_pandas().equals(table.to_pandas()):  # by Arrow's `equals`, a NaN differs from itself
                raise StudyError(f"{path} is a copy of {other}, whose tasks would count twice; delete one")
        alike.append((path, table))
        tables.append(table.replace_schema_metadata())
    # Joined before they become pandas columns, which costs the same for one table and for all.
    whole = _to_frame(pa.concat_tables(tables), study)
    whole.attrs["provenance"] = provenance
    whole.attrs["num_rows"] = {path.stem: table.num_rows for path, table in zip(paths, tables, strict=True)}
    return whole


def is_done(results: str | Path, study: str, id: str, settings: Mapping[str, Any] | None = None) -> bool:
    """Whether the table is complete and readable, and was made with `settings` if they are given."""
    path = table_path(results, study, id)
    if not path.exists():
        return False
    try:
        frame = read_table(path)
    except StudyError:
        return False
    if frame.attrs["provenance"]["study"] != study:
        return False
    # Compared as JSON has them: a tuple comes back as a list.
    found = frame.attrs["provenance"]["settings"]
    return settings is None or found == json.loads(json.dumps(dict(settings)))


def provenance(
    *,
    config: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str = "cpu",
    dataset_fingerprint: str = "",
    wall_seconds: float = 0.0,
    command: str | None = None,
) -> dict[str, Any]:
    """Where a table comes from, as of now.

    Args:
        config: configuration of the run, empty for studies without one.
        settings: arguments of the study.
        device: name of the device that measured.
        dataset_fingerprint: digest of the data and its settings.
        wall_seconds: how long the measurement took.
        command: what was typed; by default what started this process, see `core.version.command_line`.

    Returns:
        `PROVENANCE_KEYS`, among them `code_version` (git commit, "-dirty" if files differ from it; or the installed
        version), `packages` (name to version, Python and the operating system included) and `date` (UTC, ISO 8601).
    """
    # Not above: `core` loads torch, which those who only read do without.
    from core.version import code_version, command_line

    versions = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "config": dict(config or {}),
        "settings": dict(settings or {}),
        "code_version": code_version("core", "analysis"),
        "packages": versions,
        "device": device,
        "dataset_fingerprint": dataset_fingerprint,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "wall_seconds": float(wall_seconds),
        "command": command_line() if command is None else command,
    }


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=16).hexdigest().encode()


def _read_arrow(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    try:
        table = bounds.parquet.read_table(path, checksums=True)
        words = table.schema.metadata or {}
        text = words.get(METADATA_KEY)
        found = None if text is None else bounds.text.parse_json(text, f"the provenance of {path}")
    except FileNotFoundError:
        raise StudyError(f"{path} does not exist") from None
    except OSError as error:
        raise StudyError(f"{path} is truncated, damaged or no parquet file") from error
    except bounds.Refused as error:
        raise StudyError(str(error)) from error
    if text is not None and words.get(DIGEST_KEY, b"") not in (b"", _digest(text)):
        raise StudyError(f"{path} is damaged: its provenance is not what was written")
    if not isinstance(found, dict):
        raise StudyError(f"{path} is a parquet file, but no table of adaptlens: it has no provenance")
    if (version := found.get("schema_version")) != SCHEMA_VERSION:
        newer = ", and a newer one wrote the file" if isinstance(version, int) and version > SCHEMA_VERSION else ""
        raise StudyError(
            f"{path} has schema version {version!r}; this version of adaptlens reads {SCHEMA_VERSION}{newer}"
        )
    study = found.get("study")
    if not isinstance(study, str) or study not in SCHEMAS:
        raise StudyError(f"{path} is of study {study!r}, which this version does not know")
    if wrong := _wrong_keys(found):
        raise StudyError(f"the provenance of {path} does not say its {listed(wrong)} as it should")
    expected = {name: _ARROW[column.dtype] for name, column in SCHEMAS[study].items()}
    columns = {field.name: field.type for field in table.schema}
    if wrong := [name for name in sorted(expected.keys() | columns.keys()) if expected.get(name) != columns.get(name)]:
        raise StudyError(f"{path} has other columns than study {study!r}: {listed(wrong)}")
    table = table.select(list(expected))
    if missing := [name for name in expected if table[name].null_count and SCHEMAS[study][name].dtype != "Int64"]:
        raise StudyError(f"{path} has missing values where study {study!r} has none: {listed(missing)}")
    # Where a column has no missing values the file may say that it could have: to join tables they must say the same.
    return table.cast(_arrow_schema(study).with_metadata(words)), found


def _wrong_keys(origin: Mapping[str, Any]) -> list[str]:
    """What a provenance does not say, or not as it should."""
    wrong = [key for key, kind in _PROVENANCE_TYPES.items() if not isinstance(origin.get(key), kind)]
    if "wall_seconds" not in wrong and not abs(origin["wall_seconds"]) < sys.float_info.max:  # NaN, too
        wrong.append("wall_seconds")
    if "config" not in wrong:
        told = {key: origin["config"].get(key) for key in _CONFIG_TYPES}
        wrong += [f"config's {key}" for key, value in told.items() if type(value) not in (_CONFIG_TYPES[key], NoneType)]
        if type(told["seed"]) is int and abs(told["seed"]) >= 1 << 63:
            wrong.append("config's seed")
    return wrong if isinstance(origin.get("run_status"), str | None) else [*wrong, "run_status"]


def _check_measured(study: str, frame: pd.DataFrame) -> None:
    """See that rows whose status is ok are measurements: a NaN under "ok" would be averaged away.

    Raises:
        StudyError: naming the column. Of a regression, where no row has an accuracy, none is asked for.
    """
    if "status" not in frame.columns or not frame.columns.is_unique:
        return
    ok = frame["status"].eq("ok")
    for name in MEASUREMENTS:
        if name not in frame.columns or SCHEMAS[study].get(name, Column("", "", "")).dtype != "float64":
            continue
        if name == "accuracy" and frame[name].isna().all():
            continue
        values = pd.to_numeric(frame.loc[ok, name], errors="coerce")
        if bad := int((~np.isfinite(values.to_numpy(np.float64))).sum()):
            raise StudyError(f"{bad} rows of {study!r} have status ok, but a {name} that is not finite")


def _to_arrow(study: str, frame: pd.DataFrame) -> pa.Table:
    schema = SCHEMAS[study]
    absent = [name for name in schema if name not in frame.columns]
    extra = [str(name) for name in frame.columns if name not in schema]
    if absent or extra or not frame.columns.is_unique:
        told = [f"lacks {', '.join(absent)}"] if absent else []
        told += [f"has extra {', '.join(extra)}"] if extra else []
        told += [] if frame.columns.is_unique else ["has a column twice"]
        raise StudyError(f"a table of study {study!r} {' and '.join(told)}")
    arrays = [_column(study, name, frame[name], c.dtype) for name, c in schema.items()]
    return pa.Table.from_arrays(arrays, schema=_arrow_schema(study))


def _arrow_schema(study: str) -> pa.Schema:
    columns = SCHEMAS[study].items()
    return pa.schema([pa.field(name, _ARROW[c.dtype], nullable=c.dtype == "Int64") for name, c in columns])


def _column(study: str, name: str, series: pd.Series, dtype: str) -> pa.Array:
    """One column as Arrow has it; only conversions that lose nothing are made."""
    types = pd.api.types
    missing = series.isna()
    fits = {
        "str": all(isinstance(value, str) for value in series),
        "int64": types.is_integer_dtype(series.dtype) and not missing.any(),
        "Int64": types.is_integer_dtype(series.dtype) or bool(missing.all()),
        "float64": types.is_float_dtype(series.dtype),
        "bool": types.is_bool_dtype(series.dtype) and not missing.any(),
    }[dtype]
    if not fits:
        # An empty column has no wrong value in it, whatever type pandas gave it.
        what = "missing values" if missing.any() and dtype != "float64" else f"type {series.dtype}"
        raise StudyError(f"column {name!r} of study {study!r} must be {dtype}, but has {what}")
    if dtype == "Int64":
        return pa.array([None if gone else int(v) for v, gone in zip(series, missing, strict=True)], type=pa.int64())
    if dtype == "str":
        return pa.array(list(series), type=pa.string())
    # Not from_pandas: NaN is a value here (diverged), and must not come back as a missing one.
    return pa.array(series.to_numpy(dtype), type=_ARROW[dtype], from_pandas=False)


def _to_frame(table: pa.Table, study: str) -> pd.DataFrame:
    return pd.DataFrame({name: _to_pandas(table[name], column.dtype) for name, column in SCHEMAS[study].items()})


def _to_pandas(column: pa.ChunkedArray, dtype: str) -> pd.Series:
    if dtype == "Int64":
        return column.to_pandas(types_mapper=lambda _: pd.Int64Dtype())
    if dtype == "str":
        # Spelt out: "str" alone means Python objects before pandas 3.
        return column.to_pandas(types_mapper=lambda _: pd.StringDtype(na_value=np.nan))
    return pd.Series(column.to_numpy(), dtype=dtype)
