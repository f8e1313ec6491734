"""What a best-of-n run says: the curve, PPO's checkpoints on its axes, shares, a plot and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from instructgpt.evaluation.best_of_n_curve import Array, CurvePoint, Drawn, best_of_n_curve
from instructgpt.evaluation.drawing import label, standalone
from instructgpt.evaluation.figures import over_optimisation
from instructgpt.evaluation.frontier import PathPoint, Share, shares
from instructgpt.evaluation.page import render_page
from instructgpt.evaluation.position import Position
from instructgpt.evaluation.statistics import mean_interval
from instructgpt.runtime.files import write_text

Row = Mapping[str, Any]

_VISIBLE = 0.01  # share of the bound

PLOT, PAGE = "curve.svg", "curve.html"
_NOT_MEASURED = ("path", "checkpoint")


@dataclass(frozen=True)
class Result:
    """What is on disk when all is sampled and measured.

    Attributes:
        rows: of best.jsonl, one a prompt.
        along: of paths.jsonl, one a checkpoint.
        reward: name of the reward.
        judge: name of the judge; empty if there is none.
    """

    rows: Sequence[Row]
    along: Sequence[Row]
    reward: str
    judge: str


def means_of(row: Row) -> dict[str, float]:
    """Means over the prompts of a row of paths.jsonl."""
    return _position(row).means()


def summarise(result: Result, ns: Sequence[int], seed: int) -> dict[str, Any]:
    """The figures of the summary.

    `curve`: for each n `reward`, `kl` (the bound) and `kl_estimated`, with `_low` and `_high` (95 % bootstrap
    over prompts) of reward, estimated KL and, if there is a judge, `score`. `paths.NAME`: the same for each
    checkpoint, with its `kl` measured. `shares.NAME`: for each n above 1 and each of the two KLs, what the
    path gains there as a share of what best-of-n gains (see `frontier`).
    """
    drawn = drawn_of(result.rows)
    curve = best_of_n_curve(drawn, ns)
    n = drawn.rewards.shape[1]
    paths: dict[str, list[Row]] = {}
    for row in result.along:
        paths.setdefault(row["path"], []).append(row)
    found: dict[str, Any] = {
        "reward": float(np.mean([row["reward"] for row in result.rows])),
        "reward_of_one": float(drawn.rewards.mean()),
        "kl": best_of_n_curve(drawn, [n])[0].bound,
        "kl_estimated": float(best_of_n_curve(drawn, [n])[0].kl.mean()),
        "length": sum(row["tokens"] for row in result.rows) / len(result.rows),
        "curve": [_curve_row(point, seed) for point in curve],
    }
    if result.judge:
        found["judge"] = result.judge
    if paths:
        found["paths"] = {name: [_path_row(row, seed) for row in rows] for name, rows in paths.items()}
        found["shares"] = {
            name: [share_row(share) for share in shares(curve, [path_point(row) for row in rows], seed)]
            for name, rows in paths.items()
        }
    return found


def drawn_of(rows: Sequence[Row]) -> Drawn:
    """The rows of best.jsonl as arrays (prompts, samples)."""
    scored = bool(rows) and "scores" in rows[0]
    return Drawn(
        rewards=np.array([row["rewards"] for row in rows], dtype=np.float64),
        logprobs=np.array([row["logprobs"] for row in rows], dtype=np.float64),
        same=np.array([row["same"] for row in rows], dtype=np.int64),
        scores=np.array([row["scores"] for row in rows], dtype=np.float64) if scored else None,
    )


def path_point(row: Row) -> PathPoint:
    """A row of paths.jsonl as a point for `frontier.shares`."""
    found = _position(row)
    score = np.array(found.score) if found.score else None
    return PathPoint(row["checkpoint"], np.array(found.kl), np.array(found.reward), score)


def share_row(share: Share) -> dict[str, Any]:
    """A share as JSON."""
    row: dict[str, Any] = {"n": share.n, "kind": share.kind, "kl": share.kl, "reward": share.reward.row()}
    return row | ({"score": share.score.row()} if share.score is not None else {})


def _position(row: Row) -> Position:
    return Position(**{name: value for name, value in row.items() if name not in _NOT_MEASURED})


def _with_interval(name: str, values: Array, seed: int) -> dict[str, float]:
    found = mean_interval(values.tolist(), seed)
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


def _curve_row(point: CurvePoint, seed: int) -> dict[str, float]:
    row = {"n": point.n, "kl": point.bound}
    row |= _with_interval("kl_estimated", point.kl, seed) | _with_interval("reward", point.reward, seed)
    return row | (_with_interval("score", point.score, seed) if point.score is not None else {})


def _path_row(row: Row, seed: int) -> dict[str, Any]:
    point = path_point(row)
    found: dict[str, Any] = {"checkpoint": row["checkpoint"], "step": _step(row["checkpoint"])}
    found |= _with_interval("kl", point.kl, seed) | _with_interval("reward", point.reward, seed)
    found |= _with_interval("score", point.score, seed) if point.score is not None else {}
    return found | {"length": row["length"], "eos_rate": row["eos_rate"]}


def _step(checkpoint: str) -> int:
    path = Path(checkpoint)
    digits = (path.parent if path.name == "ema" else path).name.rpartition("-")[2]
    return int(digits) if digits.isdigit() else 0


# -- the plot and the page


def write_report(folder: Path, summary: Row, n: int) -> dict[str, Any]:
    """Draw the curve into `folder`; returns the summary's `report`, and its `table` for a terminal.

    Without matplotlib (the extra `eval`), or for n = 1 without checkpoints, there is nothing to draw.
    """
    found: dict[str, Any] = {"table": table(summary)}
    if (n == 1 and "paths" not in summary) or find_spec("matplotlib") is None:
        return found
    plot = over_optimisation(_curves(summary), summary.get("judge"))
    write_text(folder / PLOT, standalone(plot))
    write_text(folder / PAGE, _page(summary, plot))
    return found | {"report": str(folder / PAGE)}


def _curves(summary: Row) -> dict[str, list[dict[str, float]]]:
    """Best-of-n at both of its KLs where they differ, and every path from the model it starts from."""
    rows = [_plotted(row) for row in summary["curve"]]
    start = rows[0] | {"kl": 0.0}
    curves = {name: [start, *map(_plotted, path)] for name, path in summary.get("paths", {}).items()}
    curves["best_of_n"] = rows
    if _ties(summary):
        curves["best_of_n_estimated"] = [row | {"kl": row["kl_estimated"]} for row in rows]
    return curves


def _ties(summary: Row) -> bool:
    """Whether replies repeat so often that best-of-n's KL is visibly below its bound."""
    return any(row["kl"] - row["kl_estimated"] > _VISIBLE * row["kl"] for row in summary["curve"])


def _plotted(row: Row) -> dict[str, float]:
    """The judge's score under the name that the plot knows."""
    return {name.replace("score", "utility"): value for name, value in row.items() if name != "checkpoint"}


def table(summary: Row) -> str:
    """The curve, the checkpoints and the shares for a terminal."""
    judged = "judge" in summary
    head = f"{'':<24}{'KL':>9}{'KL est.':>9}{'reward':>9}" + (f"{'judge':>9}" if judged else "")
    lines = [head]
    for row in summary["curve"]:
        cells = [row["kl"], row["kl_estimated"], row["reward"], *([row["score"]] if judged else [])]
        lines.append(f"{'best of ' + str(row['n']):<24}" + "".join(f"{cell:>9.3f}" for cell in cells))
    for name, path in summary.get("paths", {}).items():
        for row in path:
            cells = [row["kl"], row["kl"], row["reward"], *([row["score"]] if judged else [])]
            lines.append(f"{name + ' ' + str(row['step']):<24}" + "".join(f"{cell:>9.3f}" for cell in cells))
    for name, found in summary.get("shares", {}).items():
        lines += ["", f"{name}: gain at best-of-n's KL as a share of best-of-n's gain"]
        for share in found:
            text = f"  n = {share['n']:<3} {share['kind'] + ' KL':<13} {share['kl']:.3f}   "
            text += f"reward {_share(share['reward'])}"
            lines.append(text + (f"   judge {_share(share['score'])}" if "score" in share else ""))
    return "\n".join(lines)


def _share(row: Row) -> str:
    return f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _page(summary: Row, plot: str) -> str:
    judged = "judge" in summary
    columns = ["KL, bound", "KL, estimated", "reward", *(["judge"] if judged else [])]
    rows = [
        {
            "name": f"best of {row['n']}",
            "cells": [
                f"{row[key]:.3f}" for key in ("kl", "kl_estimated", "reward", *(["score"] if judged else []))
            ],
        }
        for row in summary["curve"]
    ]
    sections: list[dict[str, Any]] = [
        {
            "title": "Reward against KL",
            "zh": "奖励与 KL",
            "note": (
                "Best-of-n is drawn twice: at the bound log n − (n − 1)/n on its KL, and at an estimate of "
                "the KL itself, which is smaller because replies repeat."
                if _ties(summary)
                else "Best-of-n is drawn at the bound log n − (n − 1)/n on its KL; replies repeat so rarely "
                "here that an estimate of the KL itself is the same within a hundredth."
            )
            + " Bands and bars are 95 % intervals.",
            "figures": [plot],
        },
        {"title": "Best of n", "zh": "n 选一", "table": {"head": ["", *columns], "rows": rows}},
    ]
    if "shares" in summary:
        sections.append(_share_section(summary, judged))
    judge = f" Judge: {summary['judge']}." if judged else ""
    return render_page(
        title="Best of n" + (" and PPO" if "paths" in summary else ""),
        title_zh="n 选一与 PPO：同样的 KL 下谁得到的多" if "paths" in summary else "n 选一",
        lead=f"{summary['prompts']} prompts, {summary['n']} replies each. Reward: {summary['reward_from']}."
        + judge,
        sections=sections,
        footer="KL in nats per reply against the model that the replies are sampled from; intervals are 95 % "
        "bootstrap intervals over prompts.",
    )


def _share_section(summary: Row, judged: bool) -> dict[str, Any]:
    rows = [
        {
            "name": f"{label(name)}, n = {share['n']}",
            "cells": [share["kind"], f"{share['kl']:.3f}", _share(share["reward"])]
            + ([_share(share["score"])] if judged else []),
        }
        for name, found in summary["shares"].items()
        for share in found
    ]
    return {
        "title": "Shares of best-of-n's gain at equal KL",
        "zh": "同样的 KL 下得到 n 选一收益的几成",
        "note": "Between two checkpoints lies their mixture, which reaches the straight line between them at "
        "no more KL; the checkpoints' upper hull by reward is what they reach within a KL.",
        "table": {"head": ["", "KL", "nats", "reward", *(["judge"] if judged else [])], "rows": rows},
    }
