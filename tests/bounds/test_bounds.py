"""Bounds: what is refused before it costs anything, and what goes through."""

import os
import struct
import tracemalloc
import zlib

import pytest

import bounds
from bounds import FACTOR, Refused, Within, check, most, open_file, read_bytes
from bounds.text import _check_depth, parse_json, read_json


def test_a_file_is_read_up_to_the_bound_and_no_further(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abcd")
    assert read_bytes(path, 4) == b"abcd"
    with pytest.raises(
        Refused, match=r"x has 4 bytes, more than the 3 that are read; .* set ADAPTLENS_BOUNDS to how many"
    ):
        read_bytes(path, 3)


def test_a_user_can_allow_more(tmp_path, monkeypatch):
    monkeypatch.setenv(FACTOR, "1.5")
    assert most(4) == 6
    check("x", 6, 4, "bytes")
    with pytest.raises(Refused):
        check("x", 7, 4, "bytes")


def test_room_is_made_for_what_is_there_alone(tmp_path):
    (tmp_path / "x").write_bytes(b"abcd")
    tracemalloc.start()
    try:
        read_bytes(tmp_path / "x", 1 << 28)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("text", ["", "no", "nan", "inf", "0.5", "-1", "1e9"])
def test_a_factor_that_is_none_is_told(text, monkeypatch):
    monkeypatch.setenv(FACTOR, text)
    with pytest.raises(Refused, match="ADAPTLENS_BOUNDS must be a number from 1 to 1000000"):
        most(1)


def test_what_never_ends_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero", "."):
        with pytest.raises(Refused, match="is no regular file"):
            open_file(tmp_path / name, 1 << 20)


def test_a_file_of_no_content_but_a_size_is_refused(tmp_path):
    with open(tmp_path / "hole", "wb") as file:
        file.truncate(bounds.MAX_JSON_BYTES + 1)
    with pytest.raises(Refused, match=r"hole has 67,108,865 bytes"):
        read_json(tmp_path / "hole")


def test_a_reader_is_never_asked_for_more_than_is_left(tmp_path):
    asked = []

    class File:
        def read(self, count):
            asked.append(count)
            return b"x" * count

    within = Within(File(), 10)
    within.read(4)
    with pytest.raises(EOFError, match="1099511627776 bytes are announced where 6 are left"):
        within.read(1 << 40)
    assert within.read() == b"xxxxxx"
    assert asked == [4, 6]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[" * 65 + b"]" * 65, "x has JSON that is more than 64 deep"),
        (b'{"a":' * 70, "x has JSON that is more than 64 deep"),
        (b'"\\ud800"', "x is not valid JSON: .*surrogates"),
        (b"\xff", "x is not valid JSON: .*utf-8"),
        (b"1" * 5000, "x is not valid JSON: Exceeds the limit"),
    ],
)
def test_json_that_cannot_be_is_refused(text, message):
    with pytest.raises(Refused, match=message):
        parse_json(text, "x")


@pytest.mark.parametrize(
    "text", [b"[" * 64 + b"]" * 64, b'"' + b"[" * 100 + b'\\"{{"', b'"\\ud83d\\ude00"', b"[[],[]]"]
)
def test_json_that_is_well_is_read(text):
    import json

    assert parse_json(text, "x") == json.loads(text)


@pytest.mark.parametrize("unit", ["a", "\\\\", 'a\\"'], ids=["letters", "escapes", "both"])
@pytest.mark.parametrize("end", ['"', ""], ids=["closed", "open"])
def test_a_long_string_takes_no_more_than_its_size(unit, end):
    text = '"' + unit * 1_000_000 + end
    tracemalloc.start()
    try:
        _check_depth(text, "x")
        assert tracemalloc.get_traced_memory()[1] < 4 * len(text)
    finally:
        tracemalloc.stop()


def test_the_bounds_are_above_what_is_real():
    mini_imagenet = 64 * 600 * 84 * 84 * 3
    assert mini_imagenet * 4 < bounds.MAX_PICKLED_BYTES
    assert bounds.MAX_CIFAR_BYTES > 60_000 * (3072 + 40) * 4
    assert bounds.MAX_DRAWINGS > 1623 * 20 * 10
    assert bounds.MAX_CACHE_BYTES > 1623 * 20 * 784 * 4


def png_of(width: int, height: int) -> bytes:
    """The start of an image, which is all zeros, packed a thousand times."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1_000_000), 9)
    chunks = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def test_a_drawing_of_many_pixels_is_refused_before_it_is_unpacked():
    import sys

    from core.errors import UserError

    omniglot = sys.modules["core.tasks.omniglot"]
    for side in (2049, 50_000):
        with pytest.raises(UserError, match=r"x\.png (has .* pixels a side|is not a readable PNG image)") as caught:
            omniglot._decode_drawing(png_of(side, side), "x.png")
        assert "\n" not in str(caught.value)
