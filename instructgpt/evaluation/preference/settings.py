"""Flags of the verbs `preference` and `power`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from instructgpt.errors import ConfigError


@dataclass(frozen=True)
class PreferenceConfig:
    """Which model is preferred: win rates by people or by a judge, ratings of many models, with intervals."""

    data: str = ""
    """Votes of people: the labelling app's export, or Chatbot Arena's shape; .jsonl, a glob, or several."""
    replies: str = ""
    """Replies to judge, instead of --data: NAME=FILE,NAME=FILE or samples.jsonl of eval."""
    judge: str = ""
    """Who judges --replies: llm:URL#MODEL or llm:CHECKPOINT (asked in words), practice:FOLDER, or what a
    --reward may be."""
    question: str = ""
    """File with the text that asks an llm: judge, holding {prompt}, {first}, {second}; empty = the built-in
    one."""
    baseline: str = ""
    """The model that the others are compared with; empty = the first one."""
    over: Literal["auto", "prompts", "labelers", "both"] = "auto"
    """What the interval generalises over; auto = prompts, and labelers too where there are six or more."""
    level: float = 0.95
    """Probability that an interval holds the true value."""
    draws: int = 1000
    """Bootstrap resamples."""
    seed: int = 0
    """Decides the resamples (and names the practice world)."""
    device: str = "auto"
    """Of a reward model that judges: auto, cpu, cuda, mps."""
    out: str = "runs/preference"
    """Run folder to write."""

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ConfigError(f"no interval holds with probability {self.level:g}", "--level", "use 0.95")
        if self.draws < 100:
            raise ConfigError(f"{self.draws} resamples are too few", "--draws", "use 1000")

    def check(self) -> None:
        """
        Raises:
            ConfigError: flags that don't go together.
        """
        if bool(self.data) == bool(self.replies):
            raise ConfigError(
                "give either votes or replies to judge", "--data, --replies", "name one of the two"
            )
        if bool(self.replies) != bool(self.judge):
            raise ConfigError(
                "replies need a judge, and votes have theirs", "--judge", "see docs/preference.md"
            )
        if self.question and not self.judge.startswith("llm:"):
            raise ConfigError("only an llm: judge is asked in words", "--question", "leave it out")


@dataclass(frozen=True)
class PowerConfig:
    """How many prompts a comparison needs, or what so many prompts can find."""

    win_rate: float = 0.0
    """The true win rate to be found; 0 = say which one --prompts can find."""
    prompts: int = 0
    """Prompts compared; 0 = say how many --win-rate needs."""
    ties: float = 0.0
    """Share of votes that are ties."""
    votes: float = 1.0
    """Votes on each prompt."""
    correlation: float = 0.3
    """Correlation of two votes on one prompt; counts from two votes on."""
    level: float = 0.95
    """1 less the chance of seeing a difference where there is none."""
    power: float = 0.8
    """Chance of seeing the difference where there is one."""

    def check(self) -> None:
        """
        Raises:
            ConfigError: nothing is asked, or numbers that can't be.
        """
        if self.win_rate == 0 and self.prompts == 0:
            raise ConfigError(
                "there is nothing to work out",
                "--win-rate, --prompts",
                "give one of them, or both for the power",
            )
        if self.win_rate and (not 0 < self.win_rate < 1 or self.win_rate == 0.5):
            raise ConfigError(f"{self.win_rate:g} is no win rate to find", "--win-rate", "try 0.6")
        if not 0 <= self.ties < 1 or (self.win_rate and abs(self.win_rate - 0.5) > (1 - self.ties) / 2):
            raise ConfigError(
                f"{self.ties:g} of ties leave no room for that win rate", "--ties", "lower one of the two"
            )
        if self.votes < 1 or self.prompts < 0 or not 0 <= self.correlation <= 1:
            raise ConfigError(
                "a number is out of range",
                "--votes, --prompts, --correlation",
                "1 or more, 0 or more, 0 to 1",
            )
        if not 0 < self.level < 1 or not 0 < self.power < 1:
            raise ConfigError("a probability is not inside 0 and 1", "--level, --power", "try 0.95 and 0.8")
