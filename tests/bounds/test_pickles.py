"""What a pickle of a few bytes may cost."""

import io
import pickle
import struct
import tracemalloc

import pytest

from bounds import FACTOR, Refused
from bounds.pickles import BoundedUnpickler


def load(content: bytes, size: int | None = None):
    return BoundedUnpickler(io.BytesIO(content), len(content) if size is None else size, "x").load()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_come_back(protocol):
    value = {"a": [1, -2.5, None, True, ("b", b"c")], 10**30: {"d"}, "e": "f" * 70_000}
    if protocol < 4:
        del value[10**30]  # a set has a name there, and this reader admits none
    if protocol < 3:
        value["a"][-1] = ("b",)
    assert load(pickle.dumps(value, protocol)) == value


def test_arrays_of_bytes_come_as_bytes():
    assert load(pickle.dumps(bytearray(b"abc"), 5)) == b"abc"


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # a place in the list of values, which in C is 16 GiB long
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"a.",
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"a.",
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"N.",
        b"\x80\x02X\xff\xff\xff\x7fa.",
        b"\x80\x02\x8b\xff\xff\xff\x7fa.",
    ],
    ids=["place", "bytes", "array of bytes", "frame", "text", "number"],
)
def test_what_is_announced_takes_no_memory(content):
    tracemalloc.start()
    try:
        try:
            load(content)
        except EOFError as error:
            assert "are announced where" in str(error)  # noqa: PT017  # the first of them is read
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_instructions_are_counted(monkeypatch):
    content = b"\x80\x02](" + b"]" * 200_000 + b"e."
    assert len(load(content)) == 200_000
    monkeypatch.setattr("bounds.pickles.MAX_PICKLE_STEPS", 100_000)
    with pytest.raises(Refused, match=r"x has 131,072 instructions or more, more than the 100,000 that are read"):
        load(content)
    monkeypatch.setenv(FACTOR, "3")
    assert len(load(content)) == 200_000


def test_a_large_pickle_is_not_begun(monkeypatch):
    monkeypatch.setattr("bounds.pickles.MAX_PICKLED_BYTES", 3)
    with pytest.raises(Refused, match="x has 4 bytes, more than the 3"):
        load(b"]\x94N.")


def test_copies_are_counted():
    reader = BoundedUnpickler(io.BytesIO(b"N."), 10, "x")
    reader.charge(10)
    with pytest.raises(MemoryError, match="copies the same values"):
        reader.charge(1)


@pytest.mark.parametrize("value", [complex(1, 2), pickle.PickleBuffer, Refused])
def test_nothing_is_named(value):
    with pytest.raises(pickle.UnpicklingError, match="it names "):
        load(pickle.dumps(value, 2))
