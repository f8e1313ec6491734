"""Instructions in Markdown as HTML that can't run anything."""

from __future__ import annotations

from functools import lru_cache

import nh3
from markdown_it import MarkdownIt
from markupsafe import Markup

_TAGS = frozenset(
    [
        "a",
        "blockquote",
        "br",
        "code",
        "em",
        "h1",
        "h2",
        "h3",
        "h4",
        "hr",
        "li",
        "ol",
        "p",
        "pre",
        "s",
        "strong",
        "table",
        "tbody",
        "td",
        "th",
        "thead",
        "tr",
        "ul",
    ]
)


@lru_cache(maxsize=256)
def render_markdown(text: str) -> Markup:
    """HTML of CommonMark with tables and strike-through.

    HTML written into the text is shown as text, and what comes out is cleaned once more by an allow-list
    without images (they would be asked from other servers) and with links to http, https and mailto alone.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    html = nh3.clean(
        parser.render(text),
        tags=set(_TAGS),
        attributes={"a": {"href", "title"}},
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
    )
    return Markup(html)
