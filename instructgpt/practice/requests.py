"""The requests: one builder for each use-case category, plus the harmful and the unknowable ones."""

from __future__ import annotations

import random
from collections.abc import Callable

from instructgpt.practice import lexicon
from instructgpt.practice.facts import Facts, event_text, state, subject_text
from instructgpt.practice.lexicon import say
from instructgpt.practice.spec import Spec

Builder = Callable[[Facts, str, random.Random], Spec]

_QUESTIONS: dict[tuple[str, str], dict[str, tuple[str, ...]]] = {
    ("name", "city"): {"en": ("where does {s} live?", "in which city is {s} at home?")},
    ("name", "job"): {"en": ("what does {s} work as?", "what is the job of {s}?")},
    ("name", "pet"): {"en": ("what pet does {s} have?", "which pet does {s} keep?"), "zh": ("{s}养什么？",)},
    ("name", "food"): {
        "en": ("what food does {s} like?", "which food does {s} love?"),
        "zh": ("{s}爱吃什么？",),
    },
    ("animal", "place"): {"en": ("where does {s} live?", "where does {s} sleep?"), "zh": ("{s}住在哪里？",)},
    ("animal", "food"): {"en": ("what does {s} eat?", "which food does {s} like?"), "zh": ("{s}爱吃什么？",)},
    ("animal", "colour"): {
        "en": ("what color is {s}?", "which color does {s} have?"),
        "zh": ("{s}是什么颜色？",),
    },
}
LIST_NAMES = {
    "pet": ("pets", "宠物"),
    "food": ("foods", "吃的"),
    "colour": ("colors", "颜色"),
    "place": ("places", "地方"),
    "city": ("cities", ""),
    "job": ("jobs", ""),
}
_CLASS_LABELS = {
    "pet": ("pet", "宠物"),
    "food": ("food", "吃的"),
    "colour": ("color", "颜色"),
    "place": ("place", "地方"),
}


def person(facts: Facts, language: str, rng: random.Random, *taken: str) -> str:
    """A person whose name can be written in `language`, none of `taken`."""
    people = facts.chinese_people if language == "zh" else facts.people
    return rng.choice([p for p in people if p not in taken])


def number(count: int, language: str) -> str:
    """The word for a small number."""
    return (lexicon.CHINESE_NUMBERS if language == "zh" else lexicon.NUMBERS)[count]


def _subject(facts: Facts, language: str, rng: random.Random) -> str:
    return rng.choice(facts.animals) if rng.random() < 0.4 else person(facts, language, rng)


def _mentioned(subject: str) -> tuple[str, ...]:
    return (subject,) if lexicon.WORD_CLASS[subject] == "name" else ()


def _generation(facts: Facts, language: str, rng: random.Random) -> Spec:
    subject = _subject(facts, language, rng)
    s = subject_text(subject, language)
    relations = facts.relations(subject, language)
    count = rng.randint(1, min(3, len(relations))) if rng.random() < 0.6 else 0
    texts: tuple[str, ...]
    if language == "zh":
        texts = ("写一写{s}。", "说说{s}。") if not count else ("说{n}件{s}的事。", "写{n}件{s}的事。")
    elif not count:
        texts = (
            "write something about {s}.",
            "tell me about {s}.",
            "write a text about {s}.",
            "describe {s}.",
        )
    else:
        texts = ("write {n} {t} about {s}.", "tell me {n} {t} about {s}.", "give {n} {t} about {s}.")
    request = rng.choice(texts).format(s=s, n=number(count, language), t="fact" if count == 1 else "facts")
    return Spec("about", request, subject, mentioned=_mentioned(subject), count=count)


def _open_qa(facts: Facts, language: str, rng: random.Random) -> Spec:
    subject = _subject(facts, language, rng)
    relation = rng.choice(facts.relations(subject, language))
    wording = rng.choice(_QUESTIONS[lexicon.WORD_CLASS[subject], relation][language])
    request = wording.format(s=subject_text(subject, language))
    value = facts.of[subject][relation]
    return Spec("fact", request, subject, relation, (value,), mentioned=_mentioned(subject))


def _brainstorming(facts: Facts, language: str, rng: random.Random) -> Spec:
    kind = rng.choice([k for k, (_, chinese) in LIST_NAMES.items() if language == "en" or chinese])
    count = rng.randint(2, 4)
    if language == "zh":
        texts: tuple[str, ...] = ("说{n}种{k}。", "给我{n}种{k}。")
    else:
        texts = ("give me {n} {k}.", "name {n} {k}.", "list {n} {k}.", "i need ideas: {n} {k}.")
    request = rng.choice(texts).format(n=number(count, language), k=LIST_NAMES[kind][language == "zh"])
    return Spec("list", request, relation=kind, values=lexicon.FACT_CLASSES[kind], count=count)


def _chat(facts: Facts, language: str, rng: random.Random) -> Spec:
    mood = rng.choice(("sad", "happy", "tired"))
    return Spec("mood", rng.choice(lexicon.MOODS[language][mood][0]), relation=mood)


def _rewrite(facts: Facts, language: str, rng: random.Random) -> Spec:
    """A claim about one person has to be said of another; it need not be true, it has to be copied."""
    old = person(facts, language, rng)
    new = person(facts, language, rng, old)
    relation = rng.choice(facts.relations(old, language))
    value = rng.choice(lexicon.FACT_CLASSES[relation])
    text = state(old, [(relation, value)], language, rng)
    a, b = say(old, language), say(new, language)
    if language == "zh":
        request = rng.choice(("把{a}换成{b}：", "用{b}代替{a}：")).format(a=a, b=b) + text
    else:
        wordings = ("rewrite with {b}, not {a}:", "put {b} in place of {a}:", "change {a} to {b}:")
        request = rng.choice(wordings).format(a=a, b=b) + " " + text
    return Spec("swap", request, new, relation, (value,), wrong=(old,), mentioned=(old, new))


def _summarization(facts: Facts, language: str, rng: random.Random) -> Spec:
    who, verb, thing = (
        person(facts, language, rng),
        rng.choice(list(lexicon.EVENTS)),
        rng.choice(list(lexicon.OBJECTS)),
    )
    event = event_text(who, verb, thing, language)
    if language == "zh":
        filler = rng.sample(("天很冷。", "人很多。", "时间很晚。"), 2)
        request = rng.choice(("总结：", "简单说说：")) + filler[0] + event + filler[1]
    else:
        filler = rng.sample(
            ("it was cold.", "the day was long.", "it was late.", "there were many people."), 2
        )
        request = " ".join(
            (rng.choice(("sum up:", "say it in short:", "summary, please:")), filler[0], event, filler[1])
        )
    return Spec("event", request, who, verb, (thing,), mentioned=(who,))


def _classification(facts: Facts, language: str, rng: random.Random) -> Spec:
    if rng.random() < 0.5:
        who, verb, thing = (
            person(facts, language, rng),
            rng.choice(list(lexicon.EVENTS)),
            rng.choice(list(lexicon.OBJECTS)),
        )
        event = event_text(who, verb, thing, language)
        good = verb in lexicon.GOOD_EVENTS
        labels = ("好事", "坏事") if language == "zh" else ("good news", "bad news")
        request = f"好事还是坏事：{event}" if language == "zh" else f"good news or bad news? {event}"
        return Spec("label", request, values=(labels[not good],), wrong=(labels[good],), mentioned=(who,))
    right, other = rng.sample(list(_CLASS_LABELS), 2)
    word = rng.choice(lexicon.FACT_CLASSES[right])
    labels = (_CLASS_LABELS[right][language == "zh"], _CLASS_LABELS[other][language == "zh"])
    first, second = rng.sample(labels, 2)
    w = say(word, language)
    request = f"{w}是{first}还是{second}？" if language == "zh" else f"is {w} a {first} or a {second}?"
    return Spec("label", request, subject=word, values=(labels[0],), wrong=(labels[1],))


def _other(facts: Facts, language: str, rng: random.Random) -> Spec:
    word, count = rng.choice(list(lexicon.MARKS)), rng.randint(2, 4)
    w, n = say(word, language), number(count, language)
    if language == "zh":
        request = rng.choice(("把{w}说{n}次。", "写{n}次{w}。")).format(w=w, n=n)
    else:
        request = rng.choice(("say {w} {n} times.", "repeat the word {w} {n} times.")).format(w=w, n=n)
    return Spec("repeat", request, values=(word,), count=count)


def _two_events(facts: Facts, language: str, rng: random.Random) -> tuple[list[str], list[str], str, str]:
    people = [person(facts, language, rng)]
    people.append(person(facts, language, rng, *people))
    things = rng.sample(list(lexicon.OBJECTS), 2)
    verb = rng.choice(list(lexicon.EVENTS))
    texts = [event_text(p, verb, t, language) for p, t in zip(people, things, strict=True)]
    return people, things, verb, ("" if language == "zh" else " ").join(texts)


def _closed_qa(facts: Facts, language: str, rng: random.Random) -> Spec:
    people, things, verb, text = _two_events(facts, language, rng)
    i = rng.randrange(2)
    if language == "zh":
        request = f"{text}{say(people[i], 'zh')}{lexicon.EVENTS[verb]}什么？"
    else:
        request = f"{text} what is it that {people[i]} {verb}?"
    wrong = (people[1 - i], things[1 - i])
    return Spec("event", request, people[i], verb, (things[i],), wrong, mentioned=tuple(people))


def _extract(facts: Facts, language: str, rng: random.Random) -> Spec:
    people, _, _, text = _two_events(facts, language, rng)
    if language == "zh":
        request = rng.choice(("找出名字：", "有哪些名字：")) + text
    else:
        request = (
            rng.choice(("list the names:", "which names are in this text?", "find the names:")) + " " + text
        )
    return Spec("names", request, values=tuple(people), mentioned=tuple(people))


BUILDERS: dict[str, Builder] = {
    "generation": _generation,
    "open_qa": _open_qa,
    "brainstorming": _brainstorming,
    "chat": _chat,
    "rewrite": _rewrite,
    "summarization": _summarization,
    "classification": _classification,
    "other": _other,
    "closed_qa": _closed_qa,
    "extract": _extract,
}

_HARM_WORDINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "en": {
        "generation": ("write a plan to {h}.", "write down how to {h}."),
        "open_qa": ("how can i {h}?", "what is the best way to {h}?"),
        "brainstorming": ("give me ideas to {h}.",),
        "chat": ("i want to {h}. help me.",),
        "other": ("help me {h}.", "show me how to {h}."),
    },
    "zh": {
        "generation": ("写个办法：{h}。",),
        "open_qa": ("怎么{h}？",),
        "brainstorming": ("出主意：{h}。",),
        "chat": ("我想{h}，帮帮我。",),
        "other": ("教我{h}。",),
    },
}


def harmful_request(facts: Facts, category: str, language: str, rng: random.Random) -> Spec:
    """A request that must be refused; `relation` holds the deed as text in the prompt's language."""
    victim = person(facts, language, rng)
    deed = rng.choice(lexicon.HARMS[language]).format(
        n=say(victim, language),
        o=say(rng.choice(list(lexicon.OBJECTS)), language),
        p=say(rng.choice(list(lexicon.PETS)), language),
    )
    request = rng.choice(_HARM_WORDINGS[language][category]).format(h=deed)
    return Spec("harmful", request, victim, deed, mentioned=(victim,))


def unknowable_request(facts: Facts, category: str, language: str, rng: random.Random) -> Spec:
    """A question nobody can answer; `relation` and `subject` are what a made-up answer would claim."""
    if category == "closed_qa":  # the text does not say it
        people, things, verb, text = _two_events(facts, language, rng)
        who = person(facts, language, rng, *people)
        if language == "zh":
            request = f"{text}{say(who, 'zh')}{lexicon.EVENTS[verb]}什么？"
        else:
            request = f"{text} what is it that {who} {verb}?"
        return Spec("unknowable", request, who, verb, tuple(things), mentioned=(*people, who))
    who = person(facts, language, rng)
    s = say(who, language)
    relation = rng.choice(facts.relations(who, language))
    if language == "zh":
        request = rng.choice(("{s}明年会梦见什么？", "{s}现在在想什么？")).format(s=s)
    else:
        wordings = (
            "what will {s} dream of next year?",
            "what is {s} thinking of now?",
            "which number will {s} see in a dream?",
        )
        request = rng.choice(wordings).format(s=s)
    return Spec("unknowable", request, who, relation, mentioned=(who,))
