"""A labelling app over a store of its own, and people who use its forms as a browser would."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason='needs pip install "instructgpt[label]"')

from argon2 import PasswordHasher
from starlette.testclient import TestClient

from instructgpt.labelling.app.factory import create_app
from instructgpt.labelling.app.settings import AppSettings
from instructgpt.labelling.store import imports, people, projects, tasks
from instructgpt.labelling.store.database import Store, open_store
from instructgpt.labelling.store.projects import Project, ProjectSettings

PASSWORD = "correct horse battery"
NOON = 1_800_000_000.0


@dataclass
class FormFound:
    """One form of a page: where it goes and what a browser would post if nothing was typed."""

    action: str
    method: str
    fields: list[tuple[str, str]] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    buttons: list[tuple[str, str]] = field(default_factory=list)


class PageParser(HTMLParser):
    """Forms, links and visible text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[FormFound] = []
        self.links: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._form: FormFound | None = None
        self._area: str | None = None
        self._select: str | None = None
        self._silent = 0

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.tags.append((tag, found))
        name, value = found.get("name") or "", found.get("value") or ""
        if tag == "form":
            self._form = FormFound(found.get("action") or "", found.get("method") or "get")
            self.forms.append(self._form)
        elif tag == "a":
            self.links.append(found.get("href") or "")
        elif tag in ("script", "style"):
            self._silent += 1
        if self._form is None or (not name and tag != "option"):
            return
        if tag == "input":
            self._form.names.add(name)
            ticked = found.get("type") not in ("radio", "checkbox") or "checked" in found
            if ticked and found.get("type") != "file":
                self._form.fields.append((name, value))
        elif tag == "textarea":
            self._form.names.add(name)
            self._area = name
            self._form.fields.append((name, ""))
        elif tag == "select":
            self._form.names.add(name)
            self._select = name
        elif tag == "option" and self._select:
            if "selected" in found or not any(k == self._select for k, _ in self._form.fields):
                self._form.fields = [(k, v) for k, v in self._form.fields if k != self._select]
                self._form.fields.append((self._select, value))
        elif tag == "button":
            self._form.buttons.append((name, value))

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._form = None
        elif tag == "textarea":
            self._area = None
        elif tag == "select":
            self._select = None
        elif tag in ("script", "style"):
            self._silent -= 1

    def handle_data(self, data: str) -> None:
        if self._area and self._form:
            name, value = self._form.fields[-1]
            self._form.fields[-1] = (name, (value + data).removeprefix("\n") if not value else value + data)
        if not self._silent:
            self.text.append(data)


class Visitor:
    """A browser without JavaScript."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        self.response: Any = None
        self.page = PageParser()

    def get(self, path: str, **more: Any) -> "Visitor":
        return self._keep(self.client.get(path, **more))

    def _keep(self, response: Any) -> "Visitor":
        self.response, self.page = response, PageParser()
        if "html" in response.headers.get("content-type", ""):
            self.page.feed(response.text)
        return self

    def form(self, action: str) -> FormFound:
        found = [form for form in self.page.forms if form.action == action]
        assert found, (action, [form.action for form in self.page.forms], self.response.text[:500])
        return found[0]

    def send(
        self, form_action: str, /, *, files: Any = None, headers: Any = None, **values: Any
    ) -> "Visitor":
        """Fill in a form of this page and post it; a list posts several values under one name."""
        form = self.form(form_action)
        data: dict[str, list[str]] = {}
        for name, value in form.fields:
            data.setdefault(name, []).append(value)
        for name, value in values.items():
            data[name] = [str(v) for v in value] if isinstance(value, list) else [str(value)]
        return self._keep(self.client.post(form_action, data=data, files=files, headers=headers))

    @property
    def status(self) -> int:
        return int(self.response.status_code)

    @property
    def path(self) -> str:
        return str(self.response.url.path)

    @property
    def text(self) -> str:
        """What is read on the page."""
        return " ".join(" ".join(self.page.text).split())

    def log_in(self, name: str, password: str = PASSWORD) -> "Visitor":
        return self.get("/login").send("/login", name=name, password=password)


class Clock:
    """Time that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    quick = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    opened = open_store(tmp_path / "labels.db", clock=clock, hasher=quick)
    yield opened
    opened.close()


@pytest.fixture
def people_here(store: Store) -> dict[str, int]:
    """Name -> id of one person of each role and two labelers; all have the same password."""
    roles = {"ada": "admin", "rex": "reviewer", "lea": "labeler", "lou": "labeler"}
    return {
        name: people.create_person(store, name, PASSWORD, role, by=None).id for name, role in roles.items()
    }


@pytest.fixture
def visit(store: Store) -> Iterator[Callable[..., Visitor]]:
    """Makes a visitor of the app: `visit("ada")` is logged in, `visit()` is nobody."""
    opened: list[TestClient] = []
    apps: dict[AppSettings, Any] = {}

    def make(name: str = "", settings: AppSettings | None = None, **client: Any) -> Visitor:
        settings = settings or AppSettings()
        app = apps.setdefault(settings, create_app(store, settings))
        opened.append(TestClient(app, base_url=client.pop("base_url", "http://localhost"), **client))
        visitor = Visitor(opened[-1])
        if name:
            visitor.log_in(name)
            assert visitor.path == "/", visitor.text
        return visitor

    yield make
    for client in opened:
        client.close()


def jsonl(rows: list[dict[str, Any]]) -> tuple[str, bytes]:
    """Rows as an uploaded file."""
    return "rows.jsonl", "\n".join(json.dumps(row) for row in rows).encode()


@pytest.fixture
def project(store: Store, people_here: dict[str, int]) -> Callable[..., Project]:
    """Makes a project with tasks: `project("rank", tasks=2, replies=3)`."""

    def make(kind: str = "rank", count: int = 2, **settings: Any) -> Project:
        ada = people_here["ada"]
        settings = {"name": f"a {kind} project", "replies": 2 if kind == "compare" else 3} | settings
        made = projects.create_project(store, ProjectSettings(kind=kind, **settings), by=ada)
        if kind == "prompt" and count:
            tasks.add_prompt_tasks(store, made.id, count, style="plain", by=ada)
        elif count:
            rows: list[dict[str, Any]] = [{"prompt": f"Question {i}?"} for i in range(count)]
            if kind in ("rank", "compare"):
                for i, row in enumerate(rows):
                    row["responses"] = [
                        {"text": f"Reply {j} to {i}.", "model": f"model-{j}"}
                        for j in range(settings["replies"])
                    ]
            imports.import_tasks(store, made.id, jsonl(rows), by=ada)
        return projects.project(store, made.id)

    return make
