"""Packed attention in half precision, its products written out, against float64 document by document."""

from __future__ import annotations

import pytest
import torch

from instructgpt.model import attention
from instructgpt.model.attention import packed_attention, plan_packed

HALF = torch.bfloat16


def slow(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None) -> torch.Tensor:
    """One document in float64: (L, H, d), (L, K, d), (L, K, d) -> (L, H * d), token by token."""
    length, heads, size = query.shape
    shared = heads // key.shape[1]
    rows = []
    for t in range(length):
        first = 0 if window is None else max(0, t + 1 - window)
        parts = []
        for h in range(heads):
            scores = key[first : t + 1, h // shared] @ query[t, h] / size**0.5
            parts.append(scores.softmax(0) @ value[first : t + 1, h // shared])
        rows.append(torch.cat(parts))
    return torch.stack(rows)


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2)])
@pytest.mark.parametrize("window", [None, 5])
def test_equals_float64_forward_and_backward(heads: int, kv_heads: int, window: int | None) -> None:
    """Operands are bfloat16 exactly; scores, weights and results are rounded to 8 bits each, sums are not."""
    lengths, size = [3, 20, 70, 22, 1], 16
    generator = torch.Generator().manual_seed(0)
    total = sum(lengths)
    both = torch.randn(total, heads + kv_heads, size, generator=generator).to(HALF).requires_grad_()
    value = torch.randn(total, kv_heads, size, generator=generator).to(HALF).requires_grad_()
    weighting = torch.randn(total, heads * size, generator=generator).to(HALF)
    plan = plan_packed(lengths, both.device, HALF, window)
    assert all(group.explicit and group.bias is not None for group in plan.groups)
    found = packed_attention(both, value, heads, plan)
    assert found.dtype == HALF
    found.backward(weighting)
    exact = [x.detach().double().requires_grad_() for x in (both, value)]
    parts = [
        slow(b[:, :heads], b[:, heads:], v, window)
        for b, v in zip(exact[0].split(lengths), exact[1].split(lengths), strict=True)
    ]
    expected = torch.cat(parts)
    expected.backward(weighting.double())
    pairs = [(found.detach(), expected.detach()), (both.grad, exact[0].grad), (value.grad, exact[1].grad)]
    for got, wanted in pairs:
        assert got is not None and wanted is not None
        assert (got.double() - wanted).norm() < 1e-2 * wanted.norm()


def test_autocast_writes_the_products_out_and_long_documents_do_not() -> None:
    """What decides is the precision of the passes: float32 weights under autocast compute in half."""
    lengths = [
        attention.EXPLICIT_LENGTH + 1,
        attention.HALF_EXPLICIT_LENGTH,
        attention.HALF_EXPLICIT_LENGTH * 2,
    ]
    device = torch.device("cpu")
    plain = plan_packed(lengths, device, torch.float32)
    with torch.autocast("cpu", HALF):
        rounded = plan_packed(lengths, device, torch.float32)
    assert [group.explicit for group in plain.groups] == [False] * 3
    assert [group.explicit for group in rounded.groups] == [True, True, False]
    assert rounded.groups[-1].bias is None  # causal without a mask, nothing of its square is stored


def test_a_long_document_and_a_short_one_agree_where_both_ways_can_compute() -> None:
    """At the limit the written-out products and PyTorch's attention give the same, but for rounding."""
    generator = torch.Generator().manual_seed(1)
    length, heads, size = 80, 2, 16
    both = torch.randn(length, 2 * heads, size, generator=generator).to(HALF)
    value = torch.randn(length, heads, size, generator=generator).to(HALF)
    results = []
    with pytest.MonkeyPatch.context() as patch:
        for most in (length, length - 1):
            patch.setattr(attention, "HALF_EXPLICIT_LENGTH", most)
            plan = plan_packed([length], both.device, HALF)
            assert plan.groups[0].explicit == (most == length)
            results.append(packed_attention(both, value, heads, plan).double())
    assert (results[0] - results[1]).norm() < 1e-2 * results[1].norm()
