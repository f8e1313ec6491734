"""Log-probabilities in the two shapes of OpenAI's API: one schema fits neither endpoint (field fault 42)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from instructgpt.serving.choices import Placed
from instructgpt.text.tokenizer import Tokenizer

LEAST = -9999.0
"""What OpenAI writes for a probability of 0: JSON has no infinity."""


def _number(logprob: float) -> float:
    return max(LEAST, logprob)


def _spelling(tokenizer: Tokenizer, index: int) -> tuple[str, bytes, bool]:
    """(text, bytes, whole): a token that is no text by itself is spelled byte by byte as \\x.."""
    raw = tokenizer.token_bytes(index)
    try:
        return raw.decode("utf-8"), raw, True
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in raw), raw, False


def for_chat(tokenizer: Tokenizer, tokens: Iterable[Placed]) -> dict[str, Any]:
    """`logprobs` of a choice of /v1/chat/completions."""

    def entry(index: int, logprob: float) -> dict[str, Any]:
        text, raw, _ = _spelling(tokenizer, index)
        return {"token": text, "logprob": _number(logprob), "bytes": list(raw)}

    content = [
        {
            **entry(token.id, token.logprobs.logprob),
            "top_logprobs": [entry(index, logprob) for index, logprob in token.logprobs.top],
        }
        for token in tokens
        if token.logprobs is not None
    ]
    return {"content": content, "refusal": None}


def for_completion(tokenizer: Tokenizer, tokens: Iterable[Placed], offset: int = 0) -> dict[str, Any]:
    """`logprobs` of a choice of /v1/completions; the first token of an echoed prompt has none (null).

    Args:
        offset: characters before the place that the tokens are counted from.
    """

    def name(index: int) -> str:
        text, _, whole = _spelling(tokenizer, index)
        return text if whole else f"bytes:{text}"

    found: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for token in tokens:
        found["tokens"].append(name(token.id))
        found["text_offset"].append(offset + token.start)
        if token.logprobs is None:
            found["token_logprobs"].append(None)
            found["top_logprobs"].append(None)
            continue
        # The token itself is always there, so that there may be one more than was asked for.
        top = {name(index): _number(logprob) for index, logprob in reversed(token.logprobs.top)}
        best_first = dict(reversed(top.items()))
        best_first.setdefault(name(token.id), _number(token.logprobs.logprob))
        found["token_logprobs"].append(_number(token.logprobs.logprob))
        found["top_logprobs"].append(best_first)
    return found
