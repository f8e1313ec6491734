"""POST /v1/completions: text goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from instructgpt.errors import DataError
from instructgpt.serving.access import Caller
from instructgpt.serving.choices import Choice, Placed, place_prompt
from instructgpt.serving.fields import CompletionBody
from instructgpt.serving.generating import (
    Asked,
    Replies,
    ask,
    count_choices,
    draws,
    room,
    score,
    seed_of,
    usage,
)
from instructgpt.serving.logprobs import for_completion
from instructgpt.serving.problems import Problem, of_error
from instructgpt.serving.prompt_log import log_replies
from instructgpt.serving.sse import DONE, EventStream, event
from instructgpt.serving.state import ServerState

DEFAULT_TOKENS = 16
"""OpenAI's length of a reply where a request names none."""


@dataclass(frozen=True)
class Prompt:
    """A prompt as text and ids, with its tokens where they are to be echoed."""

    text: str
    ids: list[int]
    tokens: list[Placed]


def router(state: ServerState) -> APIRouter:
    """The route."""
    routes = APIRouter()
    allowed = Depends(state.access.caller)

    @routes.post("/v1/completions", tags=["generation"], summary="Go on from a text")
    async def completions(request: Request, body: CompletionBody, caller: Caller = allowed) -> Response:
        asked = ask(state, caller, body, "cmpl")
        n, drawn = count_choices(asked, body, body.best_of)
        prompts = _prompts(asked, body)
        lengths = [_length(asked, body, prompt) for prompt in prompts]
        if body.echo:
            prompts = await _echoed(asked, body, prompts, request)
        top = body.logprobs if body.logprobs is not None else 0 if drawn > n else None
        seed = seed_of(body)
        jobs = [
            job
            for prompt, length in zip(prompts, lengths, strict=True)
            for job in (draws(asked, body, prompt.ids, drawn, length, top, seed) if length else ())
        ]
        replies = Replies(asked, jobs)
        work = _Completions(asked, body, prompts, n, replies)
        if body.stream:
            return EventStream(work.stream(request), replies.close)
        await replies.all(request.receive)
        result = work.whole(drawn)
        log_replies(asked, request, body, [choice["text"] for choice in result["choices"]])
        return JSONResponse(result)

    return routes


def _length(asked: Asked, body: CompletionBody, prompt: Prompt) -> int:
    """Tokens to draw for this prompt; 0: none are wanted."""
    if body.max_tokens == 0:
        room(asked, len(prompt.ids) - 1, None, 1, "max_tokens")
        return 0
    return room(asked, len(prompt.ids), body.max_tokens, DEFAULT_TOKENS, "max_tokens")


def _prompts(asked: Asked, body: CompletionBody) -> list[Prompt]:
    """
    Raises:
        Problem: too many, half a surrogate pair, or ids that the model has not.
    """
    loaded = asked.served.loaded
    given: Sequence[Any] = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if given and isinstance(given[0], int):
        given = [given]
    if not given or len(given) > asked.state.config.max_choices:
        cure = f"give 1 to {asked.state.config.max_choices}"
        raise Problem(f"{len(given)} prompts in one request", cure, param="prompt")
    found = []
    for prompt in given:
        if isinstance(prompt, str):
            try:
                ids = loaded.tokenizer.encode(prompt)
            except DataError as error:
                raise of_error(error, "prompt") from error
            text = prompt
        else:
            ids = list(prompt)
            if any(index >= loaded.tokenizer.vocab_size for index in ids):
                cure = f"use 0 to {loaded.tokenizer.vocab_size - 1}"
                raise Problem("a prompt has a token id that the model has not", cure, param="prompt")
            text = loaded.tokenizer.decode(ids, skip_special=False)
        # A model can't begin from nothing; documents begin after bos, or after the end of another.
        tokenizer = loaded.tokenizer
        start = [tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id]
        found.append(Prompt(text, ids or start, []))
    return found


async def _echoed(
    asked: Asked, body: CompletionBody, prompts: list[Prompt], request: Request
) -> list[Prompt]:
    if body.logprobs is None:
        return prompts
    scores = await score(asked, [prompt.ids for prompt in prompts], body.logprobs, request.receive)
    tokenizer = asked.served.loaded.tokenizer
    return [
        Prompt(prompt.text, prompt.ids, place_prompt(tokenizer, prompt.ids, found))
        for prompt, found in zip(prompts, scores, strict=True)
    ]


@dataclass(frozen=True)
class _Completions:
    """The replies in the shape of this endpoint."""

    asked: Asked
    body: CompletionBody
    prompts: list[Prompt]
    n: int
    replies: Replies

    def _logprobs(
        self, tokens: Sequence[Placed], prompt: Prompt | None, offset: int
    ) -> dict[str, Any] | None:
        """Of the prompt's tokens, if it is given, and of these."""
        if self.body.logprobs is None:
            return None
        tokenizer = self.asked.served.loaded.tokenizer
        before = for_completion(tokenizer, prompt.tokens if prompt else ())
        after = for_completion(tokenizer, tokens, offset)
        return {name: before[name] + after[name] for name in before}

    def _entry(
        self, index: int, text: str, tokens: Sequence[Placed], finish: str | None, echo: bool
    ) -> dict[str, Any]:
        prompt = self.prompts[index // self.n]
        offset = len(prompt.text) if self.body.echo else 0
        return {
            "index": index,
            "text": prompt.text + text if echo else text,
            "logprobs": self._logprobs(tokens, prompt if echo else None, offset),
            "finish_reason": finish,
        }

    def whole(self, drawn: int) -> dict[str, Any]:
        """The answer without a stream; of each prompt's `drawn` replies the best n."""
        entries: list[dict[str, Any]] = []
        for number in range(len(self.prompts)):
            made = self.replies.choices[number * drawn : (number + 1) * drawn]
            if drawn > self.n:
                made = sorted(made, key=lambda choice: -choice.mean_logprob)
            kept: list[Choice | None] = [*made[: self.n]] or [None] * self.n
            for choice in kept:
                text, tokens, finish = (
                    ("", [], "length") if choice is None else (choice.text, choice.tokens, choice.finish)
                )
                entries.append(self._entry(len(entries), text, tokens, finish, bool(self.body.echo)))
        return {**self.asked.head, "object": "text_completion", "choices": entries, "usage": self._usage()}

    def _usage(self) -> dict[str, int]:
        return usage(sum(len(prompt.ids) for prompt in self.prompts), self.replies.drawn)

    async def stream(self, request: Request) -> AsyncIterator[bytes]:
        """Events of the answer, to [DONE] or to an error."""
        with_usage = self.body.stream_options is not None and self.body.stream_options.include_usage
        head = {**self.asked.head, "object": "text_completion"}
        extra: dict[str, Any] = {"usage": None} if with_usage else {}
        count = len(self.prompts) * self.n
        begun: set[int] = set()

        def chunk(index: int, text: str, tokens: Sequence[Placed], finish: str | None) -> bytes:
            echo = bool(self.body.echo) and index not in begun
            begun.add(index)
            return event({**head, "choices": [self._entry(index, text, tokens, finish, echo)], **extra})

        try:
            if not self.replies.choices:
                yield b"".join(chunk(index, "", [], "length") for index in range(count))
            async for portion in self.replies.news():
                told = [
                    chunk(index, piece.text, piece.tokens, piece.finish)
                    for index, piece in portion
                    if piece.text or piece.finish or (piece.tokens and self.body.logprobs is not None)
                ]
                if told:
                    yield b"".join(told)
        except Problem as problem:
            yield event(problem.body)
            return
        if with_usage:
            yield event({**head, "choices": [], "usage": self._usage()})
        yield DONE
        log_replies(self.asked, request, self.body, [choice.text for choice in self.replies.choices])
