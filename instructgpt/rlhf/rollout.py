"""Step 1: sample replies from the policy, and read off what the four networks say of each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from instructgpt.data.collate import pack_ids
from instructgpt.data.packing import plan_batches
from instructgpt.data.records import Prompt
from instructgpt.errors import CheckError
from instructgpt.generation.engine import Completion, Request, generate
from instructgpt.generation.reply import reply_key
from instructgpt.maths.logprobs import token_logprobs
from instructgpt.model.heads import LanguageModel, ScalarModel
from instructgpt.model.linear import forget_rounded
from instructgpt.rlhf.settings import PPOConfig
from instructgpt.runtime.flops import forward_flops
from instructgpt.runtime.profile import work
from instructgpt.scoring.ask import Scores, failures, score_sampled
from instructgpt.scoring.reward import Ensemble, Reward
from instructgpt.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Episodes:
    """B prompts with one sampled reply each. A reply is right-padded to R; where it ends is
    `response_length`.

    Lengths are carried, never found by looking for a padding or end id (field faults 4 and 6).
    """

    prompts: tuple[Prompt, ...]
    prompt_ids: tuple[tuple[int, ...], ...]
    """B rows, ragged: the rendered prompt."""
    response_ids: Tensor
    """(B, R) int64: the reply, with the id that ended it if it stopped; 0 beyond its length."""
    response_length: Tensor
    """(B,) int64, at least 1."""
    response_mask: Tensor
    """(B, R) bool: True = a token of the reply."""
    stopped: Tensor
    """(B,) bool: the reply ended itself; False = it was cut at the largest length."""
    rollout_logprobs: Tensor
    """(B, R) float32: log-probabilities in nats that the sampler saw, 0 beyond the reply."""

    @property
    def prompt_length(self) -> Tensor:
        """(B,) int64."""
        return torch.tensor([len(ids) for ids in self.prompt_ids])

    @property
    def last_index(self) -> Tensor:
        """(B,) int64: index within the reply of its last real token, on which the score lands."""
        return self.response_length - 1

    def sequences(self, rows: Sequence[int] | None = None) -> list[list[int]]:
        """The prompt's ids, then the reply's, of the rows asked for (None = all B)."""
        return self._sequences if rows is None else [self._sequences[row] for row in rows]

    @cached_property
    def _sequences(self) -> list[list[int]]:
        """Made once: each round cuts them into micro-batches many times."""
        replies, lengths = self.response_ids.tolist(), self.response_length.tolist()
        return [
            [*prompt, *reply[:n]] for prompt, reply, n in zip(self.prompt_ids, replies, lengths, strict=True)
        ]

    def texts(self, tokenizer: Tokenizer) -> list[str]:
        """The B replies as text, without the id that ended them."""
        replies, lengths = self.response_ids.tolist(), self.response_length.tolist()
        return [
            tokenizer.decode(reply[: n - stopped])
            for reply, n, stopped in zip(replies, lengths, self.stopped.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class Rollout:
    """Episodes with what policy, reference and value network say of each token, and the score of each reply.

    All (B, R) tensors are float32 and 0 where `episodes.response_mask` is False.
    """

    episodes: Episodes
    old_logprobs: Tensor
    """(B, R) nats: the policy before the update, by the update's own forward pass, or as sampled."""
    reference_logprobs: Tensor
    """(B, R) nats: the frozen SFT model."""
    values: Tensor
    """(B, R) reward units: V of the state *before* each token of the reply."""
    scores: Tensor
    """(B,) reward units: the reward model's number for the whole reply."""
    member_scores: Tensor | None = None
    """(members, B) reward units: of an ensemble, whose mean `scores` are; None for another reward."""
    part_scores: dict[str, Tensor] = field(default_factory=dict)
    """Name -> (B,) in each part's own units, of a weighted sum; `scores` are their sum. Else empty."""
    failed_requests: int | None = None
    """Requests to a reward service that failed before all were answered; None where there is no service."""

    @property
    def mask(self) -> Tensor:
        """(B, R) bool: `episodes.response_mask`."""
        return self.episodes.response_mask


@dataclass(frozen=True)
class Micro:
    """Some rows of the episodes, packed for one forward pass; n = tokens of their replies, N = all tokens."""

    ids: Tensor
    """(N,) int64: prompt and reply, row after row."""
    positions: Tensor
    """(N,) int64."""
    lengths: list[int]
    """Tokens of each row; they sum to N."""
    before: Tensor
    """(n,) int64: index into N of the token before each reply token: its hidden state predicts it."""
    targets: Tensor
    """(n,) int64: the reply tokens."""
    slots: Tensor
    """(n,) int64: where each reply token lies in a flattened (B, R) tensor."""

    @property
    def size(self) -> tuple[int, int]:
        """(N, n)."""
        return len(self.ids), len(self.targets)


def sample_episodes(
    policy: LanguageModel,
    prompts: Sequence[Prompt],
    prompt_ids: Sequence[Sequence[int]],
    *,
    stop_ids: frozenset[int],
    max_new: int,
    temperature: float,
    seed: int,
    iteration: int,
    max_active: int = 64,
    dtype: str = "float32",
) -> Episodes:
    """One reply to each prompt by ancestral sampling at `temperature`: no truncation of any kind (field fault
    12).

    A reply depends on (seed, iteration, prompt id, how often the prompt came before in this batch, position)
    only, not on what else is in the batch.
    """
    seen: dict[str, int] = {}
    requests = []
    for prompt, ids in zip(prompts, prompt_ids, strict=True):
        sample = seen.get(prompt.id, 0)
        seen[prompt.id] = sample + 1
        key = reply_key(seed, iteration, prompt.id, sample)
        requests.append(Request(tuple(ids), key, max_new, temperature, stop_ids=stop_ids))
    with autocast(policy, dtype):
        completions = generate(policy, requests, max_active=max_active)
    episodes = build_episodes(prompts, prompt_ids, completions)
    replied = int(episodes.response_length.sum())
    work(forward_flops(policy, int(episodes.prompt_length.sum()) + replied, replied))
    return episodes


def build_episodes(
    prompts: Sequence[Prompt], prompt_ids: Sequence[Sequence[int]], completions: Sequence[Completion]
) -> Episodes:
    """Put sampled replies into right-padded tensors."""
    lengths = torch.tensor([len(completion.ids) for completion in completions])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]  # (B, R)
    flat_ids = torch.tensor([i for completion in completions for i in completion.ids])
    flat_logprobs = torch.tensor([x for completion in completions for x in completion.logprobs])
    return Episodes(
        prompts=tuple(prompts),
        prompt_ids=tuple(tuple(ids) for ids in prompt_ids),
        response_ids=torch.zeros(mask.shape, dtype=torch.int64).masked_scatter(mask, flat_ids),
        response_length=lengths,
        response_mask=mask,
        stopped=torch.tensor([completion.stopped for completion in completions]),
        rollout_logprobs=torch.zeros(mask.shape).masked_scatter(mask, flat_logprobs),
    )


def micro_batches(
    episodes: Episodes, rows: Sequence[int], max_tokens: int, device: torch.device | str = "cpu"
) -> list[Micro]:
    """Cut `rows` of the episodes into packed pieces of like length, each of about `max_tokens` tokens."""
    width = episodes.response_ids.shape[1]
    sequences = episodes.sequences(rows)
    micros = []
    chosen = torch.tensor(rows)
    prompts = episodes.prompt_length[chosen]
    for plan in plan_batches([len(sequence) for sequence in sequences], max_tokens):
        ids, positions, lengths = pack_ids([sequences[i] for i in plan])
        planned, counts = torch.tensor(plan), torch.tensor(lengths)
        in_reply = positions - prompts[planned].repeat_interleave(counts)  # (N,): negative in the prompt
        replied_at = (in_reply >= 0).nonzero()[:, 0]
        first_slot = (chosen[planned] * width).repeat_interleave(counts)
        micros.append(
            Micro(
                ids.to(device),
                positions.to(device),
                lengths,
                before=(replied_at - 1).to(device),
                targets=ids[replied_at].to(device),
                slots=(first_slot + in_reply)[replied_at],
            )
        )
    return micros


def reply_hidden(model: LanguageModel | ScalarModel, micro: Micro, dtype: str) -> Tensor:
    """(n, D): the hidden state before each reply token, from which that token or its value is read."""
    with autocast(model, dtype):
        hidden: Tensor = model(micro.ids, micro.positions, micro.lengths, rows=micro.before)
    return hidden


@torch.no_grad()
def episode_logprobs(
    model: LanguageModel,
    episodes: Episodes,
    micros: Sequence[Micro],
    temperature: float,
    dtype: str = "float32",
) -> Tensor:
    """(B, R) nats: log-probability of each reply token under `model` at `temperature`; 0 beyond the reply."""
    out = torch.zeros(episodes.response_ids.numel())
    for micro in micros:
        hidden = reply_hidden(model, micro, dtype)
        rounded = model.rounded_unembedding(torch_dtype(dtype))
        with autocast(model, dtype):
            logprobs = token_logprobs(hidden, model.unembedding, micro.targets, temperature, rounded=rounded)
        work(forward_flops(model, *micro.size))
        out[micro.slots] = logprobs.float().cpu()
    return out.view_as(episodes.response_ids)


@torch.no_grad()
def episode_values(
    model: ScalarModel, episodes: Episodes, micros: Sequence[Micro], dtype: str = "float32"
) -> Tensor:
    """(B, R) reward units: V of the state before each reply token; 0 beyond the reply."""
    out = torch.zeros(episodes.response_ids.numel())
    for micro in micros:
        values = model.score(reply_hidden(model, micro, dtype))
        work(forward_flops(model, *micro.size))
        out[micro.slots] = values.float().cpu()
    return out.view_as(episodes.response_ids)


def episode_scores(reward: Reward, episodes: Episodes, tokenizer: Tokenizer) -> Tensor:
    """(B,) reward units: the total of `part_scores`; see there."""
    return part_scores(reward, episodes, tokenizer).total


def part_scores(reward: Reward, episodes: Episodes, tokenizer: Tokenizer) -> Scores:
    """Scores of the B replies, of a weighted sum those of its parts too. A reward model with the policy's
    tokenizer reads the ids, at the last real token; other rewards read texts.

    Raises:
        CheckError: a score is not a finite number; it would spoil the advantages of the whole round.
        ServiceError: a reward service gave no usable scores.
    """
    texts = episodes.texts(tokenizer)
    scores = score_sampled(reward, tokenizer, episodes.prompts, texts, episodes.sequences())
    for found in (*scores.parts.values(), scores.total):
        _finite(found, reward, episodes)
    return scores


def member_scores(reward: Ensemble, episodes: Episodes) -> Tensor:
    """(members, B) reward units: what each member of an ensemble says; their mean is the score.

    Raises:
        CheckError: as `episode_scores`.
    """
    scores = reward.score_ids_each(episodes.sequences()).float().cpu().clone()
    _finite(scores.mean(0), reward, episodes)
    return scores


def _finite(scores: Tensor, reward: Reward, episodes: Episodes) -> Tensor:
    for row in (~scores.isfinite()).nonzero()[:1].flatten().tolist():
        raise CheckError(
            f"the reward {reward.name} gave {scores[row].item()} to a reply",
            f"prompt {episodes.prompts[row].id}",
            "look at the reward model: its weights may hold numbers that are not finite",
        )
    return scores


def score_rollout(
    episodes: Episodes,
    policy: LanguageModel,
    reference: LanguageModel,
    value: ScalarModel,
    reward: Reward,
    tokenizer: Tokenizer,
    config: PPOConfig,
) -> Rollout:
    """What the four networks say of the episodes: one packed forward pass each, without gradients."""
    rows = range(len(episodes.prompts))
    micros = micro_batches(episodes, rows, config.max_tokens, next(policy.parameters()).device)
    if config.old_logprobs == "rollout":
        old = episodes.rollout_logprobs
    else:
        old = episode_logprobs(policy, episodes, micros, config.temperature, config.dtype)
    theirs = episode_logprobs(reference, episodes, micros, config.temperature, config.dtype)
    values = episode_values(value, episodes, micros, config.dtype)
    for model in (reference, value):  # the update begins with the policy's
        forget_rounded(model)
    members = member_scores(reward, episodes) if isinstance(reward, Ensemble) else None
    failed = failures(reward) or 0
    scores = part_scores(reward, episodes, tokenizer) if members is None else Scores(members.mean(0))
    failed_now = failures(reward)
    return Rollout(
        episodes=episodes,
        old_logprobs=old,
        reference_logprobs=theirs,
        values=values,
        scores=scores.total,
        member_scores=members,
        part_scores=scores.parts,
        failed_requests=None if failed_now is None else failed_now - failed,
    )


def autocast(model: LanguageModel | ScalarModel, dtype: str) -> torch.autocast:
    """The precision of a forward pass: bfloat16 products on float32 weights, or nothing for float32."""
    kind = next(model.parameters()).device.type
    return torch.autocast(kind, torch.bfloat16, enabled=dtype == "bfloat16")


def torch_dtype(dtype: str) -> torch.dtype:
    """What `autocast` computes in: float32 as long as auto is not settled."""
    return torch.bfloat16 if dtype == "bfloat16" else torch.float32
