"""cross_entropy.py against torch's own cross-entropy on all logits, and by hand."""

import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from instructgpt.maths import cross_entropy as room
from instructgpt.maths import logprobs
from instructgpt.maths.cross_entropy import cross_entropy


def case(dtype: torch.dtype = torch.float64, n: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(n, 5, dtype=dtype, generator=generator)
    unembedding = torch.randn(11, 5, dtype=dtype, generator=generator)
    return hidden, unembedding, torch.randint(11, (n,), generator=generator)


def test_by_hand() -> None:
    # hidden 1 against rows 0 and ln 3: probabilities 1/4 and 3/4. By the logits the gradient is softmax minus
    # one-hot: target 1 gives (1/4, -1/4). Times hidden for the matrix; times the matrix for hidden.
    hidden = torch.tensor([[1.0]], requires_grad=True)
    unembedding = torch.tensor([[0.0], [math.log(3.0)]], requires_grad=True)
    loss = cross_entropy(hidden, unembedding, torch.tensor([1]))
    (2.0 * loss).backward()
    assert loss.item() == pytest.approx(-math.log(0.75), abs=1e-6)
    assert unembedding.grad is not None and hidden.grad is not None
    assert unembedding.grad.tolist() == [[pytest.approx(0.5)], [pytest.approx(-0.5)]]
    assert hidden.grad.item() == pytest.approx(-0.5 * math.log(3.0), abs=1e-6)


@pytest.mark.parametrize("chunk_tokens", [1, 3, 7, 100, None])
def test_equals_torch_with_gradients(chunk_tokens: int | None) -> None:
    found = []
    for ours in (True, False):
        hidden, unembedding, targets = case()
        hidden.requires_grad_()
        unembedding.requires_grad_()
        if ours:
            loss = cross_entropy(hidden, unembedding, targets, chunk_tokens)
        else:
            loss = F.cross_entropy(hidden @ unembedding.T, targets, reduction="sum")
        (loss / 13).backward()
        found.append((loss.detach(), hidden.grad, unembedding.grad))
    for got, expected in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_gradcheck() -> None:
    hidden, unembedding, targets = case()
    hidden.requires_grad_()
    unembedding.requires_grad_()
    assert torch.autograd.gradcheck(lambda h, u: cross_entropy(h, u, targets, 3), (hidden, unembedding))


@pytest.mark.parametrize("rows", [None, 2])
def test_half_precision_products_keep_a_float32_softmax_and_gradient(
    rows: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of bfloat16 operands the exact loss and gradient are known: those of float64 on the rounded numbers.

    What is left is one rounding of the logits (8 bits) and one of their gradient.
    """
    if rows is not None:  # the softmax in slices of so many rows
        monkeypatch.setattr(logprobs, "SLICE_ELEMENTS", rows * 11)
    hidden, unembedding, targets = case(torch.float32)
    short = hidden.bfloat16().requires_grad_()
    unembedding = unembedding.requires_grad_()
    loss = cross_entropy(short, unembedding, targets, 5, rounded=unembedding.detach().bfloat16())
    assert loss.dtype == torch.float32
    loss.backward()
    assert short.grad is not None and short.grad.dtype == torch.bfloat16
    assert unembedding.grad is not None and unembedding.grad.dtype == torch.float32
    exact = short.detach().double().requires_grad_()
    matrix = unembedding.detach().bfloat16().double().requires_grad_()
    expected = F.cross_entropy(exact @ matrix.T, targets, reduction="sum")
    expected.backward()
    # logits up to 8 are off by up to 2^-6, so 7 tokens by 0.11 at most; probabilities by 2^-6 of themselves
    torch.testing.assert_close(loss.double(), expected, rtol=0, atol=0.11)
    for got, wanted in ((short.grad, exact.grad), (unembedding.grad, matrix.grad)):
        assert wanted is not None
        assert (got.double() - wanted).norm() < 2e-2 * wanted.norm()


def test_autocast_decides_the_precision() -> None:
    """float32 hidden states under autocast are what rounding them by hand gives, to the bit."""
    found = []
    for by_hand in (True, False):
        hidden, unembedding, targets = case(torch.float32)
        hidden.requires_grad_()
        unembedding.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=not by_hand):
            loss = cross_entropy(hidden.bfloat16() if by_hand else hidden, unembedding, targets)
        loss.backward()
        found.append((loss.detach(), hidden.grad, unembedding.grad))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_frozen_matrix_no_tokens_and_no_gradients() -> None:
    hidden, unembedding, targets = case()
    hidden.requires_grad_()
    cross_entropy(hidden, unembedding, targets).backward()
    assert unembedding.grad is None and hidden.grad is not None
    same = hidden.detach().requires_grad_()
    F.cross_entropy(same @ unembedding.T, targets, reduction="sum").backward()
    assert same.grad is not None
    torch.testing.assert_close(hidden.grad, same.grad, rtol=1e-12, atol=1e-12)
    nothing = cross_entropy(hidden[:0], unembedding.requires_grad_(), targets[:0])
    nothing.backward()
    assert nothing.item() == 0.0 and unembedding.grad is not None and not unembedding.grad.any()
    with torch.no_grad():
        without = cross_entropy(hidden, unembedding, targets)
    assert not without.requires_grad
    expected = F.cross_entropy(hidden.detach() @ unembedding.detach().T, targets, reduction="sum")
    torch.testing.assert_close(without, expected, rtol=1e-12, atol=1e-12)


def test_logits_of_the_whole_batch_are_never_stored() -> None:
    """Field fault 31: neither for the backward pass nor while it computes."""
    sizes: list[int] = []
    original = room.product

    def note(rows: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        out = original(rows, matrix)
        sizes.append(out.numel())
        return out

    hidden, unembedding, targets = case()
    hidden.requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "product", note)
        cross_entropy(hidden, unembedding, targets, chunk_tokens=3).backward()
    assert max(sizes) == 3 * 11


@pytest.mark.parametrize(
    ("by_hidden", "by_matrix", "grad", "expected"),
    [
        (True, True, True, {"hidden": 2, "matrix": 2}),
        (True, False, True, {"hidden": 2}),
        (False, True, True, {"matrix": 2}),
        (True, True, False, {}),
    ],
)
def test_no_gradient_is_made_that_nobody_asked_for(
    by_hidden: bool, by_matrix: bool, grad: bool, expected: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven tokens in two chunks: how often each gradient is computed."""
    made: Counter[str] = Counter()

    def hidden_gradient(*given: torch.Tensor) -> torch.Tensor:
        made["hidden"] += 1
        return logprobs.hidden_gradient(*given)

    def add_weight_gradient(
        total: torch.Tensor, rows: torch.Tensor, grad_logits: torch.Tensor, first: bool
    ) -> None:
        made["matrix"] += 1
        logprobs.add_weight_gradient(total, rows, grad_logits, first)

    monkeypatch.setattr(room, "hidden_gradient", hidden_gradient)
    monkeypatch.setattr(room, "add_weight_gradient", add_weight_gradient)
    hidden, unembedding, targets = case()
    hidden.requires_grad_(by_hidden)
    unembedding.requires_grad_(by_matrix)
    with torch.set_grad_enabled(grad):
        cross_entropy(hidden, unembedding, targets, chunk_tokens=4)
    assert made == expected


def test_without_gradients_every_slice_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "SLICE_ELEMENTS", 2 * 11)
    hidden, unembedding, targets = case()
    expected = F.cross_entropy(hidden @ unembedding.T, targets, reduction="sum")
    torch.testing.assert_close(cross_entropy(hidden, unembedding, targets), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("dtype", "elements", "rows"),
    [
        (torch.float32, 22, [2, 2, 2, 1]),
        (torch.float64, 22, [1] * 7),  # as many bytes in every precision
        (torch.bfloat16, 22, [4, 3]),
        (torch.float32, 54, [4, 3]),  # not five: that is 55
        (torch.float32, 3, [1] * 7),  # never less than a row
    ],
)
def test_as_many_rows_as_fit_are_made_at_a_time(
    dtype: torch.dtype, elements: int, rows: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []

    def counted(hidden: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        found.append(len(hidden))
        return logprobs.product(hidden, matrix)

    monkeypatch.setattr(room, "product", counted)
    monkeypatch.setattr(room, "CHUNK_ELEMENTS", elements)
    cross_entropy(*case(dtype))
    assert found == rows


def test_a_rounded_matrix_is_used_and_autocast_leaves_half_precision_as_it_is() -> None:
    """With a matrix of zeros all eleven words are as likely, whatever the unembedding is."""
    hidden, unembedding, targets = case(torch.float32)
    zeros = torch.zeros(11, 5, dtype=torch.bfloat16)
    found = cross_entropy(hidden.bfloat16(), unembedding, targets, rounded=zeros)
    assert found.item() == pytest.approx(7 * math.log(11), rel=1e-6)
    plain = cross_entropy(hidden.half(), unembedding, targets)
    logits = hidden.half().double() @ unembedding.half().double().T
    # logits up to 8 are off by 2^-9 in float16; by 2^-6 in bfloat16, which is 0.02 in this sum
    assert plain.item() == pytest.approx(F.cross_entropy(logits, targets, reduction="sum").item(), abs=0.01)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cross_entropy(hidden.half(), unembedding, targets), plain)


def test_the_matrix_gradient_of_a_half_precision_model_is_summed_in_float32() -> None:
    """Both words have chance 1/2: a token gives -1/2 and 1/2 times its hidden state. After 256 come 64 times
    1/2, each less than a step of bfloat16 there."""
    hidden = torch.tensor([[512.0]] + [[1.0]] * 64, dtype=torch.bfloat16)
    unembedding = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    cross_entropy(hidden, unembedding, torch.zeros(65, dtype=torch.int64), chunk_tokens=1).backward()
    assert unembedding.grad is not None and unembedding.grad.dtype == torch.bfloat16
    assert unembedding.grad.flatten().tolist() == [-288.0, 288.0]
