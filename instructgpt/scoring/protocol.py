"""What every reward can do, wherever its scores come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from instructgpt.text.chat import Message


class Reward(Protocol):
    """What scores replies. `name` says where it comes from, for logs."""

    name: str

    def score(self, prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> list[float]:
        """One finite score for each (prompt, reply), higher is better."""
        ...
