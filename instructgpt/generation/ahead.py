"""Several ids of a row in one step: guessed ones are checked, and kept as far as they are what is drawn.

An id is a function of its row's key, its place in the reply and the distribution there (see `sampling`). So
the ids that follow from one pass over guesses are those that single steps would have drawn, one by one, up to
the first wrong guess; there the drawn one takes its place. Nothing is redrawn, and the distribution is
untouched: a guess is right exactly as often as the model draws it.

Legend: R active rows, N = R and all guesses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from instructgpt.generation.lookup import Lookup
from instructgpt.generation.requests import Request

MOST_ROWS = 8
"""With more rows in a step a pass over guesses costs more than what the right ones save."""


class Guesser:
    """Guesses for the active rows, by request."""

    def __init__(self, most: int) -> None:
        """`most`: ids that are guessed at a time; 0 = none."""
        self._most = most
        self._lookups: dict[int, Lookup] = {}

    def may(self, rows: int) -> bool:
        """Whether anything is guessed with so many rows."""
        return self._most > 0 and rows <= MOST_ROWS

    def guesses(
        self,
        active: Sequence[tuple[int, Request]],
        left: Sequence[int],
        replies: Callable[[int], Sequence[int]],
    ) -> list[list[int]]:
        """What may follow in each row, by row; empty where nothing is guessed in any.

        Args:
            left: ids that each row may still draw.
            replies: a row's reply so far.
        """
        found = []
        for row, (number, request) in enumerate(active):
            if number not in self._lookups:
                self._lookups[number] = Lookup((*request.prompt_ids, *replies(row)))
            # One id is drawn behind the guesses.
            most = min(self._most, left[row] - 1)
            found.append(self._lookups[number].guess(most) if most > 0 else [])
        return found if any(found) else []

    def drawn(self, ids: Iterable[tuple[int, int]]) -> None:
        """(request, id): replies go on."""
        for number, index in ids:
            if number in self._lookups:
                self._lookups[number].extend((index,))

    def forget(self, active: Sequence[tuple[int, Request]]) -> None:
        """Keep what is known of these requests only."""
        if self._lookups:
            kept = {number for number, _ in active}
            self._lookups = {n: lookup for n, lookup in self._lookups.items() if n in kept}


@dataclass(frozen=True)
class Pass:
    """One forward pass over the last id of each row and the guesses behind it."""

    ids: Tensor
    """(N,)"""
    offsets: Tensor
    """(N,) place behind the row's last id: 0, 1, ..."""
    rows: Tensor
    """(N,)"""
    counts: Tensor
    """(R,) ids of each row, together N."""
    starts: Tensor
    """(R,) where each row begins."""


def lay_out(next_ids: Tensor, guesses: Sequence[Sequence[int]]) -> Pass:
    """next_ids (R,) on the CPU."""
    ids = [i for first, guess in zip(next_ids.tolist(), guesses, strict=True) for i in (first, *guess)]
    counts = torch.tensor([1 + len(guess) for guess in guesses])
    starts = counts.cumsum(0) - counts
    rows = torch.arange(len(counts)).repeat_interleave(counts)
    return Pass(torch.tensor(ids), torch.arange(len(ids)) - starts[rows], rows, counts, starts)


def keep(
    drawn: Sequence[int], guesses: Sequence[Sequence[int]], stops: Sequence[frozenset[int]]
) -> list[int]:
    """How many ids of each row are its reply's: up to the first that was not guessed, or that ends it.

    Args:
        drawn: (N,) what follows from each id of the pass.
    """
    kept, start = [], 0
    for guess, stop in zip(guesses, stops, strict=True):
        count = 1
        for place, guessed in enumerate(guess):
            if drawn[start + place] != guessed or guessed in stop:
                break
            count += 1
        kept.append(count)
        start += 1 + len(guess)
    return kept
