"""Who lives where and who likes what: the facts of one world, and the sentences that state them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from instructgpt.practice import lexicon
from instructgpt.practice.lexicon import say

PERSON_RELATIONS = ("city", "job", "pet", "food")
ANIMAL_RELATIONS = ("place", "food", "colour")

# Predicates by (kind of subject, relation): {v} is the value. Chinese lacks cities and jobs to keep its
# lexicon small.
PREDICATES: dict[tuple[str, str], dict[str, tuple[str, ...]]] = {
    ("name", "city"): {"en": ("lives in {v}", "is from {v}", "has a home in {v}"), "zh": ()},
    ("name", "job"): {"en": ("is a {v}", "works as a {v}"), "zh": ()},
    ("name", "pet"): {"en": ("has a {v}", "keeps a {v}"), "zh": ("养{v}", "有一只{v}")},
    ("name", "food"): {"en": ("likes {v}", "loves {v}"), "zh": ("爱吃{v}", "喜欢{v}")},
    ("animal", "place"): {"en": ("lives in the {v}", "sleeps in the {v}"), "zh": ("住在{v}里",)},
    ("animal", "food"): {"en": ("eats {v}", "likes {v}"), "zh": ("爱吃{v}", "喜欢{v}")},
    ("animal", "colour"): {"en": ("is {v}", "has a {v} coat"), "zh": ("是{v}色的",)},
}


class Facts:
    """The facts of a world: `of[subject][relation] -> value`, all words in English.

    Args:
        seed: the world's seed.
        people: how many of the 24 names the world uses; the eight with a Chinese form come first.
    """

    def __init__(self, seed: int, people: int) -> None:
        rng = random.Random(f"facts|{seed}")
        english = list(lexicon.ENGLISH_NAMES)
        rng.shuffle(english)
        self.chinese_people = tuple(lexicon.CHINESE_NAMES)
        self.people = (*self.chinese_people, *sorted(english[: people - len(self.chinese_people)]))
        self.animals = tuple(lexicon.ANIMALS)
        self.of: dict[str, dict[str, str]] = {}
        for subjects, relations in ((self.people, PERSON_RELATIONS), (self.animals, ANIMAL_RELATIONS)):
            for relation in relations:
                # Each value is true of equally many subjects: alone it must not tell if a claim is true.
                values = lexicon.FACT_CLASSES[relation]
                dealt = [values[i % len(values)] for i in range(len(subjects))]
                rng.shuffle(dealt)
                for subject, value in zip(subjects, dealt, strict=True):
                    self.of.setdefault(subject, {})[relation] = value

    def relations(self, subject: str, language: str) -> tuple[str, ...]:
        """The relations of `subject` that `language` has words for."""
        kind = lexicon.WORD_CLASS[subject]
        return tuple(r for r in self.of[subject] if PREDICATES[kind, r][language])

    def other_value(self, relation: str, value: str, rng: random.Random) -> str:
        """A wrong value of the same class."""
        return rng.choice([v for v in lexicon.FACT_CLASSES[relation] if v != value])


def subject_text(subject: str, language: str) -> str:
    """The subject as a sentence begins with it: "ana", "the fox", "小明", "狐"."""
    article = "the " if language == "en" and subject in lexicon.ANIMALS else ""
    return article + say(subject, language)


def state(
    subject: str,
    claims: Sequence[tuple[str, str]],
    language: str,
    rng: random.Random,
    joined: bool | None = None,
) -> str:
    """One or several claims (relation, value) about `subject` as text with closing punctuation.

    Args:
        subject: a person or an animal.
        claims: pairs (relation, value), each with a predicate in `language`.
        language: "en" or "zh".
        rng: chooses the wording.
        joined: two claims in one sentence (True), one sentence each (False), or either (None).
    """
    kind = lexicon.WORD_CLASS[subject]
    predicates = [rng.choice(PREDICATES[kind, r][language]).format(v=say(v, language)) for r, v in claims]
    name = subject_text(subject, language)
    join = rng.random() < 0.5 if joined is None else joined
    if language == "zh":
        return name + "，".join(predicates) + "。" if join else "".join(f"{name}{p}。" for p in predicates)
    if join and len(predicates) > 1:
        return f"{name} {', '.join(predicates[:-1])} and {predicates[-1]}."
    return " ".join(f"{name} {p}." for p in predicates)


def event_text(subject: str, verb: str, thing: str, language: str) -> str:
    """A sentence of an event: "ana found a hat.", "小明找到帽。"."""
    if language == "zh":
        return f"{say(subject, 'zh')}{lexicon.EVENTS[verb]}{say(thing, 'zh')}。"
    return f"{subject} {verb} a {thing}."
