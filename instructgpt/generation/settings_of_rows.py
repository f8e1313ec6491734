"""What the active rows agree on, and which ids end each of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from instructgpt.generation.requests import Request
from instructgpt.generation.rows import Rows

Number = float | Tensor


class Agreed:
    """Temperature, top-k, top-p and min-p: a number where all rows have the same (faster), else columns."""

    _NAMES = ("temperature", "top_k", "top_p", "min_p")

    def __init__(self, requests: Collection[Request]) -> None:
        """Made when rows come or go, not at every step."""
        settings = {(r.temperature, r.top_k, r.top_p, r.min_p) for r in requests}
        columns = [set(column) for column in zip(*settings, strict=True)]
        self._numbers = [column.pop() if len(column) == 1 else None for column in columns]

    def of(
        self, state: Rows, rows: int, each: Tensor | None = None
    ) -> tuple[Number, int | Tensor, Number, Number]:
        """For rows 0..rows-1, or for the rows `each` (N,) of them, as `sampling.sample` takes them."""
        found: list[float | Tensor] = []
        for name, number in zip(self._NAMES, self._numbers, strict=True):
            if number is None:
                column: Tensor = getattr(state, name)[:rows]
                found.append(column if each is None else column[each])
            else:
                found.append(number)
        temperature, top_k, top_p, min_p = found
        return temperature, top_k if isinstance(top_k, Tensor) else int(top_k), top_p, min_p


class Stops:
    """Sets of ids that end a reply, one line of a table for each set that was ever asked for."""

    def __init__(self, vocabulary: int, device: torch.device) -> None:
        self._places: dict[frozenset[int], int] = {}
        self._table = torch.zeros(0, vocabulary, dtype=torch.bool, device=device)

    def places(self, sets: Sequence[frozenset[int]]) -> list[int]:
        """Lines of these sets."""
        for ids in sets:
            if ids not in self._places:
                self._places[ids] = len(self._places)
                line = torch.zeros(1, self._table.shape[1], dtype=torch.bool, device=self._table.device)
                line[0, [i for i in ids if 0 <= i < line.shape[1]]] = True
                self._table = torch.cat([self._table, line])
        return [self._places[ids] for ids in sets]

    def end(self, places: Tensor, ids: Tensor) -> Tensor:
        """(R,) bool: whether ids (R,) are in the sets at places (R,)."""
        return self._table[places, ids]
