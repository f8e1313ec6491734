"""Proxies of coherence on prompts of one's own: repetition, variety, length, perplexity under a base model.

They are named for what they are. None of them reads: a text without repetition can be nonsense. What they do
find is the collapse of a policy that was optimised too far, early and without a judge.

Files: prompts as the package's other verbs read them (`{"prompt": ...}` a line). Settings: `base=MODEL` (a
checkpoint or a server with log-probabilities) for the perplexity of the replies after their prompts;
`temperature` (1) and `max_new` (128).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from instructgpt.data.records import read_prompts
from instructgpt.errors import ConfigError
from instructgpt.evaluation.metrics.repetition import distinct, ends_in_loop, repetition, words
from instructgpt.evaluation.suite.models import Handle, open_handle
from instructgpt.evaluation.suite.task import (
    Answer,
    Array,
    Choices,
    Generate,
    Generated,
    Item,
    Metric,
    Options,
    Scored,
    Task,
)

_LONGEST = 128


def make(options: Options) -> Task:
    """Repetition, distinct-1, distinct-2, replies that end in a loop, words, and perplexity under `base`.

    Raises:
        ConfigError: a setting can't be used.
    """
    base, temperature = options.get("base"), _number(options, "temperature", 1.0)
    longest = int(_number(options, "max_new", _LONGEST))
    opened: list[Handle] = []

    def ask(item: Item, shots: Sequence[Item]) -> list[Generate]:
        return [Generate(item.data["prompt"], longest, temperature=temperature)]

    def score(items: Sequence[Item], answers: Sequence[Sequence[Answer]]) -> list[Scored]:
        replies = [found[0] for found in answers]
        scored = [_score(item, reply) for item, reply in zip(items, replies, strict=True)]
        if not base:
            return scored
        if not opened:
            opened.append(open_handle(base))
        said = [i for i, one in enumerate(scored) if one.shown["reply"]]
        asks = [
            Choices(items[i].data["text"], (_after(items[i].data["text"], scored[i].shown["reply"]),))
            for i in said
        ]
        for i, (found,) in zip(said, opened[0].choices(asks), strict=True):
            under = {"base_nats": -found.nats, "base_tokens": float(found.tokens)}
            scored[i] = Scored({**scored[i].scores, **under}, scored[i].shown)
        return scored

    metrics = [
        Metric("repetition4", better="lower"),
        Metric("loop", better="lower"),
        Metric("distinct1", better=""),
        Metric("distinct2", better=""),
        Metric("words", better="", unit="words"),
        Metric("ended", better=""),
    ]
    if base:
        metrics.append(Metric(f"perplexity[{base}]", _perplexity, "", "perplexity"))
    return Task(
        name="coherence",
        version=1,
        files=("coherence*.jsonl", "*-prompts.jsonl"),
        read=_read,
        ask=ask,
        score=score,
        metrics=tuple(metrics),
        source="seq-rep-4: arXiv:1908.04319; distinct-n a reply: arXiv:1510.03055",
        options=("base", "temperature", "max_new"),
    )


def _number(options: Options, name: str, default: float) -> float:
    value = options.get(name, str(default))
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number < 1e6:
        raise ConfigError(f"{name} is {value!r}", "coherence", "give a number of at least 0")
    return number


def _read(paths: list[Path]) -> list[Item]:
    prompts = [prompt for path in paths for prompt in read_prompts(path)]
    return [
        Item(
            prompt.id,
            {"prompt": prompt.text if len(prompt.messages) == 1 else prompt.messages, "text": prompt.text},
        )
        for prompt in {prompt.id: prompt for prompt in prompts}.values()
    ]


def _after(text: str, reply: str) -> str:
    """A reply as it follows its prompt: with a blank between if neither has one."""
    return reply if not text or text[-1].isspace() or reply[:1].isspace() else f" {reply}"


def _score(item: Item, reply: Answer) -> Scored:
    assert isinstance(reply, Generated)
    text = reply.text.strip()
    scores = {
        "repetition4": repetition(text),
        "loop": float(ends_in_loop(text)),
        "words": float(len(words(text))),
        "ended": float(reply.stopped),
    }
    if scores["words"]:  # an empty reply has no variety to measure
        scores |= {f"distinct{n}": distinct([text], n) for n in (1, 2) if scores["words"] >= n}
    return Scored(scores, {"prompt": item.data["text"], "reply": text})


def _perplexity(columns: Mapping[str, Array]) -> float:
    """exp of the mean negative log-probability of a reply's tokens under the base model."""
    if "base_tokens" not in columns:  # every reply was empty
        return math.nan
    tokens = float(np.nansum(columns["base_tokens"]))
    return math.exp(float(np.nansum(columns["base_nats"])) / tokens) if tokens else math.nan
