"""Verb `doctor`: what is installed here, how fast it is and whether it learns; on request the proof that PPO
computes what it claims."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from tyro.constructors import PrimitiveConstructorSpec

from instructgpt.doctor.certificate import SEEDS, Outcome
from instructgpt.doctor.installed import cores, installed
from instructgpt.doctor.invariants import check_invariants
from instructgpt.doctor.machine import machine
from instructgpt.doctor.report import installed_table, machine_table, self_test_json, self_test_table
from instructgpt.doctor.self_test import SelfTest, run_self_test
from instructgpt.doctor.spread import Job, ranks, run_jobs
from instructgpt.doctor.verdict import (
    findings_as_json,
    findings_table,
    full_settings,
    quick_settings,
    rows_as_json,
    rows_of,
    rows_table,
)
from instructgpt.errors import CheckError, ConfigError, Interrupted
from instructgpt.runtime.device import pick_device
from instructgpt.runtime.files import write_json
from instructgpt.runtime.metrics import Progress

_KINDS = ("quick", "full")
_MOST_PROCESSES = 8
"""Started unless told otherwise: each holds its own copy of torch, about 300 MiB."""
# `--certify` may stand alone: the quick certificate.
_CERTIFY: PrimitiveConstructorSpec[str] = PrimitiveConstructorSpec(
    nargs=(0, 1),
    metavar="[quick|full]",
    instance_from_str=lambda words: words[0] if words else "quick",
    is_instance=lambda value: isinstance(value, str),
    str_from_instance=lambda value: [value] if value else [],
)


@dataclass(frozen=True)
class DoctorConfig:
    """What is installed and missing, how fast this machine is, a self-test of a minute; with --certify, PPO
    against optima that are known exactly."""

    self_test: bool = True
    """Train a tiny language model through every stage and check what each has learned; not with --certify."""
    certify: Annotated[Literal["", "quick", "full"], _CERTIFY] = ""
    """Check every invariant and train PPO on enumerable worlds: alone or `quick` the easy kinds
    and the hardest one, `full` every kind. Under torchrun its processes share the work."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    processes: int = 0
    """Processes to start for --certify; 0 = one a core, at most 8. Changes no result."""
    out: str = ""
    """Folder to write summary.json into; empty = none."""

    def __post_init__(self) -> None:
        if self.certify not in ("", *_KINDS):
            raise ConfigError(f"--certify is {self.certify!r}", "--certify", "give quick or full, or nothing")
        if self.processes < 0:
            raise ConfigError(f"--processes is {self.processes}", "--processes", "give 0 or more")


def run(config: DoctorConfig) -> dict[str, Any]:
    """Report on this installation and, if asked, certify it; returns the summary.

    Summary: `installed` (see `doctor.installed`), `table`; `machine` (see `doctor.machine`) and `self_test`;
    or with --certify `invariants`, `certificate` (a list of rows each), `missed` (how many bounds) and
    `seconds`.

    Raises:
        CheckError: a check or a bound is missed; the table was printed and summary.json written before.
        ConfigError: the device is not there.
        Interrupted: Ctrl-C; nothing is kept.
    """
    device = pick_device(config.device)
    found = installed(device)
    table = installed_table(found)
    summary: dict[str, Any] = {"installed": found, "table": table}
    wrong = _certify(config, device, summary) if config.certify else _examine(config, device, summary)
    rank, _ = ranks()
    if config.out and rank == 0:
        write_json(Path(config.out) / "summary.json", summary)
    if wrong is not None and rank == 0:
        print(summary["table"])
        raise wrong
    return summary


def _examine(config: DoctorConfig, device: torch.device, summary: dict[str, Any]) -> CheckError | None:
    """Measure the machine and run the self-test; adds both to the summary, returns what is wrong."""
    summary["machine"] = machine(device, config.device)
    tables = [summary["table"], machine_table(summary["machine"], str(device))]
    found = SelfTest()
    if config.self_test:
        started = time.monotonic()
        found = run_self_test(str(device))
        seconds = time.monotonic() - started
        summary["self_test"] = self_test_json(found, seconds)
        tables.append(self_test_table(found, seconds))
    summary["table"] = "\n\n".join(tables)
    if not found.failures:
        return None
    return CheckError(
        f"the self-test failed: {'; '.join(found.failures)}",
        "doctor",
        "compare the versions above with those of constraints.txt; if they agree, report what you see",
    )


def _certify(config: DoctorConfig, device: torch.device, summary: dict[str, Any]) -> CheckError | None:
    """Check the invariants and train on every world; adds both to the summary, returns what is missed."""
    started = time.monotonic()
    findings = check_invariants(device)
    rows = rows_of(_outcomes(config, device))
    missed = [finding.name for finding in findings if not finding.holds] + [
        f"{row.setting.reference} reference, {row.setting.rewards} rewards, beta {row.setting.beta:g}"
        for row in rows
        if not row.holds
    ]
    summary |= {
        "certify": config.certify,
        "invariants": findings_as_json(findings),
        "certificate": rows_as_json(rows),
        "missed": len(missed),
        "seconds": time.monotonic() - started,
        "table": "\n\n".join([summary["table"], findings_table(findings), rows_table(rows)]),
    }
    if not missed:
        return None
    return CheckError(
        f"{len(missed)} of {len(findings) + len(rows)} bounds are missed: {'; '.join(missed)}",
        "doctor --certify",
        "do not trust PPO of this installation: compare the versions above with those of "
        "constraints.txt, and report what you see",
    )


def _outcomes(config: DoctorConfig, device: torch.device) -> list[Outcome]:
    settings = quick_settings() if config.certify == "quick" else full_settings()
    jobs: list[Job] = [(setting, seed) for setting in settings for seed in SEEDS]
    rank, world_size = ranks()
    progress = Progress("certificate", len(range(rank, len(jobs), world_size)))

    def show(outcome: Outcome) -> None:
        if rank > 0:
            return
        setting = outcome.setting
        progress.note = f"{setting.reference} {setting.rewards} beta {setting.beta:g}: {outcome.raw:.4f}"
        progress.advance()

    try:
        outcomes = run_jobs(jobs, device, config.processes or min(cores(), _MOST_PROCESSES), show)
    except KeyboardInterrupt:  # unlike a stage it has no run folder, so that nothing could go on
        cure = "run the same command again: it starts from the beginning"
        raise Interrupted("interrupted; the certificate keeps no half", "doctor --certify", cure) from None
    if rank == 0:
        progress.close()
    return outcomes
