"""Prompts and replies on the disk, where and only where the user consented."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from fastapi import Request

from instructgpt.serving.fields import ChatBody, CompletionBody
from instructgpt.serving.generating import Asked

HEADER = "Instructgpt-Consent"
"""A request that carries this header with the value `log` may be logged."""


def consented(asked: Asked, request: Request) -> bool:
    """Whether the caller's profile or the request says so."""
    by_profile = asked.profile is not None and asked.profile.consent
    return by_profile or request.headers.get(HEADER, "").strip().lower() == "log"


def log_replies(
    asked: Asked, request: Request, body: CompletionBody | ChatBody, replies: Sequence[str]
) -> None:
    """Append prompt and replies with user and model hash, if there is a log and consent.

    It is written by another thread: an answer never waits for the disk.
    """
    journal = asked.state.prompt_log
    if journal is None or not consented(asked, request):
        return
    row = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "user": body.user or asked.caller.name,
        "key": asked.caller.key,
        "model": asked.served.name,
        "model_hash": asked.served.hash,
        "request": body.model_dump(exclude_none=True),
        "replies": list(replies),
        "consent": True,
    }
    asyncio.get_running_loop().run_in_executor(None, journal.add, row)
