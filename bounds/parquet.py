"""Parquet tables, whose pages are looked at before any is unpacked.

A table of a few bytes may announce billions of rows, all the same, or words that each repeat a long one before it. So
only what our tables are written with is read: flat columns of five types, Snappy, which unpacks to 22 times at most,
plain and dictionary encodings. The pages say how large they become; their headers are read here, and added up. So is
what the footer says of the columns, before pyarrow sees it: that makes a large object of three bytes, and ends the
process where what it is asked for cannot be (a codec that it does not know, statistics of another type).

What is read here has to be what pyarrow reads. Its reader leaves out a field of another kind than it expects, takes of
two fields of one number the last, of a number the low bits, and of a list what it expects to be in it. Here each of
these is damage.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from bounds import (
    MAX_JSON_BYTES,
    MAX_TABLE_BYTES,
    MAX_TABLE_FOOTER,
    MAX_TABLE_SCHEMA,
    MAX_TABLE_TEXT,
    MAX_TABLE_VALUES,
    Refused,
    check,
    most,
    open_file,
)

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
        groups = _row_groups(path, footer)
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
    values: int
    packed: int  # bytes
    at: int  # where its first page begins


class _RowGroup(NamedTuple):
    rows: int
    columns: list[_Column]


# Kinds of values in Thrift's compact protocol.
_TRUE, _FALSE, _BYTE, _INT16, _INT32, _INT64, _DOUBLE, _WORD, _LIST, _STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 9, 12
_BITS = {_INT16: 16, _INT32: 32, _INT64: 64}

# The kind of what is in each list of a footer, and what is below: of FileMetaData by the numbers of its fields.
_Lists = Mapping[int, tuple[int | None, "_Lists"]]  # None: the field is a struct itself
_SIZES: _Lists = {2: (_INT64, {}), 3: (_INT64, {})}
_COLUMN_METADATA: _Lists = {
    2: (_INT32, {}), 3: (_WORD, {}), 8: (_STRUCT, {}), 13: (_STRUCT, {}), 16: (None, _SIZES),
    17: (None, {2: (_INT32, {})}),
}  # fmt: skip
_ENCRYPTION: _Lists = {2: (None, {1: (_WORD, {})})}
_ROW_GROUP: _Lists = {1: (_STRUCT, {3: (None, _COLUMN_METADATA), 8: (None, _ENCRYPTION)}), 4: (_STRUCT, {})}
_FOOTER: _Lists = {2: (_STRUCT, {}), 4: (_STRUCT, _ROW_GROUP), 5: (_STRUCT, {}), 7: (_STRUCT, {})}
_GROUPS = 64  # columns that are made of others; ours have none, and pyarrow goes into them as deep as they are


def _row_groups(path: str | Path, footer: bytes) -> list[_RowGroup]:
    """What a footer says of the row groups and their columns.

    Raises:
        Refused: if it says more than any of ours.
        ValueError: if it is not whole.
    """
    try:
        # The numbers of the fields are those of FileMetaData, SchemaElement, KeyValue, RowGroup and ColumnChunk.
        metadata = _Thrift(path, footer).struct(_FOOTER)
        groups = sum(_get(element, 5, _INT32, 0) > 0 for element in _get(metadata, 2, _LIST))
        check(path, groups, _GROUPS, "columns that are made of others")
        for pair in _get(metadata, 5, _LIST, []):
            if _get(pair, 1, _WORD) == b"ARROW:schema":
                check(path, len(_get(pair, 2, _WORD)), MAX_TABLE_SCHEMA, "bytes in its schema")
        return [
            _RowGroup(_get(group, 3, _INT64), [_column(_get(chunk, 3, _STRUCT)) for chunk in _get(group, 1, _LIST)])
            for group in _get(metadata, 4, _LIST)
        ]
    except Refused:
        raise
    except (KeyError, IndexError, TypeError, ValueError, RecursionError) as error:
        raise ValueError("its footer is not whole") from error


def _column(metadata: "_Fields") -> _Column:
    """Of ColumnMetaData."""
    data, dictionary = _get(metadata, 9, _INT64), _get(metadata, 11, _INT64, 0)
    at = dictionary if 0 < dictionary < data else data
    return _Column(
        _get(metadata, 1, _INT32), _get(metadata, 4, _INT32), _get(metadata, 5, _INT64), _get(metadata, 7, _INT64), at
    )


def _check_pages(path: str | Path, groups: list[_RowGroup], rows: int, size: int) -> None:
    """See that what the pages unpack to is bounded.

    Raises:
        Refused: if it is not.
        OSError: if the file cannot be read.
    """
    found = sum(group.rows for group in groups)
    if min(group.rows for group in groups) < 1 or found != rows:
        raise ValueError(f"its parts have {found} rows, and it says {rows}")
    columns = [column for group in groups for column in group.columns]
    if any(column.packed < 0 for column in columns) or sum(column.packed for column in columns) > size:
        raise ValueError("its columns are larger than it is")
    text = 0
    with open(path, "rb") as file:
        for group in groups:
            for column in group.columns:
                if column.codec not in (_UNCOMPRESSED, _SNAPPY):
                    name = _CODECS[column.codec] if 0 <= column.codec < len(_CODECS) else f"number {column.codec}"
                    raise Refused(f"{path} is compressed as {name}, and tables of ours as SNAPPY")
                if column.at < 4 or column.at + column.packed > size:
                    raise ValueError("a column lies outside of the file")
                if column.values != group.rows:
                    raise ValueError(f"a column of it has {column.values} values in {group.rows} rows")
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
            reader = _Thrift(path, chunk, at)
            header = reader.struct({})
            at = reader.at
            kind, unpacked, packed = (_get(header, number, _INT32) for number in (1, 2, 3))
            about = _get(header, {_DATA_PAGE: 5, _DICTIONARY_PAGE: 7, _DATA_PAGE_2: 8}[kind], _STRUCT)
            count, encoding = (_get(about, number, _INT32) for number in (1, 4 if kind == _DATA_PAGE_2 else 2))
        except Refused:
            raise
        except (KeyError, IndexError, TypeError, ValueError, RecursionError) as error:
            raise ValueError("a page has no whole header") from error
        if not 0 <= packed <= len(chunk) - at or not 0 <= unpacked <= _SNAPPY_RATIO * packed + 64:
            raise ValueError(f"a page of {packed} bytes is said to unpack to {unpacked}")
        if count < (0 if kind == _DICTIONARY_PAGE else 1):  # others could be without end
            raise ValueError(f"a page has {count} values")
        if encoding not in (_PLAIN, _OLD_DICTIONARY, _RLE, _DICTIONARY):
            raise Refused(f"{path} has an encoding (number {encoding}) that no table of ours has")
        pages.append(_Page(kind, unpacked, count, chunk[at : at + packed]))
        at += packed
    if sum(page.values for page in pages if page.kind != _DICTIONARY_PAGE) != rows:
        raise ValueError(f"a column of it does not have {rows} values")
    return pages


_Fields = dict[int, tuple[int, Any]]
"""The kind and the value of each field of a struct, by its number."""


def _get(fields: _Fields, number: int, kind: int, default: Any = None) -> Any:
    """The value of a field; `default` if it is not there.

    Raises:
        KeyError: if it is not there, and there is no default.
        TypeError: if it is of another kind.
    """
    if number not in fields and default is not None:
        return default
    found, value = fields[number]
    if found != kind:
        raise TypeError(f"field {number} is of kind {found}")
    return value


class _Thrift:
    """A reader of Thrift's compact protocol.

    Args:
        path: what to call the file in an error.
        data: what is read.
        at: where it begins; where it was read up to.
    """

    def __init__(self, path: str | Path, data: bytes, at: int = 0) -> None:
        self.path, self.data, self.at = path, data, at
        self._values, self._most = 0, most(MAX_TABLE_FOOTER)

    def struct(self, lists: _Lists, depth: int = 0) -> _Fields:
        """A struct, and what is in its `lists`.

        Raises:
            Refused: if there is more in it than in any of ours.
            ValueError, IndexError: if it is not whole, or could be read otherwise.
        """
        if depth > 8:
            raise ValueError("too deep")
        fields: _Fields = {}
        number = 0
        while (head := self._byte()) != 0:
            number = number + (head >> 4) if head >> 4 else self._integer(_INT16)
            if number in fields or not 1 <= number <= 100:
                raise ValueError("a field twice, or that parquet has nowhere")
            kind = head & 15
            fields[number] = kind, self._value(kind, lists.get(number, (None, {})), depth)
        return fields

    def _value(self, kind: int, inside: tuple[int | None, _Lists], depth: int) -> Any:
        self._values += 1
        if self._values > self._most:
            check(self.path, self._values, MAX_TABLE_FOOTER, "values in its footer or more")
        if kind in (_TRUE, _FALSE):
            return kind == _TRUE
        if kind == _BYTE:
            return self._byte()
        if kind in _BITS:
            return self._integer(kind)
        if kind == _DOUBLE:
            return self._bytes(8)
        if kind == _WORD:
            return self._bytes(self._varint())
        if kind == _LIST:
            return self._list(inside, depth)
        if kind == _STRUCT:
            return self.struct(inside[1], depth + 1)
        raise ValueError("a kind of value that parquet has nowhere")

    def _list(self, inside: tuple[int | None, _Lists], depth: int) -> list[Any]:
        head = self._byte()
        length, kind = head >> 4, head & 15
        if length == 15:
            length = self._varint()
        if length > len(self.data) - self.at:
            raise ValueError("a list beyond the end")
        expected, lists = inside
        if expected not in (None, kind):
            raise ValueError("a list of another kind of values")
        if kind in (_TRUE, _FALSE):
            kind = _BYTE  # here a truth value has a byte of its own
        return [self._value(kind, (None, lists), depth) for _ in range(length)]

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _bytes(self, length: int) -> bytes:
        if length > len(self.data) - self.at:
            raise ValueError("bytes beyond the end")
        self.at += length
        return self.data[self.at - length : self.at]

    def _integer(self, kind: int) -> int:
        value = self._varint()
        if value >> _BITS[kind]:
            raise ValueError("a number too long")
        return value >> 1 ^ -(value & 1)

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("a number too long")
