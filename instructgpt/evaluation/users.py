"""Stage `users`: a served model, and the practice world's people who talk to it and say what they think.

Everything goes over HTTP, as with a real server and real people: the server is started as its own process on
a free port, two replies to each prompt are asked for, and comparisons and improved replies are posted to
`/v1/feedback`. People who do not consent send nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instructgpt.data.records import Prompt, read_prompts
from instructgpt.errors import ConfigError
from instructgpt.evaluation.judge import open_world
from instructgpt.evaluation.served import Client, serving
from instructgpt.evaluation.statistics import mean_interval
from instructgpt.practice import Labeler, Task, World, labelers, rank
from instructgpt.runtime.checkpoint import final_checkpoint, open_run
from instructgpt.runtime.metrics import Progress
from instructgpt.runtime.seeds import derive_seed

FEEDBACK = "feedback.jsonl"
_DRAFTS = 4
"""Replies that a person has in mind when improving one; the best by their own taste is sent."""
_BAD = 2
"""Two tied replies rated so low or lower are both bad (ratings from 1 to 7)."""


@dataclass(frozen=True)
class UsersConfig:
    """Serve a model and let the practice world's people use it: feedback.jsonl is what they said."""

    out: str = ""
    """Run folder to write."""
    world: str = ""
    """Folder of the world stage."""
    model: str = ""
    """Checkpoint to serve."""
    prompts: str = ""
    """What people ask: prompts of the world."""
    start: int = 0
    """Number of the first prompt, so that every round has its own."""
    count: int = 0
    """How many prompts; 0 = all from the first on."""
    edits: float = 0.1
    """Share of the comparisons after which the person improves the better reply, too."""
    consent: float = 0.9
    """Share of the people who let their feedback be stored."""
    max_new: int = 48
    """Longest reply, in tokens."""
    temperature: float = 1.0
    """Sampling temperature."""
    parallel: int = 32
    """People who talk at the same time."""
    seed: int = 0
    """Decides replies, people and their noise."""

    def __post_init__(self) -> None:
        if self.parallel < 1 or self.start < 0 or self.count < 0:
            raise ConfigError("a number is too small", "start, count, parallel", "use 0, 0 and 1 or more")
        for name in ("edits", "consent"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", name, "give a share from 0 to 1")


def run(config: UsersConfig) -> dict[str, Any]:
    """Serve, ask, collect; returns the summary.

    Summary: `prompts`, `comparisons`, `ties`, `both_bad`, `edits`, `without_consent`, and `utility`: the mean
    hidden utility of the replies, which nobody trains on, with its interval over prompts.

    Raises:
        ConfigError, DataError, CheckpointError, ServiceError: see flags, prompts, model, server.
    """
    world = open_world(config.world)
    prompts = read_prompts(config.prompts)[config.start :]
    prompts = prompts[: config.count or None]
    if not prompts:
        raise ConfigError(
            f"there are no prompts from number {config.start} on", "start", "use a smaller number"
        )
    model = final_checkpoint(config.model)
    inputs: dict[str, str | Path] = {
        "model": model,
        "prompts": config.prompts,
        "world": Path(config.world) / "config.json",
    }
    with open_run(config.out, "users", config, inputs) as folder:
        if folder.finished is not None:
            return folder.finished
        feedback = folder.folder / FEEDBACK
        feedback.unlink(missing_ok=True)  # of a run that was stopped
        with serving({"policy": model}, feedback) as client:
            told = talk(config, world, client, prompts)
        utility = mean_interval([row["utility"] for row in told], config.seed)
        counts = {name: sum(row[name] for row in told) for name in ("ties", "both_bad", "edits")}
        silent = sum(row["silent"] for row in told)
        return folder.finish(
            {
                "prompts": len(prompts),
                "comparisons": len(prompts) - silent,
                "without_consent": silent,
                **counts,
                "utility": utility.mean,
                "utility_low": utility.low,
                "utility_high": utility.high,
                "feedback": FEEDBACK,
            }
        )


def talk(config: UsersConfig, world: World, client: Client, prompts: list[Prompt]) -> list[dict[str, Any]]:
    """Every prompt asked and judged, several people at a time; what came of each, in the order of prompts."""
    people = labelers(world.config.seed)
    progress = Progress("users", len(prompts))

    def one(prompt: Prompt) -> dict[str, Any]:
        draw = derive_seed(config.seed, "users", prompt.id)
        return _Visit(config, world, client, people[draw % len(people)], prompt).tell()

    rows = []
    with ThreadPoolExecutor(config.parallel) as pool:
        for row in pool.map(one, prompts):
            rows.append(row)
            progress.advance()
    progress.close()
    return rows


@dataclass(frozen=True)
class _Visit:
    """One person with one question."""

    config: UsersConfig
    world: World
    client: Client
    person: Labeler
    prompt: Prompt

    def tell(self) -> dict[str, Any]:
        """Ask, compare, perhaps improve; returns what the summary counts."""
        config, task = self.config, self.world.task(self.prompt.id)
        asked = {
            "temperature": config.temperature,
            "max_completion_tokens": config.max_new,
            "seed": derive_seed(config.seed, "reply", self.prompt.id),
            "n": 2,
        }
        replies = self.client.chat("policy", self.prompt, asked)
        texts = [reply["text"] for reply in replies]
        key = f"{config.seed}|users"
        judged = rank(self.world, self.person, task, texts, key)
        tied = judged.ranks[0] == judged.ranks[1]
        bad = tied and max(judged.ratings) <= _BAD
        choice: int | str = "both_bad" if bad else "tie" if tied else judged.ranks.index(1)
        consent = self._chance("consent") < config.consent
        better = 0 if isinstance(choice, str) else choice
        edited = self._improve(task, texts[better], key) if self._chance("edit") < config.edits else None
        if consent:
            self._post({"kind": "comparison", "replies": replies, "choice": choice})
            if edited is not None:
                self._post({"kind": "edit", "replies": [replies[better]], "edited": edited})
        return {
            "utility": sum(self.world.utility(task, text) for text in texts) / len(texts),
            "ties": consent and tied and not bad,
            "both_bad": consent and bad,
            "edits": consent and edited is not None,
            "silent": not consent,
        }

    def _chance(self, what: str) -> float:
        return derive_seed(self.config.seed, what, self.prompt.id) % 1_000_000 / 1_000_000

    def _improve(self, task: Task, reply: str, key: str) -> str | None:
        """The reply that this person would rather have had; None if it was good enough as it is."""
        drafts = [self.world.demonstration(task, f"{key}|{draft}") for draft in range(_DRAFTS)]
        judged = rank(self.world, self.person, task, [reply, *drafts], f"{key}|edit")
        best = judged.ranks.index(1)
        return None if best == 0 else drafts[best - 1]

    def _post(self, row: Mapping[str, Any]) -> None:
        self.client.feedback(self.prompt, {**row, "user": self.prompt.user_id or self.person.id})
