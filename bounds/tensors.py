"""Files of tensors: that they hold the numbers that they announce, and code of nobody."""

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from bounds import MAX_TENSOR_BYTES, MAX_TENSOR_HEADER, MAX_ZIP_DIRECTORY, Refused, check, open_file
from bounds.pickles import BoundedUnpickler, check_keys, ordered_dict
from bounds.words import one_line


def check_safetensors(path: str | Path) -> None:
    """See that a safetensors file has a header that may be read.

    What the header says of the tensors is compared with the file's size by the library, before it takes memory.

    Raises:
        Refused: if the file or its header is too large, or it is too short for its header.
        OSError: if it cannot be read.
    """
    with open_file(path, MAX_TENSOR_BYTES) as file:
        start = file.read(8)
        size = file.seek(0, io.SEEK_END)
    length = int.from_bytes(start, "little")
    if length > size - 8:
        raise Refused(f"{path} is damaged: it announces a header of {length:,} bytes, and has {size:,} in all")
    check(path, length, MAX_TENSOR_HEADER, "bytes in its header")


def open_zip(file: BinaryIO, path: object) -> zipfile.ZipFile:
    """A zip file of parts that are stored as they are, none of which is larger than the file.

    Raises:
        Refused: for compressed parts, which could be of any size; parts that are larger; or a list of parts that is
            too long, or not the only one that could be taken for it.
        zipfile.BadZipFile, OSError: if it is damaged.
    """
    size = check_zip_directory(file, path)
    _check_one_directory(file, path, size)
    archive = zipfile.ZipFile(file)
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
        raise Refused(f"{path} has compressed or encrypted parts, which this kind of file never has")
    if sum(entry.file_size for entry in entries) > archive.start_dir:
        raise Refused(f"{path} is damaged: its parts are larger than it is")
    if len({entry.filename.lower() for entry in entries}) < len(entries):  # PyTorch takes capitals for small letters
        raise Refused(f"{path} is damaged: it has two parts of one name")
    return archive


def check_zip_directory(file: BinaryIO, path: object) -> int:
    """The size of a zip file, if the list of its parts is one that may be read.

    Raises:
        Refused: if the list is too long.
        zipfile.BadZipFile: if it is damaged.
    """
    size = file.seek(0, io.SEEK_END)
    if (record := _end_record(file)) is not None:
        check(path, record.length, MAX_ZIP_DIRECTORY, "bytes in its list of parts")
    file.seek(0)
    return size


class _EndRecord(NamedTuple):
    """What the end of a zip file says of the list of its parts."""

    is_zip64: bool
    length: int  # of the list, in bytes
    start: int  # of the list
    at: int  # where the end record itself stands


def _end_record(file: BinaryIO) -> _EndRecord | None:
    """That which `zipfile` goes by, for there are several ways to look for it; None if it finds none."""
    found = zipfile._EndRecData(file)  # type: ignore[attr-defined]  # the stubs leave it out
    return None if found is None else _EndRecord(found[0] == b"PK\6\6", found[5], found[6], found[9])


def _check_one_directory(file: BinaryIO, path: object, size: int) -> None:
    """See that there is one list of parts, whoever looks for it: it ends where the records of it begin, which are last.

    `zipfile` takes the list before the records, whatever they say of its place, PyTorch that at the place they say.

    Raises:
        Refused: if it is not so.
    """
    if (record := _end_record(file)) is None:
        return  # `zipfile` says so
    file.seek(max(0, record.at - 20))
    locator = file.read(20)
    has_locator = locator[:4] == b"PK\6\7"
    end = record.at - (56 + 20 if record.is_zip64 else 0)
    is_one = record.start + record.length == end and record.at + 22 == size and has_locator == record.is_zip64
    if has_locator and int.from_bytes(locator[8:16], "little") != end:
        is_one = False
    if not is_one:
        raise Refused(f"{path} is damaged: the list of its parts is not where its end says")
    file.seek(0)


def check_torch(path: str | Path) -> None:
    """See that a PyTorch file holds tensors, plain values and containers, and all the numbers that it announces.

    Nothing of it is carried out: its instructions are followed with stand-ins for tensors.

    Raises:
        Refused: if it is too large or damaged, has compressed parts, or names anything else.
        OSError: if it cannot be read.
    """
    with open_file(path, MAX_TENSOR_BYTES) as file:
        try:
            if file.read(4) == b"PK\3\4":
                _follow_zip(file, path)
            else:
                _follow_old(file, path)
        except (Refused, OSError):
            raise
        except NotTensors as error:
            raise Refused(
                f"{path} is damaged, or holds more than tensors, and is not opened (it names {one_line(error)}); "
                "save the state dict alone: "
                "torch.save(model.state_dict(), path)"
            ) from None
        except Exception as error:  # a damaged pickle fails in whatever its bytes happen to say
            raise Refused(f"{path} is damaged, or no file of PyTorch: {one_line(error)}") from error


def _follow_zip(file: BinaryIO, path: str | Path) -> None:
    with open_zip(file, path) as archive:
        parts = {entry.filename: entry.file_size for entry in archive.infolist()}
        (top,) = {name.partition("/")[0] for name in parts}
        if f"{top}/data.pkl" not in parts:
            raise Refused(f"{path} is no file of PyTorch: it has no data.pkl")
        with archive.open(f"{top}/data.pkl") as part:
            reader = _Follower(part, parts[f"{top}/data.pkl"], path)  # type: ignore[arg-type]  # is a reader
            reader.load()
        for key, size in reader.storages.items():
            if size > parts.get(f"{top}/data/{key}", 0):
                raise Refused(f"{path} is damaged: it announces {size:,} bytes of numbers that it does not hold")


def _follow_old(file: BinaryIO, path: str | Path) -> None:
    """The form before PyTorch 1.6: four pickles and the numbers, one after another."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    storages: dict[str, int] = {}
    for _ in range(5):  # a number, the version, the system, the values, and the names of the storages
        reader = _Follower(file, size - file.tell(), path)
        reader.load()
        storages |= reader.storages
    if sum(storages.values()) > size - file.tell():
        raise Refused(f"{path} is damaged: it announces more bytes of numbers than it holds")


class NotTensors(pickle.UnpicklingError):
    """What a file named that is no part of tensors and plain values."""


class _Storage:
    """In place of the numbers of a tensor: how many there are."""

    def __init__(self, count: int) -> None:
        self.count = count


class _Name:
    """In place of whatever a file may name and PyTorch makes of it."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class _Kind:
    """In place of a type of numbers: its size in bytes."""

    def __init__(self, size: int) -> None:
        self.size = size


def _set(members: Any = ()) -> set[Any]:
    check_keys(members)
    return set(members)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Name:
    return _rebuilt(_as(_Storage, storage).count, offset, shape, strides)


def _typed_tensor(storage: Any, offset: Any, shape: Any, strides: Any, _: Any, __: Any, dtype: Any, *___: Any) -> _Name:
    return _rebuilt(_as(_Storage, storage).count // _as(_Kind, dtype).size, offset, shape, strides)


def _as(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError("a tensor made of something else than numbers")
    return value


_MAX_AXES = 64  # what PyTorch has, too


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _rebuilt(count: int, offset: Any, shape: Any, strides: Any) -> _Name:
    # A product of millions of numbers, or of long ones, takes longer the longer it becomes.
    if len(shape) > _MAX_AXES or len(shape) != len(strides):
        raise ValueError("a tensor of an impossible shape")
    if not all(_is_count(number) for number in (count, offset, *shape, *strides)):
        raise ValueError("a tensor of an impossible shape")
    last = sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and (offset + last >= count or math.prod(shape) > count):
        raise ValueError("a tensor of more numbers than there are")
    return _Name()


# The sizes of numbers in bytes, by the names of PyTorch's types of storage and of tensors.
_STORAGES = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8, "IntStorage": 4,
    "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1, "ComplexDoubleStorage": 16,
    "ComplexFloatStorage": 8, "UntypedStorage": 1,
}  # fmt: skip
_DTYPES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1,
    "bool": 1, "complex128": 16, "complex64": 8, "uint16": 2, "uint32": 4, "uint64": 8, "float8_e4m3fn": 1,
    "float8_e5m2": 1, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
}  # fmt: skip


class _Follower(BoundedUnpickler):
    """Follows the pickle in a PyTorch file with stand-ins, and writes down the bytes of each of its storages."""

    settable = (OrderedDict, _Name)

    def __init__(self, file: BinaryIO, size: int, name: object) -> None:
        super().__init__(file, size, name)
        self.storages: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _Kind(_STORAGES[name])
        if module == "torch" and name in _DTYPES:
            return _Kind(_DTYPES[name])
        match module, name:
            case "collections", "OrderedDict":
                return self._made(ordered_dict)
            case (("builtins" | "__builtin__"), "set"):
                return self._made(_set)
            case "torch._utils", "_rebuild_tensor_v2":
                return self._made(_tensor)
            case "torch._utils", "_rebuild_tensor_v3":
                return self._made(_typed_tensor)
            case (
                ("torch._utils", "_rebuild_parameter") | ("torch", "Size" | "device") | ("builtins", "complex")
                | ("_codecs", "encode")
            ):  # fmt: skip
                return self._made(_Name)
        raise NotTensors(f"{module}.{name}")

    def _made(self, make: Callable[..., Any]) -> Callable[..., Any]:
        """`make`, of parts that are counted."""

        def made(*parts: Any) -> Any:
            self.charge(len(parts) + sum(len(part) for part in parts if hasattr(part, "__len__")))
            return make(*parts)

        return made

    def persistent_load(self, pid: Any) -> _Storage:
        word, kind, key, _, count = pid[:5]
        if word != "storage" or type(kind) is not _Kind or type(key) is not str or not _is_count(count):
            raise ValueError("numbers of an unknown kind")
        if len(pid) > 5 and pid[5] is not None:
            raise ValueError("numbers within others")
        if (size := self.storages.setdefault(key, count * kind.size)) != count * kind.size:
            raise ValueError(f"{size:,} bytes of numbers under a name that others have")
        return _Storage(count)
