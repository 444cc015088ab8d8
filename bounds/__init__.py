"""What a file may cost, told before it is paid: every bound with its reason, and checks that read no more than needed.

A file says of itself how large it becomes in memory, and may lie. Nothing here believes it: sizes are compared with the
bytes that are there. Loads neither torch nor pandas; `core` turns what is refused into a `UserError`, `analysis` into a
`StudyError`.
"""

import errno
import math
import os
import stat
from pathlib import Path
from typing import IO, BinaryIO

FACTOR = "ADAPTLENS_BOUNDS"
"""Environment variable: what every bound but those on depth is multiplied by, for files that are meant to be larger."""

_MIB, _GIB = 1 << 20, 1 << 30

MAX_JSON_BYTES = 64 * _MIB  # the largest of ours, metadata of a state with a curve of 10^5 points, is 8 MB
MAX_JSON_DEPTH = 64  # ours are 5 deep; what is copied or written again later recurses, and Python stops at 1,000
MAX_TENSOR_BYTES = 64 * _GIB  # weights of 16 billion numbers; a network that adapts to many tasks at once is far below
MAX_TENSOR_HEADER = 32 * _MIB  # names, shapes and metadata of a safetensors file; ours are below 10 MB
MAX_PICKLED_BYTES = 8 * _GIB  # mini-ImageNet's training file, the largest of known data sets, has 0.8 GB
MAX_PICKLE_STEPS = 10_000_000  # instructions, each of which may make an object of 60 bytes; CIFAR-100 has 300,000
MAX_CIFAR_BYTES = _GIB  # what the archive unpacks to; CIFAR-100 has 0.19 GB
MAX_TAR_MEMBERS = 1000  # CIFAR-100's archive has 5
MAX_ZIP_DIRECTORY = 64 * _MIB  # the list of what is in a zip file, 50 to 100 bytes an entry
MAX_OMNIGLOT_ARCHIVE = 256 * _MIB  # the larger official archive has 9.5 MB
MAX_DRAWINGS = 500_000  # Omniglot has 32,460
MAX_DRAWING_BYTES = 256 << 10  # of one PNG file; Omniglot's have 300 bytes
MAX_DRAWINGS_BYTES = _GIB  # of all, unpacked; Omniglot's have 10 MB
MAX_DRAWING_SIDE = 2048  # pixels; Omniglot's have 105
MAX_NAME = 255  # characters of a name, which is what file systems allow
MAX_CACHE_BYTES = 4 * _GIB  # arrays kept between processes; Omniglot's have 26 MB
MAX_TABLE_BYTES = 2 * _GIB  # a parquet file; the largest of record has 1 MB
MAX_TABLE_VALUES = 100_000_000  # rows times columns; the largest of record has 1.2 million
MAX_TABLE_FOOTER = 100_000  # numbers, words, lists and structs in the footer; the largest of record has 1,645
MAX_TABLE_SCHEMA = _MIB  # bytes of Arrow's own schema in it, which may have eight parts a byte; ours have 5 kB
MAX_TABLE_TEXT = 4 * _GIB  # of all words in a table, each counted as often as it stands there


class Refused(ValueError):
    """A file that is not read, in one sentence that names it and the reason."""


def most(bound: int) -> int:
    """`bound`, times what the environment says.

    Raises:
        Refused: if the environment holds no number from 1 up.
    """
    text = os.environ.get(FACTOR, "1")
    try:
        factor = float(text)
    except ValueError:
        factor = math.nan
    if not 1 <= factor <= 1e6:
        raise Refused(f"{FACTOR} must be a number from 1 to 1000000, got {text!r}")
    return int(bound * factor)


def check(name: object, found: int, bound: int, what: str) -> None:
    """See that a file has at most `bound` of something.

    Raises:
        Refused: if it has more.
    """
    if found > most(bound):
        raise Refused(
            f"{name} has {found:,} {what}, more than the {most(bound):,} that are read; if it is meant to be so large, "
            f"set {FACTOR} to how many times as much to allow"
        )


def open_file(path: str | Path, bound: int) -> BinaryIO:
    """A regular file of at most `bound` bytes, opened for reading.

    Raises:
        Refused: if it is larger, or no regular file: a device never ends, and a pipe waits for ever.
        OSError: if it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Refused(f"{path} is no regular file")
        check(path, status.st_size, bound, "bytes")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def open_lock(path: str | Path) -> IO[str]:
    """A file to hold a lock of, opened for writing, and made if it is not there.

    Raises:
        OSError: if it cannot be opened or made, or is no regular file: a pipe waits for ever, a link leads anywhere.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(errno.ELOOP, "its lock is a link", str(path)) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "its lock is no regular file", str(path))
        return os.fdopen(descriptor, "a", encoding="utf-8")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: str | Path, bound: int) -> bytes:
    """The content of a regular file of at most `bound` bytes.

    Raises:
        Refused: if it is larger, or no regular file.
        OSError: if it cannot be read.
    """
    with open_file(path, bound) as file:
        # One more than there were, to see whether it grew meanwhile; room is made for as many as are asked for.
        content = file.read(os.fstat(file.fileno()).st_size + 1)
    check(path, len(content), bound, "bytes")
    return content


class Within:
    """A reader of `size` bytes of a file, which is never asked for more than is left.

    `file.read(n)` makes room for n bytes before it looks how many there are.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self.left = size

    def read(self, count: int = -1) -> bytes:
        """At most `count` bytes; all that are left if it is negative.

        Raises:
            EOFError: if fewer are left.
        """
        count = self.left if count < 0 else count
        if count > self.left:
            raise EOFError(f"{count} bytes are announced where {self.left} are left")
        self.left -= count
        return self._file.read(count)

    def readline(self) -> bytes:
        """What is left of a line."""
        line = self._file.readline(self.left)
        self.left -= len(line)
        return line
