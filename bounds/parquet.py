"""Parquet tables, whose pages are looked at before any is unpacked.

A table of a few bytes may announce billions of rows, all the same, or words that each repeat a long one before it. So
only what our tables are written with is read: flat columns of five types, Snappy, which unpacks to 22 times at most,
plain and dictionary encodings. The pages say how large they become; their headers are read here, and added up. So is
what the footer says of the columns: asked for it, pyarrow ends the process where it cannot be (a codec that it does not
know, statistics of another type).
"""

from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from bounds import MAX_JSON_BYTES, MAX_TABLE_BYTES, MAX_TABLE_TEXT, MAX_TABLE_VALUES, Refused, check, open_file

_CODECS = ("UNCOMPRESSED", "SNAPPY", "GZIP", "LZO", "BROTLI", "LZ4", "ZSTD", "LZ4_RAW")  # by their number in parquet
_UNCOMPRESSED, _SNAPPY = 0, 1
_BYTE_ARRAY = 6  # the physical type of words
_PHYSICAL_TYPES = {"BOOLEAN": 0, "INT64": 2, "DOUBLE": 5, "BYTE_ARRAY": _BYTE_ARRAY}  # of `_TYPES`
_SNAPPY_RATIO = 22  # its densest instruction repeats 64 bytes and takes 3
_FOOTER_BYTES = MAX_JSON_BYTES
_PLAIN, _OLD_DICTIONARY, _RLE, _DICTIONARY = 0, 2, 3, 8  # encodings, by their number in parquet's definition
_DATA_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_2 = 0, 2, 3
_TYPES = (pa.string(), pa.large_string(), pa.int64(), pa.float64(), pa.bool_())


def read_table(path: str | Path, *, checksums: bool = False) -> pa.Table:
    """A table of words, numbers and truth values.

    Args:
        path: the file.
        checksums: whether the pages have checksums, which are then compared.

    Raises:
        Refused: if it is damaged, no parquet file, larger than any of ours, or written otherwise than ours are.
        OSError: if it cannot be read.
    """
    try:
        with open_file(path, MAX_TABLE_BYTES) as raw:
            size = raw.seek(0, 2)
            raw.seek(max(0, size - 8))
            length, magic = int.from_bytes(raw.read(4), "little"), raw.read()
            if magic != b"PAR1" or length > size:
                raise ValueError("no footer")
            check(path, length, _FOOTER_BYTES, "bytes in its footer")
            raw.seek(max(0, size - 8 - length))
            footer = raw.read(length)
        with pq.ParquetFile(path, page_checksum_verification=checksums) as file:
            metadata = file.metadata
            schema = file.schema_arrow
            for field in schema:
                if field.type not in _TYPES:
                    raise Refused(f"{path} has a column {field.name!r} of {field.type}, which no table of ours has")
            check(path, metadata.num_rows * max(1, metadata.num_columns), MAX_TABLE_VALUES, "values")
            if metadata.num_columns != len(schema):
                raise ValueError(f"it has {metadata.num_columns} columns and names {len(schema)}")
            if metadata.num_rows == 0:  # the pages of such a file are nowhere
                return schema.empty_table()
            groups = _row_groups(footer)
            types = [_PHYSICAL_TYPES.get(metadata.schema.column(i).physical_type) for i in range(metadata.num_columns)]
            told = [[column.physical_type for column in group.columns] for group in groups]
            if told != [types] * metadata.num_row_groups:
                raise ValueError("its parts do not have all columns, each of its own type")
            _check_pages(path, groups, metadata.num_rows, size)
            return file.read(use_threads=False)
    except (Refused, FileNotFoundError):
        raise
    except (pa.ArrowException, ValueError, OverflowError, MemoryError) as error:
        raise Refused(f"{path} is truncated, damaged or no parquet file") from error


class _Column(NamedTuple):
    """The part of a column in a row group."""

    physical_type: int
    codec: int
    packed: int  # bytes
    at: int  # where its first page begins


class _RowGroup(NamedTuple):
    rows: int
    columns: list[_Column]


def _row_groups(footer: bytes) -> list[_RowGroup]:
    """What a footer says of the row groups and their columns.

    Raises:
        ValueError: if it is not whole.
    """
    try:
        # The numbers of the fields are those of FileMetaData, RowGroup, ColumnChunk and ColumnMetaData.
        return [
            _RowGroup(_whole(group[3]), [_column(chunk[3]) for chunk in group[1]]) for group in _struct(footer, 0)[0][4]
        ]
    except (KeyError, IndexError, TypeError, ValueError, RecursionError) as error:
        raise ValueError("its footer is not whole") from error


def _column(told: dict[int, Any]) -> _Column:
    data, dictionary = _whole(told[9]), _whole(told.get(11, 0))
    at = dictionary if 0 < dictionary < data else data
    return _Column(_whole(told[1]), _whole(told[4]), _whole(told[7]), at)


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError("no whole number")
    return value


def _check_pages(path: str | Path, groups: list[_RowGroup], rows: int, size: int) -> None:
    """See that what the pages unpack to is bounded.

    Raises:
        Refused: if it is not.
        OSError: if the file cannot be read.
    """
    found = sum(group.rows for group in groups)
    if min(group.rows for group in groups) < 1 or found != rows:
        raise ValueError(f"its parts have {found} rows, and it says {rows}")
    text = 0
    with open(path, "rb") as file:
        for group in groups:
            for column in group.columns:
                if column.codec not in (_UNCOMPRESSED, _SNAPPY):
                    name = _CODECS[column.codec] if 0 <= column.codec < len(_CODECS) else f"number {column.codec}"
                    raise Refused(f"{path} is compressed as {name}, and tables of ours as SNAPPY")
                if column.at < 4 or column.packed < 0 or column.at + column.packed > size:
                    raise ValueError("a column lies outside of the file")
                file.seek(column.at)
                pages = _pages(path, file.read(column.packed), group.rows)
                if column.physical_type == _BYTE_ARRAY:
                    text += _text(pages, column.codec)
                    check(path, text, MAX_TABLE_TEXT, "bytes of words")


class _Page(NamedTuple):
    kind: int
    unpacked: int  # bytes
    values: int
    content: bytes


def _text(pages: list[_Page], codec: int) -> int:
    """How many bytes the words of a column may take: each may be the longest of its dictionary."""
    longest = max((_longest(page, codec) for page in pages if page.kind == _DICTIONARY_PAGE), default=0)
    return sum(page.unpacked + page.values * longest for page in pages if page.kind != _DICTIONARY_PAGE)


def _longest(page: _Page, codec: int) -> int:
    """The bytes of the longest word of a dictionary, in which each stands behind its length."""
    words = page.content
    if codec == _SNAPPY:
        words = pa.Codec("snappy").decompress(words, page.unpacked, asbytes=True)
    longest = at = 0
    while at < len(words):
        length = int.from_bytes(words[at : at + 4], "little")
        longest, at = max(longest, length), at + 4 + length
    return longest


def _pages(path: str | Path, chunk: bytes, rows: int) -> list[_Page]:
    """The pages of a column.

    Raises:
        Refused: for a page that is larger than it can be, of another encoding, or outside of the column.
    """
    pages, at = [], 0
    while at < len(chunk):
        try:
            header, at = _struct(chunk, at)
            kind, unpacked, packed = (_whole(header[number]) for number in (1, 2, 3))
            about = header[{_DATA_PAGE: 5, _DICTIONARY_PAGE: 7, _DATA_PAGE_2: 8}[kind]]
            count, encoding = (_whole(about[number]) for number in (1, 4 if kind == _DATA_PAGE_2 else 2))
        except (KeyError, IndexError, TypeError, ValueError, RecursionError) as error:
            raise ValueError("a page has no whole header") from error
        if not 0 <= packed <= len(chunk) - at or not 0 <= unpacked <= _SNAPPY_RATIO * packed + 64 or count < 0:
            raise ValueError(f"a page of {packed} bytes is said to unpack to {unpacked}")
        if encoding not in (_PLAIN, _OLD_DICTIONARY, _RLE, _DICTIONARY):
            raise Refused(f"{path} has an encoding (number {encoding}) that no table of ours has")
        pages.append(_Page(kind, unpacked, count, chunk[at : at + packed]))
        at += packed
    if sum(page.values for page in pages if page.kind != _DICTIONARY_PAGE) != rows:
        raise ValueError(f"a column of it does not have {rows} values")
    return pages


def _struct(data: bytes, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """A struct of Thrift's compact protocol, as numbers, bytes, lists and dicts by field number; and where it ends."""
    if depth > 8:
        raise ValueError("too deep")
    fields: dict[int, Any] = {}
    number = 0
    while (head := data[at]) != 0:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _zigzag(data, at)
        if number in fields:
            raise ValueError("a field twice")
        fields[number], at = _value(data, at, head & 15, depth)
    return fields, at + 1


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    match kind:
        case 1 | 2:
            return kind == 1, at
        case 3:
            return data[at], at + 1
        case 4 | 5 | 6:
            return _zigzag(data, at)
        case 8:
            length, at = _varint(data, at)
            if length > len(data) - at:
                raise ValueError("bytes beyond the end")
            return data[at : at + length], at + length
        case 7:
            if len(data) - at < 8:
                raise ValueError("a number beyond the end")
            return data[at : at + 8], at + 8
        case 9:
            return _list(data, at, depth)
        case 12:
            return _struct(data, at, depth + 1)
    raise ValueError("a kind of value that parquet has nowhere")


def _list(data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    length, kind, at = data[at] >> 4, data[at] & 15, at + 1
    if length == 15:
        length, at = _varint(data, at)
    if length > len(data) - at:
        raise ValueError("a list beyond the end")
    found = []
    for _ in range(length):
        value, at = _value(data, at, 3 if kind in (1, 2) else kind, depth)  # here a truth value has a byte of its own
        found.append(value)
    return found, at


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return value >> 1 ^ -(value & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number too long")
