"""Verb `best-of-n`: sample n replies to each prompt and keep the one that the reward likes best.

The simplest way to follow a reward, and the yardstick for PPO: for a reward without ties it moves the policy
by log n - (n - 1) / n nats (with ties by less; arXiv:2009.01325, appendix G.3). The same samples give the
whole curve for smaller n (`best_of_n_curve`), and PPO's checkpoints are put on its axes (`best_of_n_report`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from instructgpt.data.jsonl import expand
from instructgpt.data.records import Demonstration, Prompt, read_prompts, to_row
from instructgpt.errors import ConfigError
from instructgpt.evaluation.answers import Candidate
from instructgpt.evaluation.best_of_n_curve import powers_of_two
from instructgpt.evaluation.best_of_n_report import Result, means_of, summarise, write_report
from instructgpt.evaluation.judge import Judge, judge_input, judge_spec, load_judge
from instructgpt.evaluation.position import locate, score_replies
from instructgpt.evaluation.world_settings import checkpoints_of, name_pairs
from instructgpt.generation.engine import MAX_ACTIVE
from instructgpt.generation.loading import open_model
from instructgpt.generation.reply import reply_requests, sample_replies
from instructgpt.generation.spool import Spool
from instructgpt.runtime.checkpoint import Run, open_run
from instructgpt.runtime.device import pick_device, pick_dtype, tune_malloc
from instructgpt.scoring.ask import check_prompts
from instructgpt.scoring.reward import Reward, load_reward, reward_models
from instructgpt.scoring.spec import kind_of

FILE, PATH_FILE = "best.jsonl", "paths.jsonl"


@dataclass(frozen=True)
class BestOfNConfig:
    """Sample n replies to each prompt and keep the best by reward."""

    model: str = ""
    """Checkpoint to sample from, or the folder of a finished stage."""
    reward: str = ""
    """What chooses: a reward model (a folder), module:function, a URL, verify:NAME, or a weighted sum."""
    prompts: str = ""
    """Prompts: a JSONL file, a glob, or several with commas."""
    out: str = ""
    """Run folder for best.jsonl (demonstrations, so that `sft` can train on them) and summary.json."""
    count: int = 0
    """How many of the prompts, from the first; 0 = all."""
    n: int = 4
    """Replies to choose from."""
    judge: str = ""
    """Who scores the replies without choosing them: as in `eval`, a reward-model checkpoint, module:function,
    practice or practice:FOLDER; empty = nobody."""
    curve: str = ""
    """Values of n to report from the same samples, with commas; empty = 1, 2, 4, ... up to --n."""
    paths: str = ""
    """PPO runs to put on the same axes, every saved checkpoint of them: run folders with commas between, each
    may be written name=folder."""
    weights: Literal["raw", "ema"] = "raw"
    """Which weights of a checkpoint of --paths are measured: the policy's, or their moving average (--ema of
    `ppo`), which moves less for the same reward."""
    max_new: int = 256
    """Largest length of a reply in tokens."""
    temperature: float = 1.0
    """Temperature of sampling."""
    seed: int = 0
    """Decides every reply, with the prompt's id and the number of the sample."""
    max_active: int = MAX_ACTIVE
    """Replies drawn at the same time: bounds memory, changes no reply."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the language model."""

    def __post_init__(self) -> None:
        for name in ("n", "max_active"):
            if getattr(self, name) < 1:
                flag = "--" + name.replace("_", "-")
                raise ConfigError(f"{name} is {getattr(self, name)}", flag, "use at least 1")
        if self.count < 0:
            raise ConfigError(f"count is {self.count}", "--count", "use 0 (all) or more")
        if any(not 1 <= n <= self.n for n in self.counts):
            raise ConfigError(f"--curve is {self.curve}", "--curve", f"use numbers from 1 to {self.n}")
        if self.paths and self.temperature != 1.0:
            cure = "use --temperature 1 with --paths"
            raise ConfigError("the KL of checkpoints is measured at temperature 1", "--temperature", cure)

    @property
    def counts(self) -> list[int]:
        """The values of n on the curve, ascending; 1, where gains start, is always one."""
        if not self.curve:
            return powers_of_two(self.n)
        try:
            return sorted({1, *(int(part) for part in self.curve.split(",") if part.strip())})
        except ValueError as error:
            cure = "give whole numbers with commas between: 1,2,4"
            raise ConfigError(f"--curve is {self.curve!r}", "--curve", cure) from error


def run(config: BestOfNConfig) -> dict[str, Any]:
    """Sample, score, choose; returns the summary.

    best.jsonl: a demonstration a prompt, with `reward` of the reply chosen and, for all n, `rewards`,
    `logprobs` (of the whole reply, nats), `same` (the first sample that is the same reply) and the judge's
    `scores`. paths.jsonl: a line a checkpoint of `--paths`. curve.svg and curve.html draw both. Summary:
    `prompts`, `n`, `reward` (mean of the chosen), `reward_of_one` (mean of all: what n = 1 would give), `kl`
    (log n - (n-1)/n, nats per reply), `kl_estimated`, `length`, `file`, and, for every n of the curve and
    every checkpoint, `curve`, `paths` and `shares` (see `best_of_n_report.summarise`).

    Raises:
        ConfigError, DataError, CheckpointError, StorageError: see flags, prompts, models, disk.
        Interrupted: Ctrl-C; the same command goes on from there.
    """
    for name in ("model", "reward", "prompts"):
        if not getattr(config, name):
            where = "a file of prompts" if name == "prompts" else f"the folder of a {name}"
            raise ConfigError(f"--{name} is missing", "instructgpt best-of-n", f"give {where}")
    tune_malloc()
    files = ",".join(map(str, expand(config.prompts)))
    inputs = {"model": config.model, "reward": config.reward, "prompts": files}
    if kind_of(config.reward) == "sum":
        inputs["reward_models"] = ",".join(map(str, reward_models(config.reward)))
    inputs["judge"] = judge_input(judge_spec(config.judge))
    tracks = _tracks(config.paths, config.weights)
    inputs |= {f"path {name}": ",".join(map(str, track)) for name, track in tracks.items()}
    with open_run(config.out, "best-of-n", config, inputs) as opened:
        return opened.finished or _write(opened, config, tracks)


def _tracks(paths: str, weights: str) -> dict[str, list[Path]]:
    """Name -> saved checkpoints, in order; a folder without a name is called by its last part."""
    parts = [part.strip() for part in paths.split(",") if part.strip()]
    pairs = name_pairs("--paths", [part if "=" in part else f"{Path(part).name}={part}" for part in parts])
    if len(dict(pairs)) < len(pairs):
        raise ConfigError("two runs have one name", "--paths", "name them: a=FOLDER,b=FOLDER")
    tracks = {name: checkpoints_of([folder]) for name, folder in pairs}
    if weights == "raw":
        return tracks
    averages = {name: [path / "ema" for path in track] for name, track in tracks.items()}
    for path in (path for track in averages.values() for path in track):
        if not path.exists():
            cure = "train with --ema 0.992, or measure --weights raw"
            raise ConfigError("this checkpoint has no moving average", str(path), cure)
    return averages


def _write(run: Run, config: BestOfNConfig, tracks: dict[str, list[Path]]) -> dict[str, Any]:
    device = pick_device(config.device)
    prompts = read_prompts(config.prompts)[: config.count or None]
    source = Candidate("model", *open_model(config.model, device, pick_dtype(config.dtype)))
    reward = load_reward(config.reward, device)
    check_prompts(reward, prompts, config.prompts)
    judge = load_judge(judge_spec(config.judge), config.seed, device) if config.judge else None
    # Every prompt must fit before the first one is answered.
    reply_requests(
        source.model,
        source.tokenizer,
        prompts,
        1,
        config.max_new,
        config.temperature,
        config.seed,
        source=config.prompts,
    )
    portion = max(1, 2 * config.max_active // config.n)  # prompts
    portions = -(-len(prompts) // portion)
    best, along = Spool(run.folder / FILE, portion), Spool(run.folder / PATH_FILE, 1)
    points = [(name, path) for name, track in tracks.items() for path in track]
    # A stopped run may have to choose its last portion again, with checkpoints behind it measured already.
    measured = along.rows()
    for step in run.steps(best.done, portions + len(points)):
        if step < portions:
            part = prompts[step * portion : (step + 1) * portion]
            rows = _choose(source, reward, judge, part, config)
            best.append(rows)
            run.log(step + 1, reward=sum(row["reward"] for row in rows) / len(rows))
            continue
        if step - portions >= len(measured):
            name, path = points[step - portions]
            position = locate(
                Candidate.load(name, path, device),
                source,
                reward,
                judge,
                prompts,
                max_new=config.max_new,
                seed=config.seed,
            )
            measured.append({"path": name, "checkpoint": str(path), **position.row()})
            along.append(measured[-1:])
        run.log(step + 1, **means_of(measured[step - portions]))
    result = Result(best.rows(), measured, reward.name, judge.name if judge is not None else "")
    summary = {
        "model": config.model,
        "reward_from": reward.name,
        "prompts": len(prompts),
        "n": config.n,
        **summarise(result, config.counts, config.seed),
        "file": FILE,
    }
    return run.finish(summary | write_report(run.folder, summary, config.n))


def _choose(
    source: Candidate, reward: Reward, judge: Judge | None, prompts: Sequence[Prompt], config: BestOfNConfig
) -> list[dict[str, Any]]:
    """One row a prompt: the reply of highest reward, the first of equals."""
    n = config.n
    replies = sample_replies(
        source.model,
        source.tokenizer,
        prompts,
        n,
        config.max_new,
        config.temperature,
        config.seed,
        max_active=config.max_active,
    )
    scores = score_replies(reward, source.tokenizer, prompts, replies)
    rows = []
    for prompt, row, rewards in zip(prompts, replies, scores, strict=True):
        best = max(range(n), key=rewards.__getitem__)
        ids = [reply.ids for reply in row]
        rows.append(
            to_row(Demonstration(prompt, row[best].text))
            | {
                "reward": rewards[best],
                "rewards": rewards,
                "sample": best,
                "tokens": len(row[best].ids),
                "stopped": row[best].stopped,
                "logprobs": [sum(reply.logprobs) for reply in row],
                "same": [ids.index(one) for one in ids],
            }
            | ({"scores": judge.score([prompt] * n, [reply.text for reply in row])} if judge else {})
        )
    return rows
