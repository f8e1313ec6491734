"""Guessing the next ids of a text from its own past (prompt look-up decoding).

Summaries, corrections and code repeat what stands before them. Where the last ids of a text stood earlier
in it, what followed there is a guess at what follows now; one forward pass then tells for all guessed ids at
once whether they would have been drawn. Saxena 2023, "Prompt lookup decoding", on the speculative decoding
of arXiv:2211.17192.
"""

from __future__ import annotations

from collections.abc import Iterable

from instructgpt.errors import ConfigError

LENGTHS = (3, 2)
"""Ids that must have stood together before; the longer ones are looked for first."""


class Lookup:
    """A growing text, and what followed each of its short pieces the last time."""

    def __init__(self, ids: Iterable[int]) -> None:
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        self.extend(ids)

    def extend(self, ids: Iterable[int]) -> None:
        """The text goes on."""
        for index in ids:
            for length in LENGTHS:
                if len(self._ids) >= length:
                    self._after[tuple(self._ids[-length:])] = len(self._ids)
            self._ids.append(index)

    def guess(self, most: int) -> list[int]:
        """Up to `most` ids that may come next; none where the end of the text is new."""
        for length in LENGTHS:
            place = self._after.get(tuple(self._ids[-length:]))
            if place is not None:
                return self._ids[place : place + most]
        return []


def check_lookup(most: int) -> None:
    """
    Raises:
        ConfigError: the flag is less than 0.
    """
    if most < 0:
        raise ConfigError(f"lookup is {most}", "--lookup", "use 0 (no guessing) or more; 4 is a good start")
