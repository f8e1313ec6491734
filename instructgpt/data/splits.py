"""Training, validation and test parts, by user (paper, section 3.2), the same on every machine and for every
subset."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import TypeVar

from instructgpt.data.clean import fold, prompt_of
from instructgpt.data.records import Demonstration, Prompt, Ranking
from instructgpt.errors import ConfigError

Asked = TypeVar("Asked", Prompt, Demonstration, Ranking)

_NAMES = {"train": "train", "valid": "valid", "validation": "valid", "dev": "valid", "test": "test"}


def split_key(prompt: Prompt) -> str:
    """What decides the part: the user's id, else the first thing the user said, case and white space evened
    out.

    Not the record's own id: later turns of a conversation, and the same prompt under two ids, must not end up
    on both sides.
    """
    if prompt.user_id is not None:
        return f"user:{prompt.user_id}"
    asked = [message.content for message in prompt.messages if message.role == "user"]
    return f"text:{fold(asked[0] if asked else prompt.text)}"


def split_of(prompt: Prompt, valid: float, test: float = 0.0, seed: int = 0) -> str:
    """ "train", "valid" or "test"; a record that names its own `split` keeps it.

    Raises:
        ConfigError: the shares are not between 0 and 1, or leave nothing to train on.
    """
    if valid < 0 or test < 0 or not valid + test < 1:
        raise ConfigError(
            f"shares of {valid} for validation and {test} for test leave nothing to train on",
            cure="use shares of at least 0 that add up to less than 1",
        )
    if prompt.split in _NAMES:
        return _NAMES[str(prompt.split)]
    digest = blake2b(f"{seed}:{split_key(prompt)}".encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64
    return "valid" if place < valid else "test" if place < valid + test else "train"


def split(records: Iterable[Asked], valid: float, test: float = 0.0, seed: int = 0) -> dict[str, list[Asked]]:
    """Records as `{"train": ..., "valid": ..., "test": ...}`, in their order; shares hold in expectation.

    Adding records never moves others from one part to another.

    Raises:
        ConfigError: see `split_of`.
    """
    parts: dict[str, list[Asked]] = {"train": [], "valid": [], "test": []}
    for record in records:
        parts[split_of(prompt_of(record), valid, test, seed)].append(record)
    return parts
