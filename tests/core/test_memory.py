import os
import platform
import subprocess
import sys

import pytest
import torch

from core.memory import is_out_of_memory


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


# Page faults of an evaluation by two threads, whose tensors are in heaps of their own.
_FAULTS_OF_THREADS = """
import resource, sys, torch
from core import make_model, make_optimizer, make_tasks, evaluate
from core.memory import keep_freed_memory
if sys.argv[1:] and not keep_freed_memory():
    sys.exit("no such setting")
torch.set_num_threads(2)
tasks = make_tasks("glyphs", ways=10, shots=5)
model = make_model("cnn", tasks, seed=0)
episodes = tasks.sample("test", 16, 0)
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    evaluate(model, make_optimizer("sgd"), dict(model.named_parameters()), {}, episodes, steps=2, lr=0.1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(code, *arguments):
    """What a process of its own counts."""
    command = [sys.executable, "-c", code, *arguments]
    # Without what `make test` says to glibc.
    env = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    return int(subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's malloc")
def test_freed_memory_is_kept():
    # Not by 20, though one tensor is enough: a kernel that reclaims memory all the time takes some of it back.
    assert faults(_FAULTS, "keep") * 2 < faults(_FAULTS)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's malloc")
def test_threads_keep_it_too():
    assert faults(_FAULTS_OF_THREADS, "keep") * 8 < faults(_FAULTS_OF_THREADS)
