"""Verb `power`: before labels are paid for, how many are needed."""

from __future__ import annotations

from typing import Any

from instructgpt.evaluation.preference.settings import PowerConfig
from instructgpt.maths.power import design_effect, detectable, power_of, prompts_needed

_OTHERS = (0.52, 0.55, 0.6, 0.65, 0.7, 0.75)
"""Win rates that the table shows beside the one asked for."""


def run(config: PowerConfig) -> dict[str, Any]:
    """Work it out by the normal approximation of `maths.power`; writes nothing.

    Summary: with --win-rate `prompts_needed`, with --prompts `detectable_win_rate`, with both `power_found`;
    `design_effect`, `table`.

    Raises:
        ConfigError: nothing is asked, or numbers that can't be.
    """
    config.check()
    about = (config.ties, config.votes, config.correlation, config.level)
    summary: dict[str, Any] = {
        "verb": "power",
        "design_effect": design_effect(config.votes, config.correlation) / config.votes,
    }
    rates = sorted({*_OTHERS, *([config.win_rate] if config.win_rate else [])})
    rates = [rate for rate in rates if abs(rate - 0.5) <= (1 - config.ties) / 2]
    lines = [f"{'win rate':>10}{'prompts needed':>16}{'votes':>10}"]
    for rate in rates:
        needed = prompts_needed(rate, *about, config.power)
        lines.append(f"{rate:>10.3g}{needed:>16,}{round(needed * config.votes):>10,}")
    if config.win_rate:
        summary["prompts_needed"] = prompts_needed(config.win_rate, *about, config.power)
    if config.prompts:
        found = detectable(config.prompts, *about, config.power)
        summary["detectable_win_rate"] = found
        lines += [
            "",
            f"{config.prompts:,} prompts find a win rate of {found:.3f} or more, or {1 - found:.3f} or less",
        ]
    if config.win_rate and config.prompts:
        chance = power_of(config.prompts, config.win_rate, *about)
        summary["power_found"] = chance
        lines.append(f"a win rate of {config.win_rate:g} is found with probability {chance:.3f}")
    return summary | {"table": "\n".join(lines)}
