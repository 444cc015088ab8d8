"""Tables that unpack to more than they may."""

import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bounds import FACTOR, Refused
from bounds.parquet import _FOOTER, _pages, _row_groups, _Thrift, read_table

TABLE = pa.table(
    {
        "word": ["a", "", "é", None, "a" * 300] * 20,
        "number": pa.array([1, None, -(2**62), 4, 5] * 20),
        "size": [0.5, -0.0, np.inf, 4.0, 5.0] * 20,
        "yes": [True, False, None, True, True] * 20,
    }
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.parquet"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "none"},
        {"use_dictionary": False},
        {"data_page_version": "2.0"},
        {"row_group_size": 7},
        {"data_page_size": 1, "write_batch_size": 1, "dictionary_pagesize_limit": 10},
        {"write_page_checksum": True, "write_page_index": True},
        {"version": "1.0"},
        {"store_schema": False},
    ],
)
def test_a_table_is_read_however_it_was_laid_out(path, options):
    pq.write_table(TABLE, path, **options)
    assert read_table(path, checksums=True).equals(pq.read_table(path))
    assert read_table(path).equals(TABLE)


def test_what_pandas_wrote_is_read(path):
    TABLE.to_pandas().to_parquet(path, index=False)
    assert read_table(path).to_pandas().equals(TABLE.to_pandas())


def test_a_table_of_no_rows_is_read(path):
    pq.write_table(TABLE[:0], path)
    assert read_table(path).equals(TABLE[:0])


@pytest.mark.parametrize("compression", ["zstd", "gzip", "brotli", "lz4"])
def test_other_compressions_are_refused(path, compression):
    pq.write_table(TABLE, path, compression=compression)
    with pytest.raises(Refused, match=rf"x\.parquet is compressed as {compression.upper()}"):
        read_table(path)


def test_a_codec_that_nobody_knows_is_refused(path):
    """pyarrow, asked for its name, would end the process."""
    pq.write_table(TABLE, path, compression="none")
    content = path.read_bytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    # In the footer the codec, field 4, follows the column's path, a list of one word; it is a zigzag number.
    path_and_codec = b"\x04word\x15\x00"
    assert content[footer:].count(path_and_codec) == 1
    path.write_bytes(content[:footer] + content[footer:].replace(path_and_codec, b"\x04word\x15\x3a"))
    with pytest.raises(Refused, match=r"x\.parquet is compressed as number 29, and tables of ours as SNAPPY"):
        read_table(path)


@pytest.mark.parametrize(
    "footer",
    [
        b"\x49\xff\xff\xff\xff\xff\x0f",
        b"\x49\xf2" + b"\xff" * 8 + b"\x7f",
        b"\x47\x00",
        b"\x49\x1c" * 3,
        b"\x49" * 9000,
        b"",
    ],
    ids=["a list without end", "one of truth values", "half a number", "deep", "deeper", "nothing"],
)
def test_a_footer_that_is_none_is_told_of(footer):
    with pytest.raises(ValueError, match="its footer is not whole"):
        _row_groups("x", footer)


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
def test_other_encodings_are_refused(path, encoding):
    pq.write_table(TABLE.select(["word"]), path, use_dictionary=False, column_encoding={"word": encoding})
    with pytest.raises(Refused, match=r"x\.parquet has an encoding \(number \d\) that no table of ours has"):
        read_table(path)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[1]]),
        pa.array([{"a": 1}]),
        pa.array([b"a"]),
        pa.array([1], pa.int32()),
        pa.array(["a"]).dictionary_encode(),
        pa.array(pd.array([pd.Period("2020", "M")])),
    ],
    ids=str,
)
def test_other_columns_are_refused(path, column):
    pq.write_table(pa.table({"a": column}), path)
    with pytest.raises(Refused, match=r"x\.parquet has a column 'a' of .*, which no table of ours has"):
        read_table(path)


def test_rows_are_counted_before_they_are_made(path, monkeypatch):
    # A billion of the same value take a few bytes.
    pq.write_table(pa.table({"a": pa.array(np.zeros(1_000_000))}), path)
    assert path.stat().st_size < 10_000
    monkeypatch.setattr("bounds.parquet.MAX_TABLE_VALUES", 999_999)
    with pytest.raises(Refused, match=r"x\.parquet has 1,000,000 values, more than the 999,999"):
        read_table(path)
    monkeypatch.setenv(FACTOR, "2")
    assert read_table(path).num_rows == 1_000_000


@pytest.mark.parametrize("dictionary", [True, False])
def test_words_are_counted_as_often_as_they_stand_there(path, dictionary, monkeypatch):
    pq.write_table(pa.table({"a": ["b" * 1000] * 5000}), path, use_dictionary=dictionary)
    monkeypatch.setattr("bounds.parquet.MAX_TABLE_TEXT", 5_100_000)
    assert read_table(path).num_rows == 5000
    monkeypatch.setattr("bounds.parquet.MAX_TABLE_TEXT", 4_900_000)
    before = pa.total_allocated_bytes()
    with pytest.raises(Refused, match="bytes of words, more than the 4,900,000"):
        read_table(path)
    assert pa.total_allocated_bytes() - before < 1_000_000


def test_a_footer_that_is_too_large_is_not_read(path, monkeypatch):
    pq.write_table(TABLE, path)
    monkeypatch.setattr("bounds.parquet._FOOTER_BYTES", 100)
    with pytest.raises(Refused, match="bytes in its footer, more than the 100"):
        read_table(path)


def test_a_page_that_says_it_unpacks_to_gigabytes_is_refused(path):
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": pa.array(range(1000))}), sink, use_dictionary=False)
    content = bytearray(sink.getvalue())
    # A page begins with its kind, field 1, and its size, field 2, a zigzag number of two bytes here.
    assert content[4:7] == b"\x15\x00\x15"
    size = content[7] & 127 | content[8] << 7
    assert size > 2 * 8000 - 1
    for place, told in ((7, b"\xfe\xff\xff\xff\x0f"),):
        path.write_bytes(bytes(content[:place]) + told + bytes(content[place + 3 :]))
        with pytest.raises(Refused, match=r"x\.parquet is truncated, damaged or no parquet file"):
            read_table(path)


@pytest.mark.parametrize("other", [1, 2, 5])
def test_words_that_a_part_calls_numbers_are_refused(path, other):
    """pyarrow reads them as the column says, so that a bound on words would not see them."""
    pq.write_table(pa.table({"word": ["a" * 5000] * 1000}), path)
    content = bytearray(path.read_bytes())
    type_at = content.rindex(b"\x15\x0c") + 1  # the field `type` of ColumnMetaData, 6 in zigzag
    assert content[type_at] == 2 * 6
    content[type_at] = 2 * other
    path.write_bytes(content)
    with pytest.raises(Refused, match="damaged"):
        read_table(path)


def rewritten(path, change):
    """Change the footer of a file, whose length is written behind it."""
    content = path.read_bytes()
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    footer = change(content[start:-8])
    path.write_bytes(content[:start] + footer + len(footer).to_bytes(4, "little") + b"PAR1")


def replaced(old, new):
    def change(footer):
        assert old in footer
        return footer.replace(old, new, 1)

    return change


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # In a footer a field begins with how much larger its number is than the last one's, and its kind.
        (b"\x26\x08", b"\x25\x08"),  # dictionary_page_offset, 4 as a zigzag number: of 32 bits, and not of 64
        (b"\x26\x08", b"\x26\x08\x06\x92\x80\x08\x08"),  # field 65545, of whose number 9 is left in 16 bits
        (b"\x15\x02\x19\x35", b"\x15\x02\x19\x36"),  # codec SNAPPY; behind it the encodings, as of 64 bits
    ],
    ids=["kind", "large number", "kind in a list"],
)
def test_what_pyarrow_would_read_otherwise_is_refused(path, old, new):
    pq.write_table(pa.table({"a": [0.5, 1.5] * 50}), path)
    if old.startswith(b"\x15\x02"):  # the type DOUBLE, 5 in zigzag, comes before the encodings
        old, new = b"\x15\x0a" + old[2:], b"\x15\x0a" + new[2:]
    rewritten(path, replaced(old, new))
    with pytest.raises(Refused, match=r"x\.parquet is truncated, damaged or no parquet file") as caught:
        read_table(path)
    assert str(caught.value.__cause__) == "its footer is not whole"


@pytest.mark.parametrize("number", [b"\x80\x80\x80\x80\x20", b"\x80" * 9 + b"\x04"])
def test_a_number_of_more_bits_than_its_kind_is_damage(number):
    kind = b"\x15" if len(number) < 10 else b"\x16"
    with pytest.raises(ValueError, match="a number too long"):
        _Thrift("x", kind + number + b"\0").struct({})


def test_columns_that_lie_in_each_other_are_refused(path):
    """A column of one place in many row groups would be looked at, and unpacked, that often."""
    values = np.random.default_rng(0).normal(size=1000)
    pq.write_table(pa.table({"a": values}), path, use_dictionary=False)

    def repeat(footer):
        before = b"\x16\xd0\x0f\x19\x1c"  # 1000 rows in one row group
        start = footer.index(before) + len(before)
        reader = _Thrift(path, footer, start)
        reader.struct({})
        group = footer[start : reader.at]
        return footer[: start - 5] + b"\x16\xf0\x2e\x19\x3c" + group * 3 + footer[reader.at :]

    rewritten(path, repeat)
    assert pq.read_table(path).num_rows == 3000
    with pytest.raises(Refused, match="damaged") as caught:
        read_table(path)
    assert str(caught.value.__cause__) == "its columns are larger than it is"


def test_a_column_has_as_many_values_as_rows(path):
    """pyarrow reads pages until it has as many values as the column says."""
    pq.write_table(pa.table({"a": np.zeros(1000)}), path)
    rewritten(path, replaced(b"\x16\xd0\x0f\x16", b"\x16\xd2\x0f\x16"))
    with pytest.raises(Refused, match="damaged") as caught:
        read_table(path)
    assert str(caught.value.__cause__) == "a column of it has 1001 values in 1000 rows"


def test_pages_of_nothing_are_refused(path):
    pq.write_table(pa.table({"a": np.zeros(1000)}), path, use_dictionary=False, compression="none")
    column = pq.read_metadata(path).row_group(0).column(0)
    chunk = path.read_bytes()[column.data_page_offset :][: column.total_compressed_size]
    assert len(_pages("x", chunk, 1000)) == 1
    # Kind 0, of 0 bytes packed and unpacked; of a data page: 0 values, PLAIN, and RLE twice.
    nothing = b"\x15\0\x15\0\x15\0\x2c\x15\0\x15\0\x15\6\x15\6\0\0"
    with pytest.raises(ValueError, match="a page has 0 values"):
        _pages("x", nothing + chunk, 1000)


def test_a_footer_of_many_parts_is_refused_before_pyarrow_sees_it(path, monkeypatch):
    count = 200_000  # columns of three bytes each; pyarrow's take hundreds
    footer = b"\x29\x0c\x29\x1c\x19\xfc\xc0\x9a\x0c" + b"\x26\0\0" * count + b"\0\0"
    with pytest.raises(
        Refused, match="x has 100,001 values in its footer or more, more than the 100,000 that are read"
    ):
        _row_groups("x", footer)
    pq.write_table(TABLE, path)
    monkeypatch.setattr("bounds.parquet.pq.ParquetFile", None)
    monkeypatch.setattr("bounds.parquet.MAX_TABLE_FOOTER", 50)
    with pytest.raises(Refused, match=r"x\.parquet has 51 values in its footer or more"):
        read_table(path)


def test_columns_within_columns_are_refused_before_pyarrow_goes_into_them():
    element = b"\x48\x01a\x15\x02\0"  # a name, and one child
    with pytest.raises(Refused, match="x has 100 columns that are made of others, more than the 64"):
        _row_groups("x", b"\x29\xfc\x64" + element * 100 + b"\x29\x0c\0")


def test_a_schema_of_arrow_has_a_bound(path, monkeypatch):
    """Parts of it may be the same bytes, and each becomes an object of its own."""
    pq.write_table(TABLE, path)
    monkeypatch.setattr("bounds.parquet.MAX_TABLE_SCHEMA", 100)
    with pytest.raises(Refused, match=r"x\.parquet has \d+ bytes in its schema, more than the 100"):
        read_table(path)


def test_what_pyarrow_writes_has_lists_of_the_kinds_that_are_known(path):
    pq.write_table(
        TABLE, path, write_page_index=True, sorting_columns=[pq.SortingColumn(0)], row_group_size=30,
        store_decimal_as_integer=True,
    )  # fmt: skip
    assert read_table(path).equals(TABLE)
    content = path.read_bytes()
    footer = content[-8 - int.from_bytes(content[-8:-4], "little") : -8]
    metadata = _Thrift(path, footer).struct(_FOOTER)
    assert {number for number, (kind, _) in metadata.items() if kind == 9} == {2, 4, 5, 7}
