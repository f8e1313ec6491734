"""Verifiable rewards: what is right is known, and a program decides.

| spec | the prompt's record needs | score |
|---|---|---|
| `verify:exact` | `answer` | 1 if the reply is one of the answers |
| `verify:contains` | `answer` | 1 if an answer stands in the reply |
| `verify:number` | `answer` | 1 if the reply's last number is that of an answer |
| `verify:regex` | `answer` | 1 if an answer, a regular expression, is found in the reply |
| `verify:checks` | `checks` | share of the checks that the reply passes |
| `verify:all_checks` | `checks` | 1 if it passes all |
| `verify:CHECK` or `verify:CHECK(name=value)` | nothing | 1 if it passes this check of `checks.py` |
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from decimal import Decimal
from difflib import get_close_matches
from inspect import Parameter, signature

from instructgpt.data.checks import Check, Value
from instructgpt.data.records import Prompt
from instructgpt.errors import ConfigError, DataError
from instructgpt.scoring.checks import CHECKS, check_text, normal, regex, times
from instructgpt.text.chat import Message

_ANSWERED = ("exact", "contains", "number", "regex")
_CHECKED = ("checks", "all_checks")
_COUNTS = ("at_least", "at_most", "exactly")
_SPEC = re.compile(r"verify:\s*(\w+)\s*(?:\((.*)\))?", re.DOTALL)
_ARGUMENT = re.compile(
    r'\s*(\w+)\s*=\s*("(?:[^"\\]|\\.)*"|\[(?:[^\]"]|"(?:[^"\\]|\\.)*")*\]|[^,"\[]*?)\s*(?:,|$)'
)
_NUMBER = re.compile(r"(?<![\d.,])[-+−]?\d+(?:,\d{3})*(?:\.\d+)?")


class Verify:
    """A verifiable reward, from its spec. Scores are in [0, 1]."""

    def __init__(self, spec: str) -> None:
        """
        Raises:
            ConfigError: there is no such verifier, or its arguments do not fit.
        """
        self.name = spec
        found = _SPEC.fullmatch(spec.strip())
        kinds = (*_ANSWERED, *_CHECKED, *CHECKS)
        if found is None:
            raise ConfigError(
                f"not a verifier: {spec!r}", "--reward", "write verify:exact, or verify:words(at_most=50)"
            )
        self.kind = found[1]
        arguments = _arguments(found[2], spec)
        # `regex` is both: with a text of its own it is a check of the reply alone.
        self.needs = "checks" if self.kind in _CHECKED else "answer" if self.kind in _ANSWERED else ""
        if self.kind == "regex" and arguments:
            self.needs = ""
        if self.kind not in kinds:
            near = get_close_matches(self.kind, kinds, 1)
            cure = f"did you mean verify:{near[0]}?" if near else "use one of " + ", ".join(kinds)
            raise ConfigError(f"there is no verifier {self.kind!r}", f"--reward {spec}", cure)
        if self.needs and arguments:
            raise ConfigError(
                f"verify:{self.kind} takes no arguments: it reads each prompt's {self.needs!r}",
                f"--reward {spec}",
                "leave the brackets out",
            )
        self.check = Check(self.kind, arguments)
        if not self.needs:
            try:
                check_arguments(self.check)
            except ConfigError as error:
                raise ConfigError(error.what, f"--reward {spec}", error.cure) from error

    def check_prompt(self, prompt: Prompt) -> None:
        """Whether this verifier can judge replies to the prompt.

        Raises:
            DataError: its record has no `answer` or `checks`, or one that can't be used.
        """
        given = prompt.answers if self.needs == "answer" else prompt.checks
        if self.needs and not given:
            example = '"answer": "7"' if self.needs == "answer" else '"checks": ["json"]'
            raise DataError(
                f"{self.name} needs the record's {self.needs!r}, and it has none",
                f"prompt {prompt.id}",
                f"add it to every prompt, as in {{{example}, ...}}",
            )
        checks = prompt.checks if self.needs == "checks" else ()
        if self.kind == "regex" and self.needs:
            checks = (Check("regex", (("text", prompt.answers),)),)
        if self.kind == "number":
            for answer in prompt.answers:
                if last_number(answer) is None:
                    what = f"{self.name} needs a number, and the answer is {answer!r}"
                    raise DataError(what, f"prompt {prompt.id}", 'write it as "answer": 7')
        for check in checks:
            try:
                check_arguments(check)
            except ConfigError as error:
                raise DataError(error.what, f"prompt {prompt.id}", error.cure) from error

    def score(self, prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> list[float]:
        """Scores where nothing of the records is needed.

        Raises:
            ConfigError: answers or checks are needed, and messages have none.
        """
        if self.needs:
            raise ConfigError(
                f"{self.name} reads the {self.needs!r} of prompts, and only their messages came",
                "--reward",
                "call score_records of instructgpt.scoring.ask with records of prompts",
            )
        return self.score_records([Prompt(tuple(prompt)) for prompt in prompts], replies)

    def score_records(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[float]:
        """One score in [0, 1] for each reply to a prompt.

        Raises:
            DataError: see `check_prompt`.
        """
        scores = []
        for prompt, reply in zip(prompts, replies, strict=True):
            self.check_prompt(prompt)
            scores.append(self._one(prompt, reply))
        return scores

    def _one(self, prompt: Prompt, reply: str) -> float:
        answers = prompt.answers
        if not self.needs:
            return float(passes(self.check, reply))
        if self.needs == "checks":
            passed = [passes(check, reply) for check in prompt.checks]
            return float(all(passed)) if self.kind == "all_checks" else sum(passed) / len(passed)
        if self.kind == "exact":
            return float(normal(reply) in {normal(answer) for answer in answers})
        if self.kind == "contains":
            return float(any(times(reply, answer.strip()) for answer in answers))
        if self.kind == "number":
            number = last_number(reply)
            return float(number is not None and number in {last_number(answer) for answer in answers})
        return float(any(regex(reply, text=answer) for answer in answers))


def last_number(text: str) -> Decimal | None:
    """The last number of a text, commas between thousands passed over; None if there is none."""
    found = _NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "").replace("−", "-")) if found else None


def passes(check: Check, reply: str) -> bool:
    """Whether a reply passes a check; `check_arguments` says whether that can be asked."""
    return CHECKS[check.name](reply, **dict(check.arguments))


def check_arguments(check: Check) -> None:
    """
    Raises:
        ConfigError: there is no such check, or its arguments are missing, unknown or of the wrong type.
    """
    if check.name not in CHECKS:
        near = get_close_matches(check.name, CHECKS, 1)
        cure = f"did you mean {near[0]!r}?" if near else "use one of " + ", ".join(CHECKS)
        raise ConfigError(f"there is no check {check.name!r}", cure=cure)
    known = {p.name: p for p in signature(CHECKS[check.name]).parameters.values() if p.kind is p.KEYWORD_ONLY}
    given = dict(check.arguments)
    counts = [name for name in _COUNTS if name in known]
    wrong = [name for name in given if name not in known]
    missing = [name for name, p in known.items() if p.default is Parameter.empty and name not in given]
    takes = ", ".join(known) or "nothing"
    if wrong or missing or (counts and not any(name in given for name in counts)):
        reason = (
            f"does not know {wrong[0]!r}"
            if wrong
            else f"needs {missing[0] if missing else ' or '.join(counts)}"
        )
        raise ConfigError(f"the check {check.name!r} {reason}", cure=f"it takes {takes}")
    for name, value in given.items():
        if name in _COUNTS:
            right = isinstance(value, int) and value >= 0
        elif name == "name":
            right = isinstance(value, str)
        else:
            right = not isinstance(value, int) and len(value) > 0 and all(value)
        if not right:
            kind = (
                "a whole number"
                if name in _COUNTS
                else "a text"
                if name == "name"
                else "a text or a list of texts"
            )
            raise ConfigError(f"{name!r} of the check {check.name!r} is {value!r}", cure=f"give {kind}")
        if not isinstance(value, int):
            check_text(check.name, value)


def _arguments(text: str | None, spec: str) -> tuple[tuple[str, Value], ...]:
    """The `name=value, ...` of a spec: whole numbers, "texts" or bare ones, ["lists", "of texts"]."""
    pairs: list[tuple[str, Value]] = []
    rest = (text or "").strip()
    while rest:
        found = _ARGUMENT.match(rest)
        try:
            if found is None:
                raise ValueError("no name=value")
            raw = found[2]
            value = json.loads(raw) if raw[:1] in ('"', "[") else int(raw) if raw.isdecimal() else raw
            if isinstance(value, list) and not all(isinstance(one, str) for one in value):
                raise ValueError("a list holds more than texts")
        except ValueError as error:
            raise ConfigError(
                f"the arguments of a verifier can't be read from {rest!r} on: {error}",
                f"--reward {spec}",
                'write them like verify:includes(text=["red", "blue"]) or verify:words(at_most=50)',
            ) from error
        pairs.append((found[1], tuple(value) if isinstance(value, list) else value))
        rest = rest[found.end() :].strip()
    return tuple(pairs)
