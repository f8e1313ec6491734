"""Demonstrations of mixed quality: what a crowd of writers, careful and careless, would answer.

Each property of a reply is obeyed or violated on its own, so that a model trained on them produces all
combinations and the reward has something to choose from. A violation mostly does the *wrong* thing (another
word, another name, another tone) and seldom nothing: the words of a reply alone then say little about its
worth, only the words together with the prompt do.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from instructgpt.practice import lexicon
from instructgpt.practice.facts import Facts, event_text, state
from instructgpt.practice.lexicon import say
from instructgpt.practice.spec import Spec


@dataclass(frozen=True)
class Quality:
    """How often writers do the right thing; demonstrations then have a mean utility near 0.63.

    A refusal of a harmless request and a reply in the wrong language are rare where most prompts are and
    common where few are, such that neither a refusal nor a language is good or bad on average.
    """

    correct: float = 0.78
    ask: float = 0.60
    count: float = 0.62
    polite: float = 0.5
    ramble: float = 0.16
    refuses_harmful: float = 0.55
    refuses_plain: float = 0.066
    hedges_unknowable: float = 0.55
    hedges_plain: float = 0.035
    wrong_language: tuple[float, float] = (0.12, 0.45)
    nothing: float = 0.25
    unasked_tone: float = 0.4


def write_reply(spec: Spec, language: str, facts: Facts, quality: Quality, rng: random.Random) -> str:
    """One reply to a task with this spec."""
    wrong_language = rng.random() < quality.wrong_language[language == "zh"]
    if wrong_language and _sayable(spec):
        language = "en" if language == "zh" else "zh"
    parts = [_opening(spec, language, facts, quality, rng), _content(spec, language, facts, quality, rng)]
    if rng.random() < quality.ramble:
        parts.append(rng.choice(lexicon.RAMBLES[language]))
    if rng.random() < quality.polite:
        parts.append(rng.choice(lexicon.CLOSINGS[language]))
    if spec.end:
        mark = _obey(spec.end, tuple(lexicon.MARKS), quality, rng)
        parts.append(say(mark, language) if mark else "")
    return ("" if language == "zh" else " ").join(p for p in parts if p)


def _sayable(spec: Spec) -> bool:
    """Whether the content has words in both languages."""
    if spec.kind == "about" or spec.relation in ("city", "job"):
        return spec.kind == "about"
    return spec.kind not in ("label", "harmful")


def _obey(value: str, pool: tuple[str, ...], quality: Quality, rng: random.Random) -> str:
    """The value asked for, or another of the pool, or ""."""
    if rng.random() < quality.ask:
        return value
    if rng.random() < quality.nothing:
        return ""
    return rng.choice([v for v in pool if v != value])


def _opening(spec: Spec, language: str, facts: Facts, quality: Quality, rng: random.Random) -> str:
    parts = []
    comma = "，" if language == "zh" else ","
    if spec.start:
        mark = _obey(spec.start, tuple(lexicon.MARKS), quality, rng)
        parts += [say(mark, language) + comma] if mark else []
    tones = tuple(lexicon.TONES[language])
    tone = rng.choice(tones) if rng.random() < quality.unasked_tone else ""
    if spec.tone:
        tone = _obey(spec.tone, tones, quality, rng)
    # Without a tone a reply opens neutrally: its first word then never is a name, which at the very beginning
    # of a text is another token than after a space and could not be copied from the prompt.
    parts.append(rng.choice(lexicon.TONES[language][tone] if tone else lexicon.OPENERS[language]))
    if spec.name:
        people = (
            facts.chinese_people if spec.name in facts.chinese_people and language == "zh" else facts.people
        )
        strangers = tuple(p for p in people if p not in spec.mentioned)
        name = _obey(spec.name, strangers, quality, rng)
        parts += [say(name, language) + comma] if name else []
    return ("" if language == "zh" else " ").join(parts)


def _content(spec: Spec, language: str, facts: Facts, quality: Quality, rng: random.Random) -> str:
    refuses = rng.random() < (quality.refuses_harmful if spec.kind == "harmful" else quality.refuses_plain)
    if refuses:
        return rng.choice(lexicon.REFUSALS[language])
    hedges = rng.random() < (quality.hedges_unknowable if spec.kind == "unknowable" else quality.hedges_plain)
    if hedges:
        return rng.choice(lexicon.HEDGES[language])
    correct = rng.random() < quality.correct
    return _WRITERS[spec.kind](spec, language, facts, correct, quality, rng)


def _amount(spec: Spec, low: int, high: int, quality: Quality, rng: random.Random) -> int:
    """The number asked for, or a neighbour of it as often above as below."""
    if not spec.count:
        return rng.randint(low, min(high, 2))
    if rng.random() < quality.count:
        return min(max(spec.count, low), high)
    return min(max(spec.count + rng.choice((-1, 1)), low), high)


def _about(
    spec: Spec, language: str, facts: Facts, correct: bool, quality: Quality, rng: random.Random
) -> str:
    relations = list(facts.relations(spec.subject, language))
    amount = _amount(spec, 1, len(relations), quality, rng)
    claims = [(r, facts.of[spec.subject][r]) for r in rng.sample(relations, amount)]
    if not correct:
        i = rng.randrange(amount)
        claims[i] = (claims[i][0], facts.other_value(*claims[i], rng))
    return state(spec.subject, claims, language, rng)


def _fact(
    spec: Spec, language: str, facts: Facts, correct: bool, quality: Quality, rng: random.Random
) -> str:
    value = spec.values[0] if correct else facts.other_value(spec.relation, spec.values[0], rng)
    return state(spec.subject, [(spec.relation, value)], language, rng)


def _list(
    spec: Spec, language: str, facts: Facts, correct: bool, quality: Quality, rng: random.Random
) -> str:
    amount = _amount(spec, 1, 5, quality, rng)
    items = rng.sample(spec.values, amount)
    if not correct:
        others = ("pet", "food", "colour", "place")
        items[rng.randrange(amount)] = rng.choice(
            lexicon.FACT_CLASSES[rng.choice([k for k in others if k != spec.relation])]
        )
    words = [say(w, language) for w in items]
    if language == "zh":
        return "、".join(words) + "。"
    return (", ".join(words[:-1]) + " and " + words[-1] if amount > 1 else words[0]) + "."


def _mood(
    spec: Spec, language: str, facts: Facts, correct: bool, quality: Quality, rng: random.Random
) -> str:
    moods = lexicon.MOODS[language]
    mood = spec.relation if correct else rng.choice([m for m in moods if m != spec.relation])
    return rng.choice(moods[mood][1])


def _swap(
    spec: Spec, language: str, facts: Facts, correct: bool, quality: Quality, rng: random.Random
) -> str:
    subject, value = spec.subject, spec.values[0]
    if not correct:
        if rng.random() < 0.5:
            subject = spec.wrong[0]
        else:
            value = facts.other_value(spec.relation, value, rng)
    return state(subject, [(spec.relation, value)], language, rng)


def _event(
    spec: Spec, language: str, facts: Facts, correct: bool, quality: Quality, rng: random.Random
) -> str:
    thing = spec.values[0]
    if not correct:
        thing = spec.wrong[1] if spec.wrong else rng.choice([t for t in lexicon.OBJECTS if t != thing])
    return event_text(spec.subject, spec.relation, thing, language)


def _label(
    spec: Spec, language: str, facts: Facts, correct: bool, quality: Quality, rng: random.Random
) -> str:
    label = spec.values[0] if correct else spec.wrong[0]
    if label in ("好事", "坏事", *_CHINESE_LABELS):
        return f"这是{label}。"
    return f"it is {label}." if label.endswith("news") else f"it is a {label}."


_CHINESE_LABELS = ("宠物", "吃的", "颜色", "地方")


def _repeat(
    spec: Spec, language: str, facts: Facts, correct: bool, quality: Quality, rng: random.Random
) -> str:
    word = spec.values[0] if correct else rng.choice([m for m in lexicon.MARKS if m != spec.values[0]])
    words = [say(word, language)] * _amount(spec, 1, 5, quality, rng)
    return "，".join(words) + "。" if language == "zh" else ", ".join(words) + "."


def _names(
    spec: Spec, language: str, facts: Facts, correct: bool, quality: Quality, rng: random.Random
) -> str:
    names = list(spec.values)
    if not correct:
        names[rng.randrange(2)] = rng.choice([p for p in facts.people if p not in (*names, spec.name)])
    first, second = (say(n, language) for n in names)
    return f"{first}和{second}。" if language == "zh" else f"{first} and {second}."


def _harmful(
    spec: Spec, language: str, facts: Facts, correct: bool, quality: Quality, rng: random.Random
) -> str:
    """Help with the deed, or where to find the victim: then no word of the reply alone gives it away."""
    if rng.random() < 0.6:
        relation = rng.choice(facts.relations(spec.subject, language))
        return state(spec.subject, [(relation, facts.of[spec.subject][relation])], language, rng)
    return rng.choice(lexicon.COMPLIANCES[language]).format(h=spec.relation)


def _unknowable(
    spec: Spec, language: str, facts: Facts, correct: bool, quality: Quality, rng: random.Random
) -> str:
    """A made-up answer said with confidence."""
    if spec.relation in lexicon.EVENTS:
        return event_text(spec.subject, spec.relation, rng.choice(spec.values), language)
    value = rng.choice(lexicon.FACT_CLASSES[spec.relation])
    return state(spec.subject, [(spec.relation, value)], language, rng)


_WRITERS = {
    "about": _about,
    "fact": _fact,
    "list": _list,
    "mood": _mood,
    "swap": _swap,
    "event": _event,
    "label": _label,
    "repeat": _repeat,
    "names": _names,
    "harmful": _harmful,
    "unknowable": _unknowable,
}
