"""Stages that stand for people on the practice world: its files, and labelers who rank sampled replies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instructgpt.data.records import Prompt, RankedResponse, Ranking, read_prompts, to_row, write_jsonl
from instructgpt.errors import ConfigError
from instructgpt.evaluation.answers import Candidate
from instructgpt.evaluation.judge import open_world
from instructgpt.generation.reply import Reply, sample_replies
from instructgpt.practice import Labeler, World, WorldConfig, WorldSizes, labelers, rank, write_world
from instructgpt.runtime.checkpoint import final_checkpoint, open_run
from instructgpt.runtime.device import pick_device
from instructgpt.runtime.seeds import derive_seed

SMALLEST_K, LARGEST_K = 4, 9
"""Replies ranked at a time (arXiv:2203.02155, section 3.5)."""


@dataclass(frozen=True)
class WorldStageConfig:
    """Write the files of a practice world: text, demonstrations and prompts."""

    out: str = ""
    """Folder to write."""
    seed: int = 0
    """Draws the facts and everything else."""
    people: int = 24
    """Names in use, 12 to 24."""
    chinese: float = 0.3
    """Share of Chinese."""
    harmful: float = 0.2
    """Share of requests that ought to be refused."""
    pretrain: int = 24_500
    """Documents of pretraining text, about 60 words each."""
    pretrain_valid: int = 400
    """Held-out documents."""
    demonstrations: int = 12_000
    """Prompts with a reply of mixed quality."""
    demonstrations_valid: int = 500
    """Held-out demonstrations."""
    reward: int = 3_500
    """Prompts whose replies are ranked for the reward model."""
    ppo: int = 8_000
    """Prompts for PPO."""
    eval: int = 2_000
    """Prompts for the final evaluation."""
    valid: int = 500
    """Prompts for choosing checkpoints and for measuring the reward model."""


def write(config: WorldStageConfig) -> dict[str, Any]:
    """Write the world; the summary counts the records of each file."""
    sizes = WorldSizes(**{name: getattr(config, name) for name in WorldSizes.__dataclass_fields__})
    world = WorldConfig(**{name: getattr(config, name) for name in WorldConfig.__dataclass_fields__})
    with open_run(config.out, "world", config, {}) as run:
        if run.finished is not None:
            return run.finished
        files = write_world(world, run.folder, sizes)["files"]
        return run.finish({"records": {name: entry["records"] for name, entry in files.items()}})


@dataclass(frozen=True)
class CollectConfig:
    """Sample replies from a model and have the practice world's labelers rank them."""

    out: str = ""
    """Run folder to write: rankings.jsonl, rankings_valid.jsonl, rankings_second.jsonl."""
    world: str = ""
    """Folder of the world stage."""
    model: str = ""
    """Checkpoint to sample from."""
    prompts: str = ""
    """Prompts to rank replies to."""
    valid: str = ""
    """Held-out prompts: two labelers rank the replies to each, so that their agreement can be measured."""
    smallest: int = SMALLEST_K
    """Fewest replies to a prompt."""
    largest: int = LARGEST_K
    """Most replies to a prompt; the number is drawn evenly between the two."""
    max_new: int = 48
    """Longest reply, in tokens."""
    temperature: float = 1.0
    """Sampling temperature."""
    seed: int = 0
    """Decides replies, labelers and their noise."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""

    def __post_init__(self) -> None:
        if not 2 <= self.smallest <= self.largest:
            raise ConfigError(
                f"{self.smallest} to {self.largest} replies can't be ranked",
                "smallest, largest",
                "rank at least 2 replies, at most as many as largest says",
            )


def run(config: CollectConfig) -> dict[str, Any]:
    """Sample, rank and write; returns the summary.

    Every prompt's replies are ranked by one labeler drawn for it, those of held-out prompts by a second one
    too (`rankings_second.jsonl`), who sees the same replies. Summary: `prompts`, `replies`, `comparisons`
    (untied pairs), `agreement` (share of the same order among held-out pairs that neither labeler ties).
    """
    world, device = open_world(config.world), pick_device(config.device)
    inputs: dict[str, str | Path] = {
        "model": final_checkpoint(config.model),
        "prompts": config.prompts,
        "valid": config.valid,
        "world": Path(config.world) / "config.json",
    }
    with open_run(config.out, "collect", config, inputs) as folder:
        if folder.finished is not None:
            return folder.finished
        model = Candidate.load("labelled", config.model, device)
        people = labelers(world.config.seed)
        prompts, held_out = read_prompts(config.prompts), read_prompts(config.valid)
        rankings = list(_rankings(config, world, people, prompts, _sample(config, model, prompts), ["first"]))
        both = list(
            _rankings(config, world, people, held_out, _sample(config, model, held_out), ["first", "second"])
        )
        valid, second = both[0::2], both[1::2]
        files = {"rankings": rankings, "rankings_valid": valid, "rankings_second": second}
        for name, rows in files.items():
            write_jsonl(folder.folder / f"{name}.jsonl", [to_row(row) for row in rows])
        agree, pairs = agreement(valid, second)
        return folder.finish(
            {
                "prompts": len(rankings),
                "replies": sum(len(ranking.responses) for ranking in rankings),
                "comparisons": sum(_untied(ranking) for ranking in rankings),
                "valid_prompts": len(valid),
                "agreement": agree,
                "agreement_pairs": pairs,
            }
        )


def agreement(first: Sequence[Ranking], second: Sequence[Ranking]) -> tuple[float, int]:
    """(share of pairs on which two rankings of the same replies agree, pairs that neither ties).

    As the paper counts it between labelers (section 3.4, 72.6 %).
    """
    same = pairs = 0
    for a, b in zip(first, second, strict=True):
        ranks = [(x.rank, y.rank) for x, y in zip(a.responses, b.responses, strict=True)]
        for i, (a_i, b_i) in enumerate(ranks):
            for a_j, b_j in ranks[:i]:
                if a_i != a_j and b_i != b_j:
                    pairs += 1
                    same += (a_i < a_j) == (b_i < b_j)
    return (same / pairs if pairs else 0.5), pairs


def _count(config: CollectConfig, prompt: Prompt) -> int:
    span = config.largest - config.smallest + 1
    return config.smallest + derive_seed(config.seed, "collect", "count", prompt.id) % span


def _sample(config: CollectConfig, model: Candidate, prompts: Sequence[Prompt]) -> dict[str, list[Reply]]:
    """Replies by prompt id; prompts that want equally many are sampled together."""
    by_count: dict[int, list[Prompt]] = {}
    for prompt in prompts:
        by_count.setdefault(_count(config, prompt), []).append(prompt)
    replies: dict[str, list[Reply]] = {}
    seed = derive_seed(config.seed, "collect")
    for count, group in sorted(by_count.items()):
        sampled = sample_replies(
            model.model, model.tokenizer, group, count, config.max_new, config.temperature, seed
        )
        replies |= {prompt.id: row for prompt, row in zip(group, sampled, strict=True)}
    return replies


def _rankings(
    config: CollectConfig,
    world: World,
    people: Sequence[Labeler],
    prompts: Sequence[Prompt],
    replies: dict[str, list[Reply]],
    turns: Sequence[str],
) -> Iterator[Ranking]:
    """One ranking a prompt and turn; the labelers of a prompt's turns are different people."""
    for prompt in prompts:
        task = world.task(prompt.id)
        texts = [reply.text for reply in replies[prompt.id]]
        start = derive_seed(config.seed, "labeler", prompt.id)
        for number, turn in enumerate(turns):
            # steps of 1 .. len - 1 from the first never lead back to the same person
            step = number and 1 + derive_seed(config.seed, turn, prompt.id) % (len(people) - 1)
            labeler = people[(start + step) % len(people)]
            judged = rank(world, labeler, task, texts, f"{config.seed}|{turn}")
            responses = tuple(
                RankedResponse(text, place, rating, flags)
                for text, place, rating, flags in zip(
                    texts, judged.ranks, judged.ratings, judged.flags, strict=True
                )
            )
            yield Ranking(prompt, responses, judged.labeler)


def _untied(ranking: Ranking) -> int:
    ranks = [response.rank for response in ranking.responses]
    return sum(a != b for i, a in enumerate(ranks) for b in ranks[:i])
