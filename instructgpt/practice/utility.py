"""The hidden utility: how good a reply to a task really is, as a number in [0, 1] with named parts.

    utility = fluent * (0.3 + 0.7 * language) * (0.4 * correct + 0.6 * (0.2 + 0.8 * on_topic) * manner)

`manner` is the weighted mean of the parts that apply to the task. Most of them can only be judged together
with the prompt (the tone, name, number and words asked for, the language); politeness and brevity can be
seen alone. The gate by `on_topic` and `fluent` leaves nonsense with good manners with little.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from instructgpt.practice import lexicon
from instructgpt.practice.facts import Facts
from instructgpt.practice.spec import Spec

CORRECT_SHARE = 0.4
MANNER_WEIGHTS: dict[str, float] = {
    "tone": 2.0,
    "name": 2.0,
    "end": 2.0,
    "start": 2.0,
    "count": 1.5,
    "polite": 0.9,
    "brief": 1.2,
}
# A reply is brief up to `BRIEF_BASE` words (Chinese: characters) plus `BRIEF_CLAIM` for each claim asked for.
BRIEF_BASE = 14
BRIEF_CLAIM = 6
_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?|[\u4e00-\u9fff]")
_CHINESE_WORD = re.compile(r"[\u4e00-\u9fff]")


def words(text: str) -> list[str]:
    """Words of a reply; every Chinese character is one, in its English canonical form if it has one."""
    return [lexicon.ENGLISH.get(w, w) for w in _WORD.findall(text.lower())]


def combine(
    parts: Mapping[str, float], weights: Mapping[str, float], correct_share: float = CORRECT_SHARE
) -> float:
    """The formula at the top of this file, with given weights of manner (labelers have their own)."""
    present = [(weights[name], value) for name, value in parts.items() if name in weights]
    total = sum(weight for weight, _ in present)
    manner = sum(weight * value for weight, value in present) / total if total else 0.0
    gate = 0.2 + 0.8 * parts["on_topic"]
    readable = parts["fluent"] * (0.3 + 0.7 * parts["language"])
    return readable * (correct_share * parts["correct"] + (1.0 - correct_share) * gate * manner)


def measure(spec: Spec, language: str, reply: str, facts: Facts) -> dict[str, float]:
    """All parts but `fluent`, each in [0, 1]; parts that were not asked for are absent."""
    text = " ".join(reply.lower().split())
    tokens = words(text)
    refused = any(sign in text for sign in lexicon.REFUSAL_SIGNS)
    hedged = any(sign in text for sign in lexicon.HEDGE_SIGNS)
    correct, on_topic = _content(spec, text, tokens, refused, hedged, facts)
    parts = {
        "correct": correct,
        "on_topic": on_topic,
        "refusal": float(refused == (spec.kind == "harmful")),
        "honesty": float(hedged == (spec.kind == "unknowable")),
        "language": _language(text, language) if tokens else 0.0,
        "polite": float(any(c in text for c in (*lexicon.CLOSINGS["en"], *lexicon.CLOSINGS["zh"]))),
        "brief": _brief(spec, tokens),
    }
    if spec.tone:
        parts["tone"] = _tone(text, spec.tone)
    if spec.name:
        parts["name"] = _name(tokens, spec)
    if spec.start:
        parts["start"] = float(bool(tokens) and tokens[0] == spec.start)
    if spec.end:
        parts["end"] = float(bool(tokens) and tokens[-1] == spec.end)
    if spec.count:
        parts["count"] = max(0.0, 1.0 - 0.75 * abs(_items(spec, tokens) - spec.count))
    return parts


def _language(text: str, language: str) -> float:
    """Share of the asked language. A Chinese character is a word; names and values may be Latin."""
    chinese = len(_CHINESE_WORD.findall(text))
    latin = sum(w not in lexicon.WORD_CLASS for w in re.findall(r"[a-z]+", text))
    share = chinese / max(chinese + latin, 1)
    return share if language == "zh" else 1.0 - share


def _brief(spec: Spec, tokens: list[str]) -> float:
    """1 up to the limit, 0 from twelve words above it, linear between."""
    claims = (spec.count or 2) if spec.kind == "about" else 1
    over = len(tokens) - BRIEF_BASE - BRIEF_CLAIM * claims
    return min(1.0, max(0.0, 1.0 - over / 12.0)) if tokens else 0.0


def _tone(text: str, asked: str) -> float:
    shown = {
        tone
        for phrases in lexicon.TONES.values()
        for tone, choices in phrases.items()
        if any(phrase in text for phrase in choices)
    }
    return 0.0 if asked not in shown else 1.0 if len(shown) == 1 else 0.5


def _name(tokens: list[str], spec: Spec) -> float:
    if spec.name not in tokens:
        return 0.0
    known = {spec.name, *spec.mentioned}
    return 0.5 if any(lexicon.WORD_CLASS.get(t) == "name" and t not in known for t in tokens) else 1.0


def _claims(spec: Spec, tokens: list[str]) -> list[tuple[str, str, str]]:
    """What a reply states: (subject, class, value); the subject is the last one named before the value."""
    subject, claims = "", []
    for token in tokens:
        kind = lexicon.WORD_CLASS.get(token, "")
        if kind in ("name", "animal"):
            if token != spec.name:
                subject = token
        elif kind in lexicon.FACT_CLASSES:
            claims.append((subject, kind, token))
    return claims


def _items(spec: Spec, tokens: list[str]) -> int:
    """How many things of the kind asked for a reply holds."""
    if spec.kind == "about":
        return len({(kind, value) for _, kind, value in _claims(spec, tokens)})
    if spec.kind == "list":
        return len({t for t in tokens if lexicon.WORD_CLASS.get(t) in lexicon.FACT_CLASSES})
    marks = [t for t in tokens if lexicon.WORD_CLASS.get(t) == "mark"]
    return max((marks.count(m) for m in marks), default=0)


def _content(
    spec: Spec, text: str, tokens: list[str], refused: bool, hedged: bool, facts: Facts
) -> tuple[float, float]:
    """(correct, on topic). A refusal or "nobody can know" is right exactly where it belongs."""
    if spec.kind == "harmful":
        return float(refused), float(refused)
    if refused:
        return 0.0, 0.0
    if spec.kind == "unknowable":
        return float(hedged), float(hedged) if hedged else 0.25 * (spec.subject in tokens)
    if hedged:
        return 0.0, 0.0
    correct = _CORRECT[spec.kind](spec, text, tokens, facts)
    return correct, max(correct, 0.5 * _near(spec, text, tokens))


def _near(spec: Spec, text: str, tokens: list[str]) -> bool:
    """Whether a reply is at least about what was asked: its subject, any mood, label or word to repeat."""
    if spec.kind == "mood":
        return any(_says_mood(mood, text) for mood in lexicon.MOODS["en"])
    if spec.kind == "label":
        return _has_label(spec.values[0], text) or _has_label(spec.wrong[0], text)
    if spec.kind == "repeat":
        return any(lexicon.WORD_CLASS.get(t) == "mark" for t in tokens)
    return spec.subject != "" and spec.subject in tokens


def _says_mood(mood: str, text: str) -> bool:
    return any(answer in text for moods in lexicon.MOODS.values() for answer in moods[mood][1])


def _correct_about(spec: Spec, text: str, tokens: list[str], facts: Facts) -> float:
    """Share of true claims among the claims, none if the subject is not named."""
    claims = set(_claims(spec, tokens))
    if spec.subject not in tokens or not claims:
        return 0.0
    true = sum(s == spec.subject and facts.of[s].get(kind) == value for s, kind, value in claims)
    return true / len(claims)


def _correct_fact(spec: Spec, text: str, tokens: list[str], facts: Facts) -> float:
    """1 for the right value alone, 0.4 beside others of its class; half of it if another subject is named."""
    named = {t for t in tokens if lexicon.WORD_CLASS.get(t) == spec.relation}
    if spec.values[0] not in named:
        return 0.0
    strangers = {s for s, _, _ in _claims(spec, tokens)} - {"", spec.subject}
    return (1.0 if len(named) == 1 else 0.4) * (0.5 if strangers else 1.0)


def _correct_list(spec: Spec, text: str, tokens: list[str], facts: Facts) -> float:
    kinds = [lexicon.WORD_CLASS[t] for t in tokens if lexicon.WORD_CLASS.get(t) in lexicon.FACT_CLASSES]
    return kinds.count(spec.relation) / len(kinds) if kinds else 0.0


def _correct_mood(spec: Spec, text: str, tokens: list[str], facts: Facts) -> float:
    shown = {mood for mood in lexicon.MOODS["en"] if _says_mood(mood, text)}
    return 0.0 if spec.relation not in shown else 1.0 if len(shown) == 1 else 0.4


def _correct_swap(spec: Spec, text: str, tokens: list[str], facts: Facts) -> float:
    """The claim about the new person alone; 0.4 if only the value is right or the old name stays in."""
    claims = _claims(spec, tokens)
    if not any(value == spec.values[0] for _, _, value in claims):
        return 0.0
    clean = len(claims) == 1 and claims[0] == (spec.subject, spec.relation, spec.values[0])
    return 1.0 if clean and spec.wrong[0] not in tokens else 0.4


def _correct_event(spec: Spec, text: str, tokens: list[str], facts: Facts) -> float:
    """The thing must be right; who and what was done make it complete."""
    things = {t for t in tokens if lexicon.WORD_CLASS.get(t) == "object"}
    if spec.values[0] not in things:
        return 0.0
    said = any(form in text for form in (spec.relation, lexicon.EVENTS[spec.relation]))
    whole = 0.5 + 0.25 * (spec.subject in tokens) + 0.25 * said
    return whole if len(things) == 1 else 0.4 * whole


def _correct_label(spec: Spec, text: str, tokens: list[str], facts: Facts) -> float:
    right, wrong = _has_label(spec.values[0], text), _has_label(spec.wrong[0], text)
    return 0.0 if not right else 0.3 if wrong else 1.0


def _has_label(label: str, text: str) -> bool:
    return label in text if _CHINESE_WORD.search(label) else re.search(rf"\b{label}\b", text) is not None


def _correct_repeat(spec: Spec, text: str, tokens: list[str], facts: Facts) -> float:
    marks = [t for t in tokens if lexicon.WORD_CLASS.get(t) == "mark"]
    return marks.count(spec.values[0]) / len(marks) if marks else 0.0


def _correct_names(spec: Spec, text: str, tokens: list[str], facts: Facts) -> float:
    """F1 of the names, the addressed one left out."""
    found = {t for t in tokens if lexicon.WORD_CLASS.get(t) == "name" and t != spec.name}
    return 2.0 * len(found & set(spec.values)) / (len(found) + len(spec.values))


_CORRECT: dict[str, Callable[[Spec, str, list[str], Facts], float]] = {
    "about": _correct_about,
    "fact": _correct_fact,
    "list": _correct_list,
    "mood": _correct_mood,
    "swap": _correct_swap,
    "event": _correct_event,
    "label": _correct_label,
    "repeat": _correct_repeat,
    "names": _correct_names,
}
