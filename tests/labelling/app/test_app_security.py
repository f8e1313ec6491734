"""Who may see what, and what a hostile request gets: nothing, and no error of ours."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape
from starlette.routing import Route

from instructgpt.data.records import Prompt
from instructgpt.errors import ConfigError
from instructgpt.labelling.app.guard import csrf_token
from instructgpt.labelling.app.routes.account import local_path
from instructgpt.labelling.app.settings import AppSettings
from instructgpt.labelling.store import people, projects, queue, tasks
from instructgpt.labelling.store.database import Store

Visit = Callable[..., Any]
LOCAL = "http://localhost"
OPEN = {"/login", "/logout", "/preferences", "/healthz", "/api/token", "/invitation/{token}"}
BEARER = {"/api/projects/{project_id}/progress", "/api/projects/{project_id}/export", "/api/feedback"}


def routes(app: Any) -> Iterator[tuple[str, str]]:
    """(method, path) of every page and form of the app."""

    def walk(found: Any) -> Iterator[Any]:
        for route in found:
            inner = getattr(route, "routes", None) or getattr(
                getattr(route, "original_router", None), "routes", None
            )
            if inner and not isinstance(route, Route):
                yield from walk(inner)
            elif getattr(route, "methods", None):
                yield route

    for route in walk(app.routes):
        for method in route.methods - {"HEAD", "OPTIONS"}:
            yield method, route.path


def concrete(path: str, number: int = 1) -> str:
    return re.sub(r"\{(\w+)\}", lambda m: "no-such-token" if m[1] == "token" else str(number), path)


def test_all_routes_are_found(visit: Visit) -> None:
    found = set(routes(visit().client.app))
    assert {("GET", "/"), ("POST", "/tasks/{assignment_id}"), ("POST", "/admin/people/{person_id}")} <= found
    assert len(found) > 45


def test_without_log_in_every_page_leads_to_it(
    visit: Visit, people_here: dict[str, int], project: Any
) -> None:
    project()
    nobody = visit()
    for method, path in routes(nobody.client.app):
        if path in OPEN or path in BEARER or path == "/api/openapi.json":
            continue
        response = nobody.client.request(method, concrete(path), follow_redirects=False)
        if path.startswith("/api/"):
            assert response.status_code in (401, 422), path
        else:
            assert response.status_code == 303, (method, path, response.status_code)
            assert response.headers["location"].startswith("/login"), path


def test_a_labeler_gets_no_page_of_others(visit: Visit, people_here: dict[str, int], project: Any) -> None:
    project()
    lea = visit("lea")
    for method, path in routes(lea.client.app):
        if path.startswith("/admin"):
            response = lea.client.request(method, concrete(path), follow_redirects=False)
            assert response.status_code == 403, (method, path)
    assert "/admin" not in lea.get("/").page.links


def test_a_reviewer_reads_and_changes_no_project(
    visit: Visit, people_here: dict[str, int], project: Any
) -> None:
    number = project().id
    rex = visit("rex")
    pages = ("", "/agreement", "/labels", "/tasks", "/members")
    assert [rex.get(f"/admin/projects/{number}{page}").status for page in pages] == [200] * 5
    for page in ("/settings", "/export"):
        assert rex.get(f"/admin/projects/{number}{page}").status == 403
    for path in ("people/invite", f"projects/{number}/status", f"projects/{number}/export.zip", "new"):
        assert rex.client.post(f"/admin/{path}").status_code == 403


def test_anothers_task_is_not_there(
    visit: Visit, people_here: dict[str, int], project: Any, store: Store
) -> None:
    """A labeler who guesses the number of another's task gets the same answer as for a number that isn't."""
    number = project().id
    held = queue.next_task(store, people_here["lea"], number)
    assert held is not None
    lou = visit("lou")
    theirs, nothing = lou.get(f"/tasks/{held.assignment_id}"), lou.client.get("/tasks/999999")
    assert theirs.status == nothing.status_code == 404
    assert "Reply" not in theirs.text
    token = csrf_token(lou.client.cookies["label_seed"], lou.client.cookies["label_session"])
    forged = {"csrf": token, "token": held.token, "reason": "other"}
    for path in (
        f"/tasks/{held.assignment_id}",
        f"/tasks/{held.assignment_id}/skip",
        f"/mine/{held.assignment_id}",
    ):
        assert lou.client.post(path, data=forged).status_code == 404, path
    assert queue.lease(store, people_here["lea"], held.assignment_id).token == held.token


def test_a_form_without_its_token_does_nothing(
    visit: Visit, people_here: dict[str, int], project: Any, store: Store
) -> None:
    number = project().id
    ada, rex = visit("ada"), visit("rex")
    stolen = csrf_token(rex.client.cookies["label_seed"], rex.client.cookies["label_session"])
    for csrf in ("", "0" * 64, stolen):
        response = ada.client.post(
            f"/admin/projects/{number}/status", data={"csrf": csrf, "status": "closed"}
        )
        assert response.status_code == 403
    assert projects.project(store, number).status == "open"
    ada.get(f"/admin/projects/{number}/settings").send(f"/admin/projects/{number}/status", status="closed")
    assert projects.project(store, number).status == "closed"


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost.evil.example"},
    ],
)
def test_a_form_of_another_site_does_nothing(
    visit: Visit, people_here: dict[str, int], headers: dict[str, str]
) -> None:
    ada = visit("ada").get("/admin/new")
    assert ada.send("/admin/new", headers=headers, name="x", kind="rank").status == 403
    same = {"origin": LOCAL, "sec-fetch-site": "same-origin"}
    assert ada.get("/admin/new").send("/admin/new", headers=same, name="x", kind="rank").status == 200


def test_every_answer_carries_the_headers(visit: Visit, people_here: dict[str, int]) -> None:
    ada = visit("ada")
    for path in ("/", "/login", "/nothing", "/static/base.css", "/healthz", "/admin/people"):
        headers = ada.client.get(path).headers
        policy = headers["content-security-policy"]
        assert (
            "unsafe" not in policy and "frame-ancestors 'none'" in policy and "default-src 'none'" in policy
        )
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
    assert ada.client.get("/").headers["cache-control"] == "no-store"
    assert ada.client.get("/nothing", headers={"host": "evil.example"}).headers["x-frame-options"] == "DENY"


def test_no_page_needs_what_the_policy_forbids(
    visit: Visit, people_here: dict[str, int], project: Any
) -> None:
    """Inline scripts, styles and handlers would be dead under our policy."""
    number = project().id
    ada = visit("ada")
    for path in ("/", f"/projects/{number}/work", "/admin", f"/admin/projects/{number}", "/admin/people"):
        for tag, attributes in ada.get(path).page.tags:
            assert "style" not in attributes, (path, tag)
            assert not any(name.startswith("on") for name in attributes), (path, tag)
            assert tag != "style" and (
                tag != "script" or (attributes.get("src") or "").startswith("/static/")
            )


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost", True),
        ("localhost:8600", True),
        ("127.0.0.1:8600", True),
        ("[::1]:8600", True),
        ("192.168.0.7", True),  # a number can't be pointed somewhere else by DNS
        ("label.example.org", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("localhost@evil.example", False),
        ("", False),
        ("label.example.org/x", False),
    ],
)
def test_only_names_that_are_ours_are_answered(host: str, known: bool) -> None:
    settings = AppSettings(public_url="https://label.example.org")
    assert settings.knows_host(host) is known


def test_an_unknown_host_is_refused(visit: Visit) -> None:
    assert visit().client.get("/login", headers={"host": "rebound.example"}).status_code == 400


def test_cookies_are_for_the_server_alone(visit: Visit, people_here: dict[str, int]) -> None:
    visitor = visit()
    visitor.get("/login")
    response = visitor.client.post(
        "/login",
        data=dict(visitor.form("/login").fields) | {"name": "ada", "password": "correct horse battery"},
        follow_redirects=False,
    )
    cookie = response.headers["set-cookie"]
    assert cookie.startswith("label_session=") and "HttpOnly" in cookie and "SameSite=lax" in cookie
    secure = AppSettings(public_url="https://label.example.org")
    page = visit("", secure, base_url="https://label.example.org").client.get("/login")
    assert page.headers["set-cookie"].startswith("__Host-label_seed=")
    assert "Secure" in page.headers["set-cookie"] and "Path=/" in page.headers["set-cookie"]
    assert "max-age" in page.headers["strict-transport-security"]


def test_ten_wrong_passwords_lock_the_account(visit: Visit, people_here: dict[str, int], clock: Any) -> None:
    visitor = visit()
    statuses = [visitor.log_in("lea", f"wrong password {i}").status for i in range(11)]
    assert statuses == [401] * 10 + [429]
    assert "15 minutes" in visitor.text and visitor.response.headers["retry-after"] == "900"
    assert visitor.log_in("lea").status == 429  # the right one too
    assert visitor.log_in("lou").path == "/"  # others are not hindered
    clock.now += 901
    assert visit().log_in("lea").path == "/"


def test_a_wrong_name_and_a_wrong_password_look_the_same(visit: Visit, people_here: dict[str, int]) -> None:
    texts = {visit().log_in(name, "some wrong password").text for name in ("lea", "nobody", "' OR 1=1 --")}
    assert len({text.replace("lea", "nobody") for text in texts}) == 1


@pytest.mark.parametrize(
    "target",
    [
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "javascript:alert(1)",
        "\t//evil.example",
        "/a\nb",
        "",
    ],
)
def test_a_log_in_leads_to_no_other_site(target: str) -> None:
    assert local_path(target) == "/"


def test_a_log_in_leads_back(visit: Visit, people_here: dict[str, int]) -> None:
    visitor = visit().get("/admin/people?x=1")
    assert visitor.path == "/login"
    visitor.send("/login", name="ada", password="correct horse battery")
    assert visitor.path == "/admin/people"
    assert local_path("/projects/3/work?x=1") == "/projects/3/work?x=1"


def test_logging_out_ends_the_session_on_the_server(visit: Visit, people_here: dict[str, int]) -> None:
    ada = visit("ada")
    kept = ada.client.cookies["label_session"]
    ada.get("/").send("/logout")
    assert ada.path == "/login"
    thief = visit()
    thief.client.cookies.set("label_session", kept)
    assert thief.get("/admin").path == "/login"


def test_a_person_who_was_switched_off_is_out_at_once(
    visit: Visit, people_here: dict[str, int], store: Store
) -> None:
    lea = visit("lea")
    people.set_active(store, people_here["lea"], False, by=people_here["ada"])
    assert lea.get("/").path == "/login"
    assert visit().log_in("lea").status == 401


HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }} {% raw %}",
    "'; DROP TABLE people; --",
    "</textarea><script>alert(1)</script>",
    "javascript:alert(1)",
)


def test_hostile_text_stays_text(
    visit: Visit, people_here: dict[str, int], project: Any, store: Store
) -> None:
    made = project("rank", count=0, name="<b>bold</b>")
    rows = [
        tasks.NewTask(
            prompt=Prompt.of(text, category=text[:90]),
            replies=tuple(tasks.NewReply(f"{text} {i}", model=text[:40]) for i in range(3)),
        )
        for text in HOSTILE
    ]
    tasks.add_tasks(store, made.id, rows, by=people_here["ada"])
    ada, lea = visit("ada"), visit("lea")
    for _ in HOSTILE:
        lea.get(f"/projects/{made.id}/work")
        shown = next(text for text in HOSTILE if str(escape(text)) in lea.response.text)
        assert lea.response.text.count("<script") == 2 and "<img src=x" not in lea.response.text, shown
        lea.send(f"{lea.path}/skip", reason="other", skip_note=shown)
    for path in ("/admin", f"/admin/projects/{made.id}/tasks", "/admin/log", "/admin/tasks/1"):
        page = ada.get(path)
        assert (
            page.status == 200
            and "<script>" not in page.response.text
            and "<b>bold" not in page.response.text
        )
    assert len(people.people(store, by=None)) == 4


def test_instructions_are_markdown_and_nothing_else(visit: Visit, people_here: dict[str, int]) -> None:
    text = (
        "# Rules\n\n**Be kind.**\n\n<script>alert(1)</script>\n\n[a](javascript:alert(1)) [b](https://b.example)\n\n"
        "![x](https://spy.example/pixel.png)\n\n<iframe src='//evil.example'></iframe>"
    )
    ada = (
        visit("ada")
        .get("/admin/new")
        .send("/admin/new", action="preview", instructions=text, name="n", kind="rank")
    )
    html = ada.response.text
    assert "<strong>Be kind.</strong>" in html and 'href="https://b.example"' in html
    assert (
        "<script>" not in html
        and "<iframe" not in html
        and "spy.example" not in re.sub(r"<textarea.*?</textarea>", "", html, flags=re.S)
    )
    assert 'href="javascript' not in html


@pytest.mark.parametrize(
    "path",
    [
        "/tasks/99999999999999999999",
        "/tasks/-1",
        "/tasks/abc",
        "/tasks/1%00",
        "/projects/0/work",
        "/../../etc/passwd",
    ],
)
def test_strange_addresses_are_pages_that_are_not_there(
    visit: Visit, people_here: dict[str, int], path: str
) -> None:
    assert visit("ada").get(path).status == 404


def test_bodies_are_bounded(visit: Visit, people_here: dict[str, int], project: Any) -> None:
    number = project().id
    small = AppSettings(form_bytes=20_000, upload_bytes=30_000)
    ada = visit("ada", small)
    ada.get(f"/admin/projects/{number}/tasks")
    long = "x" * 40_000
    assert ada.send(f"/admin/projects/{number}/ask", url=long, model="m").status == 413
    for announced in (True, False):  # with a length and in chunks
        token = csrf_token(ada.client.cookies["label_seed"], ada.client.cookies["label_session"])
        body = b'--b\r\nContent-Disposition: form-data; name="csrf"\r\n\r\n' + token.encode()
        body += (
            b'\r\n--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
            + long.encode()
            + b"\r\n--b--\r\n"
        )
        content: Any = body if announced else iter([body[:15_000], body[15_000:]])
        response = ada.client.post(
            f"/admin/projects/{number}/import",
            content=content,
            headers={"content-type": "multipart/form-data; boundary=b"},
        )
        assert response.status_code == 413, announced


def test_files_of_labelers_are_not_even_read(visit: Visit, people_here: dict[str, int]) -> None:
    lea = visit("lea").get("/")
    assert lea.send("/preferences", files={"file": ("a", b"x")}, language="zh").status == 415


def test_a_header_is_believed_from_the_proxy_alone(
    store: Store, visit: Visit, people_here: dict[str, int]
) -> None:
    """Trusted-header log-in: field fault 41."""
    behind = AppSettings(trusted_header="X-Forwarded-User", trusted_proxies=("10.0.0.0/24",))
    proxied = visit("", behind, client=("10.0.0.9", 5000))
    assert proxied.get("/admin", headers={"X-Forwarded-User": "ada"}).status == 200
    assert proxied.get("/", headers={"X-Forwarded-User": "newcomer"}).status == 200
    assert {p.name: p.role for p in people.people(store, by=None)}["newcomer"] == "labeler"
    assert proxied.get("/", headers=[("X-Forwarded-User", "lea"), ("X-Forwarded-User", "ada")]).status == 403
    direct = visit("", behind, client=("10.0.1.9", 5000))
    assert direct.get("/admin", headers={"X-Forwarded-User": "ada"}).status == 403
    people.set_active(store, people_here["lou"], False, by=None)
    assert proxied.get("/", headers={"X-Forwarded-User": "lou"}).status == 403
    plain = visit()
    assert plain.get("/admin", headers={"X-Forwarded-User": "ada"}).path == "/login"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trusted_header": "X-User"}, "no proxy that may send it"),
        ({"trusted_header": "X User", "trusted_proxies": ("127.0.0.1",)}, "no header's name"),
        ({"trusted_proxies": ("here",)}, "'here' is no address"),
        ({"trusted_header": "X-U", "trusted_proxies": ("::1",), "single_user": True}, "choose one"),
        ({"public_url": "label.example.org"}, "not an address"),
        ({"public_url": "https://a.example/path"}, "without a path"),
        ({"public_url": "https://u:p@a.example"}, "not an address"),
    ],
)
def test_settings_that_can_not_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AppSettings(**settings)


def test_an_error_of_ours_says_nothing_about_us(
    visit: Visit, people_here: dict[str, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"secret path {tmp_path}")

    ada = visit("ada")
    monkeypatch.setattr(projects, "projects", broken)
    response = ada.client.get("/admin")
    assert response.status_code == 500 and "secret" not in response.text
    assert "frame-ancestors 'none'" in response.headers["content-security-policy"]
