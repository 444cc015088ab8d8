import json
import os
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.errors import StudyError
from analysis.schemas import SCHEMAS, Column
from analysis.store import (
    PROVENANCE_KEYS,
    SCHEMA_VERSION,
    is_done,
    provenance,
    read_provenance,
    read_study,
    read_table,
    table_path,
    write_table,
)

FIXTURES = Path(__file__).parents[1] / "fixtures" / f"tables_{SCHEMA_VERSION}"
EVERY_TYPE = {
    "name": Column("str", "-", "a word"),
    "count": Column("int64", "things", "a whole number"),
    "maybe": Column("Int64", "things", "a whole number that may be missing"),
    "size": Column("float64", "m", "a number"),
    "yes": Column("bool", "-", "true or false"),
}


@pytest.fixture
def every_type(monkeypatch):
    monkeypatch.setitem(SCHEMAS, "every_type", EVERY_TYPE)
    return pd.DataFrame(
        {
            "name": ["a", ""],
            "count": [2**62 + 1, -1],  # no float64 holds the first
            "maybe": pd.array([2**62 + 1, None], dtype="Int64"),
            "size": [0.1, np.nan],
            "yes": [True, False],
        }
    )


def ceilings_frame(**changes):
    columns = {
        "dataset": "synthetic",
        "ceiling": "bayes",
        "evaluated_on": "fresh",
        "points": 10,
        "task_seed": 0,
        "task": [0, 1],
        "accuracy": [0.5, 1.0],
    }
    return pd.DataFrame({**columns, **changes})


def test_every_type_comes_back_as_it_was(tmp_path, every_type):
    shuffled = every_type[["yes", "size", "maybe", "count", "name"]]
    frame = read_table(write_table(tmp_path, "every_type", "x", shuffled, provenance()))
    assert list(frame.columns) == list(EVERY_TYPE)
    for name, column in EVERY_TYPE.items():
        assert frame[name].dtype == (pd.StringDtype(na_value=np.nan) if column.dtype == "str" else column.dtype), name
    assert frame["count"].tolist() == [2**62 + 1, -1]
    assert frame["maybe"][0] == 2**62 + 1
    assert frame["maybe"][1] is pd.NA
    assert frame["size"][0] == 0.1
    assert np.isnan(frame["size"][1])
    assert frame["name"].tolist() == ["a", ""]
    assert frame["yes"].tolist() == [True, False]


def test_the_file_has_declared_types_and_nan_is_no_missing_value(tmp_path, every_type):
    table = pq.read_table(write_table(tmp_path, "every_type", "x", every_type, provenance()))
    assert table.schema.types == [pa.string(), pa.int64(), pa.int64(), pa.float64(), pa.bool_()]
    assert table["size"].null_count == 0
    assert table["maybe"].null_count == 1


def test_an_empty_table_keeps_its_types(tmp_path, every_type):
    frame = read_table(write_table(tmp_path, "every_type", "x", every_type.iloc[:0], provenance()))
    assert len(frame) == 0
    assert frame["count"].dtype == "int64"
    assert frame["yes"].dtype == "bool"


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("name", [1, 2], "'name'.*must be str"),
        ("name", ["a", None], "'name'.*must be str.*missing"),
        ("count", [1.0, 2.0], "'count'.*must be int64.*float64"),
        ("count", [True, False], "'count'.*must be int64.*bool"),
        ("maybe", [1.0, 2.0], "'maybe'.*must be Int64.*float64"),
        ("size", [1, 2], "'size'.*must be float64.*int64"),
        ("yes", [0, 1], "'yes'.*must be bool.*int64"),
    ],
)
def test_a_column_of_another_type_is_refused(tmp_path, every_type, name, values, told):
    every_type[name] = values
    with pytest.raises(StudyError, match=told):
        write_table(tmp_path, "every_type", "x", every_type, provenance())
    assert list(tmp_path.iterdir()) == []


def test_missing_and_extra_columns_are_named(tmp_path):
    frame = ceilings_frame().drop(columns=["task", "points"]).assign(colour="red")
    with pytest.raises(StudyError, match="lacks points, task and has extra colour"):
        write_table(tmp_path, "ceilings", "x", frame, provenance())


def test_provenance_comes_back_as_it_was(tmp_path):
    given = provenance(
        config={"hidden": [64, 64], "bias": None, "rate": 0.1},
        settings={"num_tasks": 7},
        device="a device",
        dataset_fingerprint="abc",
        wall_seconds=1.5,
        command="python -m analysis",
    )
    path = write_table(tmp_path, "ceilings", "x", ceilings_frame(), given)
    expected = {**given, "schema_version": 1, "study": "ceilings"}
    assert read_table(path).attrs["provenance"] == expected
    assert read_provenance(path) == expected
    assert json.loads(pq.read_schema(path).metadata[b"adaptlens"]) == expected


def test_provenance_says_where_and_when():
    found = provenance()
    assert set(found) == set(PROVENANCE_KEYS)
    assert found["packages"]["pandas"] == pd.__version__
    assert datetime.fromisoformat(found["date"]).utcoffset().total_seconds() == 0
    assert found["code_version"]


def test_incomplete_provenance_is_refused(tmp_path):
    with pytest.raises(StudyError, match=r"lacks .*date, wall_seconds"):
        write_table(tmp_path, "ceilings", "x", ceilings_frame(), {"config": {}})
    with pytest.raises(StudyError, match="not plain JSON"):
        write_table(tmp_path, "ceilings", "x", ceilings_frame(), provenance(settings={"x": float("nan")}))


@pytest.mark.parametrize("id", ["", ".x", "a/b", "..", "a\\b"])
def test_an_id_is_a_plain_file_name(tmp_path, id):
    with pytest.raises(StudyError, match="plain file name"):
        table_path(tmp_path, "ceilings", id)


def test_unknown_studies_are_told_the_right_ones(tmp_path):
    for call in (lambda: read_study(tmp_path, "celings"), lambda: table_path(tmp_path, "celings", "x")):
        with pytest.raises(StudyError, match="unknown study 'celings'; known: adaptation_path, benchmark, ceilings, "):
            call()


def test_a_failed_write_leaves_the_old_table_and_nothing_else(tmp_path, monkeypatch):
    path = write_table(tmp_path, "ceilings", "x", ceilings_frame(), provenance())
    before = path.read_bytes()

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    for module, name in ((pq, "write_table"), (os, "fsync"), (os, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises(StudyError, match=r"cannot write .*x\.parquet: No space left"):
                write_table(tmp_path, "ceilings", "x", ceilings_frame(points=11), provenance())
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]


def test_a_table_is_as_readable_as_other_files(tmp_path):
    (tmp_path / "other").touch()
    path = write_table(tmp_path, "ceilings", "x", ceilings_frame(), provenance())
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def damage(path, how):
    whole = path.read_bytes()
    if how == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "a web page":
        path.write_text("<!DOCTYPE html><html><body>404</body></html>")
    elif how == "one byte":  # of the values, which lie at the front
        path.write_bytes(whole[:60] + bytes([whole[60] ^ 255]) + whole[61:])


@pytest.mark.parametrize("how", ["truncated", "empty", "a web page", "one byte"])
def test_a_damaged_file_is_named_in_one_sentence_and_not_done(tmp_path, how):
    path = write_table(tmp_path, "ceilings", "x", ceilings_frame(), provenance())
    assert is_done(tmp_path, "ceilings", "x")
    damage(path, how)
    with pytest.raises(StudyError, match=r"x\.parquet is truncated, damaged or no parquet file$") as caught:
        read_table(path)
    assert "\n" not in str(caught.value)
    assert not is_done(tmp_path, "ceilings", "x")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(StudyError, match=r"x\.parquet does not exist"):
        read_table(tmp_path / "x.parquet")


def rewrite_metadata(path, **changes):
    table = pq.read_table(path)
    found = {**json.loads(table.schema.metadata[b"adaptlens"]), **changes}
    pq.write_table(table.replace_schema_metadata({b"adaptlens": json.dumps(found).encode()}), path)


def test_tables_of_other_kinds_and_versions_are_refused(tmp_path):
    path = write_table(tmp_path, "ceilings", "x", ceilings_frame(), provenance())
    rewrite_metadata(path, schema_version=99)
    with pytest.raises(StudyError, match=r"x\.parquet has schema version 99; this version of adaptlens reads 1"):
        read_table(path)
    rewrite_metadata(path, schema_version=1, study="astrology")
    with pytest.raises(StudyError, match=r"x\.parquet is of study 'astrology'"):
        read_table(path)
    rewrite_metadata(path, study="linear_collapse")
    with pytest.raises(
        StudyError, match=r"x\.parquet has other columns than study 'linear_collapse': accuracy, ceiling"
    ):
        read_table(path)
    ceilings_frame().to_parquet(path)
    with pytest.raises(StudyError, match=r"x\.parquet is a parquet file, but no table of adaptlens"):
        read_table(path)


@pytest.mark.parametrize("name", ["name", "count", "size", "yes"])
def test_missing_values_are_refused_where_there_are_none(tmp_path, every_type, name):
    """They came back as an error of pandas, or as False."""
    path = write_table(tmp_path, "every_type", "x", every_type, provenance())
    table = pq.read_table(path)
    at = table.column_names.index(name)
    column = pa.chunked_array([[table[name][0].as_py(), None]], table[name].type)
    pq.write_table(table.set_column(at, pa.field(name, column.type), column), path)
    with pytest.raises(StudyError, match=f"x\\.parquet has missing values where study 'every_type' has none: {name}"):
        read_table(path)


def test_tables_that_could_have_missing_values_are_joined_with_those_that_could_not(tmp_path, every_type):
    write_table(tmp_path, "every_type", "a", every_type, provenance())
    path = write_table(tmp_path, "every_type", "b", every_type, provenance(wall_seconds=1.0))
    table = pq.read_table(path)
    pq.write_table(
        table.cast(pa.schema([field.with_nullable(True) for field in table.schema], table.schema.metadata)), path
    )
    assert pq.read_schema(path).field("count").nullable
    frame = read_study(tmp_path, "every_type")
    assert frame["count"].tolist() == every_type["count"].tolist() * 2
    assert read_table(path).attrs["provenance"]["study"] == "every_type"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"run_status": 5}, "run_status"),
        ({"config": {"dataset": ["a"]}}, "config's dataset"),
        ({"config": {"seed": "x"}}, "config's seed"),
        ({"config": {"seed": 10**400}}, "config's seed"),
        ({"config": {"seed": True, "model": {}}}, "config's model, config's seed"),
        ({"wall_seconds": 10**400}, "wall_seconds"),
        ({"wall_seconds": float("nan"), "device": 1}, "device, wall_seconds"),
    ],
)
def test_a_provenance_of_other_kinds_is_refused(tmp_path, change, told):
    """A page of all tables shows and compares what it says."""
    path = write_table(tmp_path, "ceilings", "x", ceilings_frame(), provenance())
    rewrite_metadata(path, **change)
    with pytest.raises(StudyError, match=rf"the provenance of .*x\.parquet does not say its {told} as it should"):
        read_provenance(path)


def test_done_means_the_same_settings(tmp_path):
    assert not is_done(tmp_path, "ceilings", "x")
    write_table(tmp_path, "ceilings", "x", ceilings_frame(), provenance(settings={"num_tasks": 2, "hidden": (1, 2)}))
    assert is_done(tmp_path, "ceilings", "x")
    assert is_done(tmp_path, "ceilings", "x", {"num_tasks": 2, "hidden": (1, 2)})
    assert not is_done(tmp_path, "ceilings", "x", {"num_tasks": 3, "hidden": (1, 2)})


def test_a_study_is_all_its_tables_with_their_types_and_provenance(tmp_path):
    for id, points in (("b", 20), ("a", 10)):
        write_table(tmp_path, "ceilings", id, ceilings_frame(points=points), provenance(settings={"points": points}))
    (tmp_path / "ceilings" / ".a.parquet.x.tmp").write_bytes(b"half a file")
    (tmp_path / "ceilings" / ".c.parquet").write_bytes(b"half a file")
    frame = read_study(tmp_path, "ceilings")
    assert frame["points"].tolist() == [10, 10, 20, 20]
    assert frame.index.tolist() == [0, 1, 2, 3]
    assert frame.dtypes.to_dict() == read_table(tmp_path / "ceilings" / "a.parquet").dtypes.to_dict()
    origin = frame.attrs["provenance"]
    assert list(origin) == ["a", "b"]
    assert origin["b"]["settings"] == {"points": 20}


def test_a_table_in_the_folder_of_another_study_is_named(tmp_path):
    path = write_table(tmp_path, "ceilings", "x", ceilings_frame(), provenance())
    (tmp_path / "linear_collapse").mkdir()
    path.rename(tmp_path / "linear_collapse" / "x.parquet")
    with pytest.raises(StudyError, match=r"x\.parquet is a table of study 'ceilings', not of 'linear_collapse'"):
        read_study(tmp_path, "linear_collapse")


def test_a_copy_of_a_table_is_refused(tmp_path):
    for id, accuracy in (("a", [np.nan, 1.0]), ("b", [np.nan, 0.5])):
        write_table(tmp_path, "ceilings", id, ceilings_frame(accuracy=accuracy), provenance())
    assert len(read_study(tmp_path, "ceilings")) == 4
    shutil.copy(tmp_path / "ceilings" / "a.parquet", tmp_path / "ceilings" / "copy of a.parquet")
    with pytest.raises(StudyError, match=r"copy of a.parquet is a copy of .*/a.parquet, whose tasks would count twice"):
        read_study(tmp_path, "ceilings")


def test_a_study_without_tables_says_how_to_make_them(tmp_path):
    with pytest.raises(StudyError, match=r"no table of study 'ceilings'.*python -m analysis ceilings"):
        read_study(tmp_path, "ceilings")


def test_readers_change_nothing(tmp_path):
    path = write_table(tmp_path, "ceilings", "x", ceilings_frame(), provenance())
    before = path.read_bytes(), path.stat().st_mtime_ns, sorted(tmp_path.rglob("*"))
    read_table(path), read_study(tmp_path, "ceilings"), is_done(tmp_path, "ceilings", "x")
    assert (path.read_bytes(), path.stat().st_mtime_ns, sorted(tmp_path.rglob("*"))) == before


def test_every_column_says_what_it_is():
    for study, schema in SCHEMAS.items():
        for name, column in schema.items():
            assert column.dtype in ("str", "int64", "Int64", "float64", "bool"), (study, name)
            assert column.unit, (study, name)
            assert column.meaning, (study, name)


def test_the_store_and_the_statistics_load_no_torch():
    code = "import analysis.store, analysis.statistics, sys; analysis.read_study; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_a_study_says_how_many_rows_are_of_each_table(tmp_path):
    frame = ceilings_frame()
    write_table(tmp_path, "ceilings", "b", frame, provenance())
    write_table(tmp_path, "ceilings", "a", pd.concat([frame, frame]), provenance())
    assert list(read_study(tmp_path, "ceilings").attrs["num_rows"].items()) == [("a", 4), ("b", 2)]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(("study", "name"), [("post_adaptation", "loss"), ("post_adaptation", "accuracy")])
def test_a_row_that_says_ok_has_a_measurement(tmp_path, study, name, bad):
    table = read_study(FIXTURES, study)
    frame = table.copy()
    frame.loc[frame.index[3], name] = bad
    with pytest.raises(StudyError, match=f"1 rows of '{study}' have status ok, but a {name} that is not finite"):
        write_table(tmp_path, study, "x", frame, provenance())
    frame.loc[frame.index[3], "status"] = "diverged"
    write_table(tmp_path, study, "x", frame, provenance())
    regression = table.assign(accuracy=np.nan)
    write_table(tmp_path, study, "y", regression, provenance())
