"""What InstructGPT did to its prompts before use: duplicates out, and a limit to each user's share.

Paper, section 3.2: prompts that share a long common prefix are taken once, at most 200 a user id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from instructgpt.data.records import Demonstration, Prompt, Ranking
from instructgpt.errors import ConfigError

Asked = TypeVar("Asked", Prompt, Demonstration, Ranking)


@dataclass(frozen=True)
class Cleaned(Generic[Asked]):
    """Records that stay, in their order, and how many went for each reason."""

    kept: list[Asked]
    dropped: dict[str, int]


def prompt_of(record: Prompt | Demonstration | Ranking) -> Prompt:
    """The prompt of any record that has one."""
    return record if isinstance(record, Prompt) else record.prompt


def fold(text: str) -> str:
    """Text with case and white space evened out, for comparing."""
    return " ".join(text.casefold().split())


def remove_duplicates(records: Sequence[Asked], prefix_characters: int = 200) -> Cleaned[Asked]:
    """Keep the first record of those whose conversations are equal or share a prefix of this length, when
    folded.

    A prompt shorter than the prefix is a duplicate only of its equals.

    Args:
        prefix_characters: 0 looks for equals only.

    Raises:
        ConfigError: prefix_characters is negative.
    """
    if prefix_characters < 0:
        raise ConfigError(f"prefix_characters is {prefix_characters}", cure="use 0 or a positive number")
    seen: set[str] = set()
    beginnings: set[str] = set()
    kept: list[Asked] = []
    dropped = {"equal": 0, "common_prefix": 0}
    for record in records:
        messages = prompt_of(record).messages
        whole = "\x1e".join(f"{message.role}\x1f{fold(message.content)}" for message in messages)
        beginning = whole[:prefix_characters]
        long = 0 < prefix_characters <= len(whole)
        if whole in seen:
            dropped["equal"] += 1
        elif long and beginning in beginnings:
            dropped["common_prefix"] += 1
        else:
            kept.append(record)
            seen.add(whole)
            if long:
                beginnings.add(beginning)
    return Cleaned(kept, dropped)


def cap_per_user(records: Sequence[Asked], limit: int = 200) -> Cleaned[Asked]:
    """Keep the first `limit` records of each user id; records without one all stay.

    Raises:
        ConfigError: limit is not positive.
    """
    if limit < 1:
        raise ConfigError(f"the limit per user is {limit}", cure="use a positive number (the paper: 200)")
    count: Counter[str] = Counter()
    kept: list[Asked] = []
    for record in records:
        user = prompt_of(record).user_id
        if user is not None:
            count[user] += 1
        if user is None or count[user] <= limit:
            kept.append(record)
    return Cleaned(kept, {"over_user_limit": len(records) - len(kept)})
