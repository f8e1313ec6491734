"""The machine as training meets it: device and dtype with the reason, rates, free memory and disk."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from instructgpt.doctor.rates import Rate, copy_rate, matmul_rates

_WORTH_IT = 1.3
"""bfloat16 is worth a word where it multiplies this much faster: below that, casting eats the gain."""


def machine(device: torch.device, asked: str) -> dict[str, Any]:
    """As JSON: `device_reason`, `dtype`, `dtype_reason`, `matmul`, `memory` (rates, see `Rate`), free MiB.

    Args:
        asked: the --device flag.
    """
    matmul = matmul_rates(device)
    return {
        "device_reason": _device_reason(device, asked),
        "dtype": "float32",
        "dtype_reason": _dtype_reason(matmul),
        "matmul": {name: asdict(rate) if rate else None for name, rate in matmul.items()},
        "memory": asdict(copy_rate(device)),
        "free_memory_mib": free_memory_mib(),
        "free_device_memory_mib": _free_device_memory_mib(device),
        "free_disk_mib": shutil.disk_usage(Path.cwd()).free / 2**20,
    }


def _device_reason(device: torch.device, asked: str) -> str:
    if asked != "auto":
        return f"--device {asked}"
    if device.type == "cuda":
        return "torch sees a GPU"
    if device.type == "mps":
        return "torch sees no CUDA GPU, but Apple's"
    if torch.version.cuda is None and torch.version.hip is None:
        return "this build of torch is for CPUs"
    return "torch sees no GPU that it can use"


def _dtype_reason(matmul: dict[str, Rate | None]) -> str:
    """Float32 is the default of every stage; what bfloat16 would bring is measured, not assumed."""
    plain, half = matmul["float32"], matmul["bfloat16"]
    if half is None or plain is None:
        return "the default of every stage; bfloat16 does not run here"
    times = half.median / plain.median
    gain = "--dtype bfloat16 can pay for larger models" if times >= _WORTH_IT else "no gain here"
    return f"the default of every stage; bfloat16 multiplies {times:.1f} times as fast: {gain}"


def free_memory_mib() -> float | None:
    """Memory that a new process could have: the system's, or less where a container limits it; None if
    unknown."""
    found: list[float] = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        found.append(int(line.split()[1]) / 2**10)
    with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        found.append((limit - used) / 2**20)
    if not found:
        with contextlib.suppress(AttributeError, OSError, ValueError):
            found.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20)
    return min(found) if found else None


def _free_device_memory_mib(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    return torch.cuda.mem_get_info(device)[0] / 2**20
