"""POST /v1/feedback: what users prefer, kept to become training data by one command (field fault 45).

A row holds the conversation, the replies with the hash of the model that wrote each and its sampling
parameters, and what the user said of them. It goes to a labelling server by HTTP, to a file, or to the file
what the server did not take. Without consent nothing is kept.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from fastapi import APIRouter, Depends
from pydantic import Field, StringConstraints
from starlette.responses import JSONResponse, Response

from instructgpt.errors import ConfigError
from instructgpt.scoring.post import Address, Failure, Line
from instructgpt.serving.access import Caller
from instructgpt.serving.fields import ChatMessage, Name, Strict
from instructgpt.serving.journal import Journal
from instructgpt.serving.problems import Problem
from instructgpt.serving.state import ServerState

TOKEN = "INSTRUCTGPT_FEEDBACK_TOKEN"
_SECONDS = 10.0
_LONGEST_ANSWER = 1 << 16

Fingerprint = Annotated[str, StringConstraints(pattern=r"^fp_[0-9a-f]{16}$")]
Scalar = str | bool | int | float | None | list[str]


class Reply(Strict):
    """A reply that feedback is about."""

    text: str
    model: Name
    """The name under which it was served."""
    system_fingerprint: Fingerprint | None = None
    """As the reply carried it: the checkpoint that wrote it, even after its name has gone to another."""
    parameters: Annotated[dict[Name, Scalar], Field(max_length=40)] = Field(default_factory=dict)
    """Sampling parameters as they were sent."""


class FeedbackBody(Strict):
    """What a user says of replies."""

    kind: Literal["comparison", "thumb", "edit"]
    prompt: Annotated[list[ChatMessage], Field(min_length=1)]
    """The conversation, up to and with the user's last message."""
    replies: Annotated[list[Reply], Field(min_length=1, max_length=9)]
    consent: bool
    """The user agrees that this is kept and trained on; without it nothing is."""
    choice: Annotated[int, Field(ge=0)] | Literal["tie", "both_bad"] | None = None
    """comparison: number of the better reply, from 0."""
    thumb: Literal["up", "down"] | None = None
    """thumb."""
    edited: str | None = None
    """edit: what the reply should have been."""
    reason: Annotated[str, StringConstraints(max_length=4000)] | None = None
    flags: Annotated[list[Name], Field(max_length=20)] | None = None
    language: Name | None = None
    user: Name | None = None


class FeedbackStore(Protocol):
    """Where feedback goes."""

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep a row; it is safe when this returns.

        Raises:
            StorageError: it could not be kept.
        """
        ...


class PostOrKeep:
    """Posts rows to a labelling server; what that does not take is kept in a file."""

    def __init__(self, url: str, journal: Journal) -> None:
        """
        Raises:
            ConfigError: it is no http or https URL.
        """
        try:
            self._address = Address.parse(url)
        except ConfigError as error:
            cure = "give one like http://localhost:8080/api/feedback, without a password in it"
            raise ConfigError("feedback can't be posted there", f"--feedback-url {url}", cure) from error
        self._journal = journal
        self._token = os.environ.get(TOKEN, "").strip()

    def add(self, row: Mapping[str, Any]) -> None:
        """See `FeedbackStore`."""
        body = json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace")
        try:
            Line(self._address, _SECONDS).post(body, self._token, _LONGEST_ANSWER)
        except Failure as failure:
            self._journal.add({**row, "not_posted": failure.reason})


def open_store(path: str | Path, url: str) -> FeedbackStore:
    """The store that `--feedback` and `--feedback-url` name.

    Raises:
        ConfigError, StorageError: see `PostOrKeep`, `Journal`.
    """
    journal = Journal(path)
    return PostOrKeep(url, journal) if url else journal


def router(state: ServerState) -> APIRouter:
    """The route."""
    routes = APIRouter()
    allowed = Depends(state.access.caller)

    @routes.post("/v1/feedback", tags=["feedback"], summary="Say which reply is better, or what is wrong")
    async def feedback(body: FeedbackBody, caller: Caller = allowed) -> Response:
        _check(body)
        identity = f"fb_{secrets.token_hex(8)}"
        row = {
            "id": identity,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "key": caller.key,
            **body.model_dump(exclude_none=True),
            "prompt": [{"role": message.role, "content": message.text} for message in body.prompt],
            "replies": [_reply(state, index, reply) for index, reply in enumerate(body.replies)],
        }
        row["user"] = body.user or caller.name
        await asyncio.get_running_loop().run_in_executor(None, state.feedback.add, row)
        return JSONResponse({"id": identity, "stored": True})

    return routes


def _reply(state: ServerState, index: int, reply: Reply) -> dict[str, Any]:
    served = state.catalog.models.get(reply.model)
    if served is None:
        names = ", ".join(state.catalog.names)
        raise Problem(
            f"replies[{index}] is by {reply.model!r}, which is not served here",
            f"name one of {names}",
            status=404,
            param=f"replies.{index}.model",
            code="model_not_found",
        )
    fingerprint = reply.system_fingerprint or served.fingerprint
    return {**reply.model_dump(exclude_none=True), "model_hash": fingerprint.removeprefix("fp_")}


def _check(body: FeedbackBody) -> None:
    """
    Raises:
        Problem: there is no consent, or the fields of another kind.
    """
    if not body.consent:
        raise Problem(
            "feedback without consent is not kept", "ask the user, then set consent to true", param="consent"
        )
    if body.prompt[-1].role != "user":
        raise Problem("the prompt does not end with the user's message", "end it there", param="prompt")
    needs = {"comparison": "choice", "thumb": "thumb", "edit": "edited"}
    for kind, field in needs.items():
        given = getattr(body, field) is not None
        if given != (body.kind == kind):
            what = f"{field} is {'given' if given else 'missing'} in feedback of kind {body.kind}"
            raise Problem(what, f"{field} belongs to kind {kind} and to no other", param=field)
    count = len(body.replies)
    if (count < 2) if body.kind == "comparison" else (count != 1):
        cure = "give 2 to 9 replies to compare, or 1 with a thumb or an edit"
        raise Problem(f"{count} replies in feedback of kind {body.kind}", cure, param="replies")
    if isinstance(body.choice, int) and body.choice >= count:
        raise Problem(f"choice is {body.choice} of {count} replies", f"use 0 to {count - 1}", param="choice")
