"""A random language model of two layers with a tokenizer of its own: a stand-in for yours."""

from __future__ import annotations

from pathlib import Path

from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import new_language_model
from instructgpt.model.hf import save_model
from instructgpt.text.tokenizer import train_tokenizer

TEXTS = [
    "the cat sat on the mat and the dog ran to the house by the sea",
    "please name a river, thank you. no. go away. here is one for you, with pleasure.",
]


def make_tiny_model(folder: Path, seed: int = 0) -> Path:
    """Write a checkpoint folder that every verb (and transformers) opens; returns it."""
    tokenizer = train_tokenizer(TEXTS * 3, vocab_size=300)
    shape = ModelConfig.llama(vocab_size=tokenizer.vocab_size, width=32, layers=2, heads=2, context=96)
    special = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.end_of_turn_id,
        "pad_token_id": tokenizer.pad_id,
    }
    save_model(new_language_model(shape, seed), folder, special=special)
    tokenizer.save(folder)
    return folder
