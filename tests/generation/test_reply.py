"""Replies to prompts: keys, order, the text without its end, and a prompt that is too long."""

from __future__ import annotations

import pytest

from instructgpt.data.records import Prompt
from instructgpt.errors import DataError
from instructgpt.generation.reply import Reply, reply_key, sample_replies
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import LanguageModel, new_language_model
from instructgpt.text.tokenizer import Tokenizer, train_tokenizer

TEXTS = ["name a river", "say good morning", "早上好", "what is red", "count to three please"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS * 4, 300)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> LanguageModel:
    sizes = {"width": 16, "layers": 1, "heads": 2, "context": 64}
    return new_language_model(ModelConfig.llama(vocab_size=tokenizer.vocab_size, **sizes), 1)


PROMPTS = [Prompt.of(text) for text in TEXTS]


def test_keys_depend_on_all_four_parts() -> None:
    parts = [(0, 0, "a", 0), (1, 0, "a", 0), (0, 1, "a", 0), (0, 0, "b", 0), (0, 0, "a", 1)]
    assert len({reply_key(*part) for part in parts}) == 5
    assert all(-(2**63) <= reply_key(*part) < 2**63 for part in parts)


def test_a_reply_does_not_depend_on_company_or_order(model: LanguageModel, tokenizer: Tokenizer) -> None:
    """The same prompts alone, batched, reversed and with more samples give the same samples."""
    two = sample_replies(model, tokenizer, PROMPTS, 2, 20, 1.0, seed=4)
    three = sample_replies(model, tokenizer, PROMPTS[::-1], 3, 20, 1.0, seed=4, max_active=2)[::-1]
    for n_two, n_three in zip(two, three, strict=True):
        assert [reply.ids for reply in n_two] == [reply.ids for reply in n_three[:2]]
    alone = sample_replies(model, tokenizer, PROMPTS[2:3], 2, 20, 1.0, seed=4)
    assert [reply.ids for reply in alone[0]] == [reply.ids for reply in two[2]]
    other = sample_replies(model, tokenizer, PROMPTS, 2, 20, 1.0, seed=4, iteration=1)
    assert [r.ids for row in other for r in row] != [r.ids for row in two for r in row]


def test_text_is_the_reply_without_the_id_that_ended_it(model: LanguageModel, tokenizer: Tokenizer) -> None:
    seen: list[tuple[int, Reply]] = []
    rows = sample_replies(
        model, tokenizer, PROMPTS, 20, 45, 1.0, seed=0, on_reply=lambda p, reply: seen.append((p, reply))
    )
    replies = [reply for row in rows for reply in row]
    assert {reply.stopped for reply in replies} == {True, False}
    for reply in replies:
        ended = reply.ids[-1] in tokenizer.stop_ids
        assert reply.stopped == ended
        assert reply.text == tokenizer.decode(reply.ids[:-1] if ended else reply.ids)
        assert len(reply.logprobs) == len(reply.ids)
    by_prompt = [[reply for p, reply in seen if p == number] for number in range(len(PROMPTS))]
    assert [sorted(row, key=str) for row in by_prompt] == [sorted(row, key=str) for row in rows]


def test_a_prompt_beyond_the_context_names_the_record(model: LanguageModel, tokenizer: Tokenizer) -> None:
    long = Prompt.of("river " * 60, id="long-one")
    with pytest.raises(
        DataError, match=r"prompt 1, id long-one.*To mend it: shorten the prompt to 44 tokens"
    ):
        sample_replies(model, tokenizer, [PROMPTS[0], long], 1, 20, 1.0, seed=0)
