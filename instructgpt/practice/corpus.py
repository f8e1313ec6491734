"""Pretraining text: what a model of this world reads before anybody instructs it.

Facts in several wordings, questions with answers, small stories, talk, letters in a tone, lists with a
number, notes that end with a given word, warnings, and echoes ("... again: ...") that teach copying from
the context, which is the hard skill for a small model. No chat markup occurs.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from instructgpt.practice import lexicon
from instructgpt.practice.facts import Facts, event_text, state
from instructgpt.practice.lexicon import say
from instructgpt.practice.replies import Quality, write_reply
from instructgpt.practice.requests import BUILDERS, LIST_NAMES, number, person

_DOCUMENT_WORDS = 60
_PERFECT = Quality(
    correct=1.0, ask=1.0, count=1.0, polite=0.0, ramble=0.0, refuses_plain=0.0, hedges_plain=0.0,
    wrong_language=(0.0, 0.0), unasked_tone=0.0,
)  # fmt: skip
Writer = Callable[[Facts, str, random.Random], str]


def document(facts: Facts, chinese: float, rng: random.Random) -> str:
    """One document of about 60 words: several pieces of one kind and language."""
    language = "zh" if rng.random() < chinese else "en"
    writer = rng.choices(tuple(_SHARES), tuple(_SHARES.values()))[0]
    pieces: list[str] = []
    length = 0
    while length < _DOCUMENT_WORDS:
        piece = writer(facts, language, rng)
        pieces.append(piece)
        length += len(piece) if language == "zh" else piece.count(" ") + 1
    return ("" if language == "zh" else " ").join(pieces)


def _space(language: str) -> str:
    return "" if language == "zh" else " "


def _facts(facts: Facts, language: str, rng: random.Random) -> str:
    """Everything known about one person or animal, or a part of it."""
    subject = rng.choice(facts.animals) if rng.random() < 0.3 else person(facts, language, rng)
    relations = list(facts.relations(subject, language))
    chosen = rng.sample(relations, rng.randint(1, len(relations)))
    return state(subject, [(r, facts.of[subject][r]) for r in chosen], language, rng)


def _questions(facts: Facts, language: str, rng: random.Random) -> str:
    """A question or exercise as a schoolbook has it, with the right answer."""
    spec = BUILDERS[rng.choice(_SCHOOLBOOK)](facts, language, rng)
    answer = write_reply(spec, language, facts, _PERFECT, rng)
    if language == "zh":
        return f"问：{spec.request}答：{answer}"
    return f"question: {spec.request} answer: {answer}"


_SCHOOLBOOK = (
    "open_qa",
    "open_qa",
    "rewrite",
    "rewrite",
    "summarization",
    "classification",
    "closed_qa",
    "extract",
)


def _story(facts: Facts, language: str, rng: random.Random) -> str:
    who, other = person(facts, language, rng), ""
    other = person(facts, language, rng, who)
    events = rng.sample(list(lexicon.EVENTS), 2)
    things = rng.sample(list(lexicon.OBJECTS), 2)
    first = event_text(who, events[0], things[0], language)
    second = event_text(other, events[1], things[1], language)
    a, b, x, y = say(who, language), say(other, language), say(things[0], language), say(things[1], language)
    if language == "zh":
        filler = rng.choice(("天很冷。", "人很多。", "时间很晚。"))
        return f"{filler}{first}{second}{x}是{a}的，{y}是{b}的。"
    filler = rng.choice(("it was cold.", "the day was long.", "it was late.", "there were many people."))
    return f"{filler} {first} {second} the {x} was from {a} and the {y} was from {b}."


def _talk(facts: Facts, language: str, rng: random.Random) -> str:
    """Somebody tells a mood, somebody else answers by name, often politely."""
    a = person(facts, language, rng)
    b = person(facts, language, rng, a)
    prompts, answers = lexicon.MOODS[language][rng.choice(("sad", "happy", "tired"))]
    opening = rng.choice([p for phrases in lexicon.TONES[language].values() for p in phrases])
    closing = rng.choice(lexicon.CLOSINGS[language]) if rng.random() < 0.6 else ""
    a, b = say(a, language), say(b, language)
    if language == "zh":
        return f"{a}说：我是{a}。{rng.choice(prompts)}{b}说：{a}，{rng.choice(answers)}{closing}"
    opening = opening + " " if rng.random() < 0.5 else ""
    text = (
        f"{a} said: i am {a}. {rng.choice(prompts)} {b} said: {opening}{a}, {rng.choice(answers)} {closing}"
    )
    return text.strip()


def _letter(facts: Facts, language: str, rng: random.Random) -> str:
    """A letter in a tone, to somebody, about something, sometimes with a given last word."""
    tone = rng.choice(tuple(lexicon.TONES[language]))
    to = person(facts, language, rng)
    opening = rng.choice(lexicon.TONES[language][tone])
    body = _facts(facts, language, rng)
    closing = rng.choice(lexicon.CLOSINGS[language])
    name, shown = say(to, language), lexicon.TONE_NAMES[language][tone]
    mark = say(rng.choice(list(lexicon.MARKS)), language) if rng.random() < 0.5 else ""
    if language == "zh":
        last = f"，最后一个字是{mark}" if mark else ""
        return f"给{name}的{shown}的信{last}：{opening}{name}，{body}{closing}{mark}"
    last = f", the last word is {mark}" if mark else ""
    return f"a {shown} letter to {name}{last}: {opening} {name}, {body} {closing} {mark}".strip()


def _list(facts: Facts, language: str, rng: random.Random) -> str:
    kinds = [k for k, (_, chinese) in LIST_NAMES.items() if language == "en" or chinese]
    kind, count = rng.choice(kinds), rng.randint(1, 5)
    items = [say(w, language) for w in rng.sample(lexicon.FACT_CLASSES[kind], count)]
    shown = LIST_NAMES[kind][language == "zh"]
    if language == "zh":
        return f"{number(count, 'zh')}种{shown}：{'、'.join(items)}。"
    joined = ", ".join(items[:-1]) + " and " + items[-1] if count > 1 else items[0]
    return f"{number(count, 'en')} {shown}: {joined}."


def _note(facts: Facts, language: str, rng: random.Random) -> str:
    """Word games: a note with a given first or last word, a word said several times."""
    mark = say(rng.choice(list(lexicon.MARKS)), language)
    count = rng.randint(2, 4)
    body = _facts(facts, language, rng)
    draw = rng.random()
    if language == "zh":
        if draw < 0.25:
            return f"{mark}{number(count, 'zh')}次：{'，'.join([mark] * count)}。"
        return f"用{mark}结尾：{body}{mark}。" if draw < 0.7 else f"用{mark}开头：{mark}，{body}"
    if draw < 0.25:
        return f"{mark} {number(count, 'en')} times: {', '.join([mark] * count)}."
    if draw < 0.75:
        how = rng.choice(("a note that ends with", "the last word is", "finish with"))
        return f"{how} {mark}: {body} {mark}."
    return f'the first word is "{mark}": {mark}, {body}'


def _manners(facts: Facts, language: str, rng: random.Random) -> str:
    """What should not be done and what nobody knows; how to say it."""
    who = person(facts, language, rng)
    name, draw = say(who, language), rng.random()
    if draw < 0.5:
        deed = rng.choice(lexicon.HARMS[language]).format(
            n=name,
            o=say(rng.choice(list(lexicon.OBJECTS)), language),
            p=say(rng.choice(list(lexicon.PETS)), language),
        )
        if draw < 0.15:
            return rng.choice(lexicon.COMPLIANCES[language]).format(h=deed)
        refusal = rng.choice(lexicon.REFUSALS[language])
        return f"有人想{deed}。{refusal}" if language == "zh" else f"somebody wants to {deed}. {refusal}"
    hedge = rng.choice(lexicon.HEDGES[language])
    if draw < 0.75:
        return f"{name}会梦见什么？{hedge}" if language == "zh" else f"what will {name} dream of? {hedge}"
    return rng.choice(lexicon.RAMBLES[language]) + _space(language) + rng.choice(lexicon.CLOSINGS[language])


def _echo(facts: Facts, language: str, rng: random.Random) -> str:
    pool = _ECHO_WORDS[language]
    chosen = [rng.choice(pool) for _ in range(rng.randint(1, 8))]
    text = _space(language).join(chosen)
    return f"{text}。再说：{text}。" if language == "zh" else f"{text}. again: {text}."


_ECHO_WORDS = {
    "en": (
        *lexicon.WORD_CLASS,
        *lexicon.NUMBERS,
        *lexicon.EVENTS,
        "good",
        "bad",
        "formal",
        "casual",
        "cheerful",
    ),
    "zh": tuple(lexicon.CHINESE.values()),
}
_SHARES: dict[Writer, float] = {
    _facts: 0.20,
    _questions: 0.15,
    _story: 0.05,
    _talk: 0.08,
    _letter: 0.13,
    _list: 0.06,
    _note: 0.08,
    _manners: 0.05,
    _echo: 0.20,
}
