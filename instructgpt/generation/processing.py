"""What single requests want beside a draw: penalties and biases before it, log-probabilities after it.

Nothing here is stored in the rows: it is worked out from their requests when rows come or go, and from the
ids drawn so far. Training asks for none of it, and then no tensor is touched.

Legend: R active rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from instructgpt.generation.requests import Request, TokenLogprobs
from instructgpt.generation.rows import Rows


class Processing:
    """The wishes of the active rows, for one make-up of the batch."""

    def __init__(self, requests: Sequence[Request], device: torch.device) -> None:
        """`requests` of rows 0, 1, ... R - 1."""
        biases = [
            (row, index, value) for row, request in enumerate(requests) for index, value in request.logit_bias
        ]
        self._bias: tuple[Tensor, Tensor, Tensor] | None = None
        if biases:
            rows, ids, values = zip(*biases, strict=True)
            self._bias = (
                torch.tensor(rows, device=device),
                torch.tensor(ids, device=device),
                torch.tensor(values, dtype=torch.float32, device=device),
            )
        penalised = [
            (row, request.presence_penalty, request.frequency_penalty)
            for row, request in enumerate(requests)
            if request.presence_penalty or request.frequency_penalty
        ]
        self._penalised = torch.tensor([row for row, _, _ in penalised], dtype=torch.int64, device=device)
        self._presence = torch.tensor([[p] for _, p, _ in penalised], dtype=torch.float32, device=device)
        self._frequency = torch.tensor([[f] for _, _, f in penalised], dtype=torch.float32, device=device)
        self._asked = [row for row, request in enumerate(requests) if request.top_logprobs is not None]
        self._tops = [requests[row].top_logprobs or 0 for row in self._asked]

    @property
    def plain(self) -> bool:
        """Whether no row wants anything."""
        return self._bias is None and not len(self._penalised) and not self._asked

    def apply(self, logits: Tensor, state: Rows) -> Tensor:
        """The logits (R, V) to draw from: the model's, or a changed copy where a row has bias or penalty."""
        if self._bias is None and not len(self._penalised):
            return logits
        changed = logits.to(torch.float32, copy=True)
        if self._bias is not None:
            rows, ids, values = self._bias
            changed.index_put_((rows, ids), values, accumulate=True)
        if len(self._penalised):
            changed[self._penalised] -= self._penalties(state, changed.shape[1])
        return changed

    def _penalties(self, state: Rows, vocabulary: int) -> Tensor:
        """(penalised rows, V): presence once and frequency once for each time that an id was drawn."""
        produced = state.produced[self._penalised]
        width = int(produced.max())
        drawn = state.ids[self._penalised, :width]
        counts = torch.zeros(len(drawn), vocabulary, device=drawn.device)
        there = torch.arange(width, device=drawn.device) < produced[:, None]
        counts.scatter_add_(1, drawn, there.to(torch.float32))
        return self._frequency * counts + self._presence * (counts > 0)

    def report(self, logits: Tensor, ids: Tensor) -> dict[int, TokenLogprobs]:
        """What was asked about the drawn ids (R,) under the model's own logits (R, V): by row."""
        if not self._asked:
            return {}
        rows = torch.tensor(self._asked, device=logits.device)
        found = token_logprobs_with_top(logits[rows], ids[rows], self._tops)
        return dict(zip(self._asked, found, strict=True))


def token_logprobs_with_top(logits: Tensor, ids: Tensor, tops: Sequence[int]) -> list[TokenLogprobs]:
    """Log-probability of one id a row, and the `tops[row]` most probable ids of that row.

    The number of an id that is among the top ones is the same float in both places.

    Args:
        logits: (n, V); ids: (n,).
    """
    wide = logits.float()
    normalizer = wide.logsumexp(-1, keepdim=True)
    chosen = (wide.gather(1, ids[:, None]) - normalizer)[:, 0].tolist()
    most = min(max(tops, default=0), wide.shape[1])
    values, places = wide.topk(most, dim=-1)
    best, names = (values - normalizer).tolist(), places.tolist()
    return [
        TokenLogprobs(logprob, tuple(zip(names[row][:top], best[row][:top], strict=True)))
        for row, (logprob, top) in enumerate(zip(chosen, tops, strict=True))
    ]
