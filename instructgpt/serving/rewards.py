"""POST /v1/rewards: scores of replies, in the protocol that `--reward URL` of the training verbs speaks."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from instructgpt.errors import InstructGPTError
from instructgpt.serving.access import Caller
from instructgpt.serving.fields import RewardBody
from instructgpt.serving.problems import Problem, late, of_error
from instructgpt.serving.sse import while_there
from instructgpt.serving.state import ServerState
from instructgpt.text.chat import Message

MOST = 256
"""Replies in one request."""


def router(state: ServerState) -> APIRouter:
    """The route."""
    routes = APIRouter()
    allowed = Depends(state.access.caller)
    # A reward is asked by one request at a time; scoring runs beside the engine's thread, not in it.
    turns = {name: asyncio.Lock() for name in state.catalog.rewards}

    @routes.post("/v1/rewards", tags=["rewards"], summary="Score replies")
    async def rewards(request: Request, body: RewardBody, caller: Caller = allowed) -> Response:
        name = body.model or next(iter(state.catalog.rewards), "")
        if name not in state.catalog.rewards:
            known = ", ".join(state.catalog.rewards)
            raise Problem(
                f"there is no reward {body.model!r} here",
                f"use one of {known}" if known else "start the server with --rewards NAME=FOLDER",
                status=404,
                param="model",
                code="model_not_found",
            )
        if len(body.prompts) != len(body.replies) or len(body.replies) > MOST:
            what = f"{len(body.prompts)} prompts and {len(body.replies)} replies"
            raise Problem(what, f"give one prompt for each reply, {MOST} at most", param="replies")
        prompts = [[Message(turn.role, turn.text) for turn in prompt] for prompt in body.prompts]
        reward = state.catalog.rewards[name]

        async def score() -> list[float]:
            async with turns[name]:
                return await asyncio.to_thread(reward.score, prompts, body.replies)

        try:
            async with asyncio.timeout(state.config.deadline):
                scores = await while_there(request.receive, score())
        except TimeoutError as error:
            raise late(state.config.deadline) from error
        except InstructGPTError as error:
            raise of_error(error, "replies") from error
        return JSONResponse({"object": "list", "model": name, "scores": scores})

    return routes
