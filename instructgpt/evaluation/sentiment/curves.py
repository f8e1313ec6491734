"""Which checkpoints a fine-tuning run has kept, and how far into the data each of them was."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from instructgpt.runtime.checkpoint import checkpoints


@dataclass(frozen=True)
class Kept:
    """A checkpoint: its folder, its step, and how often it had seen the demonstrations."""

    folder: Path
    step: int
    epoch: float


def checkpoints_of(folder: Path) -> list[Kept]:
    """Checkpoints of a finished `sft` folder, earliest first; none for the folder of a model alone."""
    config, summary = folder / "config.json", folder / "summary.json"
    if not config.exists() or not summary.exists() or not (folder / "checkpoints").is_dir():
        return []
    settings = json.loads(config.read_text(encoding="utf-8")).get("config", {})
    demonstrations = json.loads(summary.read_text(encoding="utf-8")).get("demonstrations")
    if not demonstrations or "batch" not in settings:
        return []
    return [
        Kept(path, step, step * settings["batch"] / demonstrations)
        for path in checkpoints(folder)
        for step in [int(path.name[5:])]
    ]


def seconds_of(folder: Path) -> float | None:
    """What a finished stage took; None for the folder of a model alone."""
    summary = folder / "summary.json"
    if not summary.exists():
        return None
    found = json.loads(summary.read_text(encoding="utf-8"))
    return float(found["seconds"]) if found.get("verb") == "sft" and "seconds" in found else None
