"""Where a run's time goes: seconds and floating-point operations of named phases, always; a table and a
Chrome trace on request.

A stage marks its phases (`data`, `rollout`, `scoring`, `update`, `ptx`, `evaluate`, `save`) and says what
they compute; `Run` gathers that, puts it into each row of metrics and, with --profile, into profile.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from instructgpt.runtime.files import write_text
from instructgpt.runtime.flops import peak_flops

_NOW: ContextVar[Profile | None] = ContextVar("profile", default=None)
START, OTHER = "start", "other"
"""What comes before the first step; what no phase covers."""
LEARNING = ("data", "rollout", "scoring", "update", "ptx")
"""What a method's time is spent on; what it measures and saves on the way is not its cost."""


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Count the block's seconds, and the `work` in it, as this phase's of the run that is open here.

    Phases may lie in one another: the outer one gets what is left. Outside of a run it does nothing.
    """
    profile = _NOW.get()
    if profile is None:
        yield
        return
    with profile.marked(name):
        profile.enter(name)
        try:
            yield
        finally:
            profile.leave()


def work(flops: float) -> None:
    """Say that the phase which is going on computes so many floating-point operations (see `flops`)."""
    profile = _NOW.get()
    if profile is not None:
        profile.work(flops)


def throughput(timing: Mapping[str, float], tokens: int, replied: int = 0) -> dict[str, float]:
    """A row's timing with `tokens_per_second`: `tokens` over all phases of `LEARNING`; where `replied` tokens
    were sampled, also `rollout_tokens_per_second`."""
    found = {"tokens_per_second": tokens / sum(timing.get(f"seconds_{name}", 0.0) for name in LEARNING)}
    if replied:
        found["rollout_tokens_per_second"] = replied / timing["seconds_rollout"]
    return {**found, **timing}


@dataclass
class Spent:
    """What a phase has taken."""

    seconds: float = 0.0
    flops: float = 0.0
    times: int = 0


@dataclass
class Profile:
    """The phases of one run in this process."""

    exact: bool = False
    """Wait for a GPU at the end of each phase, so that its time is counted where it belongs."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    """What most of the products are computed in: the peak that the share of it is taken of."""
    phases: dict[str, Spent] = field(default_factory=dict)
    tracing: bool = False

    def __post_init__(self) -> None:
        self.began = time.perf_counter()
        self._open: list[str] = []
        self._changed = self._row_began = self.began
        self._row: dict[str, Spent] = {}

    @contextmanager
    def active(self) -> Iterator[None]:
        """`phase` and `work` inside count here."""
        before = _NOW.get()
        _NOW.set(self)
        try:
            yield
        finally:
            _NOW.set(before)

    def marked(self, name: str) -> Any:
        """The phase as it shows in a trace."""
        return torch.profiler.record_function(name) if self.tracing else nullcontext()

    def enter(self, name: str) -> None:
        """The phase begins; the one around it stops until `leave`."""
        self._count()
        self._open.append(name)
        for spent in (self.phases, self._row):
            spent.setdefault(name, Spent()).times += 1

    def leave(self) -> None:
        """The innermost phase ends."""
        if self.exact and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._count()
        self._open.pop()

    def work(self, flops: float) -> None:
        """Operations of the innermost phase."""
        name = self._open[-1] if self._open else OTHER
        for spent in (self.phases, self._row):
            spent.setdefault(name, Spent()).flops += flops

    def _count(self) -> None:
        now = time.perf_counter()
        name = self._open[-1] if self._open else OTHER
        for spent in (self.phases, self._row):
            spent.setdefault(name, Spent()).seconds += now - self._changed
        self._changed = now

    def start(self) -> None:
        """The first step begins: what was before it counts as `start`, as far as no phase covers it."""
        self._count()
        before = self.phases.pop(OTHER)
        found = self.phases.setdefault(START, Spent())
        found.seconds += before.seconds
        found.times += 1
        self._row = {}
        self._row_began = self._changed

    def row(self) -> dict[str, float]:
        """Since the last row: `seconds_PHASE` of each phase that took time, and `mfu` where work was counted.

        `mfu` is the operations a second over what a square product reaches here (`flops.peak_flops`), without
        the time of evaluating and saving.
        """
        self._count()
        spent, self._row = self._row, {}
        found = {f"seconds_{name}": s.seconds for name, s in spent.items() if name != OTHER}
        asides = sum(s.seconds for name, s in spent.items() if name in ("evaluate", "save"))
        flops = sum(s.flops for name, s in spent.items() if name not in ("evaluate", "save"))
        seconds = self._changed - self._row_began - asides
        if flops and seconds > 0:
            found["mfu"] = flops / seconds / peak_flops(self.device, self.dtype)
        self._changed = self._row_began = time.perf_counter()  # measuring the peak is nobody's time
        return found

    def table(self) -> str:
        """Markdown: seconds, share, calls, operations and their rate of every phase, and of all together."""
        self._count()
        total = sum(spent.seconds for spent in self.phases.values())
        peak = peak_flops(self.device, self.dtype)
        lines = [
            "| phase | seconds | share | times | ms each | GFLOP | GFLOP/s | of peak |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        ordered = sorted(self.phases.items(), key=lambda item: item[0] == OTHER)
        for name, spent in [*ordered, ("all", self._all())]:
            cells = [name, f"{spent.seconds:.3f}", f"{100 * spent.seconds / max(total, 1e-9):.1f} %"]
            each = 1e3 * spent.seconds / spent.times if spent.times else None
            cells += [str(spent.times or ""), "" if each is None else f"{each:.2f}"]
            rate = spent.flops / spent.seconds if spent.seconds > 0 else 0.0
            cells += [f"{spent.flops / 1e9:.1f}", f"{rate / 1e9:.1f}", f"{100 * rate / peak:.1f} %"]
            lines.append(
                "| " + " | ".join([*cells[:5], *(cells[5:] if spent.flops else ["", "", ""])]) + " |"
            )
        kind = str(self.dtype).removeprefix("torch.")
        lines += ["", f"Peak: {peak / 1e9:.0f} GFLOP/s, a square {kind} product on {self.device.type} here."]
        return "\n".join(lines)

    def _all(self) -> Spent:
        phases = self.phases.values()
        return Spent(sum(spent.seconds for spent in phases), sum(spent.flops for spent in phases))


class Trace:
    """Records some steps with `torch.profiler` for chrome://tracing or Perfetto."""

    def __init__(self, path: Path, steps: int, profile: Profile) -> None:
        """`steps` are recorded after the first one, which warms up."""
        self.path, self.profile = path, profile
        self._skip, self._left = 1, steps
        self._recorder: torch.profiler.profile | None = None

    def step(self) -> None:
        """A step begins."""
        if self._recorder is not None:
            self._left -= 1
            if not self._left:
                self.close()
        elif self._left and self._skip:
            self._skip -= 1
        elif self._left:
            activities = [torch.profiler.ProfilerActivity.CPU]
            if self.profile.device.type == "cuda":
                activities.append(torch.profiler.ProfilerActivity.CUDA)
            self._recorder = torch.profiler.profile(activities=activities)
            self._recorder.start()
            self.profile.tracing = True

    def close(self) -> None:
        """Write what was recorded, if anything was."""
        recorder, self._recorder, self._left = self._recorder, None, 0
        self.profile.tracing = False
        if recorder is not None:
            recorder.stop()
            recorder.export_chrome_trace(str(self.path))


def write_profile(path: Path, verb: str, profile: Profile, first: int, last: int) -> str:
    """Write profile.md; returns its table, for the terminal."""
    table = profile.table()
    title = f"# {verb}, steps {first} to {last}: where the time went\n\n"
    write_text(path, title + table + "\n")
    return table
