"""Optimizer, learning-rate schedules, clipping, moving average: what all stages share."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def adamw(
    model: nn.Module,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; weight decay on matrices only, never on norms and biases.

    Betas 0.9 and 0.95 are those of InstructGPT (arXiv:2203.02155, App. C).
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, eps=eps, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def cosine(step: int, total: int, warmup: int = 0, floor: float = 0.1) -> float:
    """Factor on the peak rate at `step` (0-based): linear warm-up, then a cosine from 1 down to `floor`.

    The paper's SFT and reward model use floor 0.1 and no warm-up (App. C.1, C.2).
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def linear_warmup(step: int, warmup: int, start: float = 0.1) -> float:
    """Factor on the peak rate at `step` (0-based): from `start` at step 0 to 1 at `warmup`, then flat.

    InstructGPT's PPO warms up over the first 10 iterations from a tenth of the peak (App. C.4).
    """
    if warmup <= 0 or step >= warmup:
        return 1.0
    return start + (1.0 - start) * step / warmup


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale gradients so that their joint 2-norm is at most `max_norm` (0 = leave them); returns the norm.

    Gradients that are short enough are not touched: a factor of 1 would cost a pass over all of them. Nor
    are those whose norm is not finite, which nobody can use.
    """
    with_gradient = [p for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in with_gradient if p.grad is not None])
    length = float(norm)
    if 0 < max_norm < length + 1e-6 < math.inf:  # PyTorch's factor is max_norm / (norm + 1e-6), at most 1
        nn.utils.clip_grads_with_norm_(with_gradient, max_norm, norm)
    return length


class Ema:
    """Moving average of a model's trained parameters: after each step `ema = d*ema + (1-d)*value`.

    InstructGPT uses decay 0.992 on the PPO policy (App. C.4). Starts at the parameters' present values.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values: dict[str, Tensor] = {n: p.detach().clone() for n, p in _trained(model)}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take one step towards the model's present parameters."""
        for name, parameter in _trained(model):
            self.values[name].lerp_(parameter, 1.0 - self.decay)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Write the averages into a model of the same shape."""
        parameters = dict(model.named_parameters())
        for name, value in self.values.items():
            parameters[name].copy_(value)


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Frozen parameters never change: their average is themselves."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, model: nn.Module, prefix: str = ""
) -> dict[str, Tensor]:
    """The optimizer's state as named tensors: `PREFIXexp_avg.PARAMETER` and so on, for a safetensors file."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{prefix}{kind}.{names[id(parameter)]}": value
        for parameter, state in optimizer.state.items()
        for kind, value in state.items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor], prefix: str = ""
) -> None:
    """Put back what `optimizer_tensors` gave, exactly; the optimizer must be over the same parameters."""
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        if not key.startswith(prefix):
            continue
        kind, name = key[len(prefix) :].split(".", 1)
        parameter = parameters[name]
        # The step counter stays where AdamW(fused) made it: on the parameter's device, float32.
        optimizer.state[parameter][kind] = value.to(parameter.device, copy=True)
