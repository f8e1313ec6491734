"""The web application around a `ServerState`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from instructgpt import __version__
from instructgpt.serving import completions, conversations, feedback, problems, rewards, status
from instructgpt.serving.chat import router as chat
from instructgpt.serving.fields import ChatBody, CompletionBody, RewardBody, Strict
from instructgpt.serving.middleware import BodyLimit, Measured
from instructgpt.serving.state import ServerState

BODIES: dict[str, type[Strict]] = {
    "/v1/completions": CompletionBody,
    "/v1/chat/completions": ChatBody,
    "/v1/rewards": RewardBody,
    "/v1/feedback": feedback.FeedbackBody,
}
_PATHS = (*BODIES, "/v1/models", "/health", "/metrics", "/")


def create_app(state: ServerState) -> FastAPI:
    """Routes, limits and metrics; the worker starts and stops with the application."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        state.worker.start()
        try:
            yield
        finally:
            state.worker.stop()

    app = FastAPI(
        title="instructgpt",
        version=__version__,
        description="Models and rewards behind the OpenAI wire format.",
        lifespan=lifespan,
        responses={code: _refusal(text) for code, text in _REFUSALS.items()},
    )
    app.state.server = state
    fields = {path: tuple(body.model_fields) for path, body in BODIES.items()}
    problems.install(app, fields)
    for routes in (completions, conversations, rewards, feedback, status):
        app.include_router(routes.router(state))
    if state.config.chat:
        app.include_router(chat.router(state))
    app.add_middleware(BodyLimit, limit=state.config.max_body_kib << 10)
    app.add_middleware(Measured, metrics=state.metrics, paths=_PATHS)
    return app


_REFUSALS: dict[int | str, str] = {
    400: "The request can't be used",
    401: "No good API key",
    404: "No such model",
    413: "The body is too large",
    422: "Not used: what can't be read is answered with 400",
    429: "Too many requests, or the queue is full",
    503: "The server is shutting down",
    504: "The deadline has passed",
}


def _refusal(text: str) -> dict[str, Any]:
    texts = {"anyOf": [{"type": "string"}, {"type": "null"}]}
    names = ("message", "type", "param", "code")
    error = {"type": "object", "properties": dict.fromkeys(names, texts), "required": ["message", "type"]}
    schema = {"type": "object", "properties": {"error": error}, "required": ["error"]}
    return {"description": text, "content": {"application/json": {"schema": schema}}}
