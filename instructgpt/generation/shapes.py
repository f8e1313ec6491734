"""Few different numbers of tokens, for servers.

oneDNN makes code for every new shape of a product, which takes milliseconds and some 100 KB, and keeps the
latest thousand. Prompts as they come are of any number of tokens; filled up to round numbers they are of few.
"""

from __future__ import annotations

from collections.abc import Sequence

STEP = 64
"""Above four times this many tokens the numbers are its multiples, below it powers of two."""
_LEAST = 8


def round_up(tokens: int) -> int:
    """The next round number of tokens: 8, 16, 32, 64, 72, 80, ... 256, 320, 384, ..."""
    if tokens <= STEP:
        return max(_LEAST, 1 << (tokens - 1).bit_length())
    step = STEP // 8 if tokens <= 4 * STEP else STEP
    return -(-tokens // step) * step


def fill_up(sequences: Sequence[Sequence[int]], context: int) -> tuple[int, ...]:
    """A sequence (of id 0) that brings these to a round number of tokens; empty where none is needed, or
    where it would be longer than the context."""
    total = sum(map(len, sequences))
    missing = round_up(total) - total
    return (0,) * missing if missing <= context else ()
