"""Running out of memory, which is never to be taken for another fault: the remedy is another one."""

from __future__ import annotations


def ran_out(error: BaseException) -> bool:
    """Whether this error says that there was no memory left, on a device or on the CPU."""
    import torch

    # torch has a type of its own for devices, and for the CPU a RuntimeError with these words.
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
