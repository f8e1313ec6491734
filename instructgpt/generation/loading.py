"""Open a checkpoint for generation: the language model and the tokenizer that fits it."""

from __future__ import annotations

from pathlib import Path

import torch

from instructgpt.errors import CheckpointError, ConfigError
from instructgpt.model.adapter import tokenizer_folder
from instructgpt.model.heads import LanguageModel
from instructgpt.model.hf import load_language_model
from instructgpt.model.prepacked import prepacked
from instructgpt.model.quantised import Weights, quantised
from instructgpt.runtime.checkpoint import final_checkpoint
from instructgpt.text.tokenizer import Tokenizer


def open_model(
    folder: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    weights: Weights = "full",
) -> tuple[LanguageModel, Tokenizer]:
    """The model of a checkpoint, or of a finished stage's folder, with its tokenizer.

    An adapter's checkpoint gives base and adapter merged, which runs as fast as any model. For answering: in
    bfloat16 and with fewer bits the matrices lie as the processor multiplies them, and can't be saved.

    Args:
        dtype: of what is computed.
        weights: how the matrices are stored (see `quantised`).

    Raises:
        ConfigError: the folder's name is empty, or the weights can't be stored like that.
        CheckpointError: there is no language model, or its tokenizer has ids that the model has not.
    """
    if not str(folder):
        raise ConfigError("no model was named", "--model", "give a checkpoint folder, such as runs/demo/sft")
    path = final_checkpoint(folder)
    tokenizer = Tokenizer.load(tokenizer_folder(path))
    model = load_language_model(path, dtype).to(device).eval()
    if tokenizer.vocab_size > model.config.vocab_size:
        raise CheckpointError(
            f"the tokenizer has {tokenizer.vocab_size} ids, the model only {model.config.vocab_size}",
            str(path),
            "put the tokenizer that the model was trained with beside it",
        )
    return prepacked(model) if weights == "full" else quantised(model, weights), tokenizer
