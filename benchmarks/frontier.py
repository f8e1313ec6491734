"""PPO-ptx against best-of-n at equal KL, on the practice world.

Takes finished demo runs, trains several reward models on their rankings (`MEMBERS`; PPO-ptx and best-of-n get
their mean) and PPO-ptx longer and more carefully than the demo has time for (`PPO` below; one run for each
beta), puts every checkpoint on the axes of best-of-n for n = 1, 2, 4, 8, 16 on held-out prompts, and holds
PPO-ptx's gain at the KL of best-of-n against best-of-n's gain: reward-model score and hidden utility, at the
analytic KL and at the estimated one. Writes docs/results/frontier.md and docs/images/frontier.svg.
Finished parts are skipped: it can be interrupted. Exit code 1 if a bound is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

from instructgpt.errors import DataError, InstructGPTError
from instructgpt.evaluation.best_of_n import FILE, PATH_FILE, BestOfNConfig
from instructgpt.evaluation.best_of_n import run as best_of_n
from instructgpt.evaluation.best_of_n_curve import best_of_n_curve
from instructgpt.evaluation.best_of_n_report import PLOT, drawn_of, path_point, share_row, table
from instructgpt.evaluation.frontier import shares
from instructgpt.evaluation.optimum import optimum
from instructgpt.reward_model.settings import RewardConfig
from instructgpt.reward_model.train import train as train_reward
from instructgpt.rlhf.train import PPOConfig, train
from instructgpt.runtime.checkpoint import final_checkpoint
from instructgpt.runtime.device import release_memory
from instructgpt.runtime.files import write_text

Summary = Mapping[str, Any]
DOCS = Path(__file__).parent.parent / "docs"
RESULTS, FIGURE = DOCS / "results" / "frontier.md", DOCS / "images" / "frontier.svg"
BOUND, MOST, PROMPTS = 0.9, 16, 500
BETAS: tuple[float, ...] = (1.0, 0.5, 0.3, 0.2, 0.15)
# One reward model has mistakes that best-of-n finds reply by reply and a policy would have to learn by heart.
MEMBERS = 4
# What differs from the demo's PPO-ptx. The moving average is measured, as noise of single steps costs KL.
PPO: dict[str, Any] = {
    "iterations": 200,
    "lr": 2e-4,
    "ptx_coef": 0.05,
    "value_lr": 1e-3,
    "lr_schedule": "linear",
    "value_warmup": 3,
    "ema": 0.98,
    "save_every": 20,
    "keep": 0,
}


def demo_settings(run: Path, stage: str) -> dict[str, Any]:
    """Those of a stage of the demo.

    Raises:
        DataError: it is no demo run, or one that did not get so far.
    """
    path = run / stage / "config.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["config"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        cure = f"make a demo run with `instructgpt demo --out {run}`, or name another"
        raise DataError(f"there are no settings of the stage {stage}", str(path), cure) from error
    return found


def reward_models(run: Path, out: Path) -> Path:
    """Train `MEMBERS` reward models as the demo trained its one; their folder."""
    folder = out / "reward"
    values = demo_settings(run, "reward") | {"members": MEMBERS, "save_every": 0, "out": str(folder)}
    known = {name: value for name, value in values.items() if name in RewardConfig.__dataclass_fields__}
    train_reward(RewardConfig(**known))
    release_memory()
    return folder


def paths(run: Path, out: Path, reward: Path) -> dict[str, Path]:
    """Train PPO-ptx on the policy of a demo run, once for each beta; name -> run folder."""
    settings = demo_settings(run, "ppo_ptx")
    folders = {}
    for beta in BETAS:
        folder = out / f"beta-{beta:g}"
        values = {**settings, **PPO, "reward": str(reward), "beta": beta, "out": str(folder)}
        known = {name: value for name, value in values.items() if name in PPOConfig.__dataclass_fields__}
        train(PPOConfig(**known))
        release_memory()
        folders[f"beta_{beta:g}"] = folder
    return folders


def measure(run: Path, out: Path, reward: Path, folders: Mapping[str, Path]) -> Summary:
    """Best-of-n of the demo's SFT model with the checkpoints on its axes; shares of all betas as one set."""
    settings = demo_settings(run, "ppo_ptx")
    summary = best_of_n(
        BestOfNConfig(
            model=str(final_checkpoint(run / "sft")),
            reward=str(reward),
            prompts=str(run / "world" / "prompts_eval.jsonl"),
            count=PROMPTS,
            out=str(out / "best-of-n"),
            n=MOST,
            judge=f"practice:{run / 'world'}",
            paths=",".join(f"{name}={folder}" for name, folder in folders.items()),
            weights="ema",
            max_new=settings["max_new"],
            seed=settings["seed"],
            device=settings["device"],
        )
    )
    return summary | {
        "shares": {"ppo_ptx": joined_shares(out / "best-of-n", summary, settings["seed"])},
        "optima": optima(out / "best-of-n", summary),
    }


def joined_shares(folder: Path, summary: Summary, seed: int) -> list[dict[str, Any]]:
    """Shares of a best-of-n run with the checkpoints of all its paths as one set."""
    curve = best_of_n_curve(drawn_of(_rows(folder / FILE)), [row["n"] for row in summary["curve"]])
    points = [path_point(row) for row in _rows(folder / PATH_FILE)]
    return [share_row(share) for share in shares(curve, points, seed)]


def optima(folder: Path, summary: Summary) -> dict[str, dict[str, float]]:
    """What each beta could have reached on the prompts of a best-of-n run, estimated from its replies."""
    drawn = drawn_of(_rows(folder / FILE))
    found = {}
    for name in summary["paths"]:
        best = optimum(drawn.rewards, _beta(name))
        found[name] = {"reward": float(best.reward.mean()), "kl": float(best.kl.mean())}
    return found


def _beta(path: str) -> float:
    return float(path.removeprefix("beta_"))


def reached(summary: Summary) -> list[str]:
    """Reward less beta x KL above the SFT model, a row a beta: of PPO-ptx, of the best n, of the optimum."""
    curve = summary["curve"]
    start = curve[0]["reward"]
    rows = []
    for name, best in summary["optima"].items():
        beta, last = _beta(name), summary["paths"][name][-1]
        chosen = max(curve, key=lambda row: row["reward"] - beta * row["kl_estimated"])
        cells = []
        for reward, kl in (
            (last["reward"], last["kl"]),
            (chosen["reward"], chosen["kl_estimated"]),
            (best["reward"], best["kl"]),
        ):
            gain = reward - start
            cells.append(f"{gain - beta * kl:.3f} = {gain:.3f} - {beta:g} x {kl:.3f}")
        cells[1] += f" (n = {chosen['n']})"
        rows.append(f"| {beta:g} | {' | '.join(cells)} |")
    return rows


def _rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def check(summaries: Mapping[str, Summary]) -> tuple[list[str], int]:
    """Table rows of all shares, and how many are below the bound."""
    rows, missed = [], 0
    for name, summary in summaries.items():
        for share in summary["shares"]["ppo_ptx"]:
            cells = []
            for key in ("reward", "score"):
                found = share[key]
                good = found["mean"] >= BOUND
                missed += not good
                text = f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
                cells.append(text if good else f"**{text}**")
            rows.append(
                f"| {name} | {share['n']} | {share['kind']} | {share['kl']:.3f} | {' | '.join(cells)} |"
            )
    return rows, missed


def page(summaries: Mapping[str, Summary], rows: Sequence[str], missed: int) -> str:
    """docs/results/frontier.md."""
    changes = ", ".join(f"{key} {value}" for key, value in PPO.items())
    lines = [
        "# PPO-ptx against best-of-n at equal KL",
        "",
        f"`python -m benchmarks.frontier` on {date.today().isoformat()}: {os.cpu_count()} cores, "
        f"{platform.machine()}, Python {platform.python_version()}. {missed} of {2 * len(rows)} shares are "
        f"below {BOUND:g} (bold). This page is written by `benchmarks/frontier.py`.",
        "",
        "A share is PPO-ptx's gain over the SFT model, within the KL that best-of-n spends, divided by "
        f"best-of-n's gain, on {PROMPTS} prompts that nothing was trained on; in brackets the 95 % bootstrap "
        "interval over prompts. `analytic` is log n - (n-1)/n, an upper bound on best-of-n's KL that is "
        "reached where no reply repeats; `estimated` is the KL itself, estimated from the same replies. "
        "Between checkpoints PPO is read off their upper hull by reward, which mixtures of them reach "
        "([best of n](../best-of-n.md)).",
        "",
        f"The reward is the mean of {MEMBERS} reward models that differ in their seed, trained on the demo's "
        "rankings; best-of-n has the same. "
        f"PPO-ptx with beta {', '.join(f'{beta:g}' for beta in BETAS)}; what differs from the demo's "
        f"settings: {changes}.",
        "",
        "| run | n | KL | nats | reward | hidden utility |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        "![reward and hidden utility against KL](../images/frontier.svg)",
        "",
    ]
    for name, summary in summaries.items():
        lines += [
            f"## {name}",
            "",
            "What PPO maximises, mean reward less beta x KL, above the SFT model. The optimum is estimated "
            "from the replies that best-of-n drew, and is a little too low (`evaluation/optimum.py`).",
            "",
            "| beta | PPO-ptx, last checkpoint | best-of-n | optimum |",
            "|---|---|---|---|",
            *reached(summary),
            "",
            "```",
            table(summary),
            "```",
            "",
        ]
    return "\n".join(lines)


def write(runs: Sequence[Path], into: Path) -> int:
    """Train, measure, write the page."""
    for folder, stage in product(runs, ("reward", "ppo_ptx")):
        demo_settings(folder, stage)  # what is missing is said before hours of training, not after
    summaries: dict[str, Summary] = {}
    for folder in runs:
        out = into / folder.name
        reward = reward_models(folder, out)
        summaries[folder.name] = measure(folder, out, reward, paths(folder, out, reward))
    rows, missed = check(summaries)
    text = page(summaries, rows, missed)
    write_text(RESULTS, text)
    write_text(FIGURE, (into / next(iter(summaries)) / "best-of-n" / PLOT).read_text(encoding="utf-8"))
    print(text)
    return 1 if missed else 0


def main() -> int:
    """Exit code 2: a flag, a file or a model can't be used; 130: interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", default="runs/verify/seed-0", help="finished demo runs, commas between")
    parser.add_argument("--out", default="runs/frontier", help="folder of what is trained and measured here")
    arguments = parser.parse_args()
    try:
        return write([Path(name) for name in arguments.runs.split(",")], Path(arguments.out))
    except InstructGPTError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("Interrupted. To mend it: run the same command again; it goes on from there.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
