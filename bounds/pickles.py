"""Pickles whose cost is that of their bytes.

A pickle is a program. Even one that may call nothing can ask for a terabyte in ten bytes: by the length it states of a
string, by the place it gives a value in the list of values to come back to, or by a copy of the same value again and
again; and for years of work, by a key whose hash is that of parts that share their parts. The reader here is Python's
own in Python: it keeps those values in a dict, where that in C makes a list as long as the largest place, and lets its
instructions be replaced.
"""

import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, ClassVar

from bounds import MAX_PICKLE_STEPS, MAX_PICKLED_BYTES, Within, check

Instruction = Callable[[Any], None]

# Objects of classes, names by number, and memory of others: no part of what data sets and tensors are written as.
_LEFT_OUT = {
    pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.PERSID, pickle.EXT1, pickle.EXT2, pickle.EXT4,
    pickle.NEXT_BUFFER, pickle.READONLY_BUFFER,
}  # fmt: skip

_KEYS = (str, bytes, int, float, bool, type(None))
_KEY_SIZE = 1 << 16  # letters, bytes or bits of one; two are compared where their hashes are the same


def check_keys(keys: Iterable[Any]) -> None:
    """See that values may be keys of a dict, or members of a set: plain ones, whose hash takes no time.

    A tuple's hash is computed of its parts each time anew: by as many ways as lead to them, and as deep as they lie.

    Raises:
        UnpicklingError: if one is not.
    """
    for key in keys:
        if type(key) not in _KEYS:
            raise pickle.UnpicklingError(f"a {type(key).__name__} is the key of a dict, or in a set")
        size = len(key) if isinstance(key, str | bytes) else key.bit_length() if isinstance(key, int) else 0
        if size > _KEY_SIZE:
            raise pickle.UnpicklingError(f"a {type(key).__name__} too long is the key of a dict, or in a set")


def ordered_dict(pairs: Any = ()) -> OrderedDict[Any, Any]:
    """An `OrderedDict` of a dict or of pairs, whose keys may be keys.

    Raises:
        UnpicklingError: if they may not.
    """
    check_keys(pairs if isinstance(pairs, dict) else [pair[0] for pair in pairs])
    return OrderedDict(pairs)


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
    state = reader.stack[-1]
    # Text becomes bytes, a dict's values become attributes.
    parts = state if isinstance(state, tuple) else (state,)
    reader.charge(sum(len(part) for part in parts if isinstance(part, str | dict)))
    pickle._Unpickler.load_build(reader)  # type: ignore[attr-defined]  # the stubs leave it out


def _keyed(code: bytes, keys: Callable[[list[Any]], list[Any]]) -> Instruction:
    """The instruction `code`, after a look at the keys among what it takes from the stack."""
    instruction = pickle._Unpickler.dispatch[code[0]]

    def load(reader: Any) -> None:
        check_keys(keys(reader.stack))
        instruction(reader)

    return load


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
            pickle.SETITEM[0]: _keyed(pickle.SETITEM, lambda stack: stack[-2:-1]),
            # From here on the stack is what came after a mark.
            pickle.SETITEMS[0]: _keyed(pickle.SETITEMS, lambda stack: stack[::2]),
            pickle.DICT[0]: _keyed(pickle.DICT, lambda stack: stack[::2]),
            pickle.ADDITEMS[0]: _keyed(pickle.ADDITEMS, lambda stack: stack),
            pickle.FROZENSET[0]: _keyed(pickle.FROZENSET, lambda stack: stack),
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
