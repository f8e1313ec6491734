"""logprobs.py against torch's own log-softmax on the whole batch, and by hand."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from instructgpt.maths import logprobs as room
from instructgpt.maths.logprobs import (
    add_weight_gradient,
    product,
    slices,
    token_logprobs,
    token_logprobs_and_entropy,
)


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
    assert token_logprobs(hidden, unembedding, torch.tensor([1])).item() == pytest.approx(
        math.log(0.75), abs=1e-6
    )
    sharp = token_logprobs(hidden, unembedding, torch.tensor([1]), temperature=0.5)
    assert sharp.item() == pytest.approx(math.log(0.9), abs=1e-6)


@pytest.mark.parametrize("chunk_tokens", [1, 3, 7, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
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


@pytest.mark.parametrize(
    ("dtype", "chunk_tokens", "bound", "kept"),
    [
        (torch.float64, 3, 1 << 20, []),  # field fault 31: of several chunks nothing is kept
        (torch.float64, 7, 0, [77]),  # of a single one the probabilities are
        (torch.bfloat16, 3, 77, [33, 33, 11]),  # in half precision those of several, up to a bound
        (torch.bfloat16, 3, 76, []),
    ],
)
def test_what_is_kept_of_the_logits(
    dtype: torch.dtype, chunk_tokens: int, bound: int, kept: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven tokens, eleven words. What is kept is not made again on the way back."""
    monkeypatch.setattr(room, "KEPT_ELEMENTS", bound)
    saved: list[int] = []
    made: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        saved.extend([tensor.numel()] if tensor.shape[-1] == 11 else [])
        return tensor

    def counted(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        made.extend([len(rows)] if weight.shape == (11, 5) else [])
        return product(rows, weight)

    monkeypatch.setattr(room, "product", counted)
    hidden, unembedding, targets = _case(dtype)
    hidden.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = token_logprobs(hidden, unembedding, targets, chunk_tokens=chunk_tokens)
    assert saved == kept
    out.sum().backward()
    assert sum(made) == (7 if kept else 14)


@pytest.mark.parametrize(("elements", "largest"), [(33, 3), (30, 2), (4, 1)])
@pytest.mark.parametrize("run", [token_logprobs, token_logprobs_and_entropy])
def test_as_many_rows_as_fit_are_made_at_a_time(
    elements: int, largest: int, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eleven words a row, and never less than a row; a number that is given counts."""
    rows: list[int] = []

    def counted(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        rows.append(len(hidden))
        return product(hidden, weight)

    monkeypatch.setattr(room, "product", counted)
    monkeypatch.setattr(room, "CHUNK_ELEMENTS", elements)
    run(*_case())
    assert max(rows) == largest and sum(rows) == 7
    rows.clear()
    run(*_case(), chunk_tokens=5)
    assert rows == [5, 2]


@pytest.mark.parametrize(
    "run", [token_logprobs, lambda *given, **more: token_logprobs_and_entropy(*given, **more)[0]]
)
def test_a_rounded_matrix_in_the_precision_of_the_product_is_used(run: Callable[..., torch.Tensor]) -> None:
    """Seen by one that is not the unembedding's: with zeros all eleven words are as likely."""
    hidden, unembedding, targets = _case(torch.float32)
    zeros = torch.zeros(11, 5, dtype=torch.bfloat16)
    found = run(hidden.bfloat16(), unembedding, targets, rounded=zeros)
    assert found.tolist() == pytest.approx([-math.log(11)] * 7, abs=1e-6)
    for other in (torch.float16, torch.float32):
        assert torch.equal(
            run(hidden.bfloat16(), unembedding, targets, rounded=zeros.to(other)),
            run(hidden.bfloat16(), unembedding, targets),
        )


def test_autocast_leaves_half_precision_as_it_is() -> None:
    hidden, unembedding, targets = _case(torch.float32)
    short = hidden.half()
    logits = short.double() @ unembedding.half().double().T
    exact = torch.log_softmax(logits, dim=1)[torch.arange(7), targets]
    # logits up to 8 are off by 2^-9 in float16, by 2^-6 in bfloat16
    plain = token_logprobs(short, unembedding, targets)
    torch.testing.assert_close(plain.double(), exact, rtol=0, atol=2**-8)
    with torch.autocast("cpu", torch.bfloat16):
        within = token_logprobs(short, unembedding, targets)
    assert torch.equal(within, plain)


class _Products(TorchDispatchMode):
    """Notes each matrix product: the operator's name, and how many numbers came out."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.__name__.split(".")[0]
        if name in ("mm", "_linear_pointwise"):
            self.made.append((name, out.numel()))
        return out


@contextmanager
def products() -> Iterator[list[tuple[str, int]]]:
    with _Products() as mode:
        yield mode.made


@pytest.mark.parametrize(
    ("rows", "dtype", "kernel"),
    [
        (3, torch.float32, "_linear_pointwise"),
        (1, torch.float32, "_linear_pointwise"),
        (0, torch.float32, "mm"),
        (3, torch.float64, "mm"),
        (3, torch.bfloat16, "mm"),
    ],
)
@pytest.mark.skipif(not room._ONEDNN, reason="torch without oneDNN")
def test_float32_on_a_cpu_goes_through_onednn(rows: int, dtype: torch.dtype, kernel: str) -> None:
    left, right = torch.arange(rows, dtype=dtype)[:, None] + 1, torch.tensor([[2], [3]], dtype=dtype)
    with products() as made:
        found = product(left, right)
    assert found.tolist() == [[2.0 * k, 3.0 * k] for k in range(1, rows + 1)]
    assert made == [(kernel, 2 * rows)]


def test_a_product_over_nothing_is_zero() -> None:
    assert product(torch.ones(2, 0), torch.ones(3, 0)).tolist() == [[0.0] * 3] * 2


@pytest.mark.skipif(not room._ONEDNN, reason="torch without oneDNN")
def test_gradients_in_float32_go_through_onednn_too() -> None:
    hidden, unembedding, targets = _case(torch.float32)
    hidden.requires_grad_()
    unembedding.requires_grad_()
    with products() as made:
        token_logprobs(hidden, unembedding, targets).sum().backward()
    # the logits, then the gradients by hidden (7, 5) and by unembedding (5, 11)
    assert made == [("_linear_pointwise", n) for n in (77, 35, 55)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("first", [True, False])
def test_the_gradient_of_the_matrix_is_added_part_by_part(
    dtype: torch.dtype, first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small whole numbers, exact in half precision. The first gradient replaces what was there."""
    monkeypatch.setattr(room, "WORDS", 4)
    hidden = (torch.arange(35).reshape(7, 5) % 4).to(dtype)
    grad_logits = (torch.arange(77).reshape(7, 11) % 3 - 1).to(dtype)
    total = torch.full((11, 5), 100.0, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    with products() as made:
        add_weight_gradient(total, hidden, grad_logits, first)
    expected = grad_logits.double().T @ hidden.double() + (0 if first else 100)
    assert torch.equal(total.double(), expected)
    # in half precision four words at a time, of eleven
    assert [n for _, n in made] == ([55] if dtype == torch.float64 else [20, 20, 15])


def test_slices_are_as_large_as_fit() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "SLICE_ELEMENTS", 25)
        assert list(slices(torch.empty(5, 11))) == [slice(0, 2), slice(2, 4), slice(4, 5)]
        assert list(slices(torch.empty(2, 30))) == [slice(0, 1), slice(1, 2)]  # never less than a row
        assert list(slices(torch.empty(5, 11, device="meta"))) == [slice(0, 5)]  # not on a CPU: all in one


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
