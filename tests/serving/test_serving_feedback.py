"""The way back: feedback rows, consent, profiles, the log of prompts."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from instructgpt.errors import ConfigError, DataError
from instructgpt.serving.feedback import open_store
from instructgpt.serving.journal import Journal, read_journal
from instructgpt.serving.keys import create_key
from instructgpt.serving.profiles import Profiles

if TYPE_CHECKING:
    from conftest import StartServer

PROMPT = [{"role": "user", "content": "name a river 早"}]
REPLIES = [
    {"text": "the Rhine", "model": "tiny", "parameters": {"temperature": 0.7, "seed": 1, "stop": ["a"]}},
    {"text": "长江", "model": "tiny", "system_fingerprint": "fp_0123456789abcdef"},
]
COMPARISON = {"kind": "comparison", "prompt": PROMPT, "replies": REPLIES, "choice": 1, "consent": True}
THUMB = {
    "kind": "thumb",
    "prompt": PROMPT,
    "replies": REPLIES[:1],
    "thumb": "down",
    "reason": "wrong",
    "consent": True,
}
EDIT = {"kind": "edit", "prompt": PROMPT, "replies": REPLIES[:1], "edited": "the Rhône", "consent": True}
CHAT = {"messages": PROMPT, "max_tokens": 3}


def test_rows_hold_what_training_needs(start_server: StartServer, tmp_path: Path) -> None:
    """Field fault 45: prompt, replies, the hash of the model that wrote each, parameters, consent."""
    running = start_server()
    ids = []
    for body in (COMPARISON, {**COMPARISON, "choice": "both_bad"}, THUMB, {**EDIT, "user": "anna"}):
        answer = running.post("/v1/feedback", body)
        assert answer.status_code == 200 and answer.json()["stored"] is True, answer.text
        ids.append(answer.json()["id"])
    rows = read_journal(tmp_path / "feedback.jsonl").rows
    assert [row["id"] for row in rows] == ids and len(set(ids)) == 4
    assert [row["kind"] for row in rows] == ["comparison", "comparison", "thumb", "edit"]
    assert [row.get("choice") for row in rows] == [1, "both_bad", None, None]
    first = rows[0]
    assert first["prompt"] == PROMPT and first["consent"] is True and first["time"].endswith("+00:00")
    served = running.state.catalog.models["tiny"].hash
    assert [reply["model_hash"] for reply in first["replies"]] == [served, "0123456789abcdef"]
    assert first["replies"][0]["parameters"] == {"temperature": 0.7, "seed": 1, "stop": ["a"]}
    assert rows[2]["reason"] == "wrong" and rows[3]["edited"] == "the Rhône" and rows[3]["user"] == "anna"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"consent": False}, "consent"),
        ({"choice": 2}, "choice"),
        ({"choice": -1}, "choice"),
        ({"choice": "second"}, "choice"),
        ({"choice": None}, "choice"),
        ({"thumb": "up"}, "thumb"),
        ({"replies": REPLIES[:1]}, "replies"),
        ({"replies": REPLIES * 5}, "replies"),
        ({"kind": "edit"}, "choice"),
        ({"kind": "star"}, "kind"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [*PROMPT, {"role": "assistant", "content": "x"}]}, "prompt"),
        ({"replies": [{**REPLIES[0], "system_fingerprint": "x"}, REPLIES[1]]}, "replies"),
        ({"rating": 5}, "rating"),
        ({"reason": "x" * 4001}, "reason"),
    ],
)
def test_rows_that_are_refused(
    start_server: StartServer, tmp_path: Path, change: dict[str, Any], param: str
) -> None:
    running = start_server()
    answer = running.post("/v1/feedback", {**COMPARISON, **change})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text
    unknown = running.post("/v1/feedback", {**THUMB, "replies": [{"text": "x", "model": "gpt"}]})
    assert unknown.status_code == 404
    assert read_journal(tmp_path / "feedback.jsonl").rows == []


def test_a_torn_line_loses_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    Journal(path).add({"a": "早"})
    with path.open("ab") as file:
        file.write(b'{"a": "torn')
    Journal(path).add({"a": 3})
    found = read_journal(path)
    assert found.rows == [{"a": "早"}, {"a": 3}]
    assert found.places == [f"{path}:1", f"{path}:3"] and found.torn == [f"{path}:2"]
    path.write_text("[1]\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"rows\.jsonl:1"):
        read_journal(path)


class Labelling(BaseHTTPRequestHandler):
    """Takes rows while `status` is 200."""

    status = 200
    rows: list[tuple[str | None, dict[str, Any]]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.rows.append((self.headers["Authorization"], body))
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def test_feedback_is_posted_and_kept_where_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = type("Handler", (Labelling,), {"rows": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        monkeypatch.setenv("INSTRUCTGPT_FEEDBACK_TOKEN", "secret")
        path = tmp_path / "rows.jsonl"
        store = open_store(path, f"http://127.0.0.1:{server.server_port}/api/feedback")
        store.add({"id": "fb_1"})
        assert handler.rows == [("Bearer secret", {"id": "fb_1"})]  # type: ignore[attr-defined]
        assert read_journal(path).rows == []
        handler.status = 400  # type: ignore[attr-defined]
        store.add({"id": "fb_2"})
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
    store.add({"id": "fb_3"})
    rows = read_journal(path).rows
    assert [row["id"] for row in rows] == ["fb_2", "fb_3"]
    assert "HTTP status 400" in rows[0]["not_posted"] and "connection failed" in rows[1]["not_posted"]
    with pytest.raises(ConfigError, match="--feedback-url"):
        open_store(path, "ftp://host/x")


def test_prompts_are_logged_by_consent_alone(start_server: StartServer, tmp_path: Path) -> None:
    """By the request's header or the profile's word, with user, model hash and replies; else not a byte."""
    log = tmp_path / "prompts.jsonl"
    profiles = tmp_path / "profiles.toml"
    profiles.write_text('[[profile]]\nname = "open"\nusers = ["ben"]\nconsent = true\n', encoding="utf-8")
    running = start_server(prompt_log=str(log), profiles=str(profiles))
    for path, body in (
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", {"prompt": "secret", "max_tokens": 2}),
    ):
        for streamed in (False, True):
            running.post(path, {**body, "stream": streamed})
            running.post(path, {**body, "stream": streamed, "user": "anna"}, **{"Instructgpt-Consent": "no"})
    found = running.post(
        "/v1/chat/completions", {**CHAT, "user": "anna"}, **{"Instructgpt-Consent": "log"}
    ).json()
    running.post("/v1/chat/completions", {**CHAT, "user": "ben", "stream": True})
    running.close()  # waits for the thread that writes
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert [row["user"] for row in rows] == ["anna", "ben"]
    assert rows[0]["replies"] == [found["choices"][0]["message"]["content"]]
    assert rows[0]["model_hash"] == running.state.catalog.models["tiny"].hash
    assert rows[0]["request"]["messages"] == PROMPT and "secret" not in log.read_text(encoding="utf-8")


def test_profiles_choose_model_and_system_text(
    start_server: StartServer, tmp_path: Path, tiny_checkpoint: Path, other_checkpoint: Path
) -> None:
    keys = tmp_path / "keys.json"
    made, text = create_key(keys, "support")
    plain = create_key(keys, "plain")[1]
    profiles = tmp_path / "profiles.toml"
    profiles.write_text(
        f'[[profile]]\nname = "support"\nkeys = ["{made.id}"]\nmodel = "b"\n'
        'system = "answer from the order"\n'
        '[[profile]]\nname = "short"\nusers = ["ben"]\nsystem = "be short"\n',
        encoding="utf-8",
    )
    models = (f"a={tiny_checkpoint}", f"b={other_checkpoint}")
    running = start_server(models=models, keys=str(keys), profiles=str(profiles))

    def ask(key: str, **more: Any) -> tuple[str, int, str]:
        body = {**CHAT, "temperature": 0, "max_tokens": 12, **more}
        found = running.post("/v1/chat/completions", body, Authorization=f"Bearer {key}").json()
        return found["model"], found["usage"]["prompt_tokens"], found["choices"][0]["message"]["content"]

    def said(system: str) -> list[dict[str, str]]:
        return [{"role": "system", "content": system}, *PROMPT]

    assert ask(text) == ask(plain, model="b", messages=said("answer from the order"))
    assert ask(text, user="ben") == ask(text)  # what the key says wins
    assert ask(plain, user="ben") == ask(plain, messages=said("be short"))
    assert ask(text, messages=said("mine"))[1:] == ask(plain, model="b", messages=said("mine"))[1:]
    assert ask(text, model="a")[0] == "a" and ask(plain)[0] == "a"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[profile]]\n", "no name"),
        ('[[profile]]\nname = "x"\nmodel = "gone"\n', "not served"),
        ('[[profile]]\nname = "x"\nkey = "a"\n', "unknown key"),
        ('[[profile]]\nname = "x"\nkeys = "a"\n', "keys is"),
        ('[profile]\nname = "x"\n', "tables"),
        ("name = ", "can't read"),
    ],
)
def test_profiles_that_are_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "profiles.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=says):
        Profiles.read(path, ["tiny"])
