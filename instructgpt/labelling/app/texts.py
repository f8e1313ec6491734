"""The interface's languages: one table of texts each, `texts/LANGUAGE.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

LANGUAGES = {"en": "English", "zh": "中文"}
"""Code -> its own name of itself; the first one is the default."""

FOLDER = Path(__file__).parent / "texts"


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """`{"rank": {"title": "..."}}` as `{"rank.title": "..."}`."""
    found: dict[str, str] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= flatten(value, f"{name}.")
        else:
            found[name] = value
    return found


@dataclass(frozen=True)
class Translator:
    """The texts of one language: `t("rank.lead")`, with named values put in."""

    language: str
    table: Mapping[str, str]

    def __call__(self, key: str, **values: object) -> str:
        """
        Raises:
            KeyError: there is no such text; a test holds that no page asks for one.
        """
        text = self.table[key]
        return text.format(**values) if values else text

    def count(self, key: str, number: int) -> str:
        """The form of a text that fits a number: `key.one` or `key.other`, with `{n}` put in."""
        return self(f"{key}.{'one' if number == 1 else 'other'}", n=f"{number:,}")

    def has(self, key: str) -> bool:
        """Whether there is such a text."""
        return key in self.table


@cache
def translator(language: str) -> Translator:
    """The texts of a language of `LANGUAGES`."""
    with (FOLDER / f"{language}.toml").open("rb") as file:
        return Translator(language, flatten(tomllib.load(file)))


def best_language(accepted: str) -> str:
    """The language of ours that an Accept-Language header likes best; English if it names none."""
    wishes: list[tuple[float, int, str]] = []
    for order, part in enumerate(accepted[:1000].split(",")):
        tag, _, quality = part.strip().partition(";")
        code = tag.split("-")[0].strip().lower()
        try:
            weight = float(quality.partition("=")[2]) if quality else 1.0
        except ValueError:
            continue
        if code in LANGUAGES and weight > 0:
            wishes.append((-weight, order, code))
    return min(wishes)[2] if wishes else next(iter(LANGUAGES))
