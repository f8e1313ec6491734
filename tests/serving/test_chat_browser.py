"""The chat page in a real browser: talk, compare, feedback, consent, keys, hostile replies, a phone."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from instructgpt.serving.keys import create_key

playwright = pytest.importorskip("playwright.sync_api", reason="pip install 'instructgpt[test]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]
FLAGS = """--no-sandbox --disable-gpu --no-first-run --disable-background-networking
--disable-component-update --disable-sync"""
# A reply that stays open until it is stopped: the first words come, then nothing.
ENDLESS = """
const real = window.fetch;
window.fetch = (path, options) => {
  if (!String(path).includes("/v1/chat/completions")) return real(path, options);
  const choices = [{index: 0, delta: {content: "once upon"}}];
  const event = `data: ${JSON.stringify({model: "tiny", choices})}\\n\\n`;
  const stream = new ReadableStream({start(controller) {
    controller.enqueue(new TextEncoder().encode(event));
    options.signal.addEventListener("abort", () => controller.error(new DOMException("", "AbortError")));
  }});
  return Promise.resolve(new Response(stream, {status: 200}));
};
"""
HOSTILE = """<script>window.pwned=1</script> <img src=x onerror="window.pwned=1"> ![x](https://evil.example/x.png)

[click](javascript:window.pwned=1) [web](https://a.example "t")

```html
<script>window.pwned=1</script>
```

| a |
|:-:|
| <svg onload="window.pwned=1"> |
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """`open_page(server, **of the context)`: the page in a fresh profile; it must log no error to the end."""
    contexts: list[Any] = []
    wrong: list[str] = []

    def open_(server: Any, *, init: str = "", path: str = "/", **more: Any) -> Any:
        contexts.append(
            browser.new_context(**{"locale": "en-US", "viewport": {"width": 1100, "height": 800}, **more})
        )
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if "Policy" in message.text else None)
        if init:
            page.add_init_script(init)
        page.goto(server.url + path)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not wrong, wrong


def say(page: Any, text: str) -> None:
    page.get_by_role("textbox", name="Message").fill(text)
    page.keyboard.press("Enter")


def ready(page: Any) -> None:
    """Until the page knows the models."""
    page.locator("#suggestions .card").first.wait_for()


def replied(page: Any, count: int = 1) -> None:
    """Until so many replies are complete, and shown as they stay (last words stand plain for a moment)."""
    page.locator(".turn.reply > .tools").nth(count - 1).wait_for()
    page.wait_for_function("!document.querySelector('.turn.reply .tail')")


def spool(server: Any) -> list[dict[str, Any]]:
    path = Path(server.state.config.feedback)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.split("\n") if line]


def canned(page: Any, text: str) -> None:
    """Have the server's reply be this text."""
    chunk = {"model": "tiny", "system_fingerprint": "fp_" + "0" * 16}
    events = [
        {**chunk, "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]},
        {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    ]
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(body=body, headers={"Content-Type": "text/event-stream"}),
    )


def test_talking(server: Any, open_page: Any) -> None:
    """A reply, another one, an edited message, history over a reload, deletion."""
    page = open_page(server)
    ready(page)
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Longest reply").fill("12")
    page.get_by_label("System message").fill("say good morning")
    page.get_by_role("button", name="Done").click()
    with page.expect_request("**/v1/chat/completions") as sent:
        say(page, "name a river")
    body = sent.value.post_data_json
    assert body["messages"] == [
        {"role": "system", "content": "say good morning"},
        {"role": "user", "content": "name a river"},
    ]
    assert body["max_completion_tokens"] == 12 and body["stream"] is True
    replied(page)
    first = page.locator(".turn.reply .body").inner_text()
    page.get_by_role("button", name="Another reply").click()
    page.get_by_label("Reply 2 of 2").wait_for()
    page.get_by_role("button", name="Earlier reply").click()
    page.get_by_label("Reply 1 of 2").wait_for()
    assert page.locator(".turn.reply .body").inner_text() == first
    say(page, "count to three")
    replied(page, 2)
    page.locator(".turn.user").first.hover()
    page.get_by_role("button", name="Edit the message").first.click()
    page.get_by_role("textbox", name="Edit the message").fill("count to four")
    page.get_by_role("button", name="Send", exact=True).first.click()
    page.locator(".bubble", has_text="count to four").wait_for()
    replied(page)
    assert page.locator(".turn").count() == 2, "what came after the edited message is gone"
    page.reload()
    page.locator(".entry", has_text="name a river").click()
    page.locator(".bubble", has_text="count to four").wait_for()
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("button", name="Delete everything").click()
    page.locator("#sure-dialog").get_by_role("button", name="Delete everything").click()
    page.get_by_text("None yet.").wait_for()
    assert page.evaluate("Object.keys(localStorage).filter((key) => key.includes('chat')).length") == 0
    assert not spool(server), "nobody rated anything"


def test_the_stop_button_keeps_what_there_is(server: Any, open_page: Any) -> None:
    page = open_page(server, init=ENDLESS)
    ready(page)
    say(page, "tell me a story")
    page.locator(".body", has_text="once upon").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.locator(".note", has_text="Stopped.").wait_for()
    assert page.locator(".turn.reply .body").inner_text().strip() == "once upon"
    assert page.get_by_role("button", name="Send", exact=True).is_visible()


def test_comparing_by_consent(
    start_server: Any, tiny_checkpoint: Path, other_checkpoint: Path, open_page: Any
) -> None:
    """Two models side by side without names; the choice is stored only after the person agreed."""
    server = start_server(models=(f"tiny={tiny_checkpoint}", f"other={other_checkpoint}"))
    page = open_page(server)
    ready(page)
    page.get_by_role("button", name="Compare").click()
    assert page.locator("#other-model").input_value() == "other"
    say(page, "name a river")
    page.locator(".choices").wait_for()
    assert page.locator(".column").count() == 2
    assert "tiny" not in page.locator(".columns").inner_text(), "no names before the choice"
    page.keyboard.press("Escape")  # out of the message box
    page.keyboard.press("3")  # the key of "B is better"
    page.get_by_role("button", name="Store my feedback").wait_for()
    assert not spool(server), "nothing before consent"
    page.get_by_role("button", name="Store my feedback").click()
    page.get_by_placeholder("In your own words").fill("it names one")
    page.locator(".reason").get_by_role("button", name="Send").click()
    page.locator(".reason").wait_for(state="detached")
    page.locator("#status", has_text="stored").wait_for(state="attached")
    rows = spool(server)
    assert [row["kind"] for row in rows] == ["comparison"] * 2 and rows[1]["reason"] == "it names one"
    assert rows[1]["choice"] == 1 and {reply["model"] for reply in rows[1]["replies"]} == {"tiny", "other"}
    shown = [name.strip() for name in page.locator(".column .by span:not(.badge)").all_inner_texts()]
    assert shown == [reply["model"] for reply in rows[1]["replies"]]
    hashes = {name: served.hash for name, served in server.state.catalog.models.items()}
    for reply in rows[1]["replies"]:
        assert reply["model_hash"] == hashes[reply["model"]] and "seed" in reply["parameters"]
    assert rows[0]["user"] == rows[1]["user"] and rows[0]["user"].startswith("web-")
    say(page, "and another")
    page.locator(".pair").nth(1).locator(".choices").wait_for()
    page.get_by_role("button", name="Both are bad").last.click()
    page.locator(".reason").get_by_role("button", name="Skip").click()
    last = spool(server)[-1]
    assert last["choice"] == "both_bad"
    assert last["prompt"][1] == {"role": "assistant", "content": rows[1]["replies"][1]["text"]}, (
        "the better one"
    )


def test_thumbs_and_improved_replies(start_server: Any, open_page: Any) -> None:
    server = start_server()
    page = open_page(server)
    ready(page)
    say(page, "name a river")
    replied(page)
    page.get_by_role("button", name="Bad reply").click()
    page.get_by_role("button", name="Store my feedback").click()
    page.get_by_role("button", name="Not correct").click()
    page.locator(".reason").get_by_role("button", name="Send").click()
    page.locator(".reason").wait_for(state="detached")
    original = page.locator(".turn.reply .body").inner_text()
    page.get_by_role("button", name="Improve the reply").click()
    page.get_by_role("textbox", name="Improve the reply").fill("The **Nile**.")
    with page.expect_response("**/v1/feedback"):
        page.get_by_role("button", name="Save").click()
    page.locator(".body strong", has_text="Nile").wait_for()
    rows = spool(server)
    assert [row["kind"] for row in rows] == ["thumb", "thumb", "edit"]
    assert rows[0]["thumb"] == rows[1]["thumb"] == "down" and rows[1]["flags"] == ["incorrect"]
    assert rows[2]["edited"] == "The **Nile**." and rows[2]["replies"][0]["text"].split() == original.split()


def test_without_consent_nothing_is_stored(start_server: Any, open_page: Any) -> None:
    server = start_server()
    page = open_page(server)
    ready(page)
    say(page, "name a river")
    replied(page)
    posts: list[str] = []
    page.on("request", lambda request: posts.append(request.url) if "feedback" in request.url else None)
    page.get_by_role("button", name="Good reply").click()
    page.get_by_role("button", name="Do not store").click()
    page.locator("#toast", has_text="Kept in this browser only").wait_for()
    page.get_by_role("button", name="Bad reply").click()
    assert not page.locator("#consent-dialog").is_visible(), "asked once"
    page.get_by_role("button", name="Settings").click()
    assert not page.get_by_label("Store my feedback on the server").is_checked()
    assert not posts and not spool(server)


def test_a_hostile_reply_does_nothing(server: Any, open_page: Any) -> None:
    page = open_page(server)
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    ready(page)
    canned(page, HOSTILE)
    say(page, "name a river")
    replied(page)
    page.locator(".code-box").wait_for()
    assert page.evaluate("window.pwned") is None
    body = page.locator(".turn.reply .body")
    assert body.locator("script, img, svg:not(.icon), iframe, style").count() == 0
    assert body.locator("a").evaluate_all("links => links.map((link) => link.href)") == [
        "https://evil.example/x.png",
        "https://a.example/",
    ]
    assert all(url.startswith(server.url) for url in asked), "nothing is asked of other servers"
    assert "<script>window.pwned=1</script>" in page.locator(".code-box pre").inner_text()


def test_code_can_be_copied(server: Any, open_page: Any) -> None:
    page = open_page(server, permissions=["clipboard-read", "clipboard-write"])
    ready(page)
    canned(page, "```python\nprint(1)\n```")
    say(page, "code")
    page.get_by_role("button", name="Copy the code").click()
    page.locator("#status", has_text="Copied").wait_for(state="attached")
    assert page.evaluate("navigator.clipboard.readText()") == "print(1)\n"
    assert page.locator(".code-head").inner_text().strip() == "python"


def test_a_key_is_asked_for(start_server: Any, tmp_path: Path, open_page: Any) -> None:
    _, key = create_key(tmp_path / "keys.json", "ann")
    page = open_page(start_server(keys=str(tmp_path / "keys.json")))
    page.get_by_label("API key").fill("wrong")
    page.get_by_role("button", name="Use the key").click()
    page.get_by_text("does not accept this key").wait_for()
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Use the key").click()
    ready(page)
    say(page, "name a river")
    replied(page)


def test_a_task_to_start_from(server: Any, open_page: Any) -> None:
    page = open_page(server, locale="zh-CN")
    ready(page)
    page.get_by_role("button", name="任务模板").click()
    page.locator("#tasks-body").get_by_role("button", name="情感分析").click()
    page.locator("#field-text").fill("早上好")
    with page.expect_request("**/v1/chat/completions") as sent:
        page.get_by_role("button", name="开始").click()
    messages = sent.value.post_data_json["messages"]
    assert messages[0]["role"] == "system" and "早上好" in messages[1]["content"]


def test_a_full_context_drops_the_oldest(server: Any, open_page: Any) -> None:
    """The tiny model's context is 160 tokens; the third long message leaves no room for the first."""
    page = open_page(server)
    ready(page)
    canned(page, "good")
    for number in range(2):
        say(page, f"{number} " + "qzx" * 18)
        replied(page, number + 1)
    page.unroute("**/v1/chat/completions")
    say(page, "2 " + "qzx" * 18)
    page.locator(".note", has_text="oldest messages were left out").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(server: Any, open_page: Any, scheme: str) -> None:
    size = {"width": 360, "height": 740}
    page = open_page(server, viewport=size, is_mobile=True, has_touch=True, color_scheme=scheme)
    ready(page)
    page.get_by_role("button", name="Open the menu").tap()
    page.get_by_role("button", name="New conversation").tap()
    canned(page, "| " + "wide | " * 12 + "\n|" + "--|" * 12 + "\n\n```\n" + "x" * 300 + "\n```\n" + "y" * 300)
    page.get_by_role("button", name="Compare").tap()
    page.get_by_role("textbox", name="Message").fill("name a river")
    page.get_by_role("button", name="Send", exact=True).tap()
    page.locator(".choices").wait_for()
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 360, "nothing sticks out sideways"
    box = page.locator(".column").first.bounding_box()
    assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 360


def test_everything_has_a_name(server: Any, open_page: Any) -> None:
    """Every control can be told apart by a screen reader, in both languages."""
    for locale in ("en-US", "zh-CN"):
        page = open_page(server, locale=locale)
        ready(page)
        canned(page, "good")
        page.locator("#message").fill("a")
        page.keyboard.press("Enter")
        replied(page)
        tree = page.locator("body").aria_snapshot()
        nameless = re.findall(
            r"^\s*- (?:button|textbox|combobox|checkbox|slider)(?: \[.*\])?:?$", tree, re.MULTILINE
        )
        assert not nameless, tree
