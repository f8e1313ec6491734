"""Prompts as they are kept in the database: the JSON form of `instructgpt.data.records`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from instructgpt.data.checks import parse_answers, parse_checks
from instructgpt.data.records import Prompt
from instructgpt.text.chat import Message


def prompt_from_row(row: Mapping[str, Any]) -> Prompt:
    """The prompt that `records.to_row` made this of."""
    turns = row["prompt"]
    messages = (
        (Message("user", turns),)
        if isinstance(turns, str)
        else tuple(Message(turn["role"], turn["content"]) for turn in turns)
    )
    plain: dict[str, Any] = {
        name: row.get(name) for name in ("user_id", "category", "group", "split", "source", "consent")
    }
    answers, checks = parse_answers(row.get("answer")), parse_checks(row.get("checks"))
    return Prompt(messages, row.get("id", ""), **plain, answers=answers, checks=checks)


def prompt_hash(prompt: Prompt) -> str:
    """Names a conversation by what is said in it, so that replies find their prompt."""
    said = json.dumps([[message.role, message.content] for message in prompt.messages], ensure_ascii=True)
    return blake2b(said.encode(), digest_size=16).hexdigest()
