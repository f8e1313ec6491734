"""Do 95 % intervals of a win rate hold the true win rate 95 % of the time?

Votes are simulated from a model whose true win rate is known: prompts differ in how much better one model is,
labelers in how much they like it, some votes are ties. Each data set goes through the functions that
`instructgpt preference` calls, and through three others for comparison. Writes docs/results/coverage.md.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch

from instructgpt.evaluation.statistics import mean_interval
from instructgpt.maths.betting import log_capital
from instructgpt.maths.clustered import ClusteredMean, clustered_mean, equal_weights, wilson_interval
from instructgpt.maths.student import t_quantile
from instructgpt.runtime.metrics import Progress
from instructgpt.runtime.seeds import derive_seed

PAGE = Path(__file__).parent.parent / "docs" / "results" / "coverage.md"
SIZES = (50, 200, 1000)
RATES = (0.5, 0.7, 0.9)
LEVEL = 0.95
BOOTSTRAP_UP_TO = 200
"""Largest n at which the percentile bootstrap is run beside: it takes many resamples of each data set."""
RESAMPLES = 500


@dataclass(frozen=True)
class Scenario:
    """How votes come about. The first model is better on a vote by `d` + noise, d = mean + the prompt's taste
    + the labeler's taste, all on the scale of logistic noise; a vote nearer to 0 than `tie` is a tie."""

    title: str
    votes: tuple[int, ...] = (1,)
    """Numbers of votes on a prompt, one drawn for each."""
    prompt_sd: float = 0.0
    labelers: int = 0
    """How many vote, each vote by one drawn for it; 0 is a single judge."""
    labeler_sd: float = 0.0
    tie: float = 0.0


SCENARIOS = (
    Scenario("one vote a prompt"),
    Scenario("one vote a prompt, ties", tie=1.0, prompt_sd=1.0),
    Scenario("three votes a prompt, ties", votes=(3,), prompt_sd=1.5, tie=1.0),
    Scenario("one to five votes a prompt, ties", votes=(1, 2, 3, 4, 5), prompt_sd=1.5, tie=1.0),
    Scenario("20 labelers, one vote a prompt, ties", labelers=20, labeler_sd=0.7, tie=1.0),
    Scenario(
        "12 labelers, three votes a prompt, ties",
        votes=(3,),
        prompt_sd=1.0,
        labelers=12,
        labeler_sd=0.5,
        tie=1.0,
    ),
)


@dataclass(frozen=True)
class Votes:
    """One simulated data set, as tensors of one row a vote."""

    outcomes: torch.Tensor
    prompts: torch.Tensor
    labelers: torch.Tensor | None


def true_rate(scenario: Scenario, mean: float) -> float:
    """The win rate, ties half, over all prompts and labelers: P(win) + P(tie) / 2 is the mean of the logistic
    function at d - tie and d + tie, d being normal; by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    d = mean + math.hypot(scenario.prompt_sd, scenario.labeler_sd) * nodes
    chance = (1 / (1 + np.exp(scenario.tie - d)) + 1 / (1 + np.exp(-scenario.tie - d))) / 2
    return float(weights @ chance / weights.sum())


def mean_for(scenario: Scenario, rate: float) -> float:
    """The mean d at which the win rate is `rate`."""
    low, high = -20.0, 20.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if true_rate(scenario, middle) < rate else (low, middle)
    return (low + high) / 2


def draw(scenario: Scenario, mean: float, n: int, generator: np.random.Generator) -> Votes:
    """A data set of n votes; the last prompt may have fewer than were drawn for it."""
    counts = generator.choice(scenario.votes, size=n)
    prompts = np.repeat(np.arange(n), counts)[:n]
    d = mean + scenario.prompt_sd * generator.standard_normal(n)[prompts]
    labelers = None
    if scenario.labelers:
        chosen = generator.integers(0, scenario.labelers, size=n)
        d = d + scenario.labeler_sd * generator.standard_normal(scenario.labelers)[chosen]
        labelers = torch.from_numpy(chosen)
    felt = d + generator.logistic(size=n)
    outcomes = np.where(felt > scenario.tie, 1.0, np.where(felt < -scenario.tie, 0.0, 0.5))
    return Votes(torch.from_numpy(outcomes), torch.from_numpy(prompts), labelers)


def clusters(votes: Votes) -> ClusteredMean:
    """The win rate and its variance in clusters, as `instructgpt preference` takes them."""
    ways = [votes.prompts] if votes.labelers is None else [votes.prompts, votes.labelers]
    return clustered_mean(votes.outcomes, equal_weights(votes.prompts), ways)


def student(found: ClusteredMean) -> tuple[float, float]:
    """Mean and Student's t with the same variance in clusters, the textbook's interval."""
    half = t_quantile((1 + LEVEL) / 2, max(1, found.clusters - 1)) * math.sqrt(found.variance)
    return found.mean - half, found.mean + half


def independent(votes: Votes) -> tuple[float, float]:
    """Wilson's interval with every vote taken as independent, as if there were no clusters."""
    n = votes.outcomes.numel()
    mean = float(votes.outcomes.mean())
    return wilson_interval(ClusteredMean(mean, mean * (1 - mean) / n, n), LEVEL)


def percentile(votes: Votes, seed: int) -> tuple[float, float]:
    """The percentile bootstrap over prompts, as `instructgpt eval` reports it."""
    means = torch.zeros(int(votes.prompts.max()) + 1, dtype=torch.float64).index_add_(
        0, votes.prompts, equal_weights(votes.prompts) * votes.outcomes
    )
    found = mean_interval(means.tolist(), seed, LEVEL, draws=RESAMPLES)
    return found.low, found.high


def exact(rate: float, n: int) -> float:
    """The coverage of ours for n independent votes without ties, by summing the binomial distribution."""
    total = 0.0
    for wins in range(n + 1):
        mean = wins / n
        low, high = wilson_interval(ClusteredMean(mean, mean * (1 - mean) / (n - 1), n), LEVEL)
        if low <= rate <= high:
            log = math.lgamma(n + 1) - math.lgamma(wins + 1) - math.lgamma(n - wins + 1)
            total += math.exp(log + wins * math.log(rate) + (n - wins) * math.log(1 - rate))
    return total


@dataclass(frozen=True)
class Covered:
    """Share of replications in which each kind of interval held the true win rate; None: not run."""

    scenario: Scenario
    rate: float
    n: int
    ours: float
    width: float
    """Mean width of ours."""
    student: float
    independent: float
    percentile: float | None


def cover(
    scenario: Scenario, rate: float, n: int, replications: int, seed: int, beside: bool = True
) -> Covered:
    """Simulate and count; `beside` runs the bootstrap too where n allows it."""
    generator = np.random.default_rng(derive_seed(seed, f"{scenario.title} {rate} {n}"))
    mean = mean_for(scenario, rate)
    beside = beside and n <= BOOTSTRAP_UP_TO
    hits, width = np.zeros(4), 0.0
    for replication in range(replications):
        votes = draw(scenario, mean, n, generator)
        clustered = clusters(votes)
        ends = [wilson_interval(clustered, LEVEL), student(clustered), independent(votes)]
        ends += [percentile(votes, replication)] if beside else []
        hits[: len(ends)] += [low <= rate <= high for low, high in ends]
        width += ends[0][1] - ends[0][0]
    shares = hits / replications
    return Covered(
        scenario,
        rate,
        n,
        float(shares[0]),
        width / replications,
        float(shares[1]),
        float(shares[2]),
        float(shares[3]) if beside else None,
    )


def peeking(replications: int, n: int, seed: int) -> tuple[float, float]:
    """Share of experiments between equal models that find a difference when looked at after every prompt from
    the tenth on: by the fixed interval, and by the confidence sequence. Ties included."""
    generator = np.random.default_rng(derive_seed(seed, "peeking"))
    values = generator.choice([0.0, 0.5, 1.0], p=[0.4, 0.2, 0.4], size=(replications, n))
    capital = log_capital(torch.from_numpy(values), 0.5, LEVEL)
    sequence = (capital >= math.log(1 / (1 - LEVEL))).any(dim=1).double().mean()
    times = np.arange(1, n + 1)
    means = values.cumsum(1) / times
    spread = np.sqrt(np.maximum(1e-9, (values**2).cumsum(1) / times - means**2) / times)
    fixed = (np.abs(means - 0.5) > 1.96 * spread)[:, 9:].any(axis=1).mean()
    return float(fixed), float(sequence)


def page(found: Sequence[Covered], peeked: tuple[float, float], replications: int, seconds: float) -> str:
    """docs/results/coverage.md."""
    clustered = [one.ours for one in found if one.scenario.prompt_sd or one.scenario.labeler_sd]
    lines = [
        "# Do the intervals of a win rate cover?",
        "",
        f"By the command below on {date.today().isoformat()}: {os.cpu_count()} cores, {platform.machine()}, "
        f"Python {platform.python_version()}, {seconds / 60:.0f} minutes. This page is written by "
        "`benchmarks/coverage.py`.",
        "",
        "```",
        "python -m benchmarks.coverage",
        "```",
        "",
        f"{replications:,} simulated data sets in each row, whose true win rate is known; the share whose "
        f"95 % interval holds it. Such a share is itself uncertain by ±{_doubt(replications):.1%}. *n* is "
        "the number of votes. The columns:",
        "",
        "- **ours**: what [`preference`](../preference.md) reports. Wilson's score interval with the "
        "effective number of votes that the clusters tell, and Student's quantile.",
        "- **t**: the mean and Student's t with the same variance in clusters.",
        "- **percentile**: the percentile bootstrap over prompts, as [`eval`](../evaluation.md) reports it, "
        f"up to n = {BOOTSTRAP_UP_TO} ({RESAMPLES} resamples). It knows nothing of labelers.",
        "- **no clusters**: every vote taken as independent.",
        "",
        f"Over the {len(clustered)} rows with clusters and ties ours covers between {min(clustered):.1%} and "
        f"{max(clustered):.1%}.",
        "",
    ]
    for scenario in dict.fromkeys(one.scenario for one in found):
        lines += [f"## {scenario.title[0].upper()}{scenario.title[1:]}", "", _about(scenario), ""]
        lines += [
            "| true win rate | n | ours | mean width | t | percentile | no clusters |",
            "|---|---|---|---|---|---|---|",
        ]
        for one in found:
            if one.scenario == scenario:
                other = f"{one.percentile:.1%}" if one.percentile is not None else ""
                lines.append(
                    f"| {one.rate:g} | {one.n:,} | **{one.ours:.1%}** | {one.width:.3f} | {one.student:.1%} "
                    f"| {other} | {one.independent:.1%} |"
                )
        lines.append("")
    lines += [
        "## Looking after every prompt",
        "",
        "Two equal models, a fifth of the votes ties, looked at after every prompt from the 10th to the "
        f"1,000th, stopping at the first difference: a fixed 95 % interval finds one in **{peeked[0]:.1%}** "
        f"of the experiments, the confidence sequence of `preference` in **{peeked[1]:.1%}** (5 % would do).",
        "",
    ]
    return "\n".join(lines)


def _doubt(replications: int) -> float:
    """Half the width of the 95 % interval of a share near 0.95."""
    return 1.96 * math.sqrt(LEVEL * (1 - LEVEL) / replications)


def _about(scenario: Scenario) -> str:
    parts = []
    if scenario.prompt_sd:
        parts.append(f"prompts differ by a standard deviation of {scenario.prompt_sd:g}")
    if scenario.labeler_sd:
        parts.append(f"labelers by {scenario.labeler_sd:g}")
    if scenario.tie:
        parts.append(f"a vote within {scenario.tie:g} of nothing is a tie")
    if not parts:
        cells = [f"{exact(rate, n):.1%} ({rate:g}, n = {n:,})" for rate in RATES for n in SIZES]
        return (
            "Independent votes without ties: the win rate is a binomial share, and the coverage of any "
            "interval jumps with the true rate. By summing the binomial distribution ours covers "
            + ", ".join(cells)
            + "."
        )
    text = ", ".join(parts)
    return f"{text[0].upper()}{text[1:]} (in units in which the noise of a vote is standard logistic)."


def main() -> int:
    """Simulate, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replications", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.monotonic()
    cells = [(one, rate, n) for one in SCENARIOS for rate in RATES for n in SIZES]
    progress = Progress("coverage", len(cells))
    found = []
    for scenario, rate, n in cells:
        progress.note = f"{scenario.title}, {rate:g}, {n}"
        found.append(cover(scenario, rate, n, arguments.replications, arguments.seed))
        progress.advance()
    progress.close()
    peeked = peeking(arguments.replications, 1000, arguments.seed)
    text = page(found, peeked, arguments.replications, time.monotonic() - began)
    PAGE.write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
