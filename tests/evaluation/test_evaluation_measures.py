"""Loss on text and divergence, against slow loops over one sequence at a time."""

import math
from pathlib import Path

import pytest
import torch

from instructgpt.errors import DataError
from instructgpt.evaluation.divergence import reply_divergence
from instructgpt.evaluation.judge import judge_input, judge_spec
from instructgpt.evaluation.perplexity import document_loss, text_loss
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import LanguageModel, new_language_model
from instructgpt.text.tokenizer import train_tokenizer


def tiny(seed: int, vocabulary: int = 40, context: int = 16) -> LanguageModel:
    config = ModelConfig.llama(vocab_size=vocabulary, width=16, layers=2, heads=2, context=context)
    model = new_language_model(config, seed)
    with torch.no_grad():  # far from uniform, so that the numbers differ from log V
        model.unembedding.mul_(20.0)
    return model


def logprobs_alone(model: LanguageModel, ids: list[int]) -> torch.Tensor:
    """log-probabilities (T, V) of one sequence by itself."""
    with torch.no_grad():
        hidden = model(torch.tensor(ids), torch.arange(len(ids)), [len(ids)])
        return torch.log_softmax(model.logits(hidden).double(), dim=-1)


def test_document_loss_is_the_mean_over_all_predicted_tokens() -> None:
    model = tiny(0)
    documents = [[1, 5, 9, 2], [1, 7], [1, 3, 3, 8, 20, 39, 2]]
    each = []
    for ids in documents:
        table = logprobs_alone(model, ids)
        each.append(-sum(float(table[i, ids[i + 1]]) for i in range(len(ids) - 1)))
    found = document_loss(model, documents, max_tokens=8)
    assert found.tokens_each == [3, 1, 6] and found.nats == pytest.approx(each, abs=1e-4)
    assert found.loss == pytest.approx(sum(each) / 10, abs=1e-5)


def test_a_long_document_is_predicted_once_token_by_token() -> None:
    model = tiny(1, context=4)
    ids = [1, 5, 9, 2, 7, 3, 8, 4, 6]
    # pieces [1 5 9 2] [2 7 3 8] [8 4 6]: 3 + 3 + 2 = all eight tokens after the first
    total = 0.0
    for piece in ([1, 5, 9, 2], [2, 7, 3, 8], [8, 4, 6]):
        table = logprobs_alone(model, piece)
        total -= sum(float(table[i, piece[i + 1]]) for i in range(len(piece) - 1))
    found = document_loss(model, [ids])
    assert (found.tokens, found.documents) == (8, 1)
    assert found.loss == pytest.approx(total / 8, abs=1e-5)


def test_text_loss_of_a_model_that_knows_nothing_is_the_log_of_the_vocabulary() -> None:
    tokenizer = train_tokenizer(["a cat sat. " * 20], 270)
    config = ModelConfig.llama(vocab_size=tokenizer.vocab_size, width=16, layers=1, heads=2, context=64)
    model = new_language_model(config, 0)
    with torch.no_grad():
        model.unembedding.zero_()  # every next token is equally likely
    result = text_loss(model, tokenizer, ["a cat sat.", "a cat."])
    expected = sum(
        1 + len(tokenizer.encode(text)) for text in ("a cat sat.", "a cat.")
    )  # bos predicts, eos is one
    assert result.tokens == expected and result.documents == 2
    assert result.loss == pytest.approx(math.log(tokenizer.vocab_size), abs=1e-5)
    with pytest.raises(DataError, match="no text"):
        text_loss(model, tokenizer, [])


def test_divergence_is_the_sum_over_the_reply_only() -> None:
    policy, reference = tiny(0), tiny(1)
    prompts, replies = [[1, 4], [1, 8, 9, 3], [2]], [[5, 6, 7], [11], []]
    found = reply_divergence(policy, reference, prompts, replies, max_tokens=5)
    for row, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        ids = prompt + reply
        ours, theirs = logprobs_alone(policy, ids), logprobs_alone(reference, ids)
        states = range(len(prompt) - 1, len(ids) - 1)
        exact = sum(float((ours[i].exp() * (ours[i] - theirs[i])).sum()) for i in states)
        sampled = sum(float(ours[i, ids[i + 1]] - theirs[i, ids[i + 1]]) for i in states)
        assert found.exact[row] == pytest.approx(exact, abs=1e-4)
        assert found.sampled[row] == pytest.approx(sampled, abs=1e-4)
    assert found.exact[2] == 0.0


def test_a_model_does_not_diverge_from_itself() -> None:
    policy = tiny(0)
    found = reply_divergence(policy, tiny(0), [[1, 2]], [[3, 4, 5]])
    assert found.mean == 0.0 and found.sampled == [0.0]


def test_both_forms_estimate_the_same_kl() -> None:
    """Over all replies of length two, weighted by the policy, both sums equal the KL of the sequences."""
    policy, reference = tiny(0, vocabulary=6), tiny(1, vocabulary=6)
    replies = [[a, b] for a in range(6) for b in range(6)]
    found = reply_divergence(policy, reference, [[1]] * 36, replies)
    weights = []
    for reply in replies:
        table = logprobs_alone(policy, [1, *reply])
        weights.append(math.exp(float(table[0, reply[0]] + table[1, reply[1]])))
    assert sum(weights) == pytest.approx(1.0, abs=1e-5)
    by_sample = sum(w * x for w, x in zip(weights, found.sampled, strict=True))
    by_state = sum(w * x for w, x in zip(weights, found.exact, strict=True))
    assert by_state == pytest.approx(by_sample, abs=1e-4)


def test_different_vocabularies_are_refused() -> None:
    with pytest.raises(DataError, match="share a tokenizer"):
        reply_divergence(tiny(0), tiny(0, vocabulary=41), [[1]], [[2]])


def test_a_judge_may_be_an_ensemble(tmp_path: Path) -> None:
    """The run folder of `reward --members` stands for its members, whose files the result depends on."""
    for name in ("member-1", "member-2"):
        (tmp_path / name).mkdir()
        for file in ("config.json", "model.safetensors"):
            (tmp_path / name / file).write_text("{}")
    (tmp_path / "summary.json").write_text('{"members": ["member-1", "member-2"]}')
    both = f"{tmp_path / 'member-1'},{tmp_path / 'member-2'}"
    assert judge_spec(str(tmp_path)) == both and judge_input(both) == both
    assert judge_spec("practice:runs/world") == "practice:runs/world"
    assert judge_input("practice:runs/world") == "runs/world/config.json"
    assert judge_spec("my_module:judge") == "my_module:judge" and judge_input("my_module:judge") == ""
