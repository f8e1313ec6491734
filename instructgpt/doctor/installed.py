"""What is installed here: versions, device, threads, and which extras are missing."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from typing import Any

import torch

from instructgpt import __version__

_EXTRA = re.compile(r"extra\s*==\s*['\"]([\w-]+)['\"]")
# Extras for work on this package itself: no user misses anything without them.
_FOR_DEVELOPERS = ("test", "mutate")


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def installed(device: torch.device) -> dict[str, Any]:
    """Names and versions as JSON: `packages` (None = missing) and `missing_extras`: extra -> its missing
    packages.

    Packages are those that the metadata of this installation names; a checkout that was never installed has
    none.
    """
    packages: dict[str, str | None] = {}
    missing: dict[str, list[str]] = {}
    for requirement in _requirements():
        match = re.match(r"[\w.-]+", requirement)
        name = match[0].lower() if match else requirement
        if name == "instructgpt":  # an extra that includes others
            continue
        packages[name] = _version(name)
        extra = _EXTRA.search(requirement)
        if extra and extra[1] not in _FOR_DEVELOPERS and packages[name] is None:
            missing.setdefault(extra[1], []).append(name)
    return {
        "instructgpt": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "packages": packages,
        "missing_extras": missing,
    }


def installed_table(found: dict[str, Any]) -> str:
    """The same for a terminal."""
    rows = [(name, str(found[name])) for name in ("instructgpt", "python", "system")]
    rows.append(("device", f"{found['device']} ({found['device_name']})"))
    rows.append(("cores, threads", f"{found['cores']}, {found['threads']}"))
    rows += [(name, version or "missing") for name, version in sorted(found["packages"].items())]
    lines = [f"{name:<18} {value}" for name, value in rows]
    for extra, names in sorted(found["missing_extras"].items()):
        lines.append(f"extra {extra!r} lacks {', '.join(names)}: pip install 'instructgpt[{extra}]'")
    if not found["packages"]:
        lines.append("this checkout is not installed: pip install --editable . names what it needs")
    return "\n".join(lines)


def _requirements() -> list[str]:
    try:
        return metadata.requires("instructgpt") or []
    except metadata.PackageNotFoundError:
        return []


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
