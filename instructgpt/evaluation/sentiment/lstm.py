"""Baseline 2: a bidirectional LSTM from scratch, on the views and the tokens that the language model sees."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from instructgpt.evaluation.sentiment.measures import Array
from instructgpt.runtime.seeds import derive_seed

_PAD, _RARE = 0, 1


@dataclass(frozen=True)
class LSTMSettings:
    """Sizes and schedule; the number of epochs is chosen on the held-out reviews."""

    width: int = 100
    """Numbers a token."""
    hidden: int = 64
    """Numbers a direction."""
    dropout: float = 0.5
    """On token vectors and on the pooled vector."""
    batch: int = 32
    lr: float = 1e-3
    clip: float = 1.0
    epochs: int = 10
    rarest: int = 2
    """Tokens that occur in fewer training reviews share one vector."""


@dataclass(frozen=True)
class Sequences:
    """Token ids of reviews, one list each, and their labels (n,)."""

    ids: list[list[int]]
    labels: Array


@dataclass(frozen=True)
class Trained:
    """One seed's model on a test set.

    Attributes:
        probabilities: of "positive" (n,), after the best epoch.
        epoch: that epoch, from 1: the lowest loss on the held-out reviews.
        curve: a row an epoch: `epoch`, `train_loss`, `valid_loss`, `test_loss` (nats a review, no dropout).
        vocabulary: tokens with a vector of their own.
    """

    probabilities: Array
    epoch: int
    curve: list[dict[str, float]] = field(default_factory=list)
    vocabulary: int = 0


class Classifier(nn.Module):
    """Token vectors -> LSTM both ways -> mean and maximum over the tokens -> one logit."""

    def __init__(self, vocabulary: int, settings: LSTMSettings) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, settings.width, padding_idx=_PAD)
        self.lstm = nn.LSTM(settings.width, settings.hidden, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(settings.dropout)
        self.output = nn.Linear(4 * settings.hidden, 1)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """ids (B, T) padded on the right with 0, lengths (B,) -> logits of "positive" (B,)."""
        inputs = self.dropout(self.embedding(ids))  # (B, T, width)
        packed = pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)  # (B, T, 2 hidden)
        outside = (torch.arange(states.shape[1]) >= lengths[:, None])[..., None]
        mean = states.masked_fill(outside, 0.0).sum(1) / lengths[:, None]
        highest = states.masked_fill(outside, -torch.inf).amax(1)
        logits: Tensor = self.output(self.dropout(torch.cat([mean, highest], 1))).squeeze(1)
        return logits


def train_lstm(
    train: Sequences,
    valid: Sequences,
    test: Sequences,
    seed: int,
    settings: LSTMSettings,
) -> Trained:
    """Train on `train`, keep the epoch with the lowest loss on `valid`, predict `test`.

    The seed decides weights, order and dropout; the caller's random state is left as it was. The test loss
    of the other epochs goes into the curve and decides nothing. Without `valid` the last epoch is kept.
    """
    index = _vocabulary(train.ids, settings.rarest)
    parts = [_Part(*_tensors(part, index)) for part in (train, valid, test)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "sentiment lstm"))
        model = Classifier(len(index) + 2, settings)
        optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr)
        curve: list[dict[str, float]] = []
        best = (float("inf"), 0, copy.deepcopy(model.state_dict()))
        for epoch in range(1, settings.epochs + 1):
            _epoch(model, optimizer, parts[0], settings)
            losses = [_loss(model, part) for part in parts]
            names = ("train_loss", "valid_loss", "test_loss")
            curve.append({"epoch": epoch} | dict(zip(names, losses, strict=True)))
            decides = losses[1] if valid.ids else -float(epoch)
            if decides < best[0]:
                best = (decides, epoch, copy.deepcopy(model.state_dict()))
    model.load_state_dict(best[2])
    return Trained(_probabilities(model, parts[2]), best[1], curve, len(index))


@dataclass(frozen=True)
class _Part:
    ids: list[Tensor]
    labels: Tensor


def _vocabulary(documents: Sequence[Sequence[int]], rarest: int) -> dict[int, int]:
    """Token -> row of the embedding, by the number of training reviews that hold it, then by id."""
    counts: dict[int, int] = {}
    for ids in documents:
        for token in set(ids):
            counts[token] = counts.get(token, 0) + 1
    kept = sorted(
        (token for token, count in counts.items() if count >= rarest), key=lambda t: (-counts[t], t)
    )
    return {token: row for row, token in enumerate(kept, start=2)}


def _tensors(part: Sequences, index: dict[int, int]) -> tuple[list[Tensor], Tensor]:
    rows = [torch.tensor([index.get(token, _RARE) for token in ids] or [_RARE]) for ids in part.ids]
    return rows, torch.tensor(np.asarray(part.labels), dtype=torch.float32)


def _epoch(model: Classifier, optimizer: torch.optim.Optimizer, part: _Part, settings: LSTMSettings) -> None:
    model.train()
    for rows in torch.randperm(len(part.ids)).split(settings.batch):
        loss = nn.functional.binary_cross_entropy_with_logits(_logits(model, part, rows), part.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()


def _logits(model: Classifier, part: _Part, rows: Tensor) -> Tensor:
    ids = [part.ids[i] for i in rows.tolist()]
    return model(pad_sequence(ids, batch_first=True), torch.tensor([len(row) for row in ids]))


@torch.no_grad()
def _all_logits(model: Classifier, part: _Part) -> Tensor:
    model.eval()
    if not part.ids:
        return torch.zeros(0)
    return torch.cat([_logits(model, part, rows) for rows in torch.arange(len(part.ids)).split(256)])


def _loss(model: Classifier, part: _Part) -> float:
    if not part.ids:
        return float("nan")
    return nn.functional.binary_cross_entropy_with_logits(_all_logits(model, part), part.labels).item()


def _probabilities(model: Classifier, part: _Part) -> Array:
    return torch.sigmoid(_all_logits(model, part).double()).numpy()
