"""`python -m benchmarks.parity`: every family of models against transformers, into docs/results/parity.md.

Random tiny models of transformers are saved, opened here and compared in float32 on the CPU: logits and
gradients of a ragged batch (theirs: each row alone), greedy text with the cache, the files written again.
Exit code 1 if a bound is missed.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from instructgpt.model.cache import KVCache
from instructgpt.model.heads import LanguageModel
from instructgpt.model.hf import load_language_model, save_model
from instructgpt.model.names import name_table

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "parity.md"
VOCAB = 97
SPECIAL: dict[str, int | list[int] | None] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
BOUND = 1e-4
SEEDS = (0, 1, 2)
NEW_TOKENS = 40
Packed = tuple[Tensor, Tensor, list[int]]


def _gpt2(seed: int, **more: Any) -> Any:
    torch.manual_seed(seed)
    sizes = {"vocab_size": VOCAB, "n_positions": 96, "n_embd": 32, "n_layer": 2, "n_head": 4}
    return _lively(GPT2LMHeadModel(GPT2Config(**(sizes | {"initializer_range": 0.2} | SPECIAL | more))))


def _gated(config: type, model: type, seed: int, **more: Any) -> Any:
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 56,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 96,
        "initializer_range": 0.2,
    }
    return _lively(model(config(**(sizes | SPECIAL | more))))


def _lively(model: Any) -> Any:
    """Biases and norms that are not 0 and 1, so that a forgotten one shows."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape) * 0.2)
    return model.eval()


def _llama(seed: int, **more: Any) -> Any:
    return _gated(LlamaConfig, LlamaForCausalLM, seed, **more)


def _mistral(seed: int, **more: Any) -> Any:
    return _gated(MistralConfig, MistralForCausalLM, seed, **({"num_key_value_heads": 2} | more))


def _qwen2(seed: int, **more: Any) -> Any:
    return _gated(Qwen2Config, Qwen2ForCausalLM, seed, **({"num_key_value_heads": 2} | more))


def _qwen3(seed: int, **more: Any) -> Any:
    return _gated(Qwen3Config, Qwen3ForCausalLM, seed, **({"num_key_value_heads": 2, "head_dim": 16} | more))


def _rope(kind: str, **more: float) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 500.0, **more}}


# Qwen's window starts at a layer; from layer 0 on it is that of all.
_ALL_LAYERS = {"use_sliding_window": True, "max_window_layers": 0}
_LLAMA3 = {"factor": 8.0, "original_max_position_embeddings": 24, "low_freq_factor": 1.0}
MODELS: dict[str, tuple[str, Callable[[int], Any]]] = {
    "GPT-2": ("tied head", lambda s: _gpt2(s)),
    "GPT-2, untied": (
        "own head, narrow feed-forward",
        lambda s: _gpt2(s, tie_word_embeddings=False, n_inner=40),
    ),
    "Llama": ("multi-head, tied head", lambda s: _llama(s, tie_word_embeddings=True)),
    "Llama, TinyLlama": (
        "grouped queries, own head",
        lambda s: _llama(s, num_key_value_heads=2, rms_norm_eps=1e-5),
    ),
    "SmolLM2": (
        "grouped queries, tied head, base 500",
        lambda s: _llama(s, num_key_value_heads=2, tie_word_embeddings=True, **_rope("default")),
    ),
    "Llama, biases": (
        "one key head, biases everywhere",
        lambda s: _llama(s, num_key_value_heads=1, attention_bias=True, mlp_bias=True),
    ),
    "Llama, head size": (
        "heads wider than width / heads",
        lambda s: _llama(s, head_dim=16, **_rope("default")),
    ),
    "Llama, linear": ("RoPE scaling linear, 4", lambda s: _llama(s, **_rope("linear", factor=4.0))),
    "Llama, dynamic": (
        "RoPE scaling dynamic, 3 (rows beyond the context of 32)",
        lambda s: _llama(s, max_position_embeddings=32, **_rope("dynamic", factor=3.0)),
    ),
    "Llama, YaRN": (
        "RoPE scaling YaRN, 4",
        lambda s: _llama(s, head_dim=16, **_rope("yarn", factor=4.0, original_max_position_embeddings=24)),
    ),
    "Llama 3.1": (
        "RoPE scaling llama3, 8",
        lambda s: _llama(s, head_dim=16, **_rope("llama3", high_freq_factor=4.0, **_LLAMA3)),
    ),
    "Mistral": ("window 8, grouped queries", lambda s: _mistral(s, sliding_window=8)),
    "Mistral, wide window": (
        "window 70 (beyond 64 another kernel)",
        lambda s: _mistral(s, sliding_window=70),
    ),
    "Mistral, no window": (
        "full attention, heads of 16",
        lambda s: _mistral(s, sliding_window=None, head_dim=16),
    ),
    "Qwen 2": ("biases on q, k, v; own head", lambda s: _qwen2(s)),
    "Qwen 2.5": (
        "biases on q, k, v; tied head; YaRN, 4",
        lambda s: _qwen2(
            s,
            tie_word_embeddings=True,
            **_rope("yarn", factor=4.0, original_max_position_embeddings=24, attention_factor=1.2),
        ),
    ),
    "Qwen 2, window": ("window 8 in all layers", lambda s: _qwen2(s, sliding_window=8, **_ALL_LAYERS)),
    "Qwen 3": ("q/k norm, heads of 16, tied head", lambda s: _qwen3(s, tie_word_embeddings=True)),
    "Qwen 3, window": (
        "q/k norm, biases, own head, window 8",
        lambda s: _qwen3(s, attention_bias=True, sliding_window=8, **_ALL_LAYERS),
    ),
}
"""Name -> what it exercises, and a random model of transformers from a seed."""


@dataclass(frozen=True)
class Parity:
    """What one family gave: the largest absolute differences over the seeds, and what must be equal."""

    logits: float
    gradients: float
    ragged: float
    """Logits of the ragged batch against each row alone, both ours."""
    greedy: bool
    round_trip: bool
    """The files we write hold the same bits, and transformers opens them and gives the same logits."""

    @property
    def holds(self) -> bool:
        """Within the bounds."""
        return max(self.logits, self.gradients, self.ragged) <= BOUND and self.greedy and self.round_trip


def documents(lengths: list[int], seed: int) -> list[Tensor]:
    """Random rows; from id 3 on, since transformers gives the embedding of the pad id no gradient."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCAB, (n,), generator=generator) for n in lengths]


def packed(rows: list[Tensor]) -> Packed:
    """Ids, positions and lengths of rows behind one another."""
    return torch.cat(rows), torch.cat([torch.arange(len(r)) for r in rows]), [len(r) for r in rows]


def gradients_in_their_names(model: LanguageModel) -> dict[str, Tensor]:
    """Gradients of our tensors, cut and named as in a checkpoint of transformers."""
    ours = dict(model.named_parameters())
    found: dict[str, Tensor] = {}
    for entry in name_table(model.config, "language"):
        gradient = ours[entry.ours].grad
        assert gradient is not None, entry.ours
        found |= entry.split(gradient)
    return found


def greedy_text(model: LanguageModel, rows: list[Tensor], new: int = NEW_TOKENS) -> list[list[int]]:
    """Greedy continuations of all rows together, with the cache."""
    cache = KVCache(model.config, slots=len(rows), capacity=max(map(len, rows)) + new)
    got: list[list[int]] = [[] for _ in rows]
    with torch.inference_mode():
        ids, positions, lengths = packed(rows)
        hidden = model(ids, positions, lengths, cache=cache)[torch.tensor(lengths).cumsum(0) - 1]
        for _ in range(new):
            chosen = model.logits(hidden).argmax(-1)
            for row, token in zip(got, chosen.tolist(), strict=True):
                row.append(token)
            hidden = model(chosen, cache.lengths.clone(), [1] * len(rows), cache=cache)
    return got


def their_greedy_text(model: Any, rows: list[Tensor], new: int = NEW_TOKENS) -> list[list[int]]:
    """What transformers generates, row by row."""
    options = {"max_new_tokens": new, "do_sample": False, "eos_token_id": -1}
    return [model.generate(row[None], **options)[0, len(row) :].tolist() for row in rows]


def measure(build: Callable[[int], Any], seeds: tuple[int, ...] = SEEDS) -> Parity:
    """One family over several seeds."""
    found = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            found.append(_measure(build(seed), Path(folder), seed))
    return Parity(
        max(p.logits for p in found),
        max(p.gradients for p in found),
        max(p.ragged for p in found),
        all(p.greedy for p in found),
        all(p.round_trip for p in found),
    )


def _measure(theirs: Any, folder: Path, seed: int) -> Parity:
    theirs.save_pretrained(folder / "theirs")
    ours = load_language_model(folder / "theirs")
    rows = documents([9, 70, 1, 12, 80], seed)
    expected = torch.cat([theirs(row[None]).logits[0] for row in rows])
    got = ours.logits(ours(*packed(rows)))
    targets = torch.cat(documents([got.shape[0]], seed + 9))
    torch.nn.functional.cross_entropy(got, targets).backward()
    torch.nn.functional.cross_entropy(expected, targets).backward()
    named = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    gradients = gradients_in_their_names(ours)
    with torch.no_grad():
        alone = torch.cat([ours.logits(ours(*packed([row]))) for row in rows])
    starts = documents([5, 11, 2], seed)
    return Parity(
        _largest(got, expected),
        max(_largest(gradients[name], named[name]) for name in gradients)
        if set(gradients) == set(named)
        else 1.0,
        _largest(got, alone),
        greedy_text(ours, starts) == their_greedy_text(theirs, starts),
        _round_trip(theirs, ours, folder),
    )


def _round_trip(theirs: Any, ours: LanguageModel, folder: Path) -> bool:
    save_model(ours, folder / "ours", special=SPECIAL)
    before, after = (load_file(folder / name / "model.safetensors") for name in ("theirs", "ours"))
    if set(before) != set(after) or not all(torch.equal(before[name], after[name]) for name in before):
        return False
    opened, info = AutoModelForCausalLM.from_pretrained(folder / "ours", output_loading_info=True)
    ids = documents([80], 4)[0]
    with torch.no_grad():
        same = torch.equal(opened(ids[None]).logits, theirs(ids[None]).logits)
    return type(opened) is type(theirs) and not any(info.values()) and same


def _largest(left: Tensor, right: Tensor) -> float:
    return float((left - right).detach().abs().max())


def page(results: dict[str, Parity]) -> str:
    """The page of results."""
    lines = [
        "# Parity with transformers",
        "",
        f"{date.today().isoformat()}, {platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}, "
        "float32 on the CPU. Command: `python -m benchmarks.parity`.",
        "",
        f"Random models of two layers and width 32, seeds {', '.join(map(str, SEEDS))}. Differences are the "
        "largest absolute ones. Logits and gradients: a ragged batch of rows of 9, 70, 1, 12 and 80 tokens "
        f"here, each row alone there; bound {BOUND:g}. Ragged: that batch here against each row alone here. "
        f"Greedy: {NEW_TOKENS} tokens for three rows, with the cache on both sides. Round trip: the files "
        "written here hold the same bits, and transformers opens them unchanged, with the same logits.",
        "",
        "| model | what it has | logits | gradients | ragged | greedy text | round trip |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in results.items():
        words = ["same" if found.greedy else "**differs**", "exact" if found.round_trip else "**differs**"]
        numbers = [
            f"{value:.1e}" if value <= BOUND else f"**{value:.1e}**"
            for value in (found.logits, found.gradients, found.ragged)
        ]
        lines.append("| " + " | ".join([name, MODELS[name][0], *numbers, *words]) + " |")
    missed = sum(not found.holds for found in results.values())
    lines += ["", f"{missed} of {len(results)} rows miss a bound."]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure all families and write the page."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    results = {}
    for name, (_, build) in MODELS.items():
        results[name] = measure(build)
        print(f"{name:<22} {results[name]}", flush=True)
    RESULTS.write_text(page(results), encoding="utf-8")
    return int(not all(found.holds for found in results.values()))


if __name__ == "__main__":
    sys.exit(main())
