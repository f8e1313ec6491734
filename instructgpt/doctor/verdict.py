"""The certificate's bounds: which outcomes are held to what, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from instructgpt.doctor.certificate import BETAS, SHIFT, SHIFT_TOLERANCE, Outcome, Setting
from instructgpt.doctor.invariants import Finding


def quick_settings() -> list[Setting]:
    """The easy kind of world at the ends of beta and once between, with the rewards shifted there; the
    hardest at the smallest beta."""
    easy = [Setting("flat", "structured", beta) for beta in (BETAS[0], BETAS[1], BETAS[-1])]
    hard = Setting("flat", "independent", BETAS[0])
    return [*easy, hard, Setting("flat", "structured", BETAS[1], SHIFT)]


def full_settings() -> list[Setting]:
    """Every kind of world at every beta, each with the rewards as they are and shifted."""
    return [
        Setting(reference, rewards, beta, shift)
        for reference in ("flat", "peaked")
        for rewards in ("structured", "independent")
        for beta in BETAS
        for shift in (0.0, SHIFT)
    ]


@dataclass(frozen=True)
class Row:
    """One setting over the seeds, in their order: shares of the possible gain by raw weights and by EMA."""

    setting: Setting
    raw: tuple[float, ...]
    ema: tuple[float, ...]
    kl: float
    optimal_kl: float
    """Mean over the seeds, nats per reply: of the policy, and of the optimum."""
    shift_change: float | None
    """Largest change of a seed's figure, raw or EMA, that adding `SHIFT` to every reward made."""

    @property
    def holds(self) -> bool:
        """Whether mean, worst seed and change by the shift are within their bounds."""
        mean, worst = self.setting.least
        steady = self.shift_change is None or self.shift_change <= SHIFT_TOLERANCE
        return fmean(self.raw) >= mean and min(self.raw) >= worst and steady


def rows_of(outcomes: Sequence[Outcome]) -> list[Row]:
    """A row for each setting without a shift; the shifted runs of the same setting and seed go beside it."""
    found: dict[Setting, dict[int, Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.setting, {})[outcome.seed] = outcome
    rows = []
    for setting, by_seed in found.items():
        if setting.shift:
            continue
        shifted = found.get(Setting(setting.reference, setting.rewards, setting.beta, SHIFT))
        changes = [
            max(abs(shifted[seed].raw - plain.raw), abs(shifted[seed].ema - plain.ema))
            for seed, plain in by_seed.items()
            if shifted
        ]
        rows.append(
            Row(
                setting=setting,
                raw=tuple(outcome.raw for outcome in by_seed.values()),
                ema=tuple(outcome.ema for outcome in by_seed.values()),
                kl=fmean(outcome.kl for outcome in by_seed.values()),
                optimal_kl=fmean(outcome.optimal_kl for outcome in by_seed.values()),
                shift_change=max(changes) if changes else None,
            )
        )
    return rows


def rows_as_json(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """One object a row; `least_worst` is None where the worst seed is reported and not bounded."""
    return [
        {
            "reference": row.setting.reference,
            "rewards": row.setting.rewards,
            "beta": row.setting.beta,
            "raw": list(row.raw),
            "ema": list(row.ema),
            "raw_mean": fmean(row.raw),
            "raw_worst": min(row.raw),
            "ema_mean": fmean(row.ema),
            "ema_worst": min(row.ema),
            "kl": row.kl,
            "optimal_kl": row.optimal_kl,
            "least_mean": row.setting.least[0],
            "least_worst": row.setting.least[1] if row.setting.least[1] > 0 else None,
            "shift_change": row.shift_change,
            "holds": row.holds,
        }
        for row in rows
    ]


def findings_as_json(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """One object an invariant."""
    return [
        {
            "number": finding.number,
            "name": finding.name,
            "measured": finding.measured,
            "bound": finding.bound,
            "holds": finding.holds,
        }
        for finding in findings
    ]


def findings_table(findings: Iterable[Finding]) -> str:
    """Invariants for a terminal."""
    lines = [f"{'':>4} {'invariant':<54} {'deviation':>9}  {'at most':>7}"]
    for finding in findings:
        lines.append(
            f"{finding.number:>4} {finding.name:<54} {finding.measured:>9.1e}  {finding.bound:>7.0e}"
            f"  {_word(finding.holds)}"
        )
    return "\n".join(lines)


def rows_table(rows: Iterable[Row]) -> str:
    """Certificate for a terminal."""
    lines = [
        f"{'reference':<10}{'rewards':<13}{'beta':>5}   {'raw mean (least)':<18}{'worst (least)':<16}"
        f"{'EMA mean, worst':<18}{'KL (best)':<16}{'+10 changes':<12}"
    ]
    for row in rows:
        mean, worst = row.setting.least
        least = f"({worst:.2f})" if worst > 0 else ""
        change = "" if row.shift_change is None else f"{row.shift_change:.4f}"
        lines.append(
            f"{row.setting.reference:<10}{row.setting.rewards:<13}{row.setting.beta:>5g}   "
            f"{f'{fmean(row.raw):.4f} ({mean:.2f})':<18}{f'{min(row.raw):.4f} {least}':<16}"
            f"{f'{fmean(row.ema):.4f}, {min(row.ema):.4f}':<18}{f'{row.kl:.2f} ({row.optimal_kl:.2f})':<16}"
            f"{change:<12}{_word(row.holds)}"
        )
    return "\n".join(lines)


def _word(holds: bool) -> str:
    return "ok" if holds else "MISSED"
