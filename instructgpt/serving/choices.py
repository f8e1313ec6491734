"""From drawn ids to what may be sent: whole characters, nothing of a stop string, each token in its place."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from instructgpt.generation.requests import TokenLogprobs
from instructgpt.generation.stream import StopFilter
from instructgpt.serving.jobs import Token
from instructgpt.text.tokenizer import StreamDecoder, Tokenizer

Finish = Literal["stop", "length"]


class Placed(NamedTuple):
    """A token and where in the text it begins (characters)."""

    id: int
    start: int
    logprobs: TokenLogprobs | None


@dataclass
class Piece:
    """What is new of a choice."""

    text: str = ""
    tokens: list[Placed] = field(default_factory=list)
    """Tokens with log-probabilities whose text is sent with this piece or was before."""
    finish: Finish | None = None
    """Set in the last piece."""


class Choice:
    """One reply, piece by piece.

    A token is told only when all of its text is, so that no part of a stop string shows in the log-probs
    either (field fault 43); a token with a part of a character counts as that character (field fault 44).
    Tokens that reach into the stop string are not told.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self._decoder, self._filter = StreamDecoder(tokenizer), StopFilter(stops)
        self._decoded = self._sent = 0  # characters
        self._held: deque[tuple[Token, int, int]] = deque()
        self.drawn = 0
        """Tokens drawn, told or not: what the reply cost."""
        self.sum_logprob = 0.0
        """Of the drawn tokens, where they carry log-probabilities."""
        self.text = ""
        self.tokens: list[Placed] = []
        self.finish: Finish | None = None

    @property
    def mean_logprob(self) -> float:
        """Nats per token, for best_of."""
        return self.sum_logprob / max(1, self.drawn)

    def push(self, tokens: Sequence[Token], end: str | None) -> Piece:
        """More ids, and whether the engine says that it was all ("stop" or "length")."""
        piece = Piece()
        for token in tokens:
            start = self._decoded
            fresh = self._decoder.push(token.id)
            self._decoded += len(fresh)
            piece.text += self._filter.push(fresh)
            self.drawn += 1
            if token.logprobs is not None:
                self._held.append((token, start, self._decoded + self._decoder.pending))
                self.sum_logprob += token.logprobs.logprob
        if end is not None:
            piece.text += self._filter.push(self._decoder.finish()) + self._filter.finish()
            piece.finish = "stop" if end == "stop" or self._filter.matched is not None else "length"
        self._sent += len(piece.text)
        everything = end is not None and self._filter.matched is None
        while self._held and (everything or self._held[0][2] <= self._sent):
            token, start, _ = self._held.popleft()
            piece.tokens.append(Placed(token.id, start, token.logprobs))
        self.text += piece.text
        self.tokens += piece.tokens
        self.finish = piece.finish
        return piece


def place_prompt(
    tokenizer: Tokenizer, ids: Sequence[int], scores: Sequence[TokenLogprobs | None]
) -> list[Placed]:
    """The tokens of an echoed prompt; special ones are spelled out there, so they have a width."""
    decoder = StreamDecoder(tokenizer, skip_special=False)
    placed, decoded = [], 0
    for index, score in zip(ids, scores, strict=True):
        placed.append(Placed(index, decoded, score))
        decoded += len(decoder.push(index))
    return placed
