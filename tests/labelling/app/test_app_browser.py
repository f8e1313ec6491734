"""The pages in a real browser: by mouse and by keyboard, in both languages, on a bad line, in two tabs."""

import json
import shutil
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright import sync_api

from instructgpt.data.records import read_rankings
from instructgpt.labelling.app.factory import create_app
from instructgpt.labelling.app.texts import Translator, translator
from instructgpt.labelling.store import invitations, projects, queue, review
from instructgpt.labelling.store.database import Store

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
PASSWORD = "correct horse battery"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]


@contextmanager
def served(store: Store, port: int = 0) -> Iterator[str]:
    """The app at an address of this machine, in a thread."""
    bound = socket.create_server(("127.0.0.1", port))
    config = uvicorn.Config(create_app(store), log_level="error", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        bound.close()


@pytest.fixture
def url(store: Store) -> Iterator[str]:
    with served(store) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def tab(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a browser window of its own; a page's error of script or policy fails the test."""
    contexts: list[Any] = []
    errors: list[str] = []

    def make(language: str = "en", **more: Any) -> Any:
        locale = {"en": "en-GB", "zh": "zh-CN"}[language]
        contexts.append(browser.new_context(locale=locale, accept_downloads=True, **more))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda m: errors.append(m.text) if "Content Security Policy" in m.text else None)
        return page

    yield make
    for context in contexts:
        context.close()
    assert errors == []


def log_in(page: Any, url: str, name: str) -> None:
    page.goto(f"{url}/login")
    page.fill("#name", name)
    page.fill("#password", PASSWORD)
    page.click("main button[type=submit]")
    page.wait_for_url(f"{url}/")


def texts_shown(page: Any) -> dict[str, str]:
    """Letter -> text of the reply."""
    cards = page.locator(".reply")
    return {
        cards.nth(i).get_attribute("data-letter"): cards.nth(i).locator(".said").inner_text()
        for i in range(cards.count())
    }


def rank_by_keyboard(page: Any) -> dict[str, int]:
    """B best, A and C share the second place; returns letter -> rank."""
    for keys in (("b", "1", "Shift+Digit7"), ("a", "2", "Shift+Digit4"), ("c", "2", "Shift+Digit3")):
        for key in keys:
            page.keyboard.press(key)
    page.keyboard.press("Control+Enter")
    return {"A": 2, "B": 1, "C": 2}


def drag(page: Any, handle: str, slot: int) -> None:
    start, end = (page.locator(s).bounding_box() for s in (handle, f".slot[data-rank='{slot}']"))
    page.mouse.move(start["x"] + start["width"] / 2, start["y"] + start["height"] / 2)
    page.mouse.down()
    page.mouse.move(end["x"] + end["width"] / 2, end["y"] + end["height"] - 8, steps=8)
    page.mouse.up()


def rank_by_mouse(page: Any) -> dict[str, int]:
    """C best by dragging, A second by its button, B dragged to the same place as A."""
    drag(page, ".chip[data-letter='C']", 1)
    page.locator(".reply[data-letter='A'] .pick", has=page.locator("input[data-rank][value='2']")).click()
    drag(page, ".chip[data-letter='B']", 2)
    assert page.locator(".slot[data-rank='2'] .chip").all_inner_texts() == ["A", "B"]
    for letter in "ABC":
        card = page.locator(f".reply[data-letter='{letter}']")
        card.locator(".pick", has=page.locator("input[data-rating][value='5']")).click()
    page.click("[data-submit]")
    return {"A": 2, "B": 2, "C": 1}


def pairs(ranks: dict[str, int], shown: dict[str, str]) -> set[tuple[str, str]]:
    """(chosen, rejected) as one would write them by hand: each reply over each that has a worse place."""
    return {(shown[a], shown[b]) for a in ranks for b in ranks if ranks[a] < ranks[b]}


def press_to(page: Any, selector: str) -> None:
    """Tab until the element has the focus."""
    for _ in range(80):
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{selector} can't be reached by Tab")


def begin(page: Any, t: Translator, link: str, by_keyboard: bool) -> None:
    """From the invitation to a project with one prompt and its replies."""
    page.goto(link)
    rows = [
        {
            "prompt": "Name a river.",
            "responses": [{"text": text, "model": "m"} for text in ("Nile", "Rhine", "Oder")],
        }
    ]
    upload = {"name": "p.jsonl", "mimeType": "text/plain", "buffer": json.dumps(rows[0]).encode()}
    if not by_keyboard:
        page.fill("#name", "ada")
        page.fill("#password", PASSWORD)
        page.fill("#again", PASSWORD)
        page.click("main button[type=submit]")
        page.click(f"text={t('overview.new')}")
        page.fill("#name", "Rivers")
        page.fill("#replies", "3")
        page.fill("#valid", "0")
        page.fill("#instructions", "Be **kind**.")
        page.click("button[value=preview]")
        page.locator(".guide strong", has_text="kind").wait_for()
        page.click("button[value=save]")
    else:
        for selector, text in (("#name", "ada"), ("#password", PASSWORD), ("#again", PASSWORD)):
            press_to(page, selector)
            page.keyboard.type(text)
        page.keyboard.press("Enter")
        page.locator("a[href='/admin/new']").wait_for()
        press_to(page, "a[href='/admin/new']")
        page.keyboard.press("Enter")
        page.wait_for_url("**/admin/new")
        for selector, text in (("#name", "Rivers"), ("#replies", "3"), ("#valid", "0")):
            press_to(page, selector)
            page.keyboard.press("Control+a")
            page.keyboard.type(text)
        press_to(page, "button[value=save]")
        page.keyboard.press("Enter")
    page.locator("#file").set_input_files(upload)  # the file dialog is the system's
    if by_keyboard:
        press_to(page, "form[action$='/import'] button.main")
        page.keyboard.press("Enter")
    else:
        page.click("form[action$='/import'] button.main")
    page.locator(".note[role=status]").wait_for()


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("by_keyboard", [False, True], ids=["mouse", "keyboard"])
def test_first_log_in_to_export(
    tab: Any, url: str, store: Store, tmp_path: Path, language: str, by_keyboard: bool
) -> None:
    """Field faults 36, 37 and 38: ties by mouse and by keyboard; what comes out is what went in."""
    t = translator(language)
    token, _ = invitations.invite(store, "admin", by=None)
    page = tab(language)
    begin(page, t, f"{url}/invitation/{token}", by_keyboard)
    (made,) = projects.projects(store)
    assert page.locator("html").get_attribute("lang") == ("zh-Hans" if language == "zh" else "en")
    page.goto(f"{url}/")
    if by_keyboard:
        press_to(page, "main a.button.main")
        page.keyboard.press("Enter")
    else:
        page.click("main a.button.main")
    page.wait_for_url("**/tasks/*")
    shown = texts_shown(page)
    ranks = rank_by_keyboard(page) if by_keyboard else rank_by_mouse(page)
    page.get_by_role("heading", name=t("pause.nothing-left.title")).wait_for()
    page.goto(f"{url}/admin/projects/{made.id}/export")
    with page.expect_download() as download:
        if by_keyboard:
            press_to(page, "form[action$='/export.zip'] button.main")
            page.keyboard.press("Enter")
        else:
            page.click("form[action$='/export.zip'] button.main")
    archive = tmp_path / "export.zip"
    download.value.save_as(archive)
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path)
    (ranking,) = read_rankings(tmp_path / "rankings_train.jsonl")
    assert {response.text: response.rank for response in ranking.responses} == {
        shown[letter]: rank for letter, rank in ranks.items()
    }
    lines = (tmp_path / "preferences_train.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    plain = [
        tuple(v if isinstance(v, str) else v[-1]["content"] for v in (r["chosen"], r["rejected"]))
        for r in found
    ]
    assert len(plain) == len(set(plain)) and set(plain) == pairs(ranks, shown)


def test_a_lost_connection_loses_nothing(
    tab: Any, store: Store, people_here: dict[str, int], project: Any
) -> None:
    made = project("rank", count=1)
    page = tab()
    with served(store) as url:
        port = int(url.rsplit(":")[-1])
        log_in(page, url, "lea")
        page.goto(f"{url}/projects/{made.id}/work")
    rank_by_keyboard(page)  # the server is gone
    page.locator("#banner", has_text="will be sent as soon as").wait_for()
    assert review.labels(store, made.id, by=None) == []
    with served(store, port):
        page.get_by_role("heading", name="All done").wait_for()
    (label,) = review.labels(store, made.id, by=None)
    assert sorted(j.rank for j in label.answer.judgements) == [1, 2, 2]


def test_an_answer_whose_reply_was_lost_is_one_record(
    tab: Any, url: str, store: Store, people_here: dict[str, int], project: Any
) -> None:
    made = project("rank", count=1)
    page = tab()
    log_in(page, url, "lea")
    page.goto(f"{url}/projects/{made.id}/work")
    seen = []

    def swallow(route: Any) -> None:
        if route.request.method != "POST" or seen:
            route.continue_()
            return
        seen.append(route.fetch())  # it reaches the server, and its answer never comes back
        route.abort("connectionreset")

    page.route("**/tasks/*", swallow)
    rank_by_keyboard(page)
    page.get_by_role("heading", name="All done").wait_for()
    assert len(seen) == 1 and len(review.labels(store, made.id, by=None)) == 1


def test_a_draft_survives_a_reload_and_the_end_of_the_session(
    tab: Any, url: str, store: Store, people_here: dict[str, int], project: Any
) -> None:
    made = project("rank", count=1)
    page = tab()
    log_in(page, url, "lea")
    page.goto(f"{url}/projects/{made.id}/work")
    for key in ("b", "1", "Shift+Digit6", "c", "1"):
        page.keyboard.press(key)
    page.reload()
    page.locator("#restored").wait_for()
    assert page.locator(".slot[data-rank='1'] .chip").all_inner_texts() == ["B", "C"]
    assert page.locator(".reply[data-letter='B'] input[data-rating]:checked").get_attribute("value") == "6"
    page.context.clear_cookies(name="label_session")
    rank_by_keyboard(page)
    with page.expect_popup() as popup:
        page.click("#banner a")
    log_in(popup.value, url, "lea")
    page.get_by_role("heading", name="All done").wait_for()
    assert len(review.labels(store, made.id, by=None)) == 1


def test_two_tabs_make_one_record(
    tab: Any, url: str, store: Store, people_here: dict[str, int], project: Any
) -> None:
    made = project("rank", count=1)
    one = tab()
    log_in(one, url, "lea")
    one.goto(f"{url}/projects/{made.id}/work")
    two = one.context.new_page()
    two.goto(f"{url}/projects/{made.id}/work")
    assert one.url == two.url
    rank_by_keyboard(one)
    one.get_by_role("heading", name="All done").wait_for()
    for key in (
        "a",
        "1",
        "Shift+Digit1",
        "b",
        "2",
        "Shift+Digit1",
        "c",
        "3",
        "Shift+Digit1",
        "Control+Enter",
    ):
        two.keyboard.press(key)
    two.wait_for_url("**/mine/*")
    assert "another tab" in two.inner_text("main")
    (label,) = review.labels(store, made.id, by=None)
    assert sorted(j.rank for j in label.answer.judgements) == [1, 2, 2]


def test_what_is_not_theirs_is_not_shown(
    tab: Any, url: str, store: Store, people_here: dict[str, int], project: Any
) -> None:
    made = project("rank", count=2)
    held = queue.next_task(store, people_here["lea"], made.id)
    assert held is not None
    page = tab()
    log_in(page, url, "lou")
    answers = {
        path: page.goto(f"{url}{path}").status
        for path in (f"/tasks/{held.assignment_id}", "/admin", "/admin/people")
    }
    assert list(answers.values()) == [404, 403, 403]
    assert "Reply" not in page.inner_text("main")


def test_ten_wrong_passwords(tab: Any, url: str, people_here: dict[str, int]) -> None:
    page = tab()
    page.goto(f"{url}/login")
    for number in range(11):
        page.fill("#name", "lea")
        page.fill("#password", f"wrong password {number}")
        page.click("main button[type=submit]")
        page.locator("[role=alert]").wait_for()
    assert "Too many failed attempts" in page.inner_text("main")
    page.fill("#password", PASSWORD)
    page.click("main button[type=submit]")
    assert "Too many failed attempts" in page.inner_text("main")


def test_marks_all_bad_and_skipping_by_keyboard(
    tab: Any, url: str, store: Store, people_here: dict[str, int], project: Any
) -> None:
    """Field fault 38: "all answers wrong" has its place, and a task may be skipped with a reason."""
    made = project("rank", count=2)
    page = tab()
    log_in(page, url, "lea")
    page.goto(f"{url}/projects/{made.id}/work")
    first = page.url
    page.keyboard.press("a")
    page.keyboard.press("m")
    page.keyboard.press("Space")
    press_to(page, "input[name=all_bad]")
    page.keyboard.press("Space")
    rank_by_keyboard(page)
    page.wait_for_url(lambda address: "/tasks/" in address and address != first)
    (label,) = review.labels(store, made.id, by=None)
    assert label.answer.all_bad and sum(len(j.flags) for j in label.answer.judgements) == 1
    press_to(page, "details.skip:has(form) > summary")
    page.keyboard.press("Enter")
    press_to(page, "input[name=reason]")
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="All done").wait_for()


def test_single_keys_can_be_switched_off(
    tab: Any, url: str, people_here: dict[str, int], project: Any
) -> None:
    """WCAG 2.1.4: single-character shortcuts can be turned off, and then work on a focused reply alone."""
    made = project("rank", count=1)
    page = tab()
    log_in(page, url, "lea")
    page.goto(f"{url}/projects/{made.id}/work")
    page.evaluate("document.getElementById('single-keys').click()")
    page.keyboard.press("b")
    assert page.locator(".reply.chosen").count() == 0
    press_to(page, ".reply[data-letter='A']")
    page.keyboard.press("1")
    assert page.locator(".slot[data-rank='1'] .chip").all_inner_texts() == ["A"]


def test_without_scripts_a_ranking_is_sent(
    tab: Any, url: str, store: Store, people_here: dict[str, int], project: Any
) -> None:
    made = project("rank", count=1)
    page = tab(java_script_enabled=False)
    log_in(page, url, "lea")
    page.goto(f"{url}/projects/{made.id}/work")
    assert not page.locator(".strip").is_visible()
    for number, letter in enumerate("ABC", start=1):
        card = page.locator(f".reply[data-letter='{letter}']")
        card.locator(f"input[data-rating][value='{number}']").check()
        card.locator(f"input[data-rank][value='{number}']").check()
    page.click("[data-submit]")
    page.get_by_role("heading", name="All done").wait_for()
    assert len(review.labels(store, made.id, by=None)) == 1


def test_pages_fit_a_phone(tab: Any, url: str, people_here: dict[str, int], project: Any) -> None:
    made = project("rank", count=1)
    page = tab(viewport={"width": 360, "height": 740})
    log_in(page, url, "ada")
    paths = ["/", f"/projects/{made.id}/work", "/admin", "/admin/people", "/admin/new"]
    paths += [
        f"/admin/projects/{made.id}{part}" for part in ("", "/tasks", "/settings", "/labels", "/export")
    ]
    for path in paths:
        page.goto(url + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
