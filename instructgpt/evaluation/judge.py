"""Who says which reply is better: a reward model, a function, or the practice world's hidden utility."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch

from instructgpt.data.records import Prompt
from instructgpt.errors import ConfigError, DataError
from instructgpt.practice import World, WorldConfig
from instructgpt.scoring.ask import score_records
from instructgpt.scoring.reward import Reward, load_reward, resolve_reward, reward_models


class Judge(Protocol):
    """Scores replies; `name` is printed with every number (field fault 46)."""

    name: str

    def score(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[float]:
        """One score for each (prompt, reply), higher is better."""
        ...


class RewardJudge:
    """A reward as a judge."""

    def __init__(self, reward: Reward) -> None:
        self.reward, self.name = reward, reward.name

    def score(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[float]:
        """The reward of each reply, in reward units."""
        return score_records(self.reward, prompts, replies)


class WorldJudge:
    """The hidden utility of the practice world, in [0, 1]. For measuring only: no stage trains on it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.name = f"hidden utility of practice world {world.config.seed}"

    def score(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[float]:
        """The utility of each reply; the task is found by the prompt's id.

        Raises:
            DataError: a prompt is not of this world.
        """
        return [self._utility(prompt, reply) for prompt, reply in zip(prompts, replies, strict=True)]

    def _utility(self, prompt: Prompt, reply: str) -> float:
        task = self.world.task(prompt.id)
        if task.prompt != prompt.text:
            seed = self.world.config.seed
            raise DataError(
                f"the prompt is not of practice world {seed}: there it reads {task.prompt!r}",
                f"prompt {prompt.id}",
                "judge with the world that wrote the prompts, as in --judge practice:runs/demo/world",
            )
        return self.world.utility(task, reply)


def open_world(folder: str | Path) -> World:
    """The practice world whose files a `world` stage wrote into `folder`.

    Raises:
        ConfigError: there is none.
    """
    path = Path(folder) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))["config"]
        return World(WorldConfig(**{name: config[name] for name in WorldConfig.__dataclass_fields__}))
    except (OSError, KeyError, ValueError) as error:
        cure = "name the folder that the demo's world stage wrote, for example runs/demo/world"
        raise ConfigError(f"no practice world can be read there: {error}", str(path), cure) from error


def load_judge(spec: str, seed: int = 0, device: torch.device | str = "cpu") -> Judge:
    """The judge that a `--judge` flag names.

    Args:
        spec: `practice` (the default world of `seed`), `practice:FOLDER` (the world written there), a
            reward-model checkpoint, or what else a `--reward` may be.

    Raises:
        ConfigError: it is none of these.
    """
    kind, _, folder = spec.partition(":")
    if kind == "practice":
        return WorldJudge(open_world(folder) if folder else World(WorldConfig(seed=seed)))
    return RewardJudge(load_reward(spec, device))


def judge_spec(spec: str) -> str:
    """A stage's folder stands for its final checkpoint, an ensemble's for those of its members.

    Raises:
        CheckpointError: no finished model is in the folder.
    """
    return spec if not spec or spec.partition(":")[0] == "practice" else resolve_reward(spec)


def judge_input(spec: str) -> str:
    """The files that the judge's scores depend on, as `open_run` takes them; a function has none."""
    kind, _, world = spec.partition(":")
    if kind == "practice":
        return f"{world}/config.json" if world else ""
    return ",".join(map(str, reward_models(spec))) if spec else ""
