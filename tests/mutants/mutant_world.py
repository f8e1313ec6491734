"""The real PPO on a tiny model, and the same quantities the slow way: one reply at a time, no packing.

Everything of ours is called through its module, so that a fault planted there is met here too. The slow
versions use the bare forward pass only, and numbers read straight from the files.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from instructgpt.generation.engine import Completion
from instructgpt.model import hf
from instructgpt.rlhf import prepare, rollout, round
from instructgpt.runtime.checkpoint import open_run

load_language_model, load_scalar_model = hf.load_language_model, hf.load_scalar_model
BIAS = 0.25
"""The mean-0 shift of the tiny reward model on disk."""
LENGTHS = (1, 3, 6, 2, 6, 4, 1, 5)
STOPPED = (True, True, False, True, True, True, False, True)


class World:
    """Builds fresh parts of a run; `scratch()` gives a new folder for each."""

    def __init__(self, tiny: Any, scratch: Callable[[], Path]) -> None:
        self.tiny, self.scratch = tiny, scratch

    def config(self, **changes: Any) -> Any:
        """Eight episodes; one gradient a step, unclipped and spread over several micro-batches."""
        plain = {"minibatches": 1, "grad_clip": 0.0, "warmup": 0, "max_tokens": 40, "ptx_coef": 5.0}
        return self.tiny.config(self.scratch(), **(plain | changes))

    def parts(self, config: Any, drift: float = 0.3) -> prepare.Parts:
        """What a run starts from, loaded from disk by the real code; then the policy moves off by `drift`."""
        inputs = prepare.resolve(config)
        with open_run(config.out, "ppo", config, inputs) as run:
            parts = prepare.prepare(config, inputs, run)
        nudge(parts.learner.policy, drift, seed=1)
        return parts

    def episodes(self, parts: prepare.Parts) -> rollout.Episodes:
        """Eight replies of every shape: one token, full length, ended or cut."""
        generator = torch.Generator().manual_seed(7)
        prompts, ids = parts.prompts.take(range(8))
        completions = []
        for length, stopped in zip(LENGTHS, STOPPED, strict=True):
            reply = torch.randint(10, 280, (length,), generator=generator).tolist()
            if stopped:
                reply[-1] = self.tiny.tokenizer.end_of_turn_id
            completions.append(Completion(reply, [-1.0] * length, stopped))
        return rollout.build_episodes(prompts, ids, completions)

    def judged(self, parts: prepare.Parts, config: Any, beta: float = 0.3) -> round.Judged:
        """The eight replies, judged by the real code."""
        return round.judge(parts, self.episodes(parts), config, beta)

    def rows(self, config: Any) -> list[str]:
        """Lines of a run's metrics.jsonl."""
        return (Path(config.out) / "metrics.jsonl").read_text().splitlines()


def nudge(model: torch.nn.Module, size: float, seed: int) -> None:
    """Multiply every weight by 1 + size x noise."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + size * torch.randn(parameter.shape, generator=generator))


def replies(parts: prepare.Parts) -> list[tuple[list[int], list[int]]]:
    """(prompt ids, reply ids) of `World.episodes`, made again without any tensor or mask."""
    generator = torch.Generator().manual_seed(7)
    found = []
    for prompt, length, stopped in zip(parts.prompts.ids, LENGTHS, STOPPED, strict=False):
        reply = torch.randint(10, 280, (length,), generator=generator).tolist()
        if stopped:
            reply[-1] = parts.tokenizer.end_of_turn_id
        found.append((list(prompt), reply))
    return found


def slow_logprobs(model: Any, prompt: list[int], reply: list[int], temperature: float = 1.0) -> Tensor:
    """(n,) log-probabilities of one reply, by the whole softmax over the vocabulary."""
    ids = torch.tensor([*prompt, *reply])
    hidden = model(ids, torch.arange(len(ids)), [len(ids)])
    full = torch.log_softmax(hidden @ model.unembedding.T / temperature, dim=1)
    return torch.stack([full[len(prompt) + t - 1, token] for t, token in enumerate(reply)])


def slow_values(model: Any, prompt: list[int], reply: list[int], bias: float) -> Tensor:
    """(n + 1,) numbers of a scalar model: before each token of one reply, and after the last one."""
    ids = torch.tensor([*prompt, *reply])
    hidden = model(ids, torch.arange(len(ids)), [len(ids)])
    return (hidden @ model.head.weight[0] - bias)[len(prompt) - 1 :]


def file_scores(world: World, pairs: list[tuple[list[int], list[int]]]) -> Tensor:
    """(B,) scores of the reward model on disk at each reply's last token, its head read from the file."""
    model = load_scalar_model(world.tiny.folder / "reward")
    head = load_file(world.tiny.folder / "reward" / "model.safetensors")["score.weight"]
    with torch.no_grad():
        model.head.weight.copy_(head)
        return torch.stack([slow_values(model, *pair, BIAS)[-1] for pair in pairs])


def slow_policy_loss(policy: Any, judged: round.Judged, pairs: list, config: Any) -> Tensor:
    """Mean over all tokens of max(-A ratio, -A clip(ratio)): eq. 7 of arXiv:1707.06347, one reply a time."""
    total, tokens = torch.tensor(0.0), 0
    for row, pair in enumerate(pairs):
        new = slow_logprobs(policy, *pair, config.temperature)
        for t in range(len(pair[1])):
            ratio = (new[t] - judged.rollout.old_logprobs[row, t]).exp()
            a = judged.advantages[row, t]
            total = total + torch.max(-a * ratio, -a * ratio.clamp(1 - config.clip, 1 + config.clip))
            tokens += 1
    return total / tokens


def slow_value_loss(value: Any, judged: round.Judged, pairs: list, config: Any) -> Tensor:
    """Half the mean over all tokens of max((V - G)^2, (clipped V - G)^2)."""
    total, tokens = torch.tensor(0.0), 0
    for row, pair in enumerate(pairs):
        new = slow_values(value, *pair, BIAS)
        for t in range(len(pair[1])):
            old, wanted = judged.rollout.values[row, t], judged.returns[row, t]
            clipped = old + (new[t] - old).clamp(-config.value_clip, config.value_clip)
            total = total + 0.5 * torch.max((new[t] - wanted) ** 2, (clipped - wanted) ** 2)
            tokens += 1
    return total / tokens


def slow_lm_loss(policy: Any, documents: list[list[int]]) -> Tensor:
    """Mean next-token loss over all tokens of the documents, one document at a time."""
    losses = [-slow_logprobs(policy, document[:1], document[1:]) for document in documents]
    return torch.cat(losses).mean()


def gradients(model: torch.nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """Gradients of a slow loss by parameter name."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def watched_update(parts: prepare.Parts, judged: round.Judged, config: Any, iteration: int = 0) -> dict:
    """`learn`, noting at each optimizer step the gradients, the learning rate and the weights after it."""
    learner = parts.learner
    seen: dict[str, list] = {"policy": [], "value": [], "policy_lr": [], "value_lr": [], "path": []}
    for name in ("policy", "value"):
        _watch(getattr(learner, f"{name}_optimizer"), getattr(learner, name), name, seen)
    seen["stats"] = round.learn(parts, judged, config, iteration)
    return seen


def _watch(optimizer: Any, model: torch.nn.Module, name: str, seen: dict[str, list]) -> None:
    step = optimizer.step

    def spy(*arguments: Any, **named: Any) -> Any:
        seen[name].append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        seen[f"{name}_lr"].append(optimizer.param_groups[0]["lr"])
        done = step(*arguments, **named)
        if name == "policy":
            seen["path"].append({n: p.detach().clone() for n, p in model.named_parameters()})
        return done

    optimizer.step = spy
