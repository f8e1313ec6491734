"""Whatever is posted to whichever form, and whatever a program sends: no answer is an error of ours."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instructgpt.labelling.app.guard import csrf_token
from instructgpt.labelling.store import people, queue, sessions
from instructgpt.labelling.store.database import Store
from instructgpt.labelling.store.form import KINDS

Visit = Callable[..., Any]
WORDS = ("save", "preview", "more", "rank", "admin", "tie", "on", "", "0", "1", "2")
ODD = (
    "-1",
    "9" * 22,
    "NaN",
    "1e400",
    "\x00",
    "\ud7ff\ufffe",
    "' OR 1=1 --",
    "<b>",
    "{{7*7}}",
    "../../etc/passwd",
)
NASTY = st.sampled_from([*WORDS, *ODD, "x" * 5000, "é" * 300])
VALUES = st.lists(NASTY | st.text(max_size=40), max_size=3)
FEW = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def fuzzed(visit: Visit, people_here: dict[str, int], project: Any, store: Store) -> tuple[Any, list[Any]]:
    """An administrator, and every form that their pages show, of each kind of project."""
    ada = visit("ada")
    numbers = [project(kind, count=40).id for kind in KINDS]
    paths = ["/", "/login", "/account", "/admin/new", "/admin/people"]
    for number in numbers:
        queue.next_task(store, people_here["ada"], number)
        paths += [f"/projects/{number}/work"]
        paths += [
            f"/admin/projects/{number}{page}" for page in ("/tasks", "/settings", "/members", "/export")
        ]
    paths.append("/admin/tasks/1")
    forms: dict[str, Any] = {}
    for path in paths:
        for form in ada.get(path).page.forms:
            if form.method == "post" and form.action != "/logout" and "/ask" not in form.action:
                forms.setdefault(re.sub(r"\d+", "N", form.action) + str(len(form.names)), form)
    assert len(forms) >= 20
    return ada, list(forms.values())


@pytest.mark.slow
@FEW
@given(data=st.data())
def test_no_form_breaks_the_server(fuzzed: tuple[Any, list[Any]], data: st.DataObject) -> None:
    ada, forms = fuzzed
    cookies = ada.client.cookies
    for form in forms:
        fields = {name: data.draw(VALUES, label=name) for name in sorted(form.names - {"csrf"})}
        fields |= {name: [value] for name, value in form.buttons if name and data.draw(st.booleans())}
        keep = data.draw(st.booleans())  # some fields as the page had them, so that the others are reached
        fields |= dict([[k, [v]] for k, v in form.fields if keep and v and data.draw(st.booleans())])
        fields["csrf"] = [csrf_token(cookies["label_seed"], cookies["label_session"])]
        if form.action in ("/account", "/login") or form.action.startswith("/admin/people/1"):
            fields.pop("password", None)  # would end this very session
        response = ada.client.post(form.action, data=fields, follow_redirects=False)
        assert response.status_code < 500, (form.action, fields, response.text)


@pytest.mark.slow
@FEW
@given(query=st.text(max_size=30), number=st.integers(-(10**20), 10**20))
def test_no_address_breaks_the_server(fuzzed: tuple[Any, list[Any]], query: str, number: int) -> None:
    ada, _ = fuzzed
    for path in (
        "/tasks/{}",
        "/mine/{}",
        "/projects/{}/work",
        "/admin/projects/{}",
        "/admin/projects/1/labels/{}",
    ):
        assert ada.client.get(path.format(number)).status_code < 500
    for path in (
        "/admin/projects/1/tasks",
        "/admin/projects/1/labels",
        "/admin/log",
        "/projects/1/mine",
        "/login",
    ):
        for name in ("after", "before", "state", "purpose", "next"):
            for value in (query, str(number)):
                assert ada.client.get(path, params={name: value}).status_code < 500, (path, name, value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = (
    "id",
    "key",
    "kind",
    "prompt",
    "replies",
    "choice",
    "ranks",
    "thumb",
    "edited",
    "consent",
    "at",
    "flags",
    "user_id",
)


@FEW
@given(
    body=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=8),
    kind=st.sampled_from(["comparison", "thumb", "edit"]),
)
def test_no_feedback_breaks_the_server(
    visit: Visit, store: Store, people_here: dict[str, int], body: Any, kind: str
) -> None:
    token = sessions.create_api_token(store, people_here["ada"], "t", by=None)
    client = visit().client
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    for value in (body, body | {"kind": kind, "prompt": "p", "replies": [{"text": "a"}, {"text": "b"}]}):
        text = json.dumps(value)
        response = client.post("/api/feedback", content=text, headers=headers)
        assert response.status_code < 500, (text, response.text)
    half = (
        '{"kind": "thumb", "prompt": "\\ud800", "id": "1", "replies": [{"text": "\\udfff"}], "thumb": "up"}'
    )
    assert client.post("/api/feedback", content=half, headers=headers).status_code < 500


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::Warning:schemathesis")
def test_schemathesis_over_the_api(
    visit: Visit, store: Store, people_here: dict[str, int], project: Any
) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="pip install schemathesis")
    project("rank")
    token = sessions.create_api_token(store, people_here["ada"], "t", by=None)
    schema = schemathesis.openapi.from_asgi(
        "/api/openapi.json", visit().client.app, headers={"Host": "localhost"}
    )
    checked = set()
    for result in schema.get_all_operations():
        operation = result.ok()
        checked.add(operation.label)

        @settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def check(case: Any) -> None:
            response = case.call(headers={"Authorization": f"Bearer {token}", "Host": "localhost"})
            case.validate_response(response, checks=[schemathesis.checks.not_a_server_error])

        check()
    assert checked == {
        "GET /api/projects/{project_id}/progress",
        "GET /api/projects/{project_id}/export",
        "POST /api/feedback",
    }
    assert len(people.people(store, by=None)) == 4
