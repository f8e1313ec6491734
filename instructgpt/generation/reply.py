"""Replies to prompts: messages in, text out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from instructgpt.data.records import Prompt
from instructgpt.generation.engine import MAX_ACTIVE, Completion, Request, generate
from instructgpt.generation.requests import check_room
from instructgpt.model.heads import LanguageModel
from instructgpt.runtime.seeds import derive_seed
from instructgpt.text.chat import render_prompt
from instructgpt.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Reply:
    """A sampled reply.

    Attributes:
        ids: with the id that ended it, if it stopped.
        text: without that id.
        stopped: the model ended it; False = it was cut at the largest length.
        logprobs: nats, one for each id, under the distribution that was sampled from.
    """

    ids: list[int]
    text: str
    stopped: bool
    logprobs: list[float]


def reply_key(seed: int, iteration: int, prompt_id: str, sample: int) -> int:
    """The random stream of one reply: it depends on these four and on nothing else."""
    return derive_seed("reply", seed, iteration, prompt_id, sample)


def reply_of(completion: Completion, tokenizer: Tokenizer) -> Reply:
    """A completion as text."""
    content = completion.ids[:-1] if completion.stopped else completion.ids
    return Reply(completion.ids, tokenizer.decode(content), completion.stopped, completion.logprobs)


def reply_requests(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    n: int,
    max_new: int,
    temperature: float,
    seed: int,
    iteration: int = 0,
    *,
    top_k: int = 0,
    top_p: float = 1.0,
    source: str = "",
) -> list[Request]:
    """Requests for n replies to each prompt: prompt 0 sample 0, prompt 0 sample 1, ...

    Raises:
        DataError: a prompt and its reply may exceed the model's context; names `source` (the file or flag
            that the prompts come from) and the record.
    """
    requests = []
    for number, prompt in enumerate(prompts):
        ids = tuple(render_prompt(tokenizer, prompt.messages))
        place = f"prompt {number}, id {prompt.id}"
        check_room(model.config, len(ids), max_new, f"{source}, {place}" if source else place)
        requests += [
            Request(
                ids,
                reply_key(seed, iteration, prompt.id, sample),
                max_new,
                temperature,
                top_k,
                top_p,
                tokenizer.stop_ids,
            )
            for sample in range(n)
        ]
    return requests


def sample_replies(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    n: int,
    max_new: int,
    temperature: float,
    seed: int,
    iteration: int = 0,
    *,
    top_k: int = 0,
    top_p: float = 1.0,
    source: str = "",
    max_active: int = MAX_ACTIVE,
    on_reply: Callable[[int, Reply], None] | None = None,
    lookup: int = 0,
) -> list[list[Reply]]:
    """Draw n replies to each prompt; [prompt][sample].

    A reply depends on the model, (seed, iteration, prompt id, sample) and the settings alone: the first n of
    more samples are the same ones, and other prompts beside it do not change it.

    Args:
        max_new: largest length in tokens, the one that ends the reply included.
        source: where the prompts come from, for the error.
        on_reply: called with (prompt number, reply) as each reply ends.
        lookup: see `Engine`; changes no reply.

    Raises:
        DataError: see `reply_requests`.
    """
    requests = reply_requests(
        model,
        tokenizer,
        prompts,
        n,
        max_new,
        temperature,
        seed,
        iteration,
        top_k=top_k,
        top_p=top_p,
        source=source,
    )
    finished: dict[int, Reply] = {}

    def keep(index: int, completion: Completion) -> None:
        finished[index] = reply_of(completion, tokenizer)
        if on_reply is not None:
            on_reply(index // n, finished[index])

    generate(model, requests, max_active=max_active, on_finish=keep, lookup=lookup)
    return [[finished[p * n + sample] for sample in range(n)] for p in range(len(prompts))]
