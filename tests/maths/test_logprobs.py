"""logprobs.py against torch's own log-softmax on the whole batch, and by hand."""

import math

import pytest
import torch

from instructgpt.maths import logprobs as room
from instructgpt.maths.logprobs import token_logprobs, token_logprobs_and_entropy


def _case(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(7, 5, dtype=dtype, generator=generator)
    unembedding = torch.randn(11, 5, dtype=dtype, generator=generator)
    targets = torch.randint(11, (7,), generator=generator)
    return hidden, unembedding, targets


def test_by_hand() -> None:
    # hidden 1 against rows 0 and ln 3: probabilities 1/4 and 3/4; at temperature 1/2 the logits double: 1/10,
    # 9/10
    hidden = torch.tensor([[1.0]])
    unembedding = torch.tensor([[0.0], [math.log(3.0)]])
    logprobs, entropy = token_logprobs_and_entropy(hidden, unembedding, torch.tensor([1]))
    assert logprobs.item() == pytest.approx(math.log(0.75), abs=1e-6)
    assert entropy.item() == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75), abs=1e-6)
    sharp = token_logprobs(hidden, unembedding, torch.tensor([1]), temperature=0.5)
    assert sharp.item() == pytest.approx(math.log(0.9), abs=1e-6)


@pytest.mark.parametrize("chunk_tokens", [1, 3, 7, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_equals_log_softmax_with_gradients(chunk_tokens: int, temperature: float) -> None:
    """Field fault 31: chunked, values and gradients are those of the full-vocabulary softmax."""
    weights = torch.linspace(-1, 2, 7, dtype=torch.float64)
    grads = []
    for chunked in (True, False):
        hidden, unembedding, targets = _case()
        hidden.requires_grad_()
        unembedding.requires_grad_()
        if chunked:
            out = token_logprobs(hidden, unembedding, targets, temperature, chunk_tokens)
        else:
            full = torch.log_softmax(hidden @ unembedding.T / temperature, dim=1)
            out = full[torch.arange(7), targets]
        (out * weights).sum().backward()
        grads.append((out.detach(), hidden.grad, unembedding.grad))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chunk_tokens", [16, 100])
def test_float32_is_float64_but_for_rounding(chunk_tokens: int) -> None:
    """float32 on a CPU goes through another kernel than float64."""
    generator = torch.Generator().manual_seed(1)
    wide = [torch.randn(n, 24, dtype=torch.float64, generator=generator) for n in (40, 50)]
    targets = torch.randint(50, (40,), generator=generator)
    found = []
    for dtype in (torch.float32, torch.float64):
        hidden, unembedding = (x.to(dtype).requires_grad_() for x in wide)
        out, entropy = token_logprobs_and_entropy(hidden, unembedding, targets, 0.9, chunk_tokens)
        out.sum().backward()
        found.append([x.double() for x in (out.detach(), entropy, hidden.grad, unembedding.grad)])
        with torch.no_grad():
            assert torch.equal(token_logprobs(hidden, unembedding, targets, 0.9, chunk_tokens), out)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk_tokens", [2, 7])
def test_gradcheck(chunk_tokens: int) -> None:
    hidden, unembedding, targets = _case()
    hidden.requires_grad_()
    unembedding.requires_grad_()

    def run(h: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return token_logprobs(h, u, targets, 0.8, chunk_tokens)

    assert torch.autograd.gradcheck(run, (hidden, unembedding))


def test_entropy_equals_torch_and_carries_no_gradient() -> None:
    hidden, unembedding, targets = _case()
    hidden.requires_grad_()
    _, entropy = token_logprobs_and_entropy(hidden, unembedding, targets, chunk_tokens=2)
    expected = torch.distributions.Categorical(logits=hidden @ unembedding.T).entropy()
    torch.testing.assert_close(entropy, expected.detach(), rtol=1e-12, atol=1e-12)
    assert not entropy.requires_grad


def test_frozen_head_and_no_tokens() -> None:
    hidden, unembedding, targets = _case()
    hidden.requires_grad_()
    token_logprobs(hidden, unembedding, targets).sum().backward()
    assert unembedding.grad is None
    empty = token_logprobs(hidden[:0], unembedding, targets[:0])
    assert empty.shape == (0,)


def test_half_precision_gives_float32_and_grads_in_the_input_type() -> None:
    hidden, unembedding, targets = _case(torch.float32)
    exact = token_logprobs(hidden, unembedding, targets)
    half = hidden.bfloat16().requires_grad_()
    rough = token_logprobs(half, unembedding.bfloat16(), targets)
    assert rough.dtype == torch.float32
    rough.sum().backward()
    assert half.grad is not None and half.grad.dtype == torch.bfloat16
    torch.testing.assert_close(
        rough, exact, rtol=0.0, atol=0.1
    )  # bf16 logits of size 5 are off by up to 0.02


def test_logits_of_the_whole_batch_are_never_stored() -> None:
    """Field fault 31: rows that take several chunks keep nothing of size n x V for the backward pass."""
    saved: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.numel())
        return tensor

    hidden, unembedding, targets = _case()
    hidden.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        token_logprobs(hidden, unembedding, targets, chunk_tokens=3)
    assert max(saved) < 7 * 11


@pytest.mark.parametrize("chunk_tokens", [3, 7])
@pytest.mark.parametrize("slice_rows", [1, 2])
@pytest.mark.parametrize("kept", [0, 1 << 20])
def test_slices_and_kept_probabilities_change_nothing(
    chunk_tokens: int, slice_rows: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The softmax of some rows after the others, of kept or of recomputed logits: exact in float64."""
    monkeypatch.setattr(room, "SLICE_ELEMENTS", slice_rows * 11)
    monkeypatch.setattr(room, "KEPT_ELEMENTS", kept)
    hidden, unembedding, targets = _case()
    hidden.requires_grad_()
    unembedding.requires_grad_()
    out, entropy = token_logprobs_and_entropy(hidden, unembedding, targets, 0.7, chunk_tokens)
    out.sum().backward()
    found = hidden.grad, unembedding.grad
    full = torch.log_softmax(hidden @ unembedding.T / 0.7, dim=1)
    torch.testing.assert_close(out, full[torch.arange(7), targets], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(entropy, -(full.exp() * full).sum(1).detach(), rtol=1e-12, atol=1e-12)
    hidden.grad = unembedding.grad = None
    full[torch.arange(7), targets].sum().backward()
    for got, expected in zip(found, (hidden.grad, unembedding.grad), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kept", [0, 1 << 20])
def test_half_precision_gradient_goes_to_the_float32_unembedding(
    kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under autocast the operands are rounded; softmax and sums are those of float64 on the rounded numbers,
    but for one rounding of logits and of their gradient to 8 bits."""
    monkeypatch.setattr(room, "KEPT_ELEMENTS", kept)
    hidden, unembedding, targets = _case(torch.float32)
    hidden.requires_grad_()
    unembedding.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = token_logprobs(hidden, unembedding, targets, 1.0, 3)
    out.sum().backward()
    exact = hidden.detach().bfloat16().double().requires_grad_()
    matrix = unembedding.detach().bfloat16().double().requires_grad_()
    expected = torch.log_softmax(exact @ matrix.T, dim=1)[torch.arange(7), targets]
    expected.sum().backward()
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=2**-5)  # logits up to 8: off by 2^-6
    for got, wanted in ((hidden.grad, exact.grad), (unembedding.grad, matrix.grad)):
        assert got is not None and got.dtype == torch.float32 and wanted is not None
        assert (got.double() - wanted).norm() < 2e-2 * wanted.norm()
