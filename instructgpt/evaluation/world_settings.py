"""Every knob of the demo's evaluation, and the files that its result depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from instructgpt.errors import ConfigError
from instructgpt.runtime.checkpoint import checkpoints, final_checkpoint

REFERENCE = "sft"
"""The model that PPO started from: the KL is measured against it."""


@dataclass(frozen=True)
class WorldEvalConfig:
    """Measure the models of a demo run on the practice world."""

    out: str = ""
    """Run folder to write."""
    world: str = ""
    """Folder of the world stage."""
    reward: str = ""
    """Reward-model checkpoint."""
    rankings: str = ""
    """Rankings the reward model was trained on; the bag-of-words baseline learns from them."""
    rankings_valid: str = ""
    """Rankings of held-out prompts."""
    rankings_second: str = ""
    """The same replies ranked by a second labeler."""
    models: tuple[str, ...] = ()
    """name=checkpoint, in the order of the table; `sft` is the reference of the KL and must be among them."""
    contenders: tuple[str, ...] = ()
    """Stage folders whose SFT checkpoints compete for being the best SFT by hidden utility."""
    paths: tuple[str, ...] = ()
    """name=stage folder of PPO runs whose saved checkpoints are measured one by one."""
    prompts: str = ""
    """Prompts that no stage has seen."""
    dev_prompts: str = ""
    """Prompts on which the best SFT checkpoint is chosen."""
    text: str = ""
    """Held-out pretraining text."""
    main: tuple[str, ...] = ("ppo_ptx",)
    """Models measured, like the best SFT, on all prompts; the others on `others_prompts`."""
    main_prompts: int = 2000
    """How many prompts, from the first."""
    others_prompts: int = 500
    """How many for the other models, and for every divergence."""
    dev_count: int = 300
    """How many prompts choose the best SFT checkpoint."""
    path_prompts: int = 200
    """How many prompts for each checkpoint along a PPO run."""
    best_of: int = 4
    """Best-of-n by the reward model, of the SFT model's replies."""
    max_new: int = 48
    """Longest reply, in tokens."""
    samples: int = 500
    """Prompts whose replies by all models are written to samples.jsonl."""
    seed: int = 0
    """Decides replies and resamples."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""

    def __post_init__(self) -> None:
        if REFERENCE not in dict(name_pairs("models", self.models)):
            raise ConfigError(f"no model is called {REFERENCE}", "models", f"add {REFERENCE}=CHECKPOINT")


def name_pairs(key: str, values: Sequence[str]) -> list[tuple[str, str]]:
    """NAME=FOLDER texts as pairs; `key` is where they stand, for the error."""
    pairs = []
    for value in values:
        name, equals, path = value.partition("=")
        if not (name and equals and path):
            raise ConfigError(f"{value!r} names no model", key, "write NAME=FOLDER")
        pairs.append((name, path))
    return pairs


def checkpoints_of(folders: Sequence[str]) -> list[Path]:
    """All checkpoints of stages, in order; a folder that is itself a model counts as one."""
    found: list[Path] = []
    for folder in folders:
        found += checkpoints(folder) or [final_checkpoint(folder)]
    return found


def inputs_of(config: WorldEvalConfig) -> dict[str, str | Path]:
    """Everything whose change calls for measuring again: name -> path, as `open_run` takes it."""
    models, paths = dict(name_pairs("models", config.models)), dict(name_pairs("paths", config.paths))
    inputs: dict[str, str | Path] = {f"model {name}": final_checkpoint(path) for name, path in models.items()}
    inputs["contenders"] = ",".join(map(str, checkpoints_of(config.contenders)))
    inputs |= {f"path {name}": ",".join(map(str, checkpoints_of([path]))) for name, path in paths.items()}
    inputs["reward"] = final_checkpoint(config.reward)
    inputs["world"] = Path(config.world) / "config.json"
    for name in ("rankings", "rankings_valid", "rankings_second", "prompts", "dev_prompts", "text"):
        inputs[name] = getattr(config, name)
    return inputs
