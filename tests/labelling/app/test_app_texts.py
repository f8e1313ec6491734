"""Languages have the same texts and none too many; colours can be read; controls have names."""

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from string import Formatter
from typing import Any, get_args

import pytest

from instructgpt.labelling.app import texts
from instructgpt.labelling.app.routes import data, people, projects
from instructgpt.labelling.app.texts import LANGUAGES, best_language, translator
from instructgpt.labelling.store import form
from instructgpt.labelling.store.projects import Screening

APP = Path(texts.__file__).parent
# Codes that the app gives to its own errors.
OWN_CODES = ("forbidden", "not-found", "method", "too-long", "upload", "login-needed", "stale-form", "proxy")
FAMILIES = {
    "flag.": form.REPLY_FLAGS,
    "prompt-flag.": form.PROMPT_FLAGS,
    "skip.": form.SKIP_REASONS,
    "kind.": form.KINDS,
    "kind-hint.": form.KINDS,
    "style.": form.STYLES,
    "style-lead.": form.STYLES,
    "role.": people.ROLES,
    "role-of.": ("system", "user", "assistant"),
    "status.": projects.STATUSES,
    "settings.to-": projects.STATUSES,
    "state.": data.STATES,
    "purpose.": data.PURPOSES,
    "purpose-hint.": data.PURPOSES,
    "screening.": (*get_args(Screening), "title"),
    "theme.": ("system", "light", "dark"),
    "members.to-": ("pending", "passed", "failed"),
    "sign.": ("fast", "slow", "same-ratings", "position", "repeated-text"),
    "left-out.": ("excluded", "rejected", "no-consent", "all-bad"),
    "agreement.": ("untied", "ties-half", "tau", "alpha-ranks", "alpha-ratings"),
    "tab.": ("progress", "agreement", "labels", "tasks", "members", "settings", "export"),
    "task.": form.KINDS,
    "settings.": (
        *("replies", "overlap", "quota", "quota_per_day"),
        *("pass_mark", "valid", "test", "lease_minutes"),
    ),
}
"""Texts whose names are put together from these."""


def sources() -> str:
    files = [*APP.rglob("*.html"), *APP.rglob("*.py")]
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


def test_languages_have_the_same_texts() -> None:
    tables = {language: translator(language).table for language in LANGUAGES}
    english = tables.pop("en")
    for language, table in tables.items():
        assert table.keys() == english.keys(), language
        for key, text in table.items():
            assert text.strip(), key
            named = [{n for _, n, _, _ in Formatter().parse(t) if n} for t in (english[key], text)]
            assert named[0] == named[1], key


def test_every_text_is_used_and_every_used_text_is_there() -> None:
    found = sources()
    quoted = set(re.findall(r"""["']([a-z][a-z_-]*(?:\.[a-z0-9_-]+)+)["']""", found))
    asked = set(re.findall(r"""\bt\(\s*["']([a-z_.-]+)["']\s*[,)]""", found))
    counted = set(re.findall(r"""\bt\.count\(\s*["']([a-z_.-]+)["']""", found))
    table = translator("en").table
    assert asked - table.keys() == set()
    assert {f"{key}.{form}" for key in counted for form in ("one", "other")} - table.keys() == set()
    built = {prefix + name for prefix, names in FAMILIES.items() for name in names}
    assert built - table.keys() == set()
    refusals = {f"error.{code}" for code in refusal_codes()} | {f"error.{code}" for code in OWN_CODES}
    pauses = {key for key in table if key.startswith("pause.")}
    times = {f"time.{unit}.{form}" for unit in ("day", "hour", "minute") for form in ("one", "other")}
    plurals = {f"{key}.{form}" for key in counted for form in ("one", "other")}
    unused = table.keys() - quoted - built - refusals - pauses - times - plurals
    assert unused == set()


def refusal_codes() -> set[str]:
    store = APP.parent / "store"
    found = "\n".join(path.read_text() for path in store.glob("*.py"))
    return set(re.findall(r'(?:Conflict|Forbidden|QuotaReached)\(\s*"([a-z-]+)"', found)) | {"not-found"}


def test_every_refusal_of_the_store_has_a_text() -> None:
    table = translator("en").table
    missing = {c for c in refusal_codes() if f"error.{c}" not in table and f"pause.{c}.title" not in table}
    assert missing - {"onboarding-first"} == set()  # that one leads to the examples


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("zh", "zh"),
        ("de-DE, zh-TW;q=0.7, en;q=0.3", "zh"),
        ("en-GB,en;q=0.9,zh;q=0.8", "en"),
        ("zh;q=0, fr", "en"),
        ("zh;q=lots, en", "en"),
        (";;;,,,", "en"),
    ],
)
def test_the_browsers_wish_chooses_the_language(header: str, language: str) -> None:
    assert best_language(header) == language


PAIRS = [
    *(("bad", "bad-tint"), ("warn", "warn-tint"), ("ink", "bad-tint"), ("ink", "warn-tint")),
    *(("bad", "card"), ("bad", "paper"), ("good", "card"), ("accent-ink", "accent")),
]
"""Other texts on other grounds, as the style sheets use them."""


def colours(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6})", block))


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_formula() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)  # the known near miss


def test_text_can_be_read_in_both_themes() -> None:
    sheet = (APP / "static" / "base.css").read_text()
    light, dark, system = re.findall(r":root(?:\[data-theme=\"\w+\"\])? \{(.*?)\}", sheet, re.S)
    assert colours(dark) == colours(system)
    for theme in (colours(light), colours(dark)):
        for text in ("ink", "soft", "accent"):
            for ground in ("paper", "card", "sunken", "tint"):
                assert contrast(theme[text], theme[ground]) >= 4.5, (text, ground, theme[text])
        for text, ground in PAIRS:
            assert contrast(theme[text], theme[ground]) >= 4.5, (text, ground)
        for ground in ("paper", "card", "sunken"):  # edges of fields: WCAG 1.4.11
            assert contrast(theme["edge"], theme[ground]) >= 3.0, ground


def names_of(page: Any) -> list[str]:
    """Controls without an accessible name, as far as the markup tells: label, aria-label or own text."""
    labelled = {a["for"] for tag, a in page.tags if tag == "label" and a.get("for")}
    wrong, inside = [], False
    html = page.html
    for match in re.finditer(r"<(/?)(label|input|select|textarea)\b([^>]*)>", html):
        closing, tag, rest = match.groups()
        if tag == "label":
            inside = not closing
        elif not closing and 'type="hidden"' not in rest and not inside and "aria-label" not in rest:
            found = re.search(r'\bid="([^"]+)"', rest)
            if not found or found[1] not in labelled:
                wrong.append(match[0])
    for match in re.finditer(r"<button\b([^>]*)>(.*?)</button>", html, re.S):
        if "aria-label" not in match[1] and not re.sub(r"<[^>]+>", "", match[2]).strip():
            wrong.append(match[0])
    return wrong


def test_controls_have_names_and_pages_an_outline(
    visit: Callable[..., Any], people_here: dict[str, int], project: Callable[..., Any]
) -> None:
    numbers = {kind: project(kind).id for kind in form.KINDS}
    ada = visit("ada")
    rank = numbers["rank"]
    paths = ["/", "/login", "/account", "/admin", "/admin/new", "/admin/people", "/admin/log"]
    paths += [f"/projects/{number}/work" for number in numbers.values()]
    paths += [
        f"/admin/projects/{rank}{page}"
        for page in ("", "/tasks", "/labels", "/members", "/settings", "/export")
    ]
    for path in paths:
        visitor = ada.get(path)
        visitor.page.html = visitor.response.text
        assert visitor.status == 200, path
        assert names_of(visitor.page) == [], path
        levels = [int(tag[1]) for tag, _ in visitor.page.tags if tag in ("h1", "h2", "h3")]
        assert levels[:1] == [1] and levels.count(1) == 1, (path, levels)
        assert all(b - a <= 1 for a, b in pairwise(levels)), (path, levels)
        ids = [a["id"] for _, a in visitor.page.tags if a.get("id")]
        assert len(ids) == len(set(ids)), path
        assert not any(a.get("tabindex", "0") not in ("0", "-1") for _, a in visitor.page.tags), path
