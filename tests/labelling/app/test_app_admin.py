"""Administrators' and reviewers' pages: projects, tasks, people, labels, and replies from a server."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from instructgpt.labelling.app import plots
from instructgpt.labelling.app.texts import translator
from instructgpt.labelling.store import people, projects, queue, review, tasks
from instructgpt.labelling.store.database import Store
from instructgpt.labelling.store.form import Judgement, RankAnswer
from instructgpt.labelling.store.projects import Project
from instructgpt.labelling.store.submit import submit

Visit = Callable[..., Any]
Make = Callable[..., Project]


def label(store: Store, person: int, project: int, ranks: list[int]) -> None:
    held = queue.next_task(store, person, project)
    assert held is not None
    judged = tuple(Judgement(r.key, n, 4) for r, n in zip(held.replies, ranks, strict=True))
    submit(store, person, held.token, RankAnswer(judged), active_seconds=30)


def test_a_project_is_made_filled_and_changed(
    visit: Visit, people_here: dict[str, int], store: Store
) -> None:
    ada = visit("ada").get("/admin/new")
    assert ada.send("/admin/new", name="", kind="rank", replies="many").status == 422
    assert (
        "Give the project a name" in ada.text and "Replies to a prompt (K): this is not a number" in ada.text
    )
    ada.send("/admin/new", name="Round 1", kind="rank", replies=3, overlap=2, quota=50, instructions="*Hi*")
    (made,) = projects.projects(store)
    settings = made.settings
    assert (settings.name, settings.replies, settings.overlap, settings.quota) == ("Round 1", 3, 2, 50)
    assert ada.path == f"/admin/projects/{made.id}/tasks"
    rows = [{"prompt": "One?", "responses": ["a", "b", "c"]}, {"prompt": "Two?"}]
    upload = {"file": ("p.jsonl", "\n".join(map(json.dumps, rows)).encode())}
    for expected in ("2 prompts were added", "2 were there already"):
        ada.send(f"/admin/projects/{made.id}/import", files=upload, purpose="work")
        assert expected in ada.text, ada.text
    assert "Two? work 0 lacks replies" in ada.text
    broken = {"file": ("p.jsonl", b'{"prompt": "x"}\n{"prompt": 3}')}
    ada.send(f"/admin/projects/{made.id}/import", files=broken)
    assert ada.status == 422 and "p.jsonl:2" in ada.text
    replies = {"file": ("r.jsonl", json.dumps({"prompt": "Two?", "responses": list("def")}).encode())}
    ada.send(f"/admin/projects/{made.id}/replies", files=replies)
    assert {task.state for task in tasks.tasks(store, made.id, by=None)} == {"open"}
    assert ada.send(f"/admin/projects/{made.id}/import").status == 422 and "not empty" in ada.text
    ada.get(f"/admin/projects/{made.id}/settings").send(
        f"/admin/projects/{made.id}/settings", quota="", overlap=3
    )
    settings = projects.project(store, made.id).settings
    assert (settings.quota, settings.overlap, settings.kind) == (None, 3, "rank")


def test_the_list_of_tasks_is_filtered_and_paged(
    visit: Visit, people_here: dict[str, int], project: Make, store: Store
) -> None:
    made = project("rank", count=30)
    ada = visit("ada").get(f"/admin/projects/{made.id}/tasks")
    assert ada.text.count("? work") == 25
    more = next(link for link in ada.page.links if link.startswith("?after="))
    assert ada.get(f"/admin/projects/{made.id}/tasks{more}").text.count("? work") == 5
    first = tasks.tasks(store, made.id, by=None)[0]
    ada.get(f"/admin/tasks/{first.id}").send(f"/admin/tasks/{first.id}/withdraw", withdrawn=1)
    assert "withdrawn" in ada.text and tasks.task(store, first.id, by=None).state == "withdrawn"
    assert ada.get(f"/admin/projects/{made.id}/tasks?state=withdrawn").text.count("? work") == 1
    assert ada.get(f"/admin/projects/{made.id}/tasks?state=nonsense&after=-5&purpose=x").status == 200


def test_people_join_by_a_link_that_works_once(
    visit: Visit, people_here: dict[str, int], store: Store
) -> None:
    ada = (
        visit("ada")
        .get("/admin/people")
        .send("/admin/people/invite", role="labeler", group="north", note="Mia")
    )
    link = ada.response.text.split('id="link">')[1].split("<")[0]
    assert link.startswith("http://localhost/invitation/")
    path = link.removeprefix("http://localhost")
    mia = visit().get(path)
    for fields, message in (
        ({"name": "mia", "password": "short", "again": "short"}, "at least 10"),
        ({"name": "mia", "password": "long enough 1", "again": "another one 2"}, "differ"),
        ({"name": "lea", "password": "long enough 1", "again": "long enough 1"}, "has this name"),
        ({"name": "", "password": "long enough 1", "again": "long enough 1"}, "1 to 64"),
    ):
        assert mia.send(path, **fields).status == 422 and message in mia.text
    mia.send(path, name="mia", password="long enough 1", again="long enough 1")
    assert mia.path == "/" and "mia" in mia.text
    assert {p.name: (p.role, p.group) for p in people.people(store, by=None)}["mia"] == ("labeler", "north")
    again = visit().get(path)
    assert again.status == 409 and "used already" in again.text
    assert visit().get("/invitation/made-up").status == 404


def test_a_revoked_link_is_useless(visit: Visit, people_here: dict[str, int]) -> None:
    ada = visit("ada").get("/admin/people").send("/admin/people/invite", role="admin")
    path = "/invitation/" + ada.response.text.split("/invitation/")[1].split("<")[0]
    revoke = next(form.action for form in ada.page.forms if form.action.endswith("/revoke"))
    ada.send(revoke)
    assert visit().get(path).status in (404, 409)


def test_roles_groups_and_switches(visit: Visit, people_here: dict[str, int], store: Store) -> None:
    lea = people_here["lea"]
    ada = visit("ada").get("/admin/people")
    ada.send(f"/admin/people/{lea}", action="save", role="reviewer", group="south")
    ada.send(f"/admin/people/{lea}", action="exclude")
    ada.send(f"/admin/people/{lea}", action="deactivate")
    found = people.person(store, lea)
    assert (found.role, found.group, found.excluded, found.active) == ("reviewer", "south", True, False)
    ada.send(f"/admin/people/{lea}", action="include").send(f"/admin/people/{lea}", action="activate")
    found = people.person(store, lea)
    assert (found.excluded, found.active) == (False, True)
    own = f"/admin/people/{people_here['ada']}"
    assert ada.send(own, action="save", role="labeler").status == 409
    assert people.person(store, people_here["ada"]).role == "admin"


def test_a_new_password_by_link_and_by_hand(visit: Visit, people_here: dict[str, int]) -> None:
    ada = visit("ada").get("/admin/people").send(f"/admin/people/{people_here['lea']}/reset")
    path = "/invitation/" + ada.response.text.split("/invitation/")[1].split("<")[0]
    lea = visit().get(path)
    assert "lea" in lea.text and "name" not in lea.form(path).names
    lea.send(path, password="a second password", again="a second password")
    assert visit().log_in("lea").status == 401
    lea = visit().log_in("lea", "a second password").get("/account")
    wrong = {"old": "not it at all", "password": "a third password", "again": "a third password"}
    assert "old password is wrong" in lea.send("/account", **wrong).text
    lea.send("/account", **(wrong | {"old": "a second password"}))
    assert "saved" in lea.text and lea.get("/").path == "/"
    assert visit().log_in("lea", "a third password").path == "/"


def test_tokens_for_programs(visit: Visit, people_here: dict[str, int], project: Make, store: Store) -> None:
    """Field faults 41 and 45: a token exports, and what users of a served model said comes in, once."""
    made = project("rank", count=2)
    ada = visit("ada").get("/admin/people").send("/admin/tokens", name="nightly", person=people_here["ada"])
    token = ada.response.text.split('id="token">')[1].split("<")[0]
    key = {"authorization": f"Bearer {token}"}
    program = visit().client
    assert program.get(f"/api/projects/{made.id}/progress", headers=key).json()["tasks"] == 2
    archive = program.get(f"/api/projects/{made.id}/export", headers=key)
    assert archive.status_code == 200 and archive.headers["content-type"] == "application/zip"
    said = {
        "id": "1",
        "prompt": "Hi",
        "replies": [{"text": "a"}, {"text": "b"}],
        "choice": 0,
        "kind": "comparison",
        "consent": True,
    }
    stored = [program.post("/api/feedback", json=said, headers=key) for _ in range(2)]
    assert [s.status_code for s in stored] == [201, 201], stored[0].text
    assert stored[0].json() == stored[1].json()
    assert program.get(f"/api/projects/{made.id}/progress").status_code == 401
    assert program.post("/api/feedback", json={"nonsense": 1}, headers=key).status_code == 422
    revoke = next(f.action for f in ada.page.forms if f.action.startswith("/admin/tokens/"))
    ada.send(revoke)
    assert program.get(f"/api/projects/{made.id}/progress", headers=key).status_code == 401


def test_labels_are_looked_at_rejected_and_taken_back(
    visit: Visit, people_here: dict[str, int], project: Make, store: Store
) -> None:
    made = project("rank", count=1)
    label(store, people_here["lea"], made.id, [2, 1, 1])
    rex = visit("rex").get(f"/admin/projects/{made.id}/labels")
    path = next(link for link in rex.page.links if "/labels/" in link)
    rex.get(path)
    assert "lea" in rex.text and "place 2" in rex.text and "rated 4 of 7" in rex.text and "model-" in rex.text
    rex.send(path, action="reject", reason="careless")
    assert "rejected" in rex.text and review.labels(store, made.id, by=None) == []
    rex.send(path, action="restore")
    assert len(review.labels(store, made.id, by=None)) == 1
    assert rex.get(f"/admin/projects/{made.id}/labels/999").status == 404


def test_the_dashboard_and_agreement_count_what_is_there(
    visit: Visit, people_here: dict[str, int], project: Make, store: Store
) -> None:
    """Field faults 39 and 40: agreement on the dashboard; raw percent, alpha and AC1 side by side."""
    made = project("rank", count=12, overlap=2)
    ada = visit("ada")
    assert "Plots appear" in ada.get(f"/admin/projects/{made.id}").text
    assert "Nothing to compare" in ada.get(f"/admin/projects/{made.id}/agreement").text
    for _ in range(12):
        for name in ("lea", "lou"):
            held = queue.next_task(store, people_here[name], made.id)
            assert held is not None
            order = sorted(range(3), key=lambda i: held.replies[i].text)
            judged = tuple(
                Judgement(held.replies[i].key, n + 1, 7 - n, ("hallucination",) if n else ())
                for n, i in enumerate(order)
            )
            submit(store, people_here[name], held.token, RankAnswer(judged), active_seconds=30)
    page = ada.get(f"/admin/projects/{made.id}")
    assert "24 of 24 labels" in page.text and "12 of 12 prompts done" in page.text and "30 s" in page.text
    assert page.response.text.count('<svg viewBox="0 0 640') == 2
    page = ada.get(f"/admin/projects/{made.id}/agreement")
    assert "24 answers to 12 prompts; 12 prompts" in page.text and "100%" in page.text
    assert "Gwet's AC1" in page.text and "Krippendorff's alpha" in page.text and "Hallucination" in page.text


def test_axes_end_at_round_numbers() -> None:
    assert plots.ticks(7) == [0, 2, 4, 6, 8]
    assert plots.ticks(0) == [0, 1]
    assert plots.ticks(100) == [0, 20, 40, 60, 80, 100]
    assert plots.ticks(23, at_most=5) == [0, 5, 10, 15, 20, 25]


def test_names_in_plots_are_escaped() -> None:
    t = translator("en")
    drawn = str(plots.labels_per_day([(0.0, "<b>&", 3), (86400.0, "z", 1)], t))
    drawn += str(plots.intervals([("<i>", 0.5, 0.4, 0.6)], "x"))
    assert "<b>&" not in drawn and "<i>" not in drawn and "&lt;b&gt;&amp;" in drawn
    assert plots.labels_per_day([], t) is None and plots.time_per_task([], t) is None


@contextmanager
def reply_server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server in the shape of OpenAI's that answers every question, and the questions it got."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append(body | {"key": self.headers["authorization"]})
            text = f"Answer {len(asked)}"
            choices = [
                {
                    "index": i,
                    "message": {"role": "assistant", "content": f"{text}.{i}"},
                    "finish_reason": "stop",
                }
                for i in range(body.get("n") or 1)
            ]
            answer = json.dumps({"object": "chat.completion", "model": "m", "choices": choices}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_replies_are_asked_from_a_server(
    visit: Visit, people_here: dict[str, int], project: Make, store: Store
) -> None:
    made = project("rank", count=0, replies=2)
    ada = visit("ada").get(f"/admin/projects/{made.id}/tasks")
    upload = {"file": ("p.jsonl", b'{"prompt": "One?"}\n{"prompt": "Two?"}')}
    ada.send(f"/admin/projects/{made.id}/import", files=upload)
    action = f"/admin/projects/{made.id}/ask"
    for fields in (
        {"url": "file:///etc/passwd"},
        {"url": "http://x y/"},
        {"temperature": "hot"},
        {"model": ""},
    ):
        typed = {"url": "http://127.0.0.1:1/v1", "model": "m"} | fields
        assert ada.send(action, **typed).status == 422, fields
    with reply_server() as (url, asked):
        ada.send(action, url=url, model="policy-7", key="sk-test", temperature=0.7, max_tokens=64)
        job = ada.client.app.state.site.jobs.state(made.id)
        job.thread.join(30)
        assert not job.running and job.problem == ""
    assert asked[0]["model"] == "policy-7" and asked[0]["key"] == "Bearer sk-test"
    found = tasks.tasks(store, made.id, by=None)
    assert [len(task.replies) for task in found] == [2, 2]
    assert {reply.model for task in found for reply in task.replies} == {"policy-7"}
    page = ada.get(f"/admin/projects/{made.id}/tasks")
    assert "Asked policy-7: 4 replies" in page.text and "sk-test" not in page.response.text


def test_a_server_that_is_not_there_is_named(
    visit: Visit, people_here: dict[str, int], project: Make
) -> None:
    made = project("rank", count=0, replies=2)
    ada = visit("ada").get(f"/admin/projects/{made.id}/tasks")
    ada.send(f"/admin/projects/{made.id}/import", files={"file": ("p.jsonl", b'{"prompt": "One?"}')})
    job_of = ada.client.app.state.site.jobs.state
    ada.send(f"/admin/projects/{made.id}/ask", url="http://127.0.0.1:1/v1", model="m")
    job_of(made.id).stopping.set()  # no need to sit through its patience
    job_of(made.id).thread.join(60)
    assert not job_of(made.id).running
