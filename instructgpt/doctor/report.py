"""What doctor found, as tables for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from instructgpt.doctor.extras import MEASURED
from instructgpt.doctor.self_test import Check, SelfTest

WIDTH = 80
_LABEL = 16
_TIED = "\u00a0"  # a space at which no line is broken


def installed_table(found: Mapping[str, Any]) -> str:
    """Versions, packages in columns, extras that are missing."""
    lines = [
        _pair("instructgpt", f"{found['instructgpt']} on Python {found['python']}, {found['system']}"),
        _pair("device", f"{found['device']} ({found['device_name']})"),
        _pair("cores, threads", f"{found['cores']}, {found['threads']}"),
    ]
    packages = [f"{name}{_TIED}{version}" for name, version in sorted(found["packages"].items()) if version]
    lines.append(_pair("packages", ", ".join(packages) or "–"))
    if not found["packages"]:
        lines.append(
            _pair("", "this checkout is not installed: pip install --editable . names what it needs")
        )
    absent = [name for name in found["needed"] if found["packages"].get(name) is None]
    if absent:
        lines.append(_pair("MISSING", f"{', '.join(absent)}: pip install instructgpt"))
    return "\n".join(lines + _extras(found["extras"]))


def _extras(extras: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = []
    for name, extra in sorted(extras.items()):
        gives = f"{extra['gives']}" if extra["gives"] else f"needs {', '.join(extra['packages'])}"
        if not extra["missing"]:
            lines.append(_pair(f"extra {name}", f"installed: {gives}"))
            continue
        size = extra["download_mb"]
        cost = f"about {size:.0f} MB (measured {MEASURED})" if size is not None else "of unknown size"
        lines.append(
            _pair(
                f"extra {name}",
                f"MISSING: {gives}. It lacks {', '.join(extra['missing'])}, {cost}: "
                f"pip install 'instructgpt[{name}]'",
            )
        )
    return lines


def machine_table(found: Mapping[str, Any], device: str) -> str:
    """Device and dtype with the reason, rates, what is free."""
    lines = [
        _pair("would use", f"{device}: {found['device_reason']}"),
        _pair("dtype", f"{found['dtype']}: {found['dtype_reason']}"),
    ]
    for name, rate in found["matmul"].items():
        lines.append(_pair(f"matmul {name}", _rate(rate, 1e9, "GFLOP/s")))
    lines.append(_pair("memory", _rate(found["memory"], 1e9, "GB/s, read and written")))
    lines.append(_pair("free memory", _mib(found["free_memory_mib"])))
    if found["free_device_memory_mib"] is not None:
        lines.append(_pair("free on device", _mib(found["free_device_memory_mib"])))
    lines.append(_pair("free disk", f"{_mib(found['free_disk_mib'])} where this folder is"))
    return "\n".join(lines)


def _rate(rate: Mapping[str, Any] | None, unit: float, name: str) -> str:
    if rate is None:
        return "does not run here"
    ends = f"{rate['slowest'] / unit:,.1f} to {rate['fastest'] / unit:,.1f}"
    return f"{rate['median'] / unit:,.1f} {name} (median of {rate['repeats']}: {ends})"


def _mib(value: float | None) -> str:
    return "unknown" if value is None else f"{value / 2**10:,.1f} GiB"


def self_test_table(found: SelfTest, seconds: float) -> str:
    """A line a check, then the verdict."""
    lines = [f"{'self-test':<10}{'':<47}{'measured':>9}  {'bound':<11}"]
    lines += [_check(check) for check in found.checks]
    verdict = "all checks hold" if not found.failures else f"{len(found.failures)} FAILED"
    if found.error:
        lines += textwrap.wrap(found.error, WIDTH, initial_indent="  ", subsequent_indent="  ")
    return "\n".join([*lines, f"{verdict}, in {seconds:.0f} seconds"])


def _check(check: Check) -> str:
    sign = "≥" if check.side == "at least" else "≤"
    word = "ok" if check.holds else "FAILED"
    return f"{check.stage:<10}{check.name:<47}{check.measured:>9.3f}  {sign} {check.bound:<6.3g}{word}"


def self_test_json(found: SelfTest, seconds: float) -> dict[str, Any]:
    """`checks`, `error`, `failures`, `seconds`."""
    rows: Sequence[dict[str, Any]] = [
        {
            "stage": check.stage,
            "name": check.name,
            "measured": check.measured,
            "side": check.side,
            "bound": check.bound,
            "holds": check.holds,
        }
        for check in found.checks
    ]
    return {"checks": rows, "error": found.error, "failures": found.failures, "seconds": seconds}


def _pair(name: str, text: str) -> str:
    """`name` and a text beside it, wrapped at the width."""
    indent = " " * _LABEL
    filled = textwrap.fill(
        text,
        WIDTH,
        initial_indent=f"{name:<{_LABEL}}",
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return filled.replace(_TIED, " ")
