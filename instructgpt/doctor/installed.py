"""What is installed here: versions, device, threads, and which extras are missing."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from typing import Any

import torch

from instructgpt import __version__
from instructgpt.doctor.extras import GIVES, download_mb

_EXTRA = re.compile(r"extra\s*==\s*['\"]([\w-]+)['\"]")
# Extras for work on this package itself: no user misses anything without them.
_FOR_DEVELOPERS = ("test", "mutate")


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def installed(device: torch.device) -> dict[str, Any]:
    """Names and versions as JSON.

    `packages`: name -> version (None = missing), `needed`: those without which nothing runs, `extras`: name
    -> `gives`, `packages`, `missing`, `download_mb` (of the missing ones; None if unknown). Packages are
    those that the metadata of this installation names; a checkout that was never installed has none.
    """
    packages: dict[str, str | None] = {}
    needed: list[str] = []
    extras: dict[str, list[str]] = {}
    for requirement in _requirements():
        match = re.match(r"[\w.-]+", requirement)
        name = match[0].lower() if match else requirement
        if name == "instructgpt":  # an extra that includes others
            continue
        extra = _EXTRA.search(requirement)
        if extra and extra[1] in _FOR_DEVELOPERS:
            continue
        packages[name] = _version(name)
        if extra:
            extras.setdefault(extra[1], []).append(name)
        else:
            needed.append(name)
    return {
        "instructgpt": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "packages": packages,
        "needed": needed,
        "extras": {name: _extra(name, wanted, packages) for name, wanted in extras.items()},
    }


def _extra(name: str, wanted: list[str], packages: dict[str, str | None]) -> dict[str, Any]:
    missing = [package for package in wanted if packages[package] is None]
    return {
        "gives": GIVES.get(name, ""),
        "packages": wanted,
        "missing": missing,
        "download_mb": download_mb(missing),
    }


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
