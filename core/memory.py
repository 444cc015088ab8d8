"""Memory: whether an error means that it ran out, and keeping what was freed for what comes next."""

import ctypes
import platform

import torch

_SAID = (
    "can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "bad allocation",
    "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED",
)  # fmt: skip
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of mallopt, in glibc's malloc.h
_KEPT_BYTES = 2**30  # at most kept free at the end of the heap
# A tensor that is larger has pages of its own. Older versions of glibc refuse more than the second.
_OWN_PAGES_BYTES = (2**30, 2**25)
# Threads have heaps of at most 64 MiB, and one that is empty is given back if what is free in it and in the one before
# is more than this.
_HEAPS_BYTES = 2**27 + 2**20


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory could not be had."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID)


def keep_freed_memory() -> bool:
    """Have the process keep the memory of freed tensors for the next ones, rather than give it back to the system.

    glibc gives back what a large tensor had, and every page of the next one is faulted in and cleared again: in CNN-4's
    evaluation that was a quarter of the time. The setting is the whole process's, so that the commands make it, and no
    function of the library does; more of what was in use may then stay taken.

    Returns:
        Whether it was made; there is no such setting elsewhere than on Linux with glibc.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # In this order: after the second alone every large tensor is mapped anew, as glibc then no longer learns from use.
    return any(mallopt(_MMAP_THRESHOLD, size) == 1 for size in _OWN_PAGES_BYTES) and (
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES) == 1 and mallopt(_TOP_PAD, _HEAPS_BYTES) == 1
    )
