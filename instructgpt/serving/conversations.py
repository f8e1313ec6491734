"""POST /v1/chat/completions: the assistant's next turn."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from instructgpt.errors import InstructGPTError
from instructgpt.serving.access import Caller
from instructgpt.serving.choices import Placed
from instructgpt.serving.fields import ChatBody
from instructgpt.serving.generating import (
    Asked,
    Replies,
    ask,
    count_choices,
    draws,
    room,
    seed_of,
    usage,
)
from instructgpt.serving.logprobs import for_chat
from instructgpt.serving.problems import Problem, of_error
from instructgpt.serving.prompt_log import log_replies
from instructgpt.serving.sse import DONE, EventStream, event
from instructgpt.serving.state import ServerState
from instructgpt.text.chat import Message, render_prompt


def router(state: ServerState) -> APIRouter:
    """The route."""
    routes = APIRouter()
    allowed = Depends(state.access.caller)

    @routes.post("/v1/chat/completions", tags=["generation"], summary="Answer a conversation")
    async def chat_completions(request: Request, body: ChatBody, caller: Caller = allowed) -> Response:
        asked = ask(state, caller, body, "chatcmpl")
        n, _ = count_choices(asked, body)
        prompt = _prompt(asked, body)
        name, wanted = _wanted(body)
        length = room(asked, len(prompt), wanted, None, name)
        top = (body.top_logprobs or 0) if body.logprobs else None
        replies = Replies(asked, draws(asked, body, prompt, n, length, top, seed_of(body)))
        work = _Turns(asked, body, len(prompt), replies)
        if body.stream:
            return EventStream(work.stream(request), replies.close)
        await replies.all(request.receive)
        log_replies(asked, request, body, [choice.text for choice in replies.choices])
        return JSONResponse(work.whole())

    return routes


def _wanted(body: ChatBody) -> tuple[str, int | None]:
    """Name and value of the field that bounds the reply."""
    if body.top_logprobs is not None and not body.logprobs:
        cure = "set logprobs to true, or leave it out"
        raise Problem("top_logprobs without logprobs", cure, param="top_logprobs")
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        cure = "leave out max_tokens, the older name"
        raise Problem("max_tokens and max_completion_tokens are both given", cure, param="max_tokens")
    if body.max_tokens is not None:
        return "max_tokens", body.max_tokens
    return "max_completion_tokens", body.max_completion_tokens


def _prompt(asked: Asked, body: ChatBody) -> list[int]:
    """Ids of the conversation, with the profile's system text where it has none of its own.

    Raises:
        Problem: the template refuses it, or it does not end with the user's turn.
    """
    messages = [Message(message.role, message.text) for message in body.messages]
    if asked.profile is not None and asked.profile.system and messages[0].role != "system":
        messages.insert(0, Message("system", asked.profile.system))
    try:
        return render_prompt(asked.served.loaded.tokenizer, messages)
    except InstructGPTError as error:
        raise of_error(error, "messages") from error


@dataclass(frozen=True)
class _Turns:
    """The replies in the shape of this endpoint."""

    asked: Asked
    body: ChatBody
    prompt: int
    replies: Replies

    def _logprobs(self, tokens: Sequence[Placed]) -> dict[str, Any] | None:
        return for_chat(self.asked.served.loaded.tokenizer, tokens) if self.body.logprobs else None

    def whole(self) -> dict[str, Any]:
        """The answer without a stream."""
        entries = [
            {
                "index": index,
                "message": {"role": "assistant", "content": choice.text, "refusal": None},
                "logprobs": self._logprobs(choice.tokens),
                "finish_reason": choice.finish,
            }
            for index, choice in enumerate(self.replies.choices)
        ]
        total = usage(self.prompt, self.replies.drawn)
        return {**self.asked.head, "object": "chat.completion", "choices": entries, "usage": total}

    async def stream(self, request: Request) -> AsyncIterator[bytes]:
        """Events of the answer, to [DONE] or to an error."""
        with_usage = self.body.stream_options is not None and self.body.stream_options.include_usage
        head = {**self.asked.head, "object": "chat.completion.chunk"}
        extra: dict[str, Any] = {"usage": None} if with_usage else {}

        def chunk(index: int, delta: dict[str, Any], tokens: Sequence[Placed], finish: str | None) -> bytes:
            logprobs = self._logprobs(tokens) if tokens else None
            entry = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
            return event({**head, "choices": [entry], **extra})

        first = {"role": "assistant", "content": "", "refusal": None}
        yield b"".join(chunk(index, first, [], None) for index in range(len(self.replies.choices)))
        try:
            async for portion in self.replies.news():
                told = []
                for index, piece in portion:
                    tokens = piece.tokens if self.body.logprobs else []
                    if piece.text or tokens:
                        told.append(chunk(index, {"content": piece.text}, tokens, None))
                    if piece.finish:
                        told.append(chunk(index, {}, [], piece.finish))
                if told:
                    yield b"".join(told)
        except Problem as problem:
            yield event(problem.body)
            return
        if with_usage:
            yield event({**head, "choices": [], "usage": usage(self.prompt, self.replies.drawn)})
        yield DONE
        log_replies(self.asked, request, self.body, [choice.text for choice in self.replies.choices])
