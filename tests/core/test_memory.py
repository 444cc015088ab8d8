import os
import platform
import subprocess
import sys

import pytest
import torch

from core.memory import is_out_of_memory, keep_freed_memory


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_which_errors_say_that_memory_ran_out(error, is_it):
    assert is_out_of_memory(error) is is_it


def test_what_the_allocator_of_the_cpu_says_is_understood():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


# Page faults of a tensor of 64 MiB that is made and freed twenty times.
_FAULTS = """
import resource, sys, torch
from core.memory import keep_freed_memory
if sys.argv[1:] and not keep_freed_memory():
    sys.exit("no such setting")
torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's malloc")
def test_freed_memory_is_kept():
    def faults(*arguments):
        command = [sys.executable, "-c", _FAULTS, *arguments]
        # Without what `make test` says to glibc.
        env = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
        return int(subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout)

    # Not by 20, though one tensor is enough: a kernel that reclaims memory all the time takes some of it back.
    assert faults("keep") * 2 < faults()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's malloc")
def test_heaps_of_threads_are_kept_too(monkeypatch):
    """What is said to glibc, and not what comes of it: whether a heap is ever empty is an accident of its layout.

    CNN-4's evaluation by two threads had 50,000 to 170,000 page faults without it, in five processes of six, and with
    it up to 2,000.
    """
    said = {}

    class Library:
        @staticmethod
        def mallopt(setting, value):
            said[setting] = value
            return 1

    monkeypatch.setattr("core.memory.ctypes.CDLL", lambda _: Library)
    assert keep_freed_memory()
    top_pad, heap = -2, 2**26  # M_TOP_PAD of malloc.h, and the size of a thread's heaps
    assert said[top_pad] > 2 * heap  # as much as can be free in an empty heap and in the one before
