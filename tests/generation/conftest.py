"""A tiny checkpoint: two random layers and a tokenizer of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import new_language_model
from instructgpt.model.hf import save_model
from instructgpt.text.tokenizer import train_tokenizer

CONTEXT = 96


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generation") / "model"
    folder.mkdir()
    tokenizer = train_tokenizer(["name a river", "say good morning 早上好", "count to three please"] * 4, 300)
    sizes = {"width": 16, "layers": 2, "heads": 2, "context": CONTEXT}
    model = new_language_model(ModelConfig.llama(vocab_size=tokenizer.vocab_size, **sizes), 1)
    save_model(model, folder, special={"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2})
    tokenizer.save(folder)
    return folder
