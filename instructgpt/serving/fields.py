"""Bodies of requests, as OpenAI's API has them; a field that is not here is refused by name."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MOST_STOPS = 16
"""Stop strings of a request; OpenAI allows 4."""
_SEED = 1 << 63


class Strict(BaseModel):
    """No unknown fields, no text for numbers, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


Stop = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Name = Annotated[str, StringConstraints(max_length=200)]
TokenId = Annotated[int, Field(ge=0)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class StreamOptions(Strict):
    """How a stream is told."""

    include_usage: bool = False
    """One more chunk before [DONE], with the number of tokens."""


class TextFormat(Strict):
    """The one format of replies that there is."""

    type: Literal["text"]


class Sampling(Strict):
    """Fields that /v1/completions and /v1/chat/completions share."""

    model: Name = ""
    """Name of a model (see /v1/models); "" or "default": the profile's, else the server's first."""
    n: Annotated[int, Field(ge=1)] | None = None
    """Replies to each prompt."""
    seed: Annotated[int, Field(ge=-_SEED, lt=_SEED)] | None = None
    """Equal seeds give equal replies, whatever else the server does."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """0: the most probable token every time. Default 1."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Only the most probable tokens that hold this mass together."""
    top_k: Annotated[int, Field(ge=-1)] | None = None
    """Only the k most probable tokens; 0 or -1: all (not in OpenAI's API)."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Drop tokens less probable than this share of the most probable one (not in OpenAI's API)."""
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    """Texts before which the reply ends."""
    stream: bool | None = None
    """Server-sent events, chunk by chunk."""
    stream_options: StreamOptions | None = None
    """With stream only."""
    presence_penalty: Penalty | None = None
    """Taken off the logit of a token that the reply holds already."""
    frequency_penalty: Penalty | None = None
    """Taken off once for each time that the reply holds the token."""
    logit_bias: dict[str, Bias] | None = None
    """Token id -> number added to its logit."""
    user: Name | None = None
    """Who asks, for profiles and consented logs."""

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings, none twice."""
        found = [self.stop] if isinstance(self.stop, str) else (self.stop or [])
        return tuple(dict.fromkeys(found))


class CompletionBody(Sampling):
    """POST /v1/completions: text goes on."""

    prompt: str | list[str] | list[TokenId] | list[list[TokenId]]
    """A text, token ids, or several of either. A text is taken as it is: nothing is put before it, and what
    it spells never becomes a special token."""
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    """Largest length of a reply; 0 with echo: score the prompt alone. Default 16."""
    best_of: Annotated[int, Field(ge=1)] | None = None
    """Draw so many and return the n with the highest log-probability per token."""
    echo: bool | None = None
    """Put the prompt before the reply, with its log-probabilities if those are asked for."""
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """Log-probabilities of the tokens and of so many of the most probable ones."""


class TextPart(Strict):
    """A piece of a message's content."""

    type: Literal["text"]
    text: str


class ChatMessage(Strict):
    """One turn."""

    role: Literal["system", "user", "assistant"]
    content: str | list[TextPart]

    @property
    def text(self) -> str:
        """The content, its parts joined."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatBody(Sampling):
    """POST /v1/chat/completions: the assistant's next turn."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    """The conversation; the last message is the user's."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Largest length of a reply (OpenAI's older name)."""
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """Largest length of a reply. Default: what the context has room for."""
    logprobs: bool | None = None
    """Log-probabilities of the reply's tokens."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """With logprobs: so many of the most probable tokens at each place."""
    response_format: TextFormat | None = None
    """Text, as it is anyway."""


class RewardBody(Strict):
    """POST /v1/rewards: scores of replies, in the protocol that `--reward URL` speaks."""

    prompts: Annotated[list[Annotated[list[ChatMessage], Field(min_length=1)]], Field(min_length=1)]
    """Conversations, one for each reply."""
    replies: Annotated[list[str], Field(min_length=1)]
    """What is scored."""
    model: Name = ""
    """Name of a reward (see /v1/models); "": the first."""
