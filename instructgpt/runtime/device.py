"""Where and how the numbers are computed: device, dtype, threads, memory allocator."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from instructgpt.errors import ConfigError

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def pick_device(name: str = "auto") -> torch.device:
    """The device to compute on: `auto` takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        ConfigError: the device named is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} can't be used here", "--device", "choose auto or cpu") from error
    return device


def pick_dtype(name: str) -> torch.dtype:
    """The dtype of the forward and backward pass by name (`float32` or `bfloat16`).

    Raises:
        ConfigError: another name.
    """
    if name not in _DTYPES:
        raise ConfigError(f"unknown dtype {name!r}", "--dtype", f"choose one of {', '.join(_DTYPES)}")
    return _DTYPES[name]


def tune_malloc() -> None:
    """Keep freed memory in the process (Linux with glibc): training runs 10-50 % faster on CPU.

    Large tensors are otherwise mapped and unmapped at every step, and each page is faulted in anew. The
    price: freed memory is not given back before the process ends. Does nothing elsewhere.
    """
    if sys.platform != "linux" or os.environ.get("INSTRUCTGPT_MALLOC") == "system":
        return
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_M_TOP_PAD, 64 << 20)
    except (OSError, AttributeError):
        return  # another C library: nothing to tune


@contextlib.contextmanager
def collecting_later() -> Iterator[None]:
    """Reads many small objects that all stay: Python's search for cycles among them, which comes again and
    again as they become more, took a fifth of the time for 100,000 demonstrations. It goes on afterwards."""
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.enable()


def release_memory() -> None:
    """Give memory that a finished stage has freed back to the system (see `tune_malloc`, which keeps it)."""
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library: nothing is kept there
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def peak_memory_mib() -> float:
    """Peak resident memory of this process so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage(2) of a process that was started counts what its parent held then
        lines = status.read_text(encoding="ascii").splitlines()
        for line in lines:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def peak_device_memory_mib() -> float | None:
    """Most memory that tensors have taken on the CUDA device so far, in MiB; None where none is in use."""
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_initialized() else None
