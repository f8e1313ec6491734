"""The questions of many items at once, sorted by kind, and the answers back to their items."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from instructgpt.evaluation.suite.models import Handle
from instructgpt.evaluation.suite.task import Answer, Ask, Choices, Document, Generate, Item
from instructgpt.runtime.seeds import derive_seed


def answer_all(
    handle: Handle,
    task: str,
    items: Sequence[Item],
    asks: Sequence[Sequence[Ask]],
    seed: int = 0,
    on_done: Callable[[int], None] | None = None,
) -> list[list[Answer]]:
    """The answers to every item's questions, in their order.

    A reply's random stream is named by (seed, task, item, sample): other items beside it change nothing.

    Args:
        asks: for each item its questions.
        on_done: called with numbers of finished answers (one a continuation of `Choices`).
    """
    answers: list[list[Answer | None]] = [[None] * len(row) for row in asks]
    placed = [(i, j, ask) for i, row in enumerate(asks) for j, ask in enumerate(row)]
    choices = [(i, j, ask) for i, j, ask in placed if isinstance(ask, Choices)]
    documents = [(i, j, ask) for i, j, ask in placed if isinstance(ask, Document)]
    replies = [(i, j, ask) for i, j, ask in placed if isinstance(ask, Generate)]
    keys = [derive_seed("eval", seed, task, items[i].id, ask.sample) for i, _, ask in replies]
    if choices:
        found = handle.choices([ask for _, _, ask in choices], on_done)
        for (i, j, _), likely in zip(choices, found, strict=True):
            answers[i][j] = likely
    if documents:
        for (i, j, _), whole in zip(
            documents, handle.documents([ask for _, _, ask in documents], on_done), strict=True
        ):
            answers[i][j] = whole
    if replies:
        drawn = handle.generate([ask for _, _, ask in replies], keys, on_done)
        for (i, j, _), reply in zip(replies, drawn, strict=True):
            answers[i][j] = reply
    return [[answer for answer in row if answer is not None] for row in answers]
