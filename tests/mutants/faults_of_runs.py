"""Planted faults: the moving average, schedules, and what a resumed run forgets."""

from __future__ import annotations

from typing import Any

import torch
from fault import fault
from pytest import MonkeyPatch

import instructgpt.rlhf.round as rounds
from instructgpt.maths import kl
from instructgpt.rlhf import prepare, train
from instructgpt.runtime import optim
from instructgpt.runtime.checkpoint import Run


@fault("moving_average_is_the_closed_form")
def the_average_is_one_step_behind(patch: MonkeyPatch) -> None:
    """It is taken before the optimizer's step."""
    real = optim.Ema.update

    def lagging(self: optim.Ema, model: torch.nn.Module) -> None:
        now = {name: p.detach().clone() for name, p in model.named_parameters()}
        before = getattr(self, "seen", None)
        if before is not None:
            held = {name: p.detach().clone() for name, p in model.named_parameters()}
            _write(model, before)
            real(self, model)
            _write(model, held)
        self.seen = now  # type: ignore[attr-defined]

    patch.setattr(optim.Ema, "update", lagging)


def _write(model: torch.nn.Module, values: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(values[name])


@fault("moving_average_is_the_closed_form")
def the_average_follows_with_the_decay(patch: MonkeyPatch) -> None:
    """d and 1 - d swapped: a copy of the policy under another name."""
    real = optim.Ema.__init__
    patch.setattr(optim.Ema, "__init__", lambda self, model, decay: real(self, model, 1 - decay))


@fault("learning_rate_warms_up")
def the_warm_up_is_one_round_ahead(patch: MonkeyPatch) -> None:
    """The first round takes 0.19 of the peak."""
    real = rounds.linear_warmup
    patch.setattr(rounds, "linear_warmup", lambda step, *rest: real(step + 1, *rest))


@fault("learning_rate_warms_up")
def the_warm_up_forgets_the_value_network(patch: MonkeyPatch) -> None:
    """Only the policy's optimizer is set."""
    real = rounds.set_lr
    calls: list[float] = []

    def every_other(optimizer: Any, lr: float) -> None:
        calls.append(lr)
        if len(calls) % 2:
            real(optimizer, lr)

    patch.setattr(rounds, "set_lr", every_other)


@fault("the_price_follows_the_kl")
def the_controller_is_inverted(patch: MonkeyPatch) -> None:
    """A high KL makes KL cheaper."""
    real = kl.adapt_coefficient
    for place in (kl, train):
        patch.setattr(
            place, "adapt_coefficient", lambda c, value, target, *rest: 2 * c - real(c, value, target, *rest)
        )


@fault("two_rounds_are_one_and_a_resume_and_one")
def a_resumed_run_starts_its_prompts_again(patch: MonkeyPatch) -> None:
    """Field fault 32: the data cursor is not saved."""
    taken = [0]
    real_prepare, real_order = train.prepare, rounds.prompt_indices

    def rewound(*arguments: Any) -> Any:
        taken[0] = 0
        return real_prepare(*arguments)

    def counted(prompts: int, batch: int, iteration: int, seed: int) -> list[int]:
        taken[0] += 1
        return real_order(prompts, batch, taken[0] - 1, seed)

    patch.setattr(train, "prepare", rewound)
    patch.setattr(rounds, "prompt_indices", counted)


@fault("two_rounds_are_one_and_a_resume_and_one")
def a_resumed_run_forgets_its_optimizer(patch: MonkeyPatch) -> None:
    """Field fault 32: Adam's moments start at 0 again."""
    patch.setattr(prepare, "restore_optimizer", lambda *a: None)


@fault("two_rounds_are_one_and_a_resume_and_one")
def a_resumed_run_forgets_the_price_of_kl(patch: MonkeyPatch) -> None:
    """Field fault 32: the adaptive coefficient starts at its first value again."""
    real = Run.load_state

    def without_price(self: Run) -> Any:
        state, tensors = real(self)
        return {name: value for name, value in state.items() if name != "kl_coefficient"}, tensors

    patch.setattr(Run, "load_state", without_price)


@fault("two_rounds_are_one_and_a_resume_and_one")
def a_resumed_run_forgets_its_average(patch: MonkeyPatch) -> None:
    """Field fault 32: the moving average starts at the present policy."""
    real = prepare._restore

    def partly(learner: Any, *rest: Any) -> None:
        kept = {name: value.clone() for name, value in learner.ema.values.items()}
        real(learner, *rest)
        learner.ema.values.update(kept)

    patch.setattr(prepare, "_restore", partly)
