"""LoRA against training all weights: peak memory of PPO on SmolLM2-135M, and the reward that PPO reaches.

    python -m benchmarks.lora memory                             # full PPO and LoRA PPO, a process each
    python -m benchmarks.lora reward --runs runs/verify/seed-0   # on finished demo runs
    python -m benchmarks.lora page                               # docs/results/lora.md from what is there

`memory`: the same PPO-ptx settings (`PPO` below) with all weights trained, with `--lora-rank 16`, and with
that over an 8-bit base, each in a process of its own; the reward model is one adapter, merged for full PPO,
so both have the same rewards (over 8 bits another one is trained). Bound: at most 0.5 of the peak resident
memory. Also what rounding to 8 bits does to the base's distributions.

`reward`: the demo's own PPO-ptx settings with adapters (`LORA` below) beside the demo's run with all weights;
their gains in reward over the SFT model, on prompts that nothing was trained on. Bound: at least 0.9 of the
gain. Finished parts are skipped. Exit code 1 if a bound is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from instructgpt.data.jsonl import write_jsonl
from instructgpt.data.records import read_demonstrations, read_prompts, read_texts
from instructgpt.evaluation.answers import Candidate, answer
from instructgpt.maths.resampling import ratio_intervals
from instructgpt.model.shared import Bases
from instructgpt.practice.world import WorldConfig
from instructgpt.practice.write import WorldSizes, write_world
from instructgpt.rlhf.train import PPOConfig, train
from instructgpt.runtime.checkpoint import final_checkpoint
from instructgpt.runtime.device import release_memory
from instructgpt.runtime.files import write_json
from instructgpt.scoring.reward import RewardModel
from instructgpt.text.tokenizer import Tokenizer

Found = dict[str, Any]
RESULTS = Path(__file__).parent.parent / "docs" / "results" / "lora.md"
MEMORY_BOUND, REWARD_BOUND, PROMPTS = 0.5, 0.9, 2000
RANK = 16
PPO: dict[str, Any] = {
    "iterations": 2,
    "batch": 16,
    "minibatches": 2,
    "max_new": 48,
    "max_tokens": 1024,
    "ptx_coef": 1.0,
    "ptx_ratio": 0.5,
    "lr": 1e-5,
    "save_every": 0,
}
# What differs from the demo's PPO-ptx: low-rank changes want a larger step.
LORA: dict[str, Any] = {"lora_rank": RANK, "lr": 2e-3, "value_lr": 3e-3}


def call(verb: str, out: Path, **flags: Any) -> Found:
    """Run a verb in a process of its own, unless its folder is finished; its summary."""
    summary = out / "summary.json"
    if not summary.exists():
        words = [word for k, v in flags.items() for word in ("--" + k.replace("_", "-"), str(v))]
        command = [sys.executable, "-m", "instructgpt", verb, *words, "--out", str(out)]
        subprocess.run(command, check=True)
    found: Found = json.loads(summary.read_text(encoding="utf-8"))
    return found


def write_data(folder: Path) -> dict[str, Path]:
    """Prompts, texts and rankings of a small practice world; only their lengths matter here."""
    sizes = WorldSizes(pretrain=200, pretrain_valid=1, demonstrations=64, demonstrations_valid=1)
    world = folder / "world"
    if not (world / "prompts_valid.jsonl").exists():
        small = WorldSizes(**{**vars(sizes), "reward": 1, "ppo": 64, "eval": 1, "valid": 1})
        write_world(WorldConfig(), world, small)
    shown = read_demonstrations(world / "demonstrations.jsonl")
    others = [*shown[1:], shown[0]]
    rows = [
        {
            "prompt": a.prompt.text,
            "responses": [{"text": a.response, "rank": 1}, {"text": b.response, "rank": 2}],
        }
        for a, b in zip(shown, others, strict=True)
        if a.response != b.response
    ]
    write_jsonl(folder / "rankings.jsonl", rows)
    return {
        "prompts": world / "prompts_ppo.jsonl",
        "pretrain": world / "pretrain.jsonl",
        "rankings": folder / "rankings.jsonl",
    }


def memory(out: Path, source: str = "smollm2", **changes: Any) -> Found:
    """Peak memory of PPO with all weights, with adapters, and with adapters over 8-bit layers."""
    data, base = write_data(out), out / "base"
    call("convert", base, source=source)
    adapters = {}
    for precision, name in (("float32", "reward"), ("int8", "reward-int8")):
        reward = call(
            "reward", out / name, model=base, data=data["rankings"], validation_share=0.0, batch=8, lr=1e-4,
            lora_rank=RANK, lora_base=precision, baselines=False, micro_tokens=1024,
        )  # fmt: skip
        adapters[precision] = Path(reward["out"]) / reward["checkpoint"]
    call("convert", out / "reward-merged", merge_lora=adapters["float32"])
    settings = {"prompts": data["prompts"], "pretrain": data["pretrain"], **PPO, **changes}
    found: Found = {"settings": {**PPO, **changes}, "runs": {}}
    for name, more in (
        ("all weights", {"reward": out / "reward-merged"}),
        ("adapters", {"reward": adapters["float32"], "lora_rank": RANK}),
        ("adapters, 8 bits", {"reward": adapters["int8"], "lora_rank": RANK, "lora_base": "int8"}),
    ):
        summary = call("ppo", out / name.replace(", ", "-").replace(" ", "-"), model=base, **settings, **more)
        found["runs"][name] = {
            "peak": summary["peak_memory_mib"],
            "estimate": summary["memory_estimate_mib"],
            "seconds": summary["seconds"],
        }
    runs = found["runs"]
    found["ratio"] = runs["adapters"]["peak"] / runs["all weights"]["peak"]
    found["rounding"] = rounding(base, data["pretrain"])
    write_json(out / "memory.json", found)
    return found


@torch.no_grad()
def rounding(base: Path, texts: Path, count: int = 30, length: int = 128) -> Found:
    """What 8 bits do to a base: next-token loss of both and KL(float32 | 8 bits), in nats per token, and the
    share of tokens whose likeliest successor stays."""
    tokenizer, bases = Tokenizer.load(base), Bases()
    exact, rough = (bases.language(base, precision) for precision in ("float32", "int8"))
    sums = {"loss": 0.0, "loss_8_bits": 0.0, "kl": 0.0, "same": 0.0}
    tokens = 0
    for record in read_texts(texts)[:count]:
        ids = torch.tensor(tokenizer.encode(record.text)[:length])
        place = torch.arange(len(ids))
        p, q = (torch.log_softmax(m.logits(m(ids, place, [len(ids)])), -1) for m in (exact, rough))
        sums["loss"] -= p[place[:-1], ids[1:]].sum().item()
        sums["loss_8_bits"] -= q[place[:-1], ids[1:]].sum().item()
        sums["kl"] += (p.exp() * (p - q))[:-1].sum().item()
        sums["same"] += (p.argmax(-1) == q.argmax(-1))[:-1].sum().item()
        tokens += len(ids) - 1
    return {name: value / tokens for name, value in sums.items()} | {"tokens": tokens}


def reward(run: Path, out: Path, prompts: int = PROMPTS, **changes: Any) -> Found:
    """Rewards of SFT, the demo's PPO-ptx and LoRA PPO-ptx on held-out prompts of a demo run."""
    values = json.loads((run / "ppo_ptx" / "config.json").read_text(encoding="utf-8"))["config"]
    settings = {**values, **LORA, **changes, "out": str(out / run.name)}
    known = {name: value for name, value in settings.items() if name in PPOConfig.__dataclass_fields__}
    summary = train(PPOConfig(**known))
    release_memory()
    scorer = RewardModel.load(run / "reward")
    asked = read_prompts(run / "world" / "prompts_eval.jsonl")[:prompts]
    scores = {
        name: _scores(scorer, Candidate.load(name, final_checkpoint(folder)), asked, values["max_new"])
        for name, folder in (("sft", run / "sft"), ("full", run / "ppo_ptx"), ("lora", out / run.name))
    }
    full, lora = (scores[name] - scores["sft"] for name in ("full", "lora"))
    low, high = ratio_intervals(lora[:, None], full[:, None], values["seed"])[:, 0].tolist()
    found: Found = {
        "rewards": {name: score.mean().item() for name, score in scores.items()},
        "kl": {"full": _kl(run / "ppo_ptx"), "lora": summary["last"]["kl"]},
        "seconds": {"full": _seconds(run / "ppo_ptx"), "lora": summary["seconds"]},
        "share": {"mean": (lora.sum() / full.sum()).item(), "low": low, "high": high},
        "prompts": len(asked),
    }
    write_json(out / f"{run.name}.json", found)
    return found


def _scores(scorer: RewardModel, candidate: Candidate, asked: Sequence[Any], max_new: int) -> Tensor:
    """(n,) float64 reward units: one reply to each prompt, with the same random keys for each model."""
    return scorer.score_ids(answer(candidate, asked, max_new=max_new)[0].sequences).double()


def _last(run: Path) -> Found:
    found: Found = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return found


def _kl(run: Path) -> float:
    return float(_last(run)["last"]["kl"])


def _seconds(run: Path) -> float:
    return float(_last(run)["seconds"])


def page(found: Found | None, rewards: Mapping[str, Found]) -> tuple[str, int]:
    """docs/results/lora.md, and how many bounds are missed."""
    missed = 0
    lines = [
        "# LoRA: memory and reward",
        "",
        f"`python -m benchmarks.lora` on {date.today().isoformat()}: {os.cpu_count()} cores, "
        f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}. This page is "
        "written by `benchmarks/lora.py`.",
        "",
    ]
    if found is not None:
        missed += found["ratio"] > MEMORY_BOUND
        lines += _memory_lines(found)
    if rewards:
        missed += sum(entry["share"]["mean"] < REWARD_BOUND for entry in rewards.values())
        lines += _reward_lines(rewards)
    return "\n".join(lines), missed


def _memory_lines(found: Found) -> list[str]:
    settings = ", ".join(f"{key} {value}" for key, value in found["settings"].items())
    verdict = "holds" if found["ratio"] <= MEMORY_BOUND else "**missed**"
    lines = [
        "## Memory: PPO-ptx on SmolLM2-135M",
        "",
        f"Each run in a process of its own, float32 on the CPU: {settings}; otherwise the defaults, the "
        f"moving average included. Adapters of rank {RANK} on all layers. Peak is the process's largest "
        "resident memory, loading included; the other columns are what was printed before the start. MiB.",
        "",
        "| trained | peak | estimate | trained weights | frozen | gradients | optimizer | average "
        "| activations | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, run in found["runs"].items():
        e = run["estimate"]
        kinds = ("total", "trained", "frozen", "gradients", "optimizer", "average", "activations")
        cells = " | ".join(f"{e[kind]:.0f}" for kind in kinds)
        lines.append(f"| {name} | {run['peak']:.0f} | {cells} | {run['seconds']:.0f} |")
    r = found["rounding"]
    return [
        *lines,
        "",
        f"Ratio of the peaks, adapters to all weights: {found['ratio']:.3f} (bound {MEMORY_BOUND:g}: "
        f"{verdict}).",
        "",
        f"Rounding the base's layers to 8 bits, on {r['tokens']} tokens of text: loss {r['loss']:.4f} -> "
        f"{r['loss_8_bits']:.4f} nats per token, KL {r['kl']:.5f} nats per token, the likeliest next token "
        f"stays in {100 * r['same']:.1f} %.",
        "",
    ]


def _reward_lines(rewards: Mapping[str, Found]) -> list[str]:
    changes = ", ".join(f"{key} {value}" for key, value in LORA.items())
    lines = [
        "## Reward: PPO-ptx on the practice world",
        "",
        f"The demo's PPO-ptx beside the same with adapters ({changes}; the rest as the demo has it). Mean "
        "reward of one reply to each held-out prompt; share = LoRA's gain over the SFT model / the gain with "
        "all weights, with its 95 % bootstrap interval over prompts. KL: nats per reply in the last round.",
        "",
        "| run | prompts | SFT | all weights | adapters | share | KL, all weights | KL, adapters "
        "| seconds, both |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, entry in rewards.items():
        got, share = entry["rewards"], entry["share"]
        text = f"{share['mean']:.3f} [{share['low']:.3f}, {share['high']:.3f}]"
        lines.append(
            f"| {name} | {entry['prompts']} | {got['sft']:.3f} | {got['full']:.3f} | {got['lora']:.3f} | "
            f"{text if share['mean'] >= REWARD_BOUND else f'**{text}**'} | {entry['kl']['full']:.2f} | "
            f"{entry['kl']['lora']:.2f} | {entry['seconds']['full']:.0f}, {entry['seconds']['lora']:.0f} |"
        )
    return [*lines, "", f"Bound: a share of at least {REWARD_BOUND:g}.", ""]


def main() -> int:
    """Measure what is asked for, write the page of what is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="?", choices=("all", "memory", "reward", "page"), default="all")
    parser.add_argument("--runs", default="runs/verify/seed-0", help="finished demo runs, commas between")
    parser.add_argument("--out", default="runs/lora", help="folder of what is trained and measured here")
    arguments = parser.parse_args()
    out = Path(arguments.out)
    if arguments.part in ("all", "memory"):
        memory(out)
    runs = [Path(name) for name in arguments.runs.split(",")]
    if arguments.part in ("all", "reward"):
        for run in runs:
            reward(run, out / "reward-runs")
    saved = out / "memory.json"
    found = json.loads(saved.read_text(encoding="utf-8")) if saved.exists() else None
    rewards = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((out / "reward-runs").glob("*.json"))
    }
    text, missed = page(found, rewards)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(text, encoding="utf-8")
    print(text)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
