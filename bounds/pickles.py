"""Pickles whose cost is that of their bytes.

A pickle is a program. Even one that may call nothing can ask for a terabyte in ten bytes: by the length it states of a
string, by the place it gives a value in the list of values to come back to, or by a copy of the same value again and
again. The reader here is Python's own in Python: it keeps those values in a dict, where that in C makes a list as long
as the largest place, and lets its instructions be replaced.
"""

import pickle
from collections.abc import Callable
from typing import Any, BinaryIO, ClassVar

from bounds import MAX_PICKLE_STEPS, MAX_PICKLED_BYTES, Within, check

Instruction = Callable[[Any], None]

# Objects of classes, names by number, and memory of others: no part of what data sets and tensors are written as.
_LEFT_OUT = {
    pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.PERSID, pickle.EXT1, pickle.EXT2, pickle.EXT4,
    pickle.NEXT_BUFFER, pickle.READONLY_BUFFER,
}  # fmt: skip


def _counted(instruction: Instruction) -> Instruction:
    def step(reader: "BoundedUnpickler") -> None:
        reader.steps += 1
        if reader.steps % 65536 == 0:
            check(reader.name, reader.steps, MAX_PICKLE_STEPS, "instructions or more")
        instruction(reader)

    return step


def _load_bytearray(reader: Any) -> None:
    """As bytes: nothing here writes into them, and memory is taken when they have been read."""
    reader.append(reader.read(int.from_bytes(reader.read(8), "little")))


def _load_state(reader: Any) -> None:
    if not isinstance(reader.stack[-2], reader.settable):
        raise pickle.UnpicklingError(f"it sets the state of a {type(reader.stack[-2]).__name__}")
    pickle._Unpickler.load_build(reader)  # type: ignore[attr-defined]  # the stubs leave it out


class BoundedUnpickler(pickle._Unpickler):
    """Reads one pickle; subclasses say what it may name (`find_class`), and set the state of (`settable`).

    Args:
        file: open for reading, at the pickle's start.
        size: how many bytes of it there are.
        name: what to call it in an error.

    Raises:
        Refused: if there are more bytes than any pickle of ours has; by `load`, for more instructions.
    """

    settable: tuple[type, ...] = ()
    """What the pickle may set the state of."""

    dispatch: ClassVar[dict[int, Instruction]] = {
        code: _counted(instruction)
        for code, instruction in {
            **pickle._Unpickler.dispatch,
            pickle.BYTEARRAY8[0]: _load_bytearray,
            pickle.BUILD[0]: _load_state,
        }.items()
        if bytes([code]) not in _LEFT_OUT
    }

    def __init__(self, file: BinaryIO, size: int, name: object) -> None:
        check(name, size, MAX_PICKLED_BYTES, "bytes")
        self.name = name
        self.steps = 0
        self.budget = size
        super().__init__(Within(file, size), encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        """Nothing, here.

        Raises:
            UnpicklingError: for any name.
        """
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def charge(self, copied: int) -> None:
        """Count what a function that the pickle named has copied: each part of a whole pickle is copied once.

        Raises:
            MemoryError: if that is more than the pickle has bytes.
        """
        self.budget -= copied
        if self.budget < 0:
            raise MemoryError("it copies the same values again and again")
