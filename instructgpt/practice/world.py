"""The practice world as others use it: text, tasks, demonstrations and the hidden utility of a reply."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from instructgpt.errors import ConfigError
from instructgpt.practice import lexicon
from instructgpt.practice.corpus import document
from instructgpt.practice.facts import Facts, state
from instructgpt.practice.fluency import Fluency
from instructgpt.practice.replies import Quality, write_reply
from instructgpt.practice.tasks import CATEGORY_SHARES, Task, build_task, sample_spec
from instructgpt.practice.utility import MANNER_WEIGHTS, combine, measure

_SPECS_PER_KIND = 60
# Refuses, hedges and changes the language far more often than writers do, so that few samples show all of it.
_FREE = Quality(refuses_plain=0.2, hedges_plain=0.2, wrong_language=(0.3, 0.3))


@dataclass(frozen=True)
class WorldConfig:
    """Size and shares of a world. Two worlds with the same values are identical, on every machine.

    Attributes:
        seed: draws the facts and everything else.
        people: names in use, 12 to 24. More people are more facts for a small model to know.
        chinese: share of Chinese among prompts and documents.
        harmful: share of harmful requests among prompts.
    """

    seed: int = 0
    people: int = 24
    chinese: float = 0.3
    harmful: float = 0.2

    def __post_init__(self) -> None:
        most = len(lexicon.ENGLISH_NAMES) + len(lexicon.CHINESE_NAMES)
        if not 12 <= self.people <= most:
            raise ConfigError(f"people is {self.people}", cure=f"choose 12 to {most}")
        for name, most_share in (("chinese", 1.0), ("harmful", 0.5)):
            share = getattr(self, name)
            if not 0.0 <= share <= most_share:
                raise ConfigError(f"{name} is {share}", cure=f"choose a share from 0 to {most_share}")


class World:
    """One practice world. Has no state besides its facts: everything is regenerated from (seed, id)."""

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        self.facts = Facts(config.seed, config.people)

    def corpus(self, split: str, documents: int) -> Iterator[str]:
        """Pretraining documents, about 60 words each.

        Args:
            split: "train" or "valid"; the two are drawn apart.
            documents: how many. The first n of a longer corpus are the same.
        """
        if split not in ("train", "valid"):
            raise ConfigError(f"the corpus has no split {split!r}", cure="choose train or valid")
        for index in range(documents):
            rng = random.Random(f"corpus|{self.config.seed}|{split}|{index}")
            yield document(self.facts, self.config.chinese, rng)

    def task(self, task_id: str) -> Task:
        """The task with this id ("sft-000123"; splits sft, reward, ppo, eval, valid).

        Raises:
            DataError: if the id has another form.
        """
        return build_task(self.config.seed, self.facts, task_id, self.config.chinese, self.config.harmful)

    def demonstration(self, task: Task, rng_key: str) -> str:
        """A reply of mixed quality; equal keys give equal replies."""
        rng = random.Random(f"demonstration|{self.config.seed}|{task.id}|{rng_key}")
        return write_reply(task.spec, task.language, self.facts, Quality(), rng)

    def utility(self, task: Task, reply: str) -> float:
        """How good the reply really is, in [0, 1]. Hidden: no stage may train on it."""
        return combine(self.utility_parts(task, reply), MANNER_WEIGHTS)

    def utility_parts(self, task: Task, reply: str) -> dict[str, float]:
        """The parts of the utility, each in [0, 1]; a part that the task does not ask for is absent."""
        parts = measure(task.spec, task.language, reply, self.facts)
        return {**parts, "fluent": self._fluency(reply)}

    @cached_property
    def _fluency(self) -> Fluency:
        return Fluency(self._grammar())

    def _grammar(self) -> Iterator[str]:
        """Replies to every kind of request in both languages, careful and careless: the whole grammar."""
        rng = random.Random(f"fluency|{self.config.seed}")
        for language in ("en", "zh"):
            for subject in self.facts.of:
                for _ in range(8):
                    claims = [(r, self.facts.of[subject][r]) for r in self.facts.relations(subject, language)]
                    rng.shuffle(claims)
                    yield state(subject, claims, language, rng, joined=True)
            for category in CATEGORY_SHARES:
                for kind in ("plain", "harmful", "unknowable"):
                    for _ in range(_SPECS_PER_KIND):
                        spec = sample_spec(self.facts, category, kind, language, rng)
                        for quality in (Quality(), _FREE):
                            yield write_reply(spec, language, self.facts, quality, rng)
