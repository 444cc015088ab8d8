"""Reading pickles of arrays, and refusing every other."""

import collections
import copyreg
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from core.errors import UserError
from core.tasks import pickles
from core.tasks.pickles import read_pickle

VALUE = {
    "bytes": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "columns": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
    "big_endian": np.arange(3, dtype=">f4"),
    "scalar": np.float32(0.5),
    "empty": np.zeros((0, 3), np.int32),
    "plain": [1, -2.5, "text", b"raw", None, True, (1, 2), {"n": 10**20}],
}


def read(content: bytes):
    return read_pickle(io.BytesIO(content), "some.pkl", len(content))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_reads_what_python_wrote_in_any_protocol(protocol):
    got = read(pickle.dumps(VALUE, protocol))
    assert got["plain"] == VALUE["plain"]
    for name in ("bytes", "columns", "big_endian", "scalar", "empty"):
        expected = np.asarray(VALUE[name])
        np.testing.assert_array_equal(got[name], expected)
        if name != "scalar":
            assert got[name].dtype == expected.dtype


def test_reads_ordered_dicts_and_the_module_names_of_old_numpy():
    content = pickle.dumps(collections.OrderedDict(rows=np.arange(3)), 2)
    assert b"numpy._core.multiarray" in content
    got = read(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    np.testing.assert_array_equal(got["rows"], [0, 1, 2])


def test_reads_an_array_as_python_2_wrote_it():
    # Its bytes are a str there, here by hand: (version, shape, dtype, is_fortran, data).
    content = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        b"(I1\n(I2\ntcnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\xff\\x07'\ntb."
    )
    np.testing.assert_array_equal(read(content), np.array([255, 7], np.uint8))


class _Evil:
    def __init__(self, call, *arguments):
        self.reduced = (call, arguments)

    def __reduce__(self):
        return self.reduced


def test_runs_nothing(tmp_path):
    trace = tmp_path / "trace"
    attacks = [
        _Evil(os.system, f"touch {trace}"),
        _Evil(eval, f"open({str(trace)!r}, 'w')"),
        _Evil(exec, f"open({str(trace)!r}, 'w')"),
        _Evil(getattr, "", "format"),
        _Evil(Path, str(trace)),
        _Evil(open, str(trace), "w"),
        _Evil(copyreg._reconstructor, Path, object, None),
        _Evil(np.load, str(trace)),
        _Evil(np.memmap, str(trace)),
    ]
    for attack in attacks:
        for protocol in (0, 2, 4, 5):
            for value in (attack, {"image_data": attack}, [np.zeros(2), attack]):
                with pytest.raises(UserError, match="no part of arrays"):
                    read(pickle.dumps(value, protocol))
    assert not trace.exists()


@pytest.mark.parametrize(
    "value",
    [
        np.array(["text"]),
        np.array([{"a": 1}], dtype=object),
        np.zeros(2, dtype=[("a", "i4")]),
        np.array(["2020"], "M8[D]"),
    ],
    ids=["text", "objects", "records", "dates"],
)
def test_refuses_arrays_of_other_things_than_numbers(value):
    with pytest.raises(UserError, match=r"some\.pkl"):
        read(pickle.dumps(value))


def test_a_pickle_cannot_change_the_reader_for_the_next_one():
    # The instruction BUILD sets attributes of what was named before it.
    with pytest.raises(UserError):
        read(b"c_codecs\nencode\n(N}S'__defaults__'\n(S'zip'\ntstb.")
    assert pickles._encode.__defaults__ is None
    np.testing.assert_array_equal(read(pickle.dumps(np.arange(2))), [0, 1])


def test_damage_is_one_clear_error():
    whole = pickle.dumps(VALUE, 2)
    for length in range(0, len(whole) - 1, 37):
        with pytest.raises(UserError, match=r"some\.pkl"):
            read(whole[:length])
    with pytest.raises(UserError, match=r"some\.pkl"):
        read(b"<!DOCTYPE html><html>not found</html>")
    cycle: list = []
    cycle.append(cycle)
    with pytest.raises(UserError, match=r"some\.pkl"):
        read(pickle.dumps(cycle))


def test_a_buffer_shorter_than_its_shape_is_refused():
    whole = pickle.dumps(np.arange(4, dtype=np.uint8), 2)
    with pytest.raises(UserError, match=r"some\.pkl"):
        read(whole.replace(b"K\x04\x85", b"K\x7f\x85"))


def test_what_is_held_twice_is_looked_at_once():
    value: list = [np.arange(2)]
    for _ in range(60):  # 2^60 ways to the array
        value = [value, value]
    got = read(pickle.dumps(value, 2))
    for _ in range(60):
        assert got[0] is got[1]
        got = got[0]
    np.testing.assert_array_equal(got[0], [0, 1])


def test_copies_of_the_same_text_are_refused():
    content = b"\x80\x02c_codecs\nencode\nq\x00X" + (1000).to_bytes(4, "little") + b"a" * 1000
    content += b"q\x01X\x06\x00\x00\x00latin1q\x02\x86q\x030]q\x04(" + b"h\x00h\x03R" * 1000 + b"e."
    with pytest.raises(UserError, match=r"some\.pkl is not a whole pickle \(MemoryError: it copies the same values"):
        read(content)


def test_what_a_name_is_called_with_is_counted():
    """The same thousand values a thousand times, of which only the text was counted."""
    content = b"\x80\x02cnumpy\nndarray\nq\x00(" + b"N" * 1000 + b"tq\x010]q\x02(" + b"h\x00h\x01R0" * 1000 + b"e."
    with pytest.raises(UserError, match="copies the same values"):
        read(content)


def test_text_is_not_made_bytes_again_and_again():
    """An array of Python 2 has its numbers as text, which is encoded each time that it is an array's."""
    array = b"cnumpy.core.multiarray\n_reconstruct\n)R"
    state = (
        b"(K\x01M\xe8\x03\x85cnumpy\ndtype\nX\x02\x00\x00\x00u1\x85R\x89X\xe8\x03\x00\x00" + b"a" * 1000 + b"tq\x01b"
    )
    assert read(b"\x80\x02](" + array + state + b"e.")[0].sum() == 1000 * ord("a")
    with pytest.raises(UserError, match="copies the same values"):
        read(b"\x80\x02](" + array + state + (array + b"h\x01b") * 5 + b"e.")


def test_a_type_of_records_is_not_made():
    """Each of two fields is a record of two such fields, and so on: NumPy would make all 2^n of them."""
    content = b"\x80\x02cnumpy\ndtype\nX\x01\x00\x00\x00bq\x010X\x01\x00\x00\x00aq\x020X\x02\x00\x00\x00i4"
    for _ in range(12):
        content += b"q\x000](h\x02h\x00\x86h\x01h\x00\x86e"
    with pytest.raises(UserError, match="an array of records, which is no part of arrays of numbers"):
        read(content + b"\x85R.")
