"""The engine's table of active rows, kept where the drawing is done."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from instructgpt.generation.requests import Request


class Rows:
    """What each slot is doing, as columns on the sampling device; row r is slot r of the cache."""

    def __init__(self, slots: int, device: torch.device) -> None:
        self.device = device

        def integers() -> Tensor:
            return torch.zeros(slots, dtype=torch.int64, device=device)

        self.next_id = integers()
        self.key = integers()
        self.produced = integers()
        self.max_new = integers()
        self.stop_set = integers()
        self.top_k = integers()
        self.temperature = torch.ones(slots, device=device)
        # Exactly the numbers that were asked for, so that a row beside others draws what it draws alone.
        self.top_p = torch.ones(slots, dtype=torch.float64, device=device)
        self.min_p = torch.zeros(slots, dtype=torch.float64, device=device)
        self.ids = torch.zeros(slots, 0, dtype=torch.int64, device=device)
        self.logprobs = torch.zeros(slots, 0, device=device)

    def widen(self, width: int) -> None:
        """Make room for replies of `width` ids."""
        extra = width - self.ids.shape[1]
        if extra > 0:
            self.ids = torch.nn.functional.pad(self.ids, (0, extra))
            self.logprobs = torch.nn.functional.pad(self.logprobs, (0, extra))

    def fill(self, first: int, requests: Sequence[Request], stop_sets: Sequence[int]) -> None:
        """Rows first, first + 1, ... start these requests."""
        rows = slice(first, first + len(requests))
        integers = [(r.read[-1], r.key, len(r.drawn), r.max_new, r.top_k) for r in requests]
        columns = torch.tensor(integers, dtype=torch.int64, device=self.device).unbind(1)
        names = (self.next_id, self.key, self.produced, self.max_new, self.top_k)
        for column, values in zip(names, columns, strict=True):
            column[rows] = values
        self.stop_set[rows] = torch.tensor(stop_sets, device=self.device)
        self.temperature[rows] = torch.tensor([r.temperature for r in requests], device=self.device)
        self.top_p[rows] = torch.tensor([r.top_p for r in requests], dtype=torch.float64, device=self.device)
        self.min_p[rows] = torch.tensor([r.min_p for r in requests], dtype=torch.float64, device=self.device)
        for row, request in enumerate(requests, start=first):
            if length := len(request.drawn):
                self.ids[row, :length] = torch.tensor(request.drawn, device=self.device)
                self.logprobs[row, :length] = torch.tensor(request.drawn_logprobs, device=self.device)

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Rows `targets` become what rows `sources` are."""
        source = torch.tensor(sources, device=self.device)
        target = torch.tensor(targets, device=self.device)
        for column in vars(self).values():
            if isinstance(column, Tensor):
                column[target] = column[source]
