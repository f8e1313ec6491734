"""Summed loss of packed examples against one example at a time with all logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from instructgpt.data.collate import pack
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import LanguageModel, new_language_model
from instructgpt.scoring import likelihood
from instructgpt.scoring.likelihood import accumulate, summed_loss
from instructgpt.text.chat import Rendered


def model() -> LanguageModel:
    return new_language_model(
        ModelConfig.llama(vocab_size=30, width=16, layers=2, heads=2, kv_heads=1, context=32), seed=0
    )


def examples(prompt: int) -> list[Rendered]:
    """Three examples whose first `prompt` tokens do not count."""
    generator = torch.Generator().manual_seed(1)
    return [
        Rendered(torch.randint(30, (n,), generator=generator).tolist(), [i >= prompt for i in range(n)])
        for n in (9, 12, 7)
    ]


@pytest.mark.parametrize("prompt", [1, 5, 6])  # 25, 13 and 10 of 28 tokens count
def test_equals_each_example_alone(prompt: int) -> None:
    """Whether the last layer is computed for all tokens or for those that count alone."""
    rows = examples(prompt)
    assert (sum(map(sum, (r.train_mask for r in rows))) < likelihood.MOST_ROWS * 28) == (prompt > 1)
    found = []
    for packed in (True, False):
        network = model()
        if packed:
            loss = summed_loss(network, pack(rows), torch.float32)
        else:
            network.double()
            loss = torch.zeros((), dtype=torch.float64)
            for row in rows:
                ids = torch.tensor(row.ids)
                hidden = network(ids, torch.arange(len(ids)), [len(ids)])
                logits = hidden @ network.unembedding.T
                counts = torch.tensor(row.train_mask)[1:]
                loss = loss + F.cross_entropy(logits[:-1][counts], ids[1:][counts], reduction="sum")
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in network.parameters())])
    for got, expected in zip(*found, strict=True):
        assert got is not None and expected is not None
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_passes_give_the_float32_gradient_but_for_rounding() -> None:
    """Float32 gradients of float32 weights, within bfloat16's 2^-8 times the depth of the chain."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        network = model()
        mean = accumulate(network, examples(1), 1.0, 20, dtype)
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())
        found.append(
            (mean, torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
        )
    (exact, gradient), (rough, rough_gradient) = found
    assert rough == pytest.approx(exact, rel=5e-3)
    assert (rough_gradient - gradient).norm() < 0.03 * gradient.norm()
