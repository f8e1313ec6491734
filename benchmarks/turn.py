"""One turn of a benchmark: what the process that measures says of itself. Needs torch and nothing of ours.

A turn runs in a process of its own, in the environment of whoever's turn it is, and prints one JSON line: the
rates that it saw, the peak of its memory, versions, and how fast this machine multiplied and read in the same
process right after.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

MARK = '{"turn": '
"""How the line begins, so that whatever else a library prints does no harm."""
SIDE, READ_BYTES = 2048, 1 << 28
_SHOWN = ("torch", "transformers", "trl", "tokenizers", "accelerate", "datasets", "xllamacpp", "lm_eval")
_BEST_OF, _PATIENCE = 7, 2.0


@dataclass(frozen=True)
class Turn:
    """What one turn measured."""

    rates: Sequence[float]
    """Units a second of each repeat, those for warming up left out; their median counts."""
    unit_flops: float = 0.0
    """Floating-point operations that one unit needs, by a formula (6 N for a trained token); 0 = not said."""
    unit_bytes: float = 0.0
    """Bytes that one unit has to read from memory; 0 = not said."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else belongs into the results, as JSON: dtype, seconds of phases, a loss to compare."""
    memory: float = 0.0
    """Peak in MiB of the process that did the work, where it was not this one."""


def repeat(work: Callable[[], float], times: int = 3, warm: int = 1) -> list[float]:
    """Units a second of `times` calls of `work`, which returns how many units it did; `warm` calls before."""
    rates = []
    for number in range(warm + times):
        start = time.perf_counter()
        units = work()
        if number >= warm:
            rates.append(units / (time.perf_counter() - start))
    return rates


def line_of(turn: Turn) -> str:
    """The JSON line of a turn that has just been measured in this process."""
    peak = turn.memory or peak_memory_mib()  # before the products below take some
    found = {
        "rates": list(turn.rates),
        "unit_flops": turn.unit_flops,
        "unit_bytes": turn.unit_bytes,
        "facts": dict(turn.facts),
        "peak_memory_mib": peak,
        "machine": machine(),
        "versions": versions(),
    }
    return MARK + json.dumps(found) + "}"


def read(output: str) -> dict[str, Any] | None:
    """The turn in what a process printed; None where it printed none."""
    for line in reversed(output.splitlines()):
        if line.startswith(MARK):
            found: dict[str, Any] = json.loads(line)["turn"]
            return found
    return None


def peak_memory_mib() -> float:
    """Peak resident memory of this process so far (VmHWM), in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage(2) of a process that was started counts what its parent held then
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def versions() -> dict[str, str]:
    """Python, the packages that were imported, and how many threads torch has."""
    import torch

    found = {"python": platform.python_version(), "threads": str(torch.get_num_threads())}
    for name in _SHOWN:
        module = sys.modules.get(name)
        if module is not None:  # trl of a folder put in front: what is imported says which
            with suppress(metadata.PackageNotFoundError):
                found[name] = str(getattr(module, "__version__", "") or metadata.version(name))
    return found


def machine() -> dict[str, float]:
    """Best rates of this process: `float32` and `bfloat16` FLOP/s of a 2048-cubed product, `read` bytes/s."""
    import torch

    torch.set_float32_matmul_precision("highest")
    with torch.inference_mode():
        found = {name: _product(getattr(torch, name)) for name in ("float32", "bfloat16")}
        block = torch.ones(READ_BYTES // 4)
        found["read"] = _best(block.sum, READ_BYTES)
    return found


def _product(dtype: Any) -> float:
    import torch

    left, right = torch.ones(SIDE, SIDE, dtype=dtype), torch.ones(SIDE, SIDE, dtype=dtype)
    out = torch.empty_like(left)
    operations = 2.0 * SIDE**3
    best = _best(lambda: torch.mm(left, right, out=out), operations)
    if dtype == torch.float32:  # the other library that torch has for it; on some processors it is faster
        with suppress(AttributeError, RuntimeError):
            linear = torch.ops.mkldnn._linear_pointwise
            best = max(best, _best(lambda: linear(left, right, None, "none", [], ""), operations))
    return best


def _best(work: Callable[[], object], amount: float) -> float:
    work()
    began, best = time.perf_counter(), 0.0
    for number in range(_BEST_OF):
        start = time.perf_counter()
        work()
        best = max(best, amount / (time.perf_counter() - start))
        if number and time.perf_counter() - began > _PATIENCE:
            break
    return best
