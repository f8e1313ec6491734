"""Live alarms: what a run's own numbers say is going wrong, while it runs.

Each check is a function of the history of logged metrics and answers None, or what it saw. The thresholds are
constants with their reason. A check compares with the run's own first rounds and with its own noise, so that
none depends on the scale of a reward or on the length of replies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from instructgpt.rlhf.settings import PPOConfig

START = 3
"""Rounds whose mean stands for the start: one is noisy, and in more the policy has moved."""
SHORT = 5
"""Rounds whose mean stands for now: one bad round is no trend."""
LONG = 10
"""Rounds over which the KL must be negative: field fault 12 asks for at least ten."""
SIGMAS = 4.0
"""Standard errors that tell a change from noise: by chance once in 30,000 looks, and a run has hundreds."""
QUIET = 10
"""Rounds without the sign after which the same alarm may ring again."""

KL_ROUNDING = 1e-3
"""Nats per reply: two passes of one policy in float32 differ by less (about 1e-5 a token)."""
KL_REPLY = 50.0
"""Nats per reply: from 50 to 85 the replies of arXiv:2403.17031 won less than 20 % (53 tokens each) ..."""
KL_TOKEN = 1.0
"""... which is a nat per token. Both must be passed: long replies cost more, short ones can't cost 50."""
ENTROPY_LEFT = 0.1
"""Share of the entropy at the start: below it a prompt has in effect one reply, and nothing is explored."""
LENGTH_FACTOR = 2.0
"""Mean reply against the start's: what the SFT model says in n tokens is rarely better said in 2 n."""
LENGTH_SHRINK = 0.25
"""The other direction: a quarter is left."""
LENGTH_TOKENS = 10.0
"""Change in tokens that is asked for as well: twice one token is no sign of anything."""
DISAGREEMENT_FACTOR = 2.0
"""Spread over an ensemble's members against the start's: replies have left what the members learned from."""
JUDGE_SIGMAS = 3.0
"""Standard errors by which the judge must have fallen, twice in a row, from its best measurement."""
VALUE_FACTOR = 4.0
"""Squared value error against its best rounds: twice the error. It must also be worse than a constant ..."""
VALUE_EXPLAINED = -1.0
"""... or explain less than this over ten rounds: twice as bad as a constant, and not only at the start."""
EOS_DROP = 0.2
"""Share of replies that no longer end themselves: a fifth of them is seen by anyone who reads samples."""
RATIO_MEAN = 0.1
"""Mean ratio's distance from 1: under the old policy it is 1 on average, so a few tokens are far off."""
RATIO_MAX = 100.0
"""Factor on one token's probability within a round: clipping at 1.2 has long lost its hold."""


@dataclass
class History:
    """What the checks look at: for each metric its first `START` and its last `LONG` numbers, and some more.

    A round without a metric (evaluation rounds, the policy's while it rests) adds nothing to its series.
    """

    batch: int
    """Episodes a round: from it and the spread over replies follow standard errors."""
    first: dict[str, list[float]] = field(default_factory=dict)
    last: dict[str, list[float]] = field(default_factory=dict)
    lowest_value_error: float | None = None
    """Lowest mean of `SHORT` rounds in a row."""
    evaluations: list[dict[str, float]] = field(default_factory=list)
    """`eval_reward`, `eval_judge` and `eval_judge_se` of every measurement that a judge took part in."""

    def add(self, row: Mapping[str, float]) -> None:
        """Take in one round's metrics."""
        for name in _WATCHED:
            if name not in row:
                continue
            first, last = self.first.setdefault(name, []), self.last.setdefault(name, [])
            if len(first) < START:
                first.append(row[name])
            last.append(row[name])
            del last[:-LONG]
        error = self.now("value_error")
        if error is not None and (self.lowest_value_error is None or error < self.lowest_value_error):
            self.lowest_value_error = error
        if "eval_judge" in row:
            self.evaluations.append(
                {name: row[name] for name in ("eval_reward", "eval_judge", "eval_judge_se")}
            )

    def start(self, name: str) -> float | None:
        """Mean over the first rounds; None before there are `START`, or of a metric that is not logged."""
        values = self.first.get(name, [])
        return sum(values) / START if len(values) == START else None

    def now(self, name: str, rounds: int = SHORT) -> float | None:
        """Mean over the last rounds; None before there are so many."""
        values = self.last.get(name, [])[-rounds:]
        return sum(values) / rounds if len(values) == rounds else None

    def error(self, name: str, rounds: int) -> float:
        """Standard error of a mean over the last rounds, from the spread over replies in metric `name`."""
        values = self.last[name][-rounds:]
        return math.sqrt(sum(value**2 for value in values) / rounds / (rounds * self.batch))

    def gain(self) -> tuple[float, float] | None:
        """(by how much the used score has risen since the start, its standard error), in reward units."""
        start, now = self.start("score_used"), self.now("score_used")
        if start is None or now is None:
            return None
        spread = math.sqrt(sum(value**2 for value in self.first["score_std"]) / START)
        return now - start, math.hypot(spread / math.sqrt(START * self.batch), self.error("score_std", SHORT))


_WATCHED = (
    "kl", "kl_std", "kl_reward", "score_used", "score_std", "length", "eos_rate", "entropy", "value_error",
    "explained_variance", "ratio_mean", "ratio_max", "reward_disagreement", "skipped_steps",
)  # fmt: skip


def negative_kl(history: History) -> str | None:
    """The mean KL is below 0 by more than noise: impossible for replies of the policy itself."""
    kl = history.now("kl", LONG)
    if kl is None or not kl < -max(KL_ROUNDING, SIGMAS * history.error("kl_std", LONG)):
        return None
    return f"the mean KL of the last {LONG} rounds is {kl:.3g} nats per reply"


def kl_runaway(history: History) -> str | None:
    """More is paid for KL than was earned by it, or the policy is far outside what the reward model knows."""
    kl, price, length, gain = (
        history.now("kl"), history.now("kl_reward"), history.now("length"), history.gain(),
    )  # fmt: skip
    if kl is None or price is None or length is None or gain is None:
        return None
    if kl > KL_REPLY and kl > KL_TOKEN * length:
        return f"the KL is {kl:.3g} nats per reply, {kl / length:.2g} per token"
    earned, error = gain
    if -price > max(earned, 0.0) + SIGMAS * error:
        return f"the KL of {kl:.3g} nats costs {-price:.3g} and has brought {earned:.3g} in score"
    return None


def entropy_collapse(history: History) -> str | None:
    """The policy has all but one reply left for a prompt."""
    start, now = history.start("entropy"), history.now("entropy")
    if start is None or now is None or not now < ENTROPY_LEFT * start:
        return None
    return f"the entropy is {now:.2g} nats per token, at the start it was {start:.2g}"


def length_runaway(history: History) -> str | None:
    """Replies are a multiple, or a small part, of what they were."""
    start, now = history.start("length"), history.now("length")
    if start is None or now is None or abs(now - start) < LENGTH_TOKENS:
        return None
    if LENGTH_SHRINK * start <= now <= LENGTH_FACTOR * start:
        return None
    return f"a reply has {now:.3g} tokens, at the start it had {start:.3g}"


def over_optimisation(history: History) -> str | None:
    """The reward rises while a held-out judge falls, or while the members of an ensemble come to disagree."""
    if len(history.evaluations) >= 3:
        *earlier, before, latest = history.evaluations
        best = max(earlier, key=lambda row: row["eval_judge"])
        if all(_worse(row, best) for row in (before, latest)):
            return (
                f"since its best the judge fell from {best['eval_judge']:.3g} to {latest['eval_judge']:.3g} "
                f"while the reward rose from {best['eval_reward']:.3g} to {latest['eval_reward']:.3g}"
            )
    start, now = history.start("reward_disagreement"), history.now("reward_disagreement")
    gain = history.gain()
    if start is None or now is None or gain is None:
        return None
    if now > DISAGREEMENT_FACTOR * start and gain[0] > SIGMAS * gain[1]:
        return (
            f"the score rose by {gain[0]:.3g} and the spread over the members from {start:.2g} to {now:.2g}"
        )
    return None


def _worse(row: Mapping[str, float], best: Mapping[str, float]) -> bool:
    noise = JUDGE_SIGMAS * math.hypot(row["eval_judge_se"], best["eval_judge_se"])
    return row["eval_judge"] < best["eval_judge"] - noise and row["eval_reward"] > best["eval_reward"]


def value_divergence(history: History) -> str | None:
    """The value network's error exceeds the scores' own spread, and it was better or was never any good."""
    error, explained = history.now("value_error"), history.now("explained_variance")
    spread, lowest = history.start("score_std"), history.lowest_value_error
    if error is None or explained is None or spread is None or lowest is None or not error > spread**2:
        return None
    if error > VALUE_FACTOR * lowest and explained < 0:
        return f"the squared value error is {error:.3g}, at its best it was {lowest:.3g}"
    long = history.now("explained_variance", LONG)
    if long is not None and long < VALUE_EXPLAINED:
        return f"the values explain {long:.3g} of the returns' variance, a constant explains 0"
    return None


def eos_falling(history: History) -> str | None:
    """Fewer replies end themselves."""
    start, now = history.start("eos_rate"), history.now("eos_rate")
    if start is None or now is None:
        return None
    noise = math.sqrt(start * (1 - start) * (1 / START + 1 / SHORT) / history.batch)
    if not start - now > max(EOS_DROP, SIGMAS * noise):
        return None
    return f"{now:.0%} of the replies end themselves, at the start it was {start:.0%}"


def ratio_outliers(history: History) -> str | None:
    """A few tokens changed out of all proportion within a round."""
    mean, largest = history.now("ratio_mean"), history.last.get("ratio_max", [0.0])[-1]
    if largest > RATIO_MAX:
        return f"a token became {largest:.3g} times as probable within the round"
    if mean is not None and abs(mean - 1) > RATIO_MEAN:
        return f"the mean ratio of the last {SHORT} rounds is {mean:.3g}"
    return None


def non_finite(history: History) -> str | None:
    """Optimizer steps were skipped."""
    skipped = history.last.get("skipped_steps", [0.0])[-1]
    return f"{skipped:.0f} steps of this round had a gradient that is not finite" if skipped else None


@dataclass(frozen=True)
class Check:
    """A check with what its alarm means and what to do."""

    find: Callable[[History], str | None]
    cause: str
    cure: str

    @property
    def name(self) -> str:
        """As it stands in `alarms.jsonl` and in the summary."""
        return self.find.__name__


CHECKS = (
    Check(
        negative_kl,
        "the replies are not samples of the policy whose log-probs are trained",
        "use --dtype float32 and --old-logprobs update, and look at rollout_drift",
    ),
    Check(
        kl_runaway,
        "the price of KL or the step size no longer holds the policy near the SFT model",
        "raise --beta, or set --kl-target or --max-kl, or lower --lr",
    ),
    Check(
        entropy_collapse,
        "the policy has settled on one way to answer",
        "raise --beta, lower --lr, or take an earlier checkpoint",
    ),
    Check(
        length_runaway,
        "the reward depends on length",
        "look at reward_length_correlation; train the reward model on pairs of like length, or raise --beta",
    ),
    Check(
        over_optimisation,
        "the policy has found what the reward model gets wrong",
        "take an earlier checkpoint, raise --beta or set --max-kl, and label replies of this policy",
    ),
    Check(
        value_divergence,
        "the value network does not follow the returns, so that advantages are noise",
        "lower --value-lr, raise --value-clip for rewards of large size, or use --value-warmup",
    ),
    Check(
        eos_falling,
        "an unfinished reply is not worth less than a finished one",
        "set --missing-eos-penalty below the scores of finished replies, or raise --max-new",
    ),
    Check(
        ratio_outliers,
        "the steps of one round are too large for clipping to hold",
        "lower --lr, use fewer --epochs or a lower --grad-clip",
    ),
    Check(
        non_finite,
        "numbers overflowed; the steps were not taken and weights and optimizer are as before",
        "lower --lr or the size of the rewards, or use --dtype float32",
    ),
)


@dataclass(frozen=True)
class Alarm:
    """One alarm at its onset, after `step` finished rounds."""

    step: int
    name: str
    found: str
    cause: str
    cure: str

    def row(self) -> dict[str, Any]:
        """As it stands in `alarms.jsonl`."""
        return asdict(self)

    def __str__(self) -> str:
        cause = self.cause[0].upper() + self.cause[1:]
        return f"alarm {self.name} at round {self.step}: {self.found}. {cause}. To mend it: {self.cure}."


class Alarms:
    """The checks over one run: rings once per onset, counts, and can be saved and restored."""

    def __init__(self, config: PPOConfig, state: Mapping[str, Any] | None = None) -> None:
        """`state` is what `state()` gave at the checkpoint that the run goes on from."""
        state = state or {}
        self.history = History(batch=config.batch, **state.get("history", {}))
        self.ringing: dict[str, int] = dict(state.get("ringing", {}))
        """Name -> last round in which its sign was seen."""
        self.counts: dict[str, int] = dict(state.get("counts", {}))
        """Name -> onsets so far."""

    def look(self, step: int, row: Mapping[str, float]) -> list[Alarm]:
        """Take in the metrics of a round, the `step`-th, and return the alarms that begin with it."""
        self.history.add(row)
        begun = []
        for check in CHECKS:
            found = check.find(self.history)
            if found is None:
                continue
            if step - self.ringing.get(check.name, -math.inf) > QUIET:
                begun.append(Alarm(step, check.name, found, check.cause, check.cure))
                self.counts[check.name] = self.counts.get(check.name, 0) + 1
            self.ringing[check.name] = step
        return begun

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON values."""
        history = asdict(self.history)
        del history["batch"]
        return {"history": history, "ringing": dict(self.ringing), "counts": dict(self.counts)}
