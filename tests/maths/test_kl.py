"""kl.py: estimators against the exact divergence, and the gradient at the extremes."""

import math

import pytest
import torch

from instructgpt.maths.kl import adapt_coefficient, bounded_exp, categorical_kl, k1, k3


def test_exact_kl_by_hand() -> None:
    # p = (3/4, 1/4), q = (1/2, 1/2): 0.75 ln 1.5 + 0.25 ln 0.5
    p = torch.tensor([math.log(3.0), 0.0])
    q = torch.tensor([5.0, 5.0])
    assert categorical_kl(p, q).item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-6)
    assert categorical_kl(p, p + 3).item() == pytest.approx(0.0, abs=1e-7)


def test_estimators_have_the_exact_kl_as_their_mean() -> None:
    """Sum over all outcomes weighted with p, not a sample: equality to rounding."""
    generator = torch.Generator().manual_seed(0)
    p_logits, q_logits = torch.randn(2, 5, dtype=torch.float64, generator=generator)
    logp, logq = torch.log_softmax(p_logits, 0), torch.log_softmax(q_logits, 0)
    exact = (logp.exp() * (logp - logq)).sum().item()
    assert (logp.exp() * k1(logp, logq)).sum().item() == pytest.approx(exact, abs=1e-12)
    assert (logp.exp() * k3(logp, logq)).sum().item() == pytest.approx(exact, abs=1e-12)
    assert categorical_kl(p_logits, q_logits).item() == pytest.approx(exact, abs=1e-12)
    assert bool((k3(logp, logq) >= 0).all())


def test_k1_is_policy_minus_reference() -> None:
    """Field faults 12 and 13: the sign."""
    assert k1(torch.tensor(-1.0), torch.tensor(-3.0)).item() == 2.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("difference", [-50.0, -12.0, -9.0, 9.0, 50.0])
def test_k3_gradient_is_finite_and_points_to_the_reference(dtype: torch.dtype, difference: float) -> None:
    """Field fault 14: clamped after exp, the backward pass gives NaN here."""
    logprobs = torch.tensor(-60.0 + difference, dtype=dtype, requires_grad=True)
    reference = torch.tensor(-60.0, dtype=dtype)
    value = k3(logprobs, reference)
    value.backward()
    assert math.isfinite(value.item()) and value.item() > 0
    assert logprobs.grad is not None and math.isfinite(logprobs.grad.item())
    assert math.copysign(1.0, logprobs.grad.item()) == math.copysign(1.0, difference)


def test_bounded_exp_is_exp_below_its_bound_and_its_tangent_above() -> None:
    x = torch.tensor([-30.0, 0.0, 3.0, 10.0, 12.0], dtype=torch.float64, requires_grad=True)
    y = bounded_exp(x)
    e10 = math.exp(10)
    expected = [math.exp(-30), 1.0, math.exp(3), e10, 3 * e10]
    assert y.tolist() == pytest.approx(expected, rel=1e-12)
    y[4].backward()
    assert x.grad is not None and x.grad[4].item() == pytest.approx(e10)


def test_controller_by_hand() -> None:
    # kl 6.6 of target 6: error 0.1, 500 episodes of 10,000: factor 1 + 0.1 * 0.05
    assert adapt_coefficient(0.15, 6.6, 6.0, 500) == pytest.approx(0.15 * 1.005)
    # errors are bounded to +-0.2: factors 1.01 and 0.99
    assert adapt_coefficient(0.15, 600.0, 6.0, 500) == pytest.approx(0.15 * 1.01)
    assert adapt_coefficient(0.15, -5.0, 6.0, 500) == pytest.approx(0.15 * 0.99)
    assert adapt_coefficient(0.15, 6.0, 6.0, 500) == 0.15
    assert adapt_coefficient(0.15, math.nan, 6.0, 500) == 0.15
