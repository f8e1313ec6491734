"""What a sweep came to: a table for the terminal, two plots and a page."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from instructgpt.evaluation.drawing import standalone
from instructgpt.evaluation.page import render_page
from instructgpt.evaluation.sweep_figures import coefficients, trade_off
from instructgpt.evaluation.tax import COST, RECOVERED
from instructgpt.runtime.files import write_text

Row = Mapping[str, Any]

COEFFICIENTS, FRONT, PAGE = "coefficients.svg", "front.svg", "sweep.html"
_COLUMNS = {
    "reward": ("reward", ".3f"),
    "score": ("judge", ".3f"),
    "kl": ("KL, nats", ".3f"),
    "pretrain_loss": ("text loss", ".4f"),
    "length": ("length", ".1f"),
    "eos_rate": ("ended", ".3f"),
}


def sweep_table(summary: Row) -> str:
    """A line a model, those on the Pareto front with a star, then the verdict and what failed."""
    columns = [key for key in _COLUMNS if key in summary["start"]]
    rows = {"start": summary["start"]} | {run["name"]: run for run in summary["runs"]}
    width = max(map(len, rows)) + 4
    head = "".join(f"{_COLUMNS[key][0]:>11}" for key in columns)
    lines = [f"{'':<{width}}{head}{'recovered':>11}{'cost':>8}"]
    trades = _trades(summary)
    for name, row in rows.items():
        star = "* " if name in summary["front"] else "  "
        cells = "".join(f"{format(row[key], _COLUMNS[key][1]):>11}" for key in columns)
        trade = trades.get(name)
        ends = f"{trade['recovered']['mean']:>11.0%}{trade['cost']['mean']:>8.0%}" if trade else ""
        lines.append(f"{star + name:<{width}}{cells}{ends}")
    lines += ["", "* on the Pareto front: no other model has less text loss at no less reward"]
    if summary["verdict"] is not None:
        lines.append(_lost(summary))
        lines.append(summary["verdict"]["text"])
    for name, reason in summary["failed"].items():
        lines.append(f"FAILED {name}: {reason}")
    return "\n".join(lines)


def _trades(summary: Row) -> dict[str, Row]:
    verdict = summary["verdict"] or {"ptx": [], "beta": []}
    return {trade["name"]: trade for trade in [*verdict["ptx"], *verdict["beta"]]}


def _lost(summary: Row) -> str:
    verdict = summary["verdict"]
    lost, gained = (
        f"{found['mean']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]"
        for found in (verdict["lost"], verdict["gained"])
    )
    return f"PPO alone ({verdict['alone']}): text loss {lost} nats per token, reward {gained}."


def write_sweep_report(folder: Path, summary: Row) -> dict[str, Any]:
    """Draw into `folder`; the summary's `report`. Without matplotlib (the extra `eval`) nothing is drawn."""
    if find_spec("matplotlib") is None:
        return {}
    judge, usual = summary.get("judge"), summary["usual_beta"]
    dials = coefficients(summary["start"], summary["runs"], usual, judge)
    front = trade_off(summary["start"], summary["runs"], summary["front"], usual)
    write_text(folder / COEFFICIENTS, standalone(dials))
    write_text(folder / FRONT, standalone(front))
    write_text(folder / PAGE, _page(summary, dials, front))
    return {"report": str(folder / PAGE)}


def _page(summary: Row, dials: str, front: str) -> str:
    verdict, judge = summary["verdict"], summary.get("judge")
    lead = f"{len(summary['runs'])} runs, measured on {summary['prompts']} prompts and "
    lead += f"{summary['documents']} documents that none has seen. Reward: {summary['reward_from']}."
    sections: list[dict[str, Any]] = [
        {
            "title": "What each coefficient does",
            "zh": "两个系数各自的作用",
            "note": (verdict["text"] if verdict else "There is no run of PPO alone to compare with.")
            + f" Dashed: {RECOVERED:.0%} of the loss recovered, {1 - COST:.0%} of the reward's gain kept.",
            "figures": [dials],
        },
        {
            "title": "Reward against the alignment tax",
            "zh": "奖励与对齐税：帕累托前沿",
            "note": "Right of the dotted line a model has lost pretraining loss. On the front: "
            + ", ".join(summary["front"])
            + ".",
            "figures": [front],
        },
        _table_section(summary),
    ]
    return render_page(
        title="The alignment-tax dial",
        title_zh="对齐税：预训练混合系数与 KL 系数",
        lead=lead + (f" Judge: {judge}." if judge else ""),
        cards=_cards(summary),
        sections=sections,
        footer="KL in nats per reply at temperature 1 against the SFT model; text loss in nats per token. "
        "Intervals and bands are 95 % bootstrap intervals over prompts, for text loss over documents.",
    )


def _cards(summary: Row) -> list[dict[str, str]]:
    verdict = summary["verdict"]
    if verdict is None:
        return []
    lost, gained = verdict["lost"], verdict["gained"]
    cards = [
        {
            "title": "Text loss that PPO alone adds",
            "value": f"{lost['mean']:+.4f}",
            "note": f"nats per token, 95 % {lost['low']:+.4f} to {lost['high']:+.4f}",
        },
        {
            "title": "Reward that PPO alone gains",
            "value": f"{gained['mean']:+.3f}",
            "note": f"95 % interval {gained['low']:+.3f} to {gained['high']:+.3f}",
        },
    ]
    good = [
        trade
        for trade in verdict["ptx"]
        if trade["recovered"]["mean"] >= RECOVERED and trade["cost"]["mean"] < COST
    ]
    if good:
        best = min(good, key=lambda trade: trade["cost"]["mean"])
        cards.append(
            {
                "title": f"Recovered at ptx coefficient {best['ptx_coef']:g}",
                "value": f"{best['recovered']['mean']:.0%}",
                "note": f"at {best['cost']['mean']:.0%} of the reward gained",
            }
        )
    return cards


def _table_section(summary: Row) -> dict[str, Any]:
    columns = [key for key in _COLUMNS if key in summary["start"]]
    trades = _trades(summary)
    rows = []
    for name, row in ({"start": summary["start"]} | {run["name"]: run for run in summary["runs"]}).items():
        trade = trades.get(name)
        cells = [format(row[key], _COLUMNS[key][1]) for key in columns]
        cells += [_interval(trade["recovered"]), _interval(trade["cost"])] if trade else ["–", "–"]
        rows.append({"name": name, "cells": cells, "main": name in summary["front"]})
    heads = [_COLUMNS[key][0] for key in columns]
    failed = " ".join(f"{name} failed: {reason}" for name, reason in summary["failed"].items())
    return {
        "title": "All models",
        "zh": "全部模型",
        "note": "Bold: on the Pareto front. Recovered and cost are beside PPO alone, as shares of what it "
        f"lost and gained. {failed}",
        "table": {"head": ["model", *heads, "recovered", "cost"], "rows": rows},
    }


def _interval(found: Row) -> str:
    return f"{found['mean']:.0%} [{found['low']:.0%}, {found['high']:.0%}]"
