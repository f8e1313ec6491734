"""What a run folder belongs to: verb, settings, and the contents of its inputs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from instructgpt import __version__
from instructgpt.errors import ConfigError
from instructgpt.runtime.files import hash_path

# Flags that say where a run lives and what is told of it, not what it computes.
_NOT_IDENTITY = {"out", "profile", "trace_steps"}


class RunChanged(ConfigError):
    """The run folder holds a run with another configuration or other inputs."""


def identity_of(verb: str, config: Any, inputs: Mapping[str, str | Path]) -> dict[str, Any]:
    """What the results of a stage depend on, as JSON; see `open_run` for the arguments."""
    values = asdict(config) if is_dataclass(config) and not isinstance(config, type) else dict(config)
    hashes = {}
    for name, value in inputs.items():
        parts = [part for part in str(value).split(",") if part]
        hashes[name] = "+".join(hash_path(part) for part in parts)
    kept = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if k not in _NOT_IDENTITY}
    return {"verb": verb, "version": __version__, "config": kept, "inputs": hashes}


def defaults_of(config: Any) -> dict[str, Any]:
    """What a setting is where a run was made before there was such a setting."""
    known = fields(config) if is_dataclass(config) else ()
    values = {field.name: field.default for field in known if field.default is not MISSING}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def compare(
    old: dict[str, Any], new: dict[str, Any], folder: Path, defaults: Mapping[str, Any] | None = None
) -> None:
    """Refuse to go on with a run of another identity.

    Args:
        defaults: what counts for a setting that the older run does not know.

    Raises:
        RunChanged: something differs; the message lists it.
    """
    other = old["verb"] != new["verb"]
    changes = [f"verb {old['verb']} -> {new['verb']}"] if other else []
    began: dict[str, Any] = {}
    for part in () if other else ("config", "inputs"):
        names = sorted(old[part].keys() | new[part].keys())
        for name in names:
            unsaid = (defaults or {}).get(name) if part == "config" else None
            before, after = old[part].get(name, unsaid), new[part].get(name)
            if before != after:
                label = f"input {name}" if part == "inputs" else name
                changes.append(f"{label}: {before} -> {after}")
                began[label] = before
    if changes:
        raise RunChanged(
            "this run folder holds a run made with other settings: " + "; ".join(changes),
            str(folder),
            "choose another --out, or move the old folder away" + _as_it_began(began),
        )


def _as_it_began(settings: Mapping[str, Any]) -> str:
    """How to go on with the run instead; nothing where that is more than a few plain flags."""
    plain = all(isinstance(value, str | int | float) and str(value) for value in settings.values())
    if not plain or not 0 < len(settings) <= 3 or any(name.startswith("input ") for name in settings):
        return ""
    flags = " ".join(
        f"--{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in settings.items()
    )
    return f", or go on as it began: {flags}"
