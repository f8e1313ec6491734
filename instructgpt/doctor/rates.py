"""How fast this machine multiplies matrices and moves memory: medians of repeated measurements."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

_SIDES = {"cpu": 1024}
_SIDE = 4096
"""Rows and columns of the square matrices: on a CPU about 50 ms of work, elsewhere enough to fill a GPU."""
_COPIED = 1 << 28
"""Bytes copied at a time: more than the caches of any processor hold."""
_REPEATS, _FEWEST = 9, 3
_PATIENCE = 2.0
"""Seconds for the repeats of one measurement, after the fewest."""


@dataclass(frozen=True)
class Rate:
    """A median with the smallest and largest of its repeats, in units of work a second."""

    median: float
    slowest: float
    fastest: float
    repeats: int


def matmul_rates(device: torch.device) -> dict[str, Rate | None]:
    """Floating-point operations a second of C = A B, by dtype; None where the device can't."""
    side = _SIDES.get(device.type, _SIDE)
    return {name: _matmul(device, getattr(torch, name), side) for name in ("float32", "bfloat16")}


def copy_rate(device: torch.device, size: int = _COPIED) -> Rate:
    """Bytes a second that a copy reads and writes together."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return measure(lambda: target.copy_(source), 2 * size, device)


def _matmul(device: torch.device, dtype: torch.dtype, side: int) -> Rate | None:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(side, side, generator=generator).to(device, dtype) for _ in range(2))
    out = torch.empty_like(left)
    try:
        # Each number of the result takes `side` products and as many sums.
        return measure(lambda: torch.mm(left, right, out=out), 2 * side**3, device)
    except RuntimeError:
        return None


def measure(
    work: Callable[[], object],
    amount: float,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> Rate:
    """`amount` a second of `work`, which is done once before the clock starts.

    Args:
        clock: in seconds.
    """
    work()
    _wait(device)
    rates: list[float] = []
    began = clock()
    while len(rates) < _FEWEST or (len(rates) < _REPEATS and clock() - began < _PATIENCE):
        start = clock()
        work()
        _wait(device)
        rates.append(amount / (clock() - start))
    return Rate(median(rates), min(rates), max(rates), len(rates))


def _wait(device: torch.device) -> None:
    """Until the device has done what it was given: a GPU works behind the program's back."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
