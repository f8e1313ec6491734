"""What doctor measures and says of a machine: rates by hand arithmetic, reasons, limits of a container."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from instructgpt.doctor import machine as module
from instructgpt.doctor.machine import free_memory_mib
from instructgpt.doctor.rates import Rate, copy_rate, matmul_rates, measure
from instructgpt.doctor.report import machine_table

CPU = torch.device("cpu")


def test_a_rate_is_the_median_of_the_repeats() -> None:
    """Work that takes 1, 2 and 4 seconds by this clock: 10, 5 and 2.5 a second; the first is not counted."""
    # began; then (start, end) of each repeat with one reading of the patience between them
    clock = itertools.chain([0.0], [0.0, 1.0], [1.0, 3.0], [3.0, 7.0], [7.0], itertools.repeat(7.0))
    done = []
    found = measure(lambda: done.append(1), 10.0, CPU, clock=lambda: next(clock))
    assert found == Rate(5.0, 2.5, 10.0, 3) and len(done) == 4


def test_matmul_and_copies_count_their_work(monkeypatch) -> None:
    """64 rows and columns: 2 * 64^3 = 524,288 operations. A copy reads and writes each byte."""
    seen = []
    monkeypatch.setattr("instructgpt.doctor.rates._SIDES", {"cpu": 64})
    monkeypatch.setattr(
        "instructgpt.doctor.rates.measure",
        lambda work, amount, device: (work(), seen.append(amount), Rate(1.0, 1.0, 1.0, 1))[-1],
    )
    assert matmul_rates(CPU)["float32"] is not None
    copy_rate(CPU, 1000)
    assert seen == [524_288, 524_288, 2000]


def test_a_dtype_that_does_not_run_is_none(monkeypatch) -> None:
    def refuses(*arguments, **more):
        raise RuntimeError("not implemented for 'BFloat16'")

    monkeypatch.setattr(torch, "mm", refuses)
    assert matmul_rates(CPU) == {"float32": None, "bfloat16": None}


@pytest.mark.parametrize(
    ("half", "words"),
    [
        (Rate(30.0, 1, 1, 3), "bfloat16 multiplies 3.0 times as fast: --dtype bfloat16 can pay"),
        (Rate(5.0, 1, 1, 3), "bfloat16 multiplies 0.5 times as fast: no gain here"),
        (None, "bfloat16 does not run here"),
    ],
)
def test_the_reason_for_the_dtype_is_what_was_measured(half, words) -> None:
    assert words in module._dtype_reason({"float32": Rate(10.0, 1, 1, 3), "bfloat16": half})


def test_the_reason_for_the_device(monkeypatch) -> None:
    assert module._device_reason(CPU, "cpu") == "--device cpu"
    assert module._device_reason(torch.device("cuda"), "auto") == "torch sees a GPU"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "no GPU that it can use" in module._device_reason(CPU, "auto")
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    assert "build of torch is for CPUs" in module._device_reason(CPU, "auto")


@pytest.mark.parametrize(
    ("limit", "free"), [("max", 2048.0), (str(3 << 30), 1024.0), (str(64 << 30), 2048.0)]
)
def test_a_container_may_leave_less_than_the_machine_has(monkeypatch, limit: str, free: float) -> None:
    """2 GiB are free on the machine; of a limit of 3 GiB 2 are in use, of one of 64 GiB too."""
    files = {
        "/proc/meminfo": f"MemTotal: 9 kB\nMemAvailable:   {2048 * 1024} kB\n",
        "/sys/fs/cgroup/memory.max": limit,
        "/sys/fs/cgroup/memory.current": str(2 << 30),
    }
    monkeypatch.setattr(Path, "read_text", lambda self, encoding=None: files[str(self)])
    assert free_memory_mib() == free


def test_the_table_fits_and_says_what_does_not_run() -> None:
    rate = {"median": 51.23e9, "slowest": 48e9, "fastest": 1234.5e9, "repeats": 9}
    found = {
        "device_reason": "torch sees a GPU",
        "dtype": "float32",
        "dtype_reason": f"the default of every stage; {'bfloat16 is three times as fast ' * 3}",
        "matmul": {"float32": rate, "bfloat16": None},
        "memory": rate,
        "free_memory_mib": None,
        "free_device_memory_mib": 81920.0,
        "free_disk_mib": 1536.0,
    }
    table = machine_table(found, "cuda")
    assert max(map(len, table.splitlines())) <= 80
    assert "matmul float32  51.2 GFLOP/s (median of 9: 48.0 to 1,234.5)" in table
    assert "matmul bfloat16 does not run here" in table and "free memory     unknown" in table
    assert "free on device  80.0 GiB" in table and "free disk       1.5 GiB" in table
