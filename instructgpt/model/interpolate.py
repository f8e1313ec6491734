"""Weights between those of two models: a third way to trade reward against the alignment tax.

A model and what fine-tuning made of it are joined by a line on which the loss has no barrier
(arXiv:1912.05671, arXiv:2109.01903); points of it between SFT and RL trade reward against forgetting
(arXiv:2309.06256).
"""

from __future__ import annotations

from dataclasses import fields
from typing import TypeVar

import torch

from instructgpt.errors import CheckpointError
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import LanguageModel, ScalarModel

Model = TypeVar("Model", LanguageModel, ScalarModel)


def first_difference(first: ModelConfig, second: ModelConfig) -> str | None:
    """The first setting in which two shapes differ, with both values; None if they are equal."""
    for field in fields(ModelConfig):
        ours, theirs = getattr(first, field.name), getattr(second, field.name)
        if ours != theirs:
            return f"{field.name} {ours} and {theirs}"
    return None


def interpolate(first: Model, second: Model, alpha: float) -> Model:
    """(1 - alpha) * first + alpha * second, weight by weight; `first` is overwritten and returned.

    Each weight is computed in float64 and rounded once to the dtype of `first`, so that alpha 0 and 1 give
    the two models bit by bit, and a weight that both share stays as it is. Alpha outside [0, 1] goes beyond
    one of them (arXiv:2404.16792). A scalar model's `reward_bias` is interpolated too.

    Raises:
        CheckpointError: they are not of one kind and shape; it names the first difference.
    """
    if type(first) is not type(second):
        kinds = [
            "a language model" if isinstance(model, LanguageModel) else "a reward or value model"
            for model in (first, second)
        ]
        raise CheckpointError(
            f"{kinds[0]} and {kinds[1]} have no weights between them",
            cure="give two language models, or two reward models",
        )
    difference = first_difference(first.config, second.config)
    if difference is not None:
        raise CheckpointError(
            f"the two models are of different shapes: {difference}",
            cure="give a model and what training made of it: their config.json must agree",
        )
    theirs = dict(second.named_parameters())
    with torch.no_grad():
        for name, parameter in first.named_parameters():
            between = torch.lerp(parameter.double(), theirs[name].double(), alpha)
            parameter.copy_(between)
    if isinstance(first, ScalarModel) and isinstance(second, ScalarModel):
        biases = float(first.reward_bias), float(second.reward_bias)
        first.reward_bias.fill_((1 - alpha) * biases[0] + alpha * biases[1])
    return first
