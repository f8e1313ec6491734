"""lm-evaluation-harness on our models: its own tasks, our batched engine.

    python -m instructgpt.evaluation.harness run --model instructgpt \\
        --model_args pretrained=runs/mine/sft --tasks hellaswag,truthfulqa_mc1

is lm-eval's own command line with one model more; `register()` does the same for a program that calls
`lm_eval.simple_evaluate(model="instructgpt", ...)`. The harness (package lm-eval) is imported here alone and
only when asked for. Texts become ids as its `hf` model makes them, so that both give the same numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any, cast

import torch

from instructgpt.errors import ConfigError, InstructGPTError
from instructgpt.evaluation.suite.branches import likelihoods
from instructgpt.evaluation.suite.replies import draw
from instructgpt.evaluation.suite.trees import Ids
from instructgpt.generation.engine import Request
from instructgpt.generation.loading import open_model
from instructgpt.runtime.device import pick_device
from instructgpt.runtime.seeds import derive_seed
from instructgpt.text.template import Slot, split_template

NAME = "instructgpt"
_LENGTH_ALIASES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_LONGEST_REPLY = 256
"""Tokens of a reply where a task does not say; lm-eval's default."""
_DTYPES = {
    "auto": torch.float32,
    "float32": torch.float32,
    "float": torch.float32,
    "bfloat16": torch.bfloat16,
}


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"lm-evaluation-harness can't be imported: {error}",
            "instructgpt.evaluation.harness",
            "pip install lm-eval",
        ) from error


class Answers:
    """What lm-eval asks of a model, answered by ours; `model_class` says the rest.

    Args:
        pretrained: the folder.
        device: auto, cpu, cuda, mps.
        dtype: auto (float32), float32 or bfloat16.
        max_length: tokens that the model may see at once; as many as it can by default.
        add_bos_token: whether texts begin with bos; None as the tokenizer's own rules say.
        prefix_token_id: what a text without context follows; bos, or else eos, by default.
        others: what lm-eval passes to every model, such as batch_size: batches are our own affair.
    """

    cache_hook: Any
    """Keeps answers for a later run; lm-eval's base class makes it."""

    def __init__(
        self,
        pretrained: str,
        device: str | None = "auto",
        dtype: str = "auto",
        max_length: int | None = None,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        **others: Any,
    ) -> None:
        super().__init__()
        if dtype not in _DTYPES:
            raise ConfigError(f"dtype is {dtype!r}", "--model_args dtype", f"use {', '.join(_DTYPES)}")
        self._device = pick_device(device or "auto")
        self.model, self.tokenizer = open_model(pretrained, self._device, _DTYPES[dtype])
        self._folder = pretrained
        self._max_length, self._prefix, self._bos = max_length, prefix_token_id, add_bos_token

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_id)

    @property
    def prefix_token_id(self) -> int:
        if self._prefix is not None:
            return int(self._prefix)
        return self.eot_token_id if self.tokenizer.bos_id is None else int(self.tokenizer.bos_id)

    @property
    def max_length(self) -> int:
        return int(self._max_length or self.model.config.context)

    @property
    def max_gen_toks(self) -> int:
        return _LONGEST_REPLY

    @property
    def batch_size(self) -> int:
        return 1

    @property
    def tokenizer_name(self) -> str:
        return f"{self._folder}:{self.tokenizer.fingerprint}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **others: Any) -> list[int]:
        """Ids of a text; special strings in it are special, for chat templates come as text."""
        ids: list[int] = self.tokenizer.encode(string, special=True)
        rules, bos = self.tokenizer.begins_with_bos, self.tokenizer.bos_id
        if add_special_tokens is not None:
            wanted = add_special_tokens and rules
        else:
            wanted = (rules if self._bos is None else self._bos) and ids[:1] != [bos]
        return [bos, *ids] if wanted and bos is not None else ids

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        wanted = [(place, row) for place, row in enumerate(requests) if row[2]]
        pairs: list[tuple[Ids, Ids]] = [(tuple(row[1]), tuple(row[2])) for _, row in wanted]
        bar = _module("tqdm").tqdm(total=len(pairs), disable=disable_tqdm, desc="loglikelihood")
        found = likelihoods(self.model, pairs, context=self.max_length, on_done=bar.update)
        bar.close()
        results = [(0.0, True)] * len(requests)  # an empty continuation is certain
        for (place, row), likelihood in zip(wanted, found, strict=True):
            results[place] = (likelihood.nats, likelihood.greedy)
            if row[0] is not None:
                self.cache_hook.add_partial("loglikelihood", row[0], results[place])
        return results

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Sums over windows that lm-eval cuts itself."""
        rolling = _module("lm_eval.utils")
        windows: list[tuple[None, list[int], list[int]]] = []
        counts = []
        for request in requests:
            cut = rolling.get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            mine = [(None, *rolling.make_disjoint_window(window)) for window in cut]
            counts.append(len(mine))
            windows += mine
        found = iter(self._loglikelihood_tokens(windows, disable_tqdm))
        sums = [sum(next(found)[0] for _ in range(count)) for count in counts]
        for request, total in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return sums

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Replies, greedy unless the task samples; each ends before the first of its stop strings."""
        asked = [self._request(row.args[0], row.args[1], number) for number, row in enumerate(requests)]
        bar = _module("tqdm").tqdm(total=len(asked), disable=disable_tqdm, desc="generate_until")
        stops = [stop for _, stop in asked]
        drawn = draw(self.model, self.tokenizer, [row for row, _ in asked], stops, bar.update)
        bar.close()
        texts = [reply.text for reply in drawn]
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts

    def _request(self, context: str, settings: dict[str, Any], number: int) -> tuple[Request, list[str]]:
        until = settings.get("until") or []
        stops = [stop for stop in ([until] if isinstance(until, str) else until) if stop]
        lengths = (settings[name] for name in _LENGTH_ALIASES if settings.get(name) is not None)
        longest = min(int(next(lengths, self.max_gen_toks)), self.max_length - 1)
        temperature = float(settings.get("temperature") or 0.0)
        sampled = settings.get("do_sample", temperature > 0)
        ids = self.tok_encode(context)[-(self.max_length - longest) :] or [self.prefix_token_id]
        request = Request(
            tuple(ids),
            derive_seed("harness", context, number),
            longest,
            (temperature or 1.0) if sampled else 0.0,
            int(settings.get("top_k") or 0) if sampled else 0,
            float(settings.get("top_p") or 1.0) if sampled else 1.0,
            self.tokenizer.stop_ids,
        )
        return request, stops

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as one text, as the checkpoint's template prints it."""
        pieces = split_template(
            self.tokenizer.chat_template,
            tuple(turn["role"] for turn in chat_history),
            self.tokenizer.special_tokens,
            add_generation_prompt=add_generation_prompt,
        )
        if not add_generation_prompt:  # the last turn goes on: nothing stands after it
            last = max(place for place, piece in enumerate(pieces) if isinstance(piece, Slot))
            pieces = pieces[: last + 1]
        texts = (
            piece.fill(chat_history[piece.index]["content"]) if isinstance(piece, Slot) else piece
            for piece in pieces
        )
        return "".join(texts)


@lru_cache(maxsize=1)
def model_class() -> type[Any]:
    """The model as a class of lm-eval (`lm_eval.api.model.TemplateLM`).

    Raises:
        ConfigError: lm-eval is not installed.
    """
    base = _module("lm_eval.api.model").TemplateLM

    class InstructGPT(Answers, base):  # type: ignore[misc, valid-type]
        """A checkpoint, stage folder or Hugging Face folder; arguments as `Answers`."""

    return InstructGPT


def register() -> type[Any]:
    """Let lm-eval know the model by the name `instructgpt`; returns its class.

    Raises:
        ConfigError: lm-eval is not installed.
    """
    registry = _module("lm_eval.api.registry")
    _module("lm_eval.models")
    found = model_class()
    if NAME not in registry.model_registry:
        registry.register_model(NAME)(found)
    return found


def main() -> int:
    """lm-eval's command line with the model `instructgpt` in it."""
    try:
        register()
        cast(Any, _module("lm_eval.__main__")).cli_evaluate()
    except InstructGPTError as error:
        print(f"instructgpt: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
