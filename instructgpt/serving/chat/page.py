"""The page itself: words, template, static files, and what browsers are told not to do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import jinja2

from instructgpt import __version__

LANGUAGES = ("en", "zh")
THEMES = ("light", "dark")
_FOLDER = Path(__file__).parent
_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}

HEADERS = {
    # No inline script or style, nothing from other servers; HTML is put into the page at one place only.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types rendered-reply"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
"""Sent with the page and its files."""


@dataclass(frozen=True)
class StaticFile:
    """A file of the page, read once."""

    content: bytes
    media_type: str
    tag: str
    """Names the content: browsers ask whether it has changed."""


@cache
def static_files() -> dict[str, StaticFile]:
    """The files of `static/` by name."""
    found = {}
    for path in sorted((_FOLDER / "static").iterdir()):
        if path.suffix in _TYPES:
            content = path.read_bytes()
            tag = f'"{blake2b(content, digest_size=8).hexdigest()}"'
            found[path.name] = StaticFile(content, _TYPES[path.suffix], tag)
    return found


@cache
def words_of(language: str) -> dict[str, str]:
    """The page's words in one of `LANGUAGES`."""
    words: dict[str, str] = json.loads((_FOLDER / "words" / f"{language}.json").read_text(encoding="utf-8"))
    return words


def choose_language(wanted: str | None, accepted: str) -> str:
    """The language of the page: the cookie's, else the first that the browser accepts and we have.

    Args:
        wanted: of the cookie.
        accepted: the Accept-Language header.
    """
    if wanted in LANGUAGES:
        return str(wanted)
    ranked = []
    for place, part in enumerate(accepted.split(",")):
        tag, _, quality = part.strip().partition(";q=")
        try:
            ranked.append((-float(quality or 1), place, tag.split("-")[0].lower()))
        except ValueError:
            continue
    return next((tag for _, _, tag in sorted(ranked) if tag in LANGUAGES), LANGUAGES[0])


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("page.html")


def page(language: str, theme: str, settings: Mapping[str, Any]) -> str:
    """The page's HTML.

    Args:
        theme: light or dark; anything else follows the system.
        settings: what the script must know of the server; public, as the page is.
    """
    return _template().render(
        words=words_of(language),
        language=language,
        theme=theme if theme in THEMES else "",
        version=__version__,
        settings={**settings, "language": language},
    )
