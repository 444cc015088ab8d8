"""Random streams addressed by name, so that a resumed or regrouped run meets the same numbers."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(seed: int, *axes: object) -> int:
    """A 63-bit seed for the stream called `axes` (words and integers) under the user's `seed`.

    Streams with different names are independent, and a name always gives the same stream. A task batch is
    addressed by its iteration, so there is no generator state to save: the iteration is the state.

    Raises:
        ValueError: for a word with a slash in it, which could be the name of another stream.
    """
    if slashed := [part for part in axes if "/" in str(part)]:
        raise ValueError(f"the words of a stream's name hold no slash, got {slashed[0]!r}")
    text = "/".join(str(part) for part in (seed, *axes))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *axes: object) -> torch.Generator:
    """A CPU generator at the start of the stream called `axes` under `seed`."""
    return torch.Generator().manual_seed(derive_seed(seed, *axes))


@contextmanager
def seeded(seed: int, *axes: object) -> Iterator[None]:
    """PyTorch's global generators at the start of the stream called `axes` within, and as they were afterwards."""
    number = derive_seed(seed, *axes)
    on_gpus = torch.cuda.is_initialized()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if on_gpus else []):
        # Not `torch.manual_seed`, which seeds GPUs, too, whether or not they are given their state back.
        torch.default_generator.manual_seed(number)
        if on_gpus:
            torch.cuda.manual_seed_all(number)
        yield
