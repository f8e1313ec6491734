"""Replies to many prompts at once, each ended by the model or by the first of its stop strings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from instructgpt.evaluation.suite.task import Generated
from instructgpt.generation.engine import MAX_ACTIVE, Engine, Request, rows_for_memory
from instructgpt.generation.stream import TextStream
from instructgpt.model.heads import LanguageModel
from instructgpt.text.tokenizer import Tokenizer


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
    prompt = max(len(request.prompt_ids) for request in requests)
    slots = min(MAX_ACTIVE, len(requests), rows_for_memory(model, longest))
    engine = Engine(model, slots, min(longest, prompt + 64), want_tokens=any(stops))
    for index in order:
        engine.submit(requests[index])
    streams = {
        number: TextStream(tokenizer, stops[index]) for number, index in enumerate(order) if stops[index]
    }
    texts = dict.fromkeys(streams, "")
    drawn = dict.fromkeys(streams, 0)
    replies: dict[int, Generated] = {}

    def keep(number: int, reply: Generated) -> None:
        replies[order[number]] = reply
        if on_done is not None:
            on_done(1)

    while engine.busy:
        step = engine.step()
        finished = dict(step.finished)
        for number, index in step.tokens:
            if number not in streams:
                continue
            drawn[number] += 1
            last = finished.get(number)
            if last is not None and last.stopped:
                continue  # the id that ends a reply has no text
            texts[number] += streams[number].push(index)
            if streams[number].matched is not None and last is None:
                engine.cancel(number)
                keep(number, Generated(texts[number], drawn[number], True))
        for number, completion in finished.items():
            if number in streams:
                text = texts[number] + streams[number].finish()
                stopped = completion.stopped or streams[number].matched is not None
                keep(number, Generated(text, drawn[number], stopped))
            else:
                ids = completion.ids[:-1] if completion.stopped else completion.ids
                keep(number, Generated(tokenizer.decode(ids), len(completion.ids), completion.stopped))
    return [replies[index] for index in range(len(requests))]
