"""What a pickle of a few bytes may cost."""

import collections
import io
import pickle
import struct
import tracemalloc

import pytest

from bounds import FACTOR, Refused
from bounds.pickles import BoundedUnpickler, ordered_dict


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


def nested(depth: int, grow: bytes) -> bytes:
    """Instructions for a tuple of so many layers."""
    return b"K\x00\x85" + grow * depth


@pytest.mark.parametrize("grow", [b"2\x86", b"\x85"], ids=["shared", "deep"])
@pytest.mark.parametrize(
    ("before", "after"),
    [(b"}", b"Ns."), (b"}(", b"Nu."), (b"(", b"Nd."), (b"\x8f(", b"\x90."), (b"(", b"\x91.")],
    ids=["item", "items", "dict", "set", "frozenset"],
)
def test_what_takes_years_to_hash_is_no_key(grow, before, after):
    content = b"\x80\x04" + before + nested(15, grow) + after
    hash(load(b"\x80\x02" + nested(15, grow) + b"."))  # at 15 layers in a moment; each more takes twice as long
    with pytest.raises(pickle.UnpicklingError, match="a tuple is the key of a dict, or in a set"):
        load(content)


@pytest.mark.parametrize("key", [b"a" * 70_000, "a" * 70_000, 1 << 70_000], ids=["bytes", "text", "number"])
def test_a_key_that_takes_long_to_compare_is_none(key):
    with pytest.raises(pickle.UnpicklingError, match=r"a (bytes|str|int) too long is the key"):
        load(pickle.dumps({key: 1}, 4))


@pytest.mark.parametrize("pairs", [{"a": 1}, [["a", 1]], (("a", 1),), ["a1"], ()])
def test_ordered_dicts_have_plain_keys(pairs):
    assert ordered_dict(pairs) == collections.OrderedDict(pairs)
    with pytest.raises(pickle.UnpicklingError, match="a tuple is the key"):
        ordered_dict([*pairs, ((1,), 2)])


def test_what_a_state_copies_is_counted():
    class Named:
        def __setstate__(self, state):
            self.state = state

    class Reader(BoundedUnpickler):
        settable = (Named,)

        def find_class(self, module, name):
            return Named

    text = b"X" + struct.pack("<I", 1000) + b"a" * 1000
    once = b"\x80\x02ca\nb\nq\x00" + text + b"q\x01]q\x02(" + b"h\x00)Rh\x01b"
    assert Reader(io.BytesIO(once + b"e."), len(once) + 2, "x").load()[0].state == "a" * 1000
    twice = once + b"h\x00)Rh\x01be."
    with pytest.raises(MemoryError, match="copies the same values"):
        Reader(io.BytesIO(twice), len(twice), "x").load()


@pytest.mark.parametrize("value", [complex(1, 2), pickle.PickleBuffer, Refused])
def test_nothing_is_named(value):
    with pytest.raises(pickle.UnpicklingError, match="it names "):
        load(pickle.dumps(value, 2))
