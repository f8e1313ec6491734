"""What is asked of the engine and what comes back."""

from __future__ import annotations

from dataclasses import dataclass

from instructgpt.errors import ConfigError, DataError
from instructgpt.model.config import ModelConfig


@dataclass(frozen=True)
class Request:
    """One reply to draw.

    Attributes:
        prompt_ids: at least one id.
        key: the random stream; a sample depends on (key, position in the reply) and the model alone.
        max_new: largest number of ids in the reply, at least 1.
        temperature: 0 takes the most probable id every time.
        top_k, top_p, min_p: 0, 1 and 0 truncate nothing (see `sampling.sample`).
        stop_ids: an id that ends the reply; it belongs to it.
        presence_penalty, frequency_penalty: taken off the logit of an id that the reply holds already, once,
            and once for each time.
        logit_bias: (id, number added to its logit), each id once.
        top_logprobs: None, or how many of the most probable ids are reported beside each drawn one.
        drawn, drawn_logprobs: the beginning of the reply, where an earlier draw of it was interrupted
            (see `Engine.pause`).
    """

    prompt_ids: tuple[int, ...]
    key: int
    max_new: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    stop_ids: frozenset[int] = frozenset()
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    top_logprobs: int | None = None
    drawn: tuple[int, ...] = ()
    drawn_logprobs: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.max_new < 1:
            raise ConfigError(f"max_new is {self.max_new}", "--max-new", "allow at least one new token")
        if not self.temperature >= 0:
            raise ConfigError(f"temperature is {self.temperature}", "--temperature", "use 0 or more")
        if self.top_k < 0:
            raise ConfigError(f"top_k is {self.top_k}", "--top-k", "use 0 (no limit) or more")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p}", "--top-p", "use more than 0 and at most 1")
        if not 0 <= self.min_p <= 1:
            raise ConfigError(f"min_p is {self.min_p}", "--min-p", "use 0 (no limit) to 1")

    @property
    def wishes(self) -> bool:
        """Whether it wants more than a draw: penalties, biases, log-probabilities."""
        return bool(
            self.presence_penalty
            or self.frequency_penalty
            or self.logit_bias
            or self.top_logprobs is not None
        )

    @property
    def read(self) -> tuple[int, ...]:
        """Ids that stand before the next one to draw."""
        return self.prompt_ids + self.drawn


@dataclass(frozen=True)
class Completion:
    """A drawn reply: ids with the stop id if there was one, and the log-probability (nats) of each id under
    the distribution it was drawn from."""

    ids: list[int]
    logprobs: list[float]
    stopped: bool
    """A stop id ended it; False = it was cut at max_new."""


@dataclass(frozen=True)
class TokenLogprobs:
    """What the model alone thought of an id (temperature 1, no filter, bias or penalty), in nats.

    Attributes:
        logprob: of the id itself.
        top: the most probable ids with theirs, best first.
    """

    logprob: float
    top: tuple[tuple[int, float], ...]


def check_room(config: ModelConfig, prompt_tokens: int, max_new: int, where: str) -> None:
    """Refuse a prompt that, with its reply, may not fit the model's context.

    Raises:
        DataError: it is empty or too long; `where` names it.
    """
    if not prompt_tokens:
        raise DataError("a prompt has no tokens", where, "give at least one token to go on from")
    if prompt_tokens + max_new > config.context:
        cures = []
        if max_new < config.context:
            cures.append(f"shorten the prompt to {config.context - max_new} tokens")
        if prompt_tokens < config.context:
            cures.append(f"set max_new to {config.context - prompt_tokens} or less")
        cure = ", or ".join(cures) or "use a model with a longer context"
        raise DataError(
            f"a prompt of {prompt_tokens} tokens and a reply of up to {max_new} exceed the model's context "
            f"of {config.context}",
            where,
            cure,
        )
