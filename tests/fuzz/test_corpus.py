"""Every file that fuzzing starts from, or once found, goes through its loader; without atheris."""

import ctypes
import os
import re
import time
from pathlib import Path

import pytest

from tests.fuzz.targets import SEEDS, TARGETS, Broken, must, refused, watched

FILES = sorted(path.relative_to(SEEDS).as_posix() for path in SEEDS.glob("*/*"))
MEMORY = 256  # MiB that a file of at most 100 kB may take; what is unpacked at most 1,000 times comes to 100
SECONDS = 10.0


class Peak:
    """The most memory that this process had in a block above what it had before, in MiB, as the system counts it."""

    def __enter__(self) -> "Peak":
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc's
            trim(0)  # what was freed and kept would serve the block, and not be seen
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is in use now
        self._start = self._peak()
        return self

    def __exit__(self, *_: object) -> None:
        self.mib = self._peak() - self._start

    @staticmethod
    def _peak() -> float:
        return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_or_refused(name, tmp_path):
    target, data = TARGETS[name.partition("/")[0]], (SEEDS / name).read_bytes()
    (tmp_path / "warm").mkdir()
    (tmp_path / "files").mkdir()
    with Peak() as peak:
        target(data, tmp_path / "warm")  # what is imported on first use is no doing of the file
        start = time.process_time()
        with watched():
            target(data, tmp_path / "files")
    assert peak.mib < MEMORY
    assert time.process_time() - start < SECONDS
    assert {path.name for path in tmp_path.iterdir()} == {"warm", "files"}


def test_every_loader_has_seeds_and_they_stay_small():
    assert {name.partition("/")[0] for name in FILES} == set(TARGETS)
    assert sum((SEEDS / name).stat().st_size for name in FILES) < 300_000


def test_a_broken_promise_is_seen(tmp_path):
    def writes():
        (tmp_path / "x").write_text("")

    with pytest.raises(Broken, match=r"opens .* to write"), watched():
        writes()
    with pytest.raises(Broken, match=r"calls os\.system"), watched():
        os.system("true")
    with pytest.raises(Broken, match="is not told in a line that names x"), refused(ValueError, name="x"):
        raise ValueError("of another file")
    with pytest.raises(Broken, match="is not told in a line"), refused(ValueError, name="x"):
        raise ValueError("x\ny")
    with pytest.raises(TypeError), refused(ValueError, name="x"):
        raise TypeError("x")
    with pytest.raises(Broken, match="why"):
        must(False, "why")


def test_memory_is_seen():
    with Peak() as peak:
        bytearray(b"a" * (64 << 20))
    assert peak.mib > 60
