"""Flags of `instructgpt serve`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional

from instructgpt.errors import ConfigError
from instructgpt.generation.lookup import check_lookup


@dataclass(frozen=True)
class ServeConfig:
    """Serve models behind the OpenAI wire format, with a chat page."""

    models: Positional[tuple[str, ...]] = ()
    """Checkpoints, or folders of finished stages: FOLDER or NAME=FOLDER. The first one is the default model.
    Names of one folder share its weights, and so do LoRA adapters and the base they stand over."""
    rewards: tuple[str, ...] = ()
    """Rewards for /v1/rewards: NAME=FOLDER, or NAME= and whatever `--reward` of other verbs takes."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 for other machines, which needs --keys."""
    port: int = 8000
    """Port to listen at; 0 = any free one, printed at the start."""
    keys: str = ""
    """File of API keys made by `instructgpt keys`; without it everyone who reaches the port may ask."""
    open: bool = False
    """Serve without keys at an address that other machines reach."""
    profiles: str = ""
    """TOML file of profiles: model and system text by key or by the field `user`."""
    rate: float = 0.0
    """Requests a minute that a key (without --keys: an address) may send; 0 = no limit."""
    slots: int = 32
    """Replies drawn at the same time for each model; fewer where --cache-mib would not hold them."""
    cache_mib: int = 1024
    """Memory for keys and values of each model when all its slots are as long as the context."""
    max_queue: int = 256
    """Replies that may wait for a slot of a model; more are refused with status 429."""
    max_body_kib: int = 1024
    """Largest body of a request."""
    max_choices: int = 64
    """Largest n and best_of, and the most prompts in a request."""
    max_new: int = 0
    """Largest length of a reply in tokens; 0 = whatever the context has room for."""
    deadline: float = 600.0
    """Seconds after which a request that is not done ends with an error."""
    drain: float = 30.0
    """Seconds that replies in hand get after SIGTERM or Ctrl-C."""
    feedback: str = "runs/serve/feedback.jsonl"
    """File that feedback is appended to; with --feedback-url only what could not be sent."""
    feedback_url: str = ""
    """URL that feedback is posted to, as a labelling server has it; token in INSTRUCTGPT_FEEDBACK_TOKEN."""
    prompt_log: str = ""
    """File that prompts and replies are appended to where the user consented; empty = none are kept."""
    chat: bool = True
    """Serve the chat page at /."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the models."""
    weights: Literal["full", "int8", "int4"] = "full"
    """How the models' matrices are stored: as they are, or rounded to 8 or 4 bits: smaller, and for few
    replies at a time faster."""
    lookup: int = 0
    """Guess up to so many tokens ahead from a text's own past, while few replies are drawn: faster where
    replies repeat their prompts, changes no reply. 0 = no guessing."""
    engine: Literal["process", "thread"] = "process"
    """Where the models run: in a process of their own, so that they never wait for the writing to clients, or
    in a thread of the server, which takes less memory."""

    def __post_init__(self) -> None:
        for name in ("slots", "cache_mib", "max_body_kib", "max_choices"):
            self._check(name, 1, "use at least 1")
        for name in ("rate", "max_queue", "max_new", "drain"):
            self._check(name, 0, "use 0 or more")
        check_lookup(self.lookup)
        if not 0 < self.deadline < math.inf:
            raise ConfigError(f"deadline is {self.deadline}", "--deadline", "use seconds, more than 0")
        if not 0 <= self.port < 65536:
            raise ConfigError(f"port is {self.port}", "--port", "use 0 to 65535")

    def _check(self, name: str, least: float, cure: str) -> None:
        value = getattr(self, name)
        if not least <= value < math.inf:
            raise ConfigError(f"{name} is {value}", "--" + name.replace("_", "-"), cure)
