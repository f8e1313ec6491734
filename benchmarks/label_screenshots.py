"""Screenshots of the labelling app, into docs/images/label/: `python -m benchmarks.label_screenshots`.

The pages show the sample project of `label --demo`. Needs Playwright and a Chromium (`--chromium PATH`).
"""

from __future__ import annotations

import argparse
import io
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from instructgpt.data.records import Prompt
from instructgpt.labelling.app.factory import create_app
from instructgpt.labelling.demo import make_demo
from instructgpt.labelling.store import people, projects
from instructgpt.labelling.store.database import Store, open_store
from instructgpt.labelling.store.projects import ProjectSettings
from instructgpt.labelling.store.tasks import NewReply, NewTask, add_prompt_tasks, add_tasks

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
DESKTOP, PHONE = (1280, 860), (390, 800)
TALLEST = 1240
"""Longer pages are cut off there, in pixels."""
PASSWORD = "a sample password"
FOLDER = Path(__file__).parent.parent / "docs" / "images" / "label"


@dataclass(frozen=True)
class Shot:
    """One picture: which page, who looks, and how."""

    name: str
    path: str
    person: str = "ada"
    language: str = "en"
    theme: str = "light"
    size: tuple[int, int] = DESKTOP
    act: str = ""
    """What is done before: the name of a function below."""


def shots(project: int, compare: int, write: int, prompts: int) -> list[Shot]:
    """All pictures, for the numbers of the sample projects."""
    home = f"/admin/projects/{project}"
    return [
        Shot("login", "/login", ""),
        Shot("login-zh-dark", "/login", "", "zh", "dark", PHONE),
        Shot("home", "/", "lea"),
        Shot("rank", f"/projects/{project}/work", "lea", act="rank"),
        Shot("rank-dark-zh", f"/projects/{project}/work", "lou", "zh", "dark", act="rank"),
        Shot("rank-phone", f"/projects/{project}/work", "lea", size=PHONE, act="rank"),
        Shot("compare", f"/projects/{compare}/work", "lea"),
        Shot("write", f"/projects/{write}/work", "lea", act="write"),
        Shot("write-prompt-zh", f"/projects/{prompts}/work", "lou", "zh"),
        Shot("mine", f"/projects/{project}/mine", "Ana (simulated)"),
        Shot("overview-dark", "/admin", theme="dark"),
        Shot("progress", home),
        Shot("progress-phone-dark", home, theme="dark", size=PHONE),
        Shot("agreement", f"{home}/agreement"),
        Shot("agreement-zh", f"{home}/agreement", language="zh"),
        Shot("labels", f"{home}/labels"),
        Shot("label", f"{home}/labels/3"),
        Shot("tasks", f"{home}/tasks"),
        Shot("settings", f"{home}/settings", act="preview"),
        Shot("members", f"{home}/members"),
        Shot("export", f"{home}/export"),
        Shot("people", "/admin/people", act="invite"),
        Shot("people-zh-dark", "/admin/people", language="zh", theme="dark"),
        Shot("log", "/admin/log"),
    ]


def sample(store: Store) -> tuple[int, int, int, int]:
    """The sample project, small ones of the other kinds, and people with passwords."""
    project = make_demo(store)
    for name, role in (("ada", "admin"), ("lea", "labeler"), ("lou", "labeler")):
        people.create_person(store, name, PASSWORD, role, by=None)  # type: ignore[arg-type]
    for person in people.people(store, by=None):
        if person.name == "Ana (simulated)":
            people.set_password(store, person.id, PASSWORD, by=None)
    guide = "**Helpful first**, then truthful and harmless.\n\n- Answer what was asked.\n- Admit doubt."
    made = []
    for name, kind in (
        ("Which model is better?", "compare"),
        ("Demonstrations, round 2", "demonstration"),
        ("New prompts", "prompt"),
    ):
        settings = ProjectSettings(name=name, kind=kind, instructions=guide, replies=2)  # type: ignore[arg-type]
        made.append(projects.create_project(store, settings, by=None).id)
    question = "My bicycle chain keeps falling off. What can I check before I take it to a shop?"
    replies = (
        NewReply(
            "Check whether the chain is worn, whether the derailleur is bent, and whether the limit screws "
            "are set so that the chain can't leave the smallest and the largest cog. Clean and oil it first."
        ),
        NewReply("You should take it to a shop."),
    )
    add_tasks(store, made[0], [NewTask(Prompt.of(question), replies)], by=None)
    add_tasks(store, made[1], [NewTask(Prompt.of(question))], by=None)
    add_prompt_tasks(store, made[2], 3, style="few-shot", by=None)
    return project, made[0], made[1], made[2]


@contextmanager
def serving(store: Store) -> Iterator[str]:
    """The app on a free port of this machine, in a thread; gives its address."""
    import uvicorn

    bound = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(store), log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        bound.close()


def _rank(page: Any) -> None:
    for key in "B1A3C3D2":
        page.keyboard.press(key)
    page.keyboard.press("B")
    page.keyboard.press("Shift+Digit6")
    page.evaluate("scrollTo(0, 0)")


def _write(page: Any) -> None:
    page.fill(
        "#turn-0",
        "Look at the chain first: if it is worn or dirty, it slips. Then check that the\nderailleur "
        "hangs straight and that its limit screws stop it at both ends.",
    )


def _preview(page: Any) -> None:
    page.click("button[value=preview]")


def _invite(page: Any) -> None:
    page.fill("#note", "Mia, from the second vendor")
    page.click("form[action='/admin/people/invite'] button")


ACTS = {"rank": _rank, "write": _write, "preview": _preview, "invite": _invite}


def take(url: str, found: list[Shot], folder: Path, chromium: str) -> None:
    """Take the pictures."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        for shot in found:
            context = browser.new_context(
                viewport={"width": shot.size[0], "height": shot.size[1]},
                locale="zh-CN" if shot.language == "zh" else "en-GB",
                color_scheme="dark" if shot.theme == "dark" else "light",
                reduced_motion="reduce",
            )
            page = context.new_page()
            if shot.person:
                page.goto(f"{url}/login")
                page.fill("#name", shot.person)
                page.fill("#password", PASSWORD)
                page.click("button.main")
            page.goto(url + shot.path)
            if shot.act:
                ACTS[shot.act](page)
            page.wait_for_load_state("networkidle")
            full = shot.size == DESKTOP and shot.act != "rank"
            height = page.evaluate("document.documentElement.scrollHeight") if full else shot.size[1]
            clip = {"x": 0, "y": 0, "width": shot.size[0], "height": min(height, TALLEST)}
            save(page.screenshot(full_page=full, clip=clip), folder / f"{shot.name}.png")
            context.close()
        browser.close()


def save(png: bytes, path: Path) -> None:
    """Write a picture with 64 colours, which is enough for pages and a third of the size."""
    try:
        from PIL import Image
    except ImportError:
        path.write_bytes(png)
        return
    Image.open(io.BytesIO(png)).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(
        path, optimize=True
    )


def main() -> None:
    """Take all pictures, or those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="only these")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--chromium", default=CHROMIUM)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as scratch:
        store = open_store(Path(scratch) / "labels.db")
        found = shots(*sample(store))
        with serving(store) as url:
            chosen = [shot for shot in found if not given.names or shot.name in given.names]
            take(url, chosen, given.folder, given.chromium)
        store.close()


if __name__ == "__main__":
    main()
