"""Pickles of NumPy arrays, read without what makes pickles dangerous.

A pickle is a program, and Python's unpickler runs it. Data sets are shared as pickles all the same. Here a pickle can
build numbers, text, lists, tuples, sets, dicts and arrays of numbers; not even NumPy's own unpickling code runs, which
trusts what it is told of a buffer.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bounds import Refused
from bounds.pickles import BoundedUnpickler, ordered_dict
from bounds.words import one_line
from core.errors import UserError

_KINDS = "biuf"  # what an array may hold: booleans, integers and floating-point numbers


class _NotAdmitted(Exception):
    """What a pickle asked for that is no part of an array or a plain container."""


class _Dtype:
    """A dtype before the unpickler has said its byte order."""

    def __init__(self, text: Any, *_: Any) -> None:
        # Lists say what a record is made of, records within records; those of numbers have names of three letters.
        if not isinstance(text, str) or len(text) > 16:
            raise _NotAdmitted("an array of records")
        self.value = np.dtype(text)
        if self.value.kind not in _KINDS:
            raise _NotAdmitted(f"an array of dtype {self.value}")

    def __setstate__(self, state: Any) -> None:
        if state[1] in ("<", ">"):
            self.value = self.value.newbyteorder(state[1])


class _Array:
    """An array before the unpickler has said what is in it."""

    value: np.ndarray

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, raw = state
        self.value = _view(raw, dtype, shape, "F" if is_fortran else "C")


def _view(raw: Any, dtype: _Dtype, shape: tuple[int, ...], order: Any) -> np.ndarray:
    # A string of Python 2 has been read as Latin-1.
    buffer = raw.encode("latin1") if isinstance(raw, str) else raw
    if not isinstance(buffer, bytes):
        raise _NotAdmitted(f"an array of {type(raw).__name__}")
    return np.frombuffer(buffer, dtype.value).reshape(shape, order=order)


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _from_buffer(raw: Any, dtype: _Dtype, shape: tuple[int, ...], order: Any) -> _Array:
    array = _Array()
    array.value = _view(raw, dtype, shape, order)
    return array


def _scalar(dtype: _Dtype, raw: Any) -> Any:
    return _view(raw, dtype, (), "C").item()


def _encode(text: str, encoding: str) -> bytes:
    """How protocols 0 to 2 write bytes under Python 3; other encodings are none of an array's business."""
    if encoding != "latin1":
        raise _NotAdmitted(f"text to be encoded as {encoding}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How protocols 0 to 2 write the bytes of an empty array."""
    return b""


# What a pickle may name, by module and name: NumPy before and after it renamed its modules.
_ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _reconstruct,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    ("collections", "OrderedDict"): ordered_dict,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
}


class _Unpickler(BoundedUnpickler):
    settable = (_Array, _Dtype)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise _NotAdmitted(f"{module}.{name}")
        make = _ADMITTED[module, name]

        # A fresh function each time: a pickle can set attributes of what it is given.
        def made(*parts: Any) -> Any:
            self.charge(len(parts) + sum(len(part) for part in parts if isinstance(part, str | bytes | list | dict)))
            return make(*parts)

        return made


class _Unwrapper:
    """Puts arrays in the place of what stood for them. What a value holds twice is looked at once: lists of the same
    list, thirty deep, would never end.
    """

    def __init__(self) -> None:
        self._done: dict[int, Any] = {}  # by the identity of what was unwrapped, all of which the pickle's value holds

    def __call__(self, value: Any) -> Any:
        if not isinstance(value, _Array | _Dtype | dict | list | tuple):
            return value
        if id(value) not in self._done:
            self._done[id(value)] = _UNFINISHED
            self._done[id(value)] = self._unwrapped(value)
        elif self._done[id(value)] is _UNFINISHED:
            raise ValueError("a value holds itself")
        return self._done[id(value)]

    def _unwrapped(self, value: Any) -> Any:
        if isinstance(value, _Array | _Dtype):
            return value.value
        if isinstance(value, dict):
            return {self(key): self(each) for key, each in value.items()}
        return type(value)(self(each) for each in value)


_UNFINISHED = object()


def read_pickle(file: BinaryIO, name: str | Path, size: int) -> Any:
    """The value in a pickle of arrays of numbers and plain containers, of Python 2 or 3, in any protocol.

    Args:
        file: open for reading; text of Python 2 is taken for Latin-1.
        name: what to call it in an error.
        size: how many bytes of it there are.

    Returns:
        The value; its arrays are read-only, an `OrderedDict` comes as a dict.

    Raises:
        UserError: if the pickle is damaged, beyond `bounds`, or holds anything else. Nothing of it has run then.
    """
    try:
        return _Unwrapper()(_Unpickler(file, size, name).load())
    except Refused as error:
        raise UserError(str(error)) from error
    except _NotAdmitted as error:
        raise UserError(
            f"{name} holds {one_line(error)}, which is no part of arrays of numbers and plain containers"
        ) from error
    except Exception as error:  # a damaged pickle fails in whatever its bytes happen to say
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(f"{name} is not a whole pickle ({reason}): get it again") from error
