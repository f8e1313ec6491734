"""Devices, dtypes and memory."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from instructgpt.errors import ConfigError
from instructgpt.runtime.device import collecting_later, peak_memory_mib, pick_device, pick_dtype

FREED = """
import gc, torch
from pathlib import Path
from instructgpt.runtime.device import release_memory, tune_malloc
tune_malloc()
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20
kept = [torch.ones(64, 1024) for _ in range(2000)]
pins = kept[::100]
full = resident()
del kept
gc.collect()
before = resident()
release_memory()
print(full - before, before - resident())
"""


def test_a_device_that_is_not_there_is_said() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"device 'cuda:99' can't be used.*--device"):
        pick_device("cuda:99")


def test_dtypes_by_name() -> None:
    assert pick_dtype("bfloat16") is torch.bfloat16
    with pytest.raises(ConfigError, match="unknown dtype 'float8'"):
        pick_dtype("float8")


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc keeps freed memory")
def test_freed_memory_is_given_back_on_request() -> None:
    """500 MB in 2,000 tensors, most of them freed: tuned malloc keeps them, `release_memory` does not."""
    done = subprocess.run([sys.executable, "-c", FREED], check=True, capture_output=True, text=True)
    kept_back, released = map(float, done.stdout.split())
    assert kept_back < 50
    assert released > 350


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc, which only Linux has")
def test_a_started_process_does_not_count_what_its_parent_holds() -> None:
    """getrusage(2) does: its peak goes on through fork and exec."""
    held = bytearray(900 << 20)
    held[:: 1 << 12] = b"x" * len(held[:: 1 << 12])  # touch every page
    code = "from instructgpt.runtime.device import peak_memory_mib; print(peak_memory_mib())"
    started = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 50 < float(started.stdout) < 800  # PyTorch alone takes 200 to 400
    assert peak_memory_mib() > 900


def test_cycles_are_looked_for_again_afterwards() -> None:
    """Whatever happened, and only where they were before."""
    assert gc.isenabled()
    with pytest.raises(ValueError, match="stop"), collecting_later():
        assert not gc.isenabled()
        raise ValueError("stop")
    assert gc.isenabled()
    gc.disable()
    try:
        with collecting_later():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
