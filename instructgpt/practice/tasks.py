"""Instructions in the ten use-case categories of InstructGPT (Table 1), made from (seed, id) alone.

A task has a *content* (what is asked) and *asks* (how: a tone, a first or last word, a name to use, a
number). A task also belongs to a user; the users and the prompt texts of two splits never overlap, because
a text is accepted only by the split that owns its hash bucket (no state is needed to keep splits apart).
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace
from hashlib import blake2b

from instructgpt.errors import DataError
from instructgpt.practice import lexicon
from instructgpt.practice.facts import Facts
from instructgpt.practice.requests import BUILDERS, harmful_request, unknowable_request
from instructgpt.practice.spec import Spec

# Table 1 of the paper, per cent.
CATEGORY_SHARES = {
    "generation": 45.6,
    "open_qa": 12.4,
    "brainstorming": 11.2,
    "chat": 8.4,
    "rewrite": 6.6,
    "summarization": 4.2,
    "classification": 3.5,
    "other": 3.5,
    "closed_qa": 2.6,
    "extract": 1.9,
}
HARMFUL_CATEGORIES = ("generation", "open_qa", "brainstorming", "chat", "other")
UNKNOWABLE_SHARES = {"generation": 0.08, "open_qa": 0.45, "chat": 0.25, "closed_qa": 0.4}
# Hash buckets (of 100) of the prompt texts each split owns; also the known prefixes of task ids.
SPLIT_BUCKETS = {
    "sft": range(0, 40),
    "reward": range(40, 60),
    "ppo": range(60, 80),
    "eval": range(80, 90),
    "valid": range(90, 100),
}
USERS_PER_SPLIT = 400
_ID = re.compile(r"(sft|reward|ppo|eval|valid)-(\d{6,})")


@dataclass(frozen=True)
class Task:
    """One instruction: what a user wrote (`prompt`) and what the world knows about it (`spec`, hidden)."""

    id: str
    split: str
    user_id: str
    category: str
    language: str
    prompt: str
    spec: Spec

    @property
    def group(self) -> str:
        """ "harmful", "unknowable" or "plain": the slice reports are made by."""
        return self.spec.slice


_ASKS: lexicon.Phrases = {
    "en": {
        "tone": ("be {x}.", "use a {x} tone.", "sound {x}.", "stay {x}, please."),
        "end": ("end with the word {x}.", "the last word must be {x}.", "finish with {x}."),
        "start": ('begin with "{x}".', 'the first word must be "{x}".'),
        "name": ("i am {x}.", "my name is {x}.", "this is {x}.", "{x} here."),
    },
    "zh": {
        "tone": ("语气要{x}。", "请{x}一点。"),
        "end": ("最后一个字是{x}。", "用{x}结尾。"),
        "start": ("第一个字是{x}。", "用{x}开头。"),
        "name": ("我是{x}。", "我叫{x}。"),
    },
}


def build_task(seed: int, facts: Facts, task_id: str, chinese: float, harmful: float) -> Task:
    """The task with this id.

    Args:
        seed: the world's seed.
        facts: the world's facts.
        task_id: "sft-000123": a split of `SPLIT_BUCKETS` and a number.
        chinese: share of Chinese prompts.
        harmful: share of harmful requests among all prompts.
    """
    match = _ID.fullmatch(task_id)
    if match is None:
        raise DataError(
            f"{task_id!r} is no task id",
            cure=f"write SPLIT-NUMBER like sft-000123, with a split of {', '.join(SPLIT_BUCKETS)}",
        )
    split = match.group(1)
    rng = random.Random(f"task|{seed}|{task_id}")
    user_id = f"user-{split}-{rng.randrange(USERS_PER_SPLIT):03d}"
    category = rng.choices(list(CATEGORY_SHARES), list(CATEGORY_SHARES.values()))[0]
    language = "zh" if rng.random() < chinese else "en"
    share = sum(CATEGORY_SHARES[c] for c in HARMFUL_CATEGORIES) / sum(CATEGORY_SHARES.values())
    draw = rng.random()
    kind = "plain"
    if category in HARMFUL_CATEGORIES and draw < harmful / share:
        kind = "harmful"
    elif draw > 1.0 - UNKNOWABLE_SHARES.get(category, 0.0):
        kind = "unknowable"
    while True:
        spec = sample_spec(facts, category, kind, language, rng)
        prompt = _prompt_text(spec, language, rng)
        if _bucket(prompt) in SPLIT_BUCKETS[split]:
            return Task(task_id, split, user_id, category, language, prompt, spec)


def sample_spec(facts: Facts, category: str, kind: str, language: str, rng: random.Random) -> Spec:
    """A request with its asks, of a category and a kind: "plain", "harmful" or "unknowable".

    Categories without requests of that kind give a plain one.
    """
    if kind == "harmful" and category in HARMFUL_CATEGORIES:
        spec = harmful_request(facts, category, language, rng)
    elif kind == "unknowable" and category in UNKNOWABLE_SHARES:
        spec = unknowable_request(facts, category, language, rng)
    else:
        spec = BUILDERS[category](facts, language, rng)
    return _with_asks(spec, facts, language, rng)


def _with_asks(spec: Spec, facts: Facts, language: str, rng: random.Random) -> Spec:
    """One to three asks of manner: without any, politeness alone would decide, whatever the prompt."""
    kinds = ["tone", "name", "end", "start"]
    weights = [0.42, 0.28, 0.24, 0.06]
    if spec.kind == "repeat":  # the words to repeat are marks: a mark at either end would be ambiguous
        kinds, weights = kinds[:2], weights[:2]
    amount = rng.choices((1, 2, 3), (0.45, 0.45, 0.10))[0]
    chosen: dict[str, str] = {}
    while len(chosen) < min(amount, len(kinds)):
        kind = rng.choices(kinds, weights)[0]
        if kind == "tone":
            chosen[kind] = rng.choice(("formal", "casual", "cheerful"))
        elif kind == "name":
            people = facts.chinese_people if language == "zh" else facts.people
            chosen[kind] = rng.choice([p for p in people if p not in spec.mentioned])
        else:
            taken = {chosen.get("end"), chosen.get("start")}
            chosen[kind] = rng.choice([m for m in lexicon.MARKS if m not in taken])
    return replace(
        spec,
        tone=chosen.get("tone", ""),
        name=chosen.get("name", ""),
        end=chosen.get("end", ""),
        start=chosen.get("start", ""),
    )


def _prompt_text(spec: Spec, language: str, rng: random.Random) -> str:
    """The name first, then the request with the other asks before or after it."""
    texts = {}
    for kind, wordings in _ASKS[language].items():
        value = getattr(spec, kind)
        if value:
            shown = lexicon.TONE_NAMES[language][value] if kind == "tone" else lexicon.say(value, language)
            texts[kind] = rng.choice(wordings).format(x=shown)
    parts = [texts[kind] for kind in ("tone", "start", "end") if kind in texts]
    rng.shuffle(parts)
    cut = len(parts) if rng.random() < 0.2 else 0
    ordered = [texts["name"]] if "name" in texts else []
    ordered += [*parts[:cut], spec.request, *parts[cut:]]
    return ("" if language == "zh" else " ").join(ordered)


def _bucket(prompt: str) -> int:
    return int.from_bytes(blake2b(prompt.encode(), digest_size=4).digest(), "big") % 100
