"""What an evaluation task is: plain functions in a frozen dataclass, and the questions and answers between.

A task reads items from its data set's own files, asks a model about each of them, and turns the answers into
numbers of that item. Items never meet before `Metric.combine`, so a record depends on its item, the shots,
the model and the seed alone, and intervals and paired differences follow for every metric.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from instructgpt.text.chat import Message

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Item:
    """One record of a data set.

    Attributes:
        id: unique in the task and stable: the official id, or the position in the file.
        data: what `Task.read` found; the task alone knows its keys.
        group: items of one group are drawn together in a bootstrap (an article, an occupation); empty = the
            item is a group of its own.
    """

    id: str
    data: Mapping[str, Any]
    group: str = ""


@dataclass(frozen=True)
class Choices:
    """How probable is each of these continuations after the context?

    Blanks at the context's end go over to the continuations, and both are encoded together, as
    lm-evaluation-harness does: context "Question: ...\\nAnswer:", continuation " Paris". An empty context is
    the token that begins a document.
    """

    context: str
    continuations: tuple[str, ...]


@dataclass(frozen=True)
class Document:
    """How probable is this text as a whole? Every token is predicted once."""

    text: str


@dataclass(frozen=True)
class Generate:
    """Write a reply.

    Attributes:
        prompt: text to go on from (one user's message for a model that is asked through its chat template),
            or messages, which always go through the template.
        max_new: largest length, tokens.
        stop: the reply ends before the first of these strings.
        temperature: 0 takes the most probable token every time.
        top_p: mass of the most probable tokens that are drawn from.
        sample: number of the reply, where a task asks for several to one prompt.
    """

    prompt: str | tuple[Message, ...]
    max_new: int = 256
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    sample: int = 0


@dataclass(frozen=True)
class Likelihood:
    """What a model thinks of a text.

    Attributes:
        nats: sum of the log-probabilities of its tokens.
        tokens: how many those are.
        greedy: each of them is the most probable one.
    """

    nats: float
    tokens: int
    greedy: bool


@dataclass(frozen=True)
class Generated:
    """A reply. `stopped`: the model or a stop string ended it; False = it was cut at the largest length."""

    text: str
    tokens: int
    stopped: bool


Ask: TypeAlias = Choices | Document | Generate
Answer: TypeAlias = tuple[Likelihood, ...] | Likelihood | Generated
"""To `Choices` one likelihood a continuation, to `Document` one, to `Generate` a reply."""


@dataclass(frozen=True)
class Scored:
    """What the answers to one item are worth.

    Attributes:
        scores: numbers of this item alone, sums and counts among them; an item may lack some.
        shown: for people: prompt, reply, references, choices, chosen, gold, ...
    """

    scores: Mapping[str, float]
    shown: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Metric:
    """One number of a task.

    Attributes:
        combine: columns of `Scored.scores` over items, each (n,) with NaN where an item lacks it, to the
            number; None takes the mean of the column called `name` over the items that have it.
        better: which direction is good; empty = neither, it describes.
        unit: share, bits, nats/token, points, ...
        interval: whether a bootstrap interval is taken over items.
    """

    name: str
    combine: Callable[[Mapping[str, Array]], float] | None = None
    better: Literal["higher", "lower", ""] = "higher"
    unit: str = "share"
    interval: bool = True


@dataclass(frozen=True)
class Options:
    """What the command line says to a task.

    Attributes:
        shots: solved examples before an item; None = the task's default.
        limit: the first so many items; 0 = all.
        values: further settings of the task, name to value.
    """

    seed: int = 0
    shots: int | None = None
    limit: int = 0
    values: Mapping[str, str] = field(default_factory=dict)

    def get(self, key: str, default: str = "") -> str:
        """A further setting by name."""
        return self.values.get(key, default)


Score: TypeAlias = Callable[[Sequence[Item], Sequence[Sequence[Answer]]], list[Scored]]


@dataclass(frozen=True)
class Task:
    """A task; made by a function `(Options) -> Task` that `suite.tables` names.

    Attributes:
        version: raised when a change of the task alters its numbers.
        files: patterns of its files' names, best first; each also with .gz.
        read: official files to items.
        ask: an item and its shots (solved examples) to questions.
        score: items and the answers to each to numbers, many at once, so that a scorer may batch.
        metrics: the first one is the headline.
        shots: how many are usual.
        shot_files: where shots come from; empty = the task's other items.
        hub: `owner/name:path` of the official files on the Hugging Face Hub.
        source: whose definition is followed; printed with the numbers.
        options: names of the settings that it takes from `Options.values`.
    """

    name: str
    version: int
    files: tuple[str, ...]
    read: Callable[[list[Path]], list[Item]]
    ask: Callable[[Item, Sequence[Item]], Sequence[Ask]]
    score: Score
    metrics: tuple[Metric, ...]
    shots: int = 0
    shot_files: tuple[str, ...] = ()
    hub: tuple[str, ...] = ()
    source: str = ""
    options: tuple[str, ...] = ()


def each(judge: Callable[[Item, Sequence[Answer]], Scored]) -> Score:
    """A `Task.score` of a function that looks at one item at a time."""

    def score(items: Sequence[Item], answers: Sequence[Sequence[Answer]]) -> list[Scored]:
        return [judge(item, found) for item, found in zip(items, answers, strict=True)]

    return score
