"""Where tensors live, and what the CPU is."""

from pathlib import Path

import torch

from core.errors import UserError


def checked_device(device: str | torch.device | None) -> torch.device:
    """The device of that name, a CPU or CUDA; the GPU if there is one, else the CPU, for None.

    Raises:
        UserError: if there is no such device here, or of another kind.
    """
    try:
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        # With its number: each thread has a current GPU of its own, and a new one the first.
        where = torch.empty(0, device=where).device
    except (RuntimeError, AssertionError):
        raise UserError(f"there is no device {str(device)!r} here") from None
    if where.type not in ("cpu", "cuda"):  # Metal has no float64, which curves are measured in
        raise UserError(f"device {str(device)!r} is of a kind that is not supported: give cpu or cuda")
    return where


def cpu_entry(name: str) -> str | None:
    """What Linux says of the CPU under `name`, such as "vendor_id"; None where nothing does."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)
