"""A model's reply as HTML that can't do anything.

Two maintained libraries, one after the other: markdown-it-py makes HTML and escapes whatever tags the reply
holds; nh3 then keeps nothing but the tags and attributes listed here. No images: a reply must not make the
reader's browser ask other servers, since the address could carry away what was said in the conversation.
"""

from __future__ import annotations

import re
from functools import cache

import nh3
from markdown_it import MarkdownIt

TAGS = (
    {"a", "p", "br", "hr", "strong", "em", "s", "code", "pre", "blockquote", "ul", "ol", "li"}
    | {"h1", "h2", "h3", "h4", "h5", "h6"}
    | {"table", "thead", "tbody", "tr", "th", "td"}
)
ATTRIBUTES = {
    "a": {"href", "title"},
    "code": {"class"},
    "ol": {"start"},
    "th": {"align"},
    "td": {"align"},
}
SCHEMES = {"http", "https", "mailto"}

_LANGUAGE = re.compile(r"language-[A-Za-z0-9+#.-]{1,30}")
_ALIGN = re.compile(r"text-align:(left|center|right)")


@cache
def _parser() -> MarkdownIt:
    options = {"html": False, "linkify": False, "breaks": True}
    return MarkdownIt("commonmark", options).enable(["table", "strikethrough"]).disable("image")


def to_html(text: str) -> str:
    """The text, read as Markdown, as harmless HTML: see the module."""
    parser = _parser()
    tokens = parser.parse(text)
    for token in tokens:
        # Inline styles are refused by the page's policy, so a column's alignment becomes an attribute.
        if token.type in ("th_open", "td_open") and (style := token.attrGet("style")):
            match = _ALIGN.fullmatch(str(style))
            token.attrs = {"align": match[1]} if match else {}
    return nh3.clean(
        parser.renderer.render(tokens, parser.options, {}),
        tags=TAGS,
        attributes=ATTRIBUTES,
        attribute_filter=_attribute,
        url_schemes=SCHEMES,
        url_relative="deny",
        link_rel="noopener noreferrer nofollow",
        set_tag_attribute_values={"a": {"target": "_blank"}},
    )


def _attribute(tag: str, name: str, value: str) -> str | None:
    """The attribute's value, or None to drop it: of classes only a code block's language stays."""
    if (tag, name) == ("code", "class") and not _LANGUAGE.fullmatch(value):
        return None
    return value
