"""Schedules, moving average and optimizer state, against closed forms."""

import pytest
import torch
from torch import nn

from instructgpt.runtime.optim import (
    Ema,
    adamw,
    clip_gradients,
    cosine,
    linear_warmup,
    optimizer_tensors,
    restore_optimizer,
)


def test_warmup_runs_from_a_tenth_to_the_peak_over_ten_iterations() -> None:
    """Reviewer's invariant 10: iteration 0 has peak/10, iteration 10 the peak, later ones too."""
    assert linear_warmup(0, 10) == pytest.approx(0.1)
    assert linear_warmup(5, 10) == pytest.approx(0.55)  # 0.1 + 0.9 * 5/10
    assert linear_warmup(10, 10) == 1.0
    assert linear_warmup(400, 10) == 1.0


def test_cosine_falls_from_one_to_the_floor() -> None:
    assert cosine(0, 100) == pytest.approx(1.0)
    assert cosine(50, 100) == pytest.approx(0.55)  # halfway: (1 + 0.1) / 2
    assert cosine(100, 100) == pytest.approx(0.1)
    assert cosine(1, 100, warmup=4) == pytest.approx(0.5)  # second of four warm-up steps


def test_ema_equals_its_closed_form() -> None:
    """Reviewer's invariant 9: x jumps from 0 to 1 and stays, so after n updates the average is 1 - d^n."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    ema = Ema(model, 0.9)
    nn.init.ones_(model.weight)
    for _ in range(7):
        ema.update(model)
    assert ema.values["weight"].item() == pytest.approx(1 - 0.9**7, abs=1e-6)
    ema.copy_to(model)
    assert model.weight.item() == pytest.approx(1 - 0.9**7, abs=1e-6)


def test_clipping_gives_the_joint_norm() -> None:
    model = nn.Linear(2, 1)
    model.weight.grad = torch.tensor([[3.0, 0.0]])
    model.bias.grad = torch.tensor([4.0])
    assert clip_gradients(model.parameters(), 1.0) == pytest.approx(5.0)  # 3-4-5
    assert torch.allclose(model.weight.grad, torch.tensor([[0.6, 0.0]]), atol=1e-5)
    model.bias.grad = torch.tensor([4.0])
    clip_gradients(model.parameters(), 0.0)
    assert model.bias.grad.item() == 4.0


def test_decay_is_on_matrices_only() -> None:
    groups = adamw(nn.Linear(2, 2), 1e-3, weight_decay=0.1).param_groups
    assert [(g["weight_decay"], [p.ndim for p in g["params"]]) for g in groups] == [(0.1, [2]), (0.0, [1])]


def test_optimizer_state_comes_back_exactly() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    first = adamw(model, 1e-2)
    for _ in range(3):
        model(torch.randn(4, 3)).square().sum().backward()
        first.step()
        first.zero_grad()
    twin = nn.Linear(3, 2)
    twin.load_state_dict(model.state_dict())
    second = adamw(twin, 1e-2)
    restore_optimizer(second, twin, optimizer_tensors(first, model, "policy."), "policy.")
    inputs = torch.randn(4, 3)
    for net, optimizer in ((model, first), (twin, second)):
        net(inputs).square().sum().backward()
        optimizer.step()
    assert torch.equal(model.weight, twin.weight) and torch.equal(model.bias, twin.bias)
