"""Replies to many prompts at once, each ended by the model or by the first of its stop strings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from instructgpt.evaluation.suite.task import Generated
from instructgpt.generation.engine import MAX_ACTIVE, Engine, Request, rows_for_memory
from instructgpt.generation.stream import TextStream
from instructgpt.model.heads import LanguageModel
from instructgpt.text.tokenizer import Tokenizer


class _Reply:
    """The text of a reply that stop strings may end."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self._stream = TextStream(tokenizer, stops)
        self.text, self.tokens = "", 0

    def push(self, index: int) -> bool:
        """One more id; whether a stop string is complete now."""
        self.tokens += 1
        self.text += self._stream.push(index)
        return self._stream.matched is not None

    def end(self, ids: Sequence[int], stopped: bool) -> Generated:
        """The model ended it, or it is as long as it may be; `ids` are all of it, the last id too."""
        for index in ids[self.tokens : len(ids) - stopped]:
            if self.push(index):
                return self.cut()
        text = self.text + self._stream.finish()
        return Generated(text, len(ids), stopped or self._stream.matched is not None)

    def cut(self) -> Generated:
        """A stop string ended it."""
        return Generated(self.text, self.tokens, True)


def draw(
    model: LanguageModel,
    tokenizer: Tokenizer,
    requests: Sequence[Request],
    stops: Sequence[Sequence[str]],
    on_done: Callable[[int], None] | None = None,
) -> list[Generated]:
    """One reply to each request. A reply that meets a stop string leaves the batch at once.

    Args:
        stops: for each request, the strings before which its reply ends.
        on_done: called with 1 as each reply ends.

    Raises:
        ConfigError: a stop string is empty.
        DataError: see `Engine.submit`.
    """
    if not requests:
        return []
    # As in `generate`: long rows first, equal prompts together.
    order = sorted(
        range(len(requests)),
        key=lambda i: (-len(requests[i].prompt_ids) - requests[i].max_new, requests[i].prompt_ids),
    )
    longest = max(len(request.prompt_ids) + request.max_new for request in requests)
    slots = min(MAX_ACTIVE, len(requests), rows_for_memory(model, longest))
    engine = Engine(model, slots, longest, want_tokens=any(stops))
    for index in order:
        engine.submit(requests[index])
    waiting = {number: _Reply(tokenizer, stops[index]) for number, index in enumerate(order)}
    replies: dict[int, Generated] = {}

    def keep(number: int, reply: Generated) -> None:
        replies[order[number]] = reply
        del waiting[number]
        if on_done is not None:
            on_done(1)

    while engine.busy:
        step = engine.step()
        finished = {number for number, _ in step.finished}
        for number, index in step.tokens:
            watched = number in waiting and number not in finished and stops[order[number]]
            if watched and waiting[number].push(index):
                engine.cancel(number)
                keep(number, waiting[number].cut())
        for number, completion in step.finished:
            keep(number, waiting[number].end(completion.ids, completion.stopped))
    return [replies[index] for index in range(len(requests))]
