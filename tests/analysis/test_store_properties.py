"""Tables of any rows that a study may have, through the store and back."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.schemas import SCHEMAS
from analysis.store import provenance, read_provenance, read_table, write_table

WHOLE = st.integers(-(2**63), 2**63 - 1)
VALUES = {
    "str": st.text(st.characters(codec="utf-8"), max_size=20),
    "int64": WHOLE,
    "Int64": st.none() | WHOLE,
    "float64": st.floats(allow_subnormal=True),
    "bool": st.booleans(),
}
WORDS = st.text(st.characters(codec="utf-8"))
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def tables(draw):
    study = draw(st.sampled_from(sorted(SCHEMAS)))
    rows = draw(st.integers(0, 6))
    frame = pd.DataFrame(
        {
            name: pd.Series(
                draw(st.lists(VALUES[column.dtype], min_size=rows, max_size=rows)), dtype=dtype(column.dtype)
            )
            for name, column in SCHEMAS[study].items()
        }
    )
    return study, frame


def dtype(name):
    return pd.StringDtype(na_value=np.nan) if name == "str" else name


@pytest.fixture(scope="module")
def origin():
    return provenance(command="x")


@given(table=tables(), config=st.dictionaries(WORDS, plain, max_size=4))
def test_a_table_comes_back_as_it_was(tmp_path, origin, table, config):
    study, frame = table
    path = write_table(tmp_path, study, "x", frame, {**origin, "config": config})
    again = read_table(path)
    again_origin = again.attrs.pop("provenance")
    pd.testing.assert_frame_equal(again, frame, check_exact=True)
    for name, column in SCHEMAS[study].items():
        if column.dtype == "float64":  # zeros have signs
            assert again[name].to_numpy().tobytes() == frame[name].to_numpy().tobytes()
    assert again_origin == read_provenance(path)
    assert {key: again_origin[key] for key in origin} == {**origin, "config": config}
