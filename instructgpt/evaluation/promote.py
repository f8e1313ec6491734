"""Stage `promote`: a new model replaces the old one only if people prefer it, beyond doubt.

Both are served side by side; every person sees one reply of each, in a drawn order and without names, and
says which is better. The new model is promoted if the interval of its win rate lies above one half. The
stage's product is the checkpoint of the winner, so a later stage that names this one goes on from there.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instructgpt.data.records import Prompt, read_prompts
from instructgpt.evaluation.judge import open_world
from instructgpt.evaluation.served import Client, serving
from instructgpt.evaluation.statistics import Estimate, mean_interval
from instructgpt.practice import Labeler, World, labelers, rank
from instructgpt.runtime.checkpoint import final_checkpoint, open_run
from instructgpt.runtime.metrics import Progress
from instructgpt.runtime.seeds import derive_seed

FEEDBACK = "feedback.jsonl"


@dataclass(frozen=True)
class PromoteConfig:
    """Let people compare a new model with the one in use; the better one is the product."""

    out: str = ""
    """Run folder to write."""
    world: str = ""
    """Folder of the world stage."""
    current: str = ""
    """Checkpoint in use."""
    candidate: str = ""
    """Checkpoint that may replace it."""
    prompts: str = ""
    """What people ask: prompts of the world."""
    start: int = 0
    """Number of the first prompt."""
    count: int = 0
    """How many prompts; 0 = all from the first on."""
    max_new: int = 48
    """Longest reply, in tokens."""
    temperature: float = 1.0
    """Sampling temperature."""
    parallel: int = 32
    """People who talk at the same time."""
    seed: int = 0
    """Decides replies, people, their noise and the order of the replies."""


def run(config: PromoteConfig) -> dict[str, Any]:
    """Compare and decide; returns the summary.

    Summary: `win_rate` of the candidate (mean, low, high, n; ties and two bad replies count half, the unit is
    the prompt), `promoted`, `checkpoint` of the winner, and `utility` of both, hidden from the decision.

    Raises:
        ConfigError, DataError, CheckpointError, ServiceError: see flags, prompts, models, server.
    """
    world = open_world(config.world)
    prompts = read_prompts(config.prompts)[config.start :][: config.count or None]
    models = {name: final_checkpoint(getattr(config, name)) for name in ("current", "candidate")}
    inputs: dict[str, str | Path] = {**models, "prompts": config.prompts}
    inputs["world"] = Path(config.world) / "config.json"
    with open_run(config.out, "promote", config, inputs) as folder:
        if folder.finished is not None:
            return folder.finished
        feedback = folder.folder / FEEDBACK
        feedback.unlink(missing_ok=True)  # of a run that was stopped
        with serving(models, feedback) as client:
            rows = _compare(config, world, client, prompts)
        rate = mean_interval([row["won"] for row in rows], config.seed)
        winner = models["candidate"] if wins(rate) else models["current"]
        return folder.finish(
            {
                "win_rate": rate.row(),
                "promoted": wins(rate),
                "checkpoint": os.path.relpath(winner, folder.folder),
                "utility": {name: _mean([row[name] for row in rows]) for name in models},
                "prompts": len(rows),
                "feedback": FEEDBACK,
            }
        )


def wins(rate: Estimate) -> bool:
    """Whether a win rate is above one half beyond doubt: its whole interval is."""
    return rate.low > 0.5


def _compare(
    config: PromoteConfig, world: World, client: Client, prompts: list[Prompt]
) -> list[dict[str, float]]:
    people = labelers(world.config.seed)
    progress = Progress("promote", len(prompts))

    def one(prompt: Prompt) -> dict[str, float]:
        draw = derive_seed(config.seed, "promote", prompt.id)
        return _judge(config, world, client, people[draw % len(people)], prompt)

    rows = []
    with ThreadPoolExecutor(config.parallel) as pool:
        for row in pool.map(one, prompts):
            rows.append(row)
            progress.advance()
    progress.close()
    return rows


def _judge(
    config: PromoteConfig, world: World, client: Client, person: Labeler, prompt: Prompt
) -> dict[str, float]:
    """One person's comparison: 1 = the candidate won, 0.5 = neither; and the hidden utilities."""
    seed = derive_seed(config.seed, "order", prompt.id)
    asked = {
        "temperature": config.temperature,
        "max_completion_tokens": config.max_new,
        "seed": seed,
    }
    names = ["current", "candidate"][:: 1 if seed % 2 else -1]
    replies = [client.chat(name, prompt, asked)[0] for name in names]
    task = world.task(prompt.id)
    texts = [reply["text"] for reply in replies]
    ranks = rank(world, person, task, texts, f"{config.seed}|promote").ranks
    choice: int | str = "tie" if ranks[0] == ranks[1] else ranks.index(1)
    row = {"kind": "comparison", "replies": replies, "choice": choice}
    client.feedback(prompt, {**row, "user": prompt.user_id or person.id})
    won = 0.5 if isinstance(choice, str) else float(names[choice] == "candidate")
    return {"won": won} | {name: world.utility(task, text) for name, text in zip(names, texts, strict=True)}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
