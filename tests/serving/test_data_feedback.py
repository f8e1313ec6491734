"""`data feedback`: from what users said to rankings, demonstrations and prompts (field fault 45)."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from instructgpt.cli import main
from instructgpt.data.records import read_demonstrations, read_prompts, read_rankings
from instructgpt.errors import ConfigError, DataError, ServiceError
from instructgpt.reward_model.comparisons import encode
from instructgpt.serving.export import DataConfig, run
from instructgpt.text.tokenizer import Tokenizer

PROMPT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a river."}]
HASH = "0123456789abcdef"


def reply(text: str, model: str = "tiny") -> dict[str, Any]:
    return {"text": text, "model": model, "model_hash": HASH, "parameters": {"temperature": 0.7, "seed": 5}}


def row(number: int, **more: Any) -> dict[str, Any]:
    kept = {
        "id": f"fb_{number:016x}",
        "time": f"2026-09-{number + 1:02d}T10:00:00+00:00",
        "key": "",
        "user": "ann",
    }
    return {**kept, "prompt": PROMPT, "consent": True, **more}


def comparison(number: int, choice: int | str, **more: Any) -> dict[str, Any]:
    return row(
        number, kind="comparison", replies=[reply("Nile."), reply("Paris.", "b")], choice=choice, **more
    )


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in rows), encoding="utf-8")
    return path


def test_a_row_goes_all_the_way(
    server: Any, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reply over HTTP -> feedback over HTTP -> spool -> one command -> pairs for a reward model."""
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "name a river"}], "n": 2, "seed": 3}
    answer = server.post("/v1/chat/completions", {**asked, "max_completion_tokens": 8}).json()
    replies = [
        {
            "text": choice["message"]["content"],
            "model": answer["model"],
            "system_fingerprint": answer["system_fingerprint"],
            "parameters": {"seed": 3},
        }
        for choice in answer["choices"]
    ]
    said = {"prompt": asked["messages"], "consent": True, "user": "ann"}
    for body in (
        {"kind": "comparison", "replies": replies, "choice": 1},
        {"kind": "edit", "replies": replies[:1], "edited": "The Nile. \u2028 尼罗河。"},
        {"kind": "thumb", "replies": replies[1:], "thumb": "up", "reason": "short"},
    ):
        assert server.post("/v1/feedback", {**said, **body}).status_code == 200
    out = tmp_path / "out"
    assert main(["data", "feedback", server.state.config.feedback, "--out", str(out), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["rankings"] == summary["demonstrations"] == summary["prompts"] == summary["thumbs"] == 1
    (ranking,) = read_rankings(out / "rankings.jsonl")
    assert [(r.text, r.rank) for r in ranking.responses] == [(replies[0]["text"], 2), (replies[1]["text"], 1)]
    assert ranking.labeler == ranking.prompt.user_id == "ann" and ranking.prompt.consent is True
    model = f"tiny@{server.state.catalog.models['tiny'].hash}"
    assert {r.model for r in ranking.responses} == {model}
    (comparison_,), _, _ = encode([ranking], Tokenizer.load(tiny_checkpoint), 160)
    assert comparison_.ranks == [2, 1] and comparison_.pairs == 1
    (demonstration,) = read_demonstrations(out / "demonstrations.jsonl")
    assert (
        demonstration.response == "The Nile. \u2028 尼罗河。" and demonstration.prompt.text == "name a river"
    )
    assert [prompt.text for prompt in read_prompts(out / "prompts.jsonl")] == ["name a river"]
    thumb = json.loads((out / "thumbs.jsonl").read_text(encoding="utf-8"))
    assert thumb["completion"] == replies[1]["text"] and thumb["label"] is True and thumb["reason"] == "short"


def test_ties_bad_pairs_and_second_thoughts(tmp_path: Path) -> None:
    source = write(
        tmp_path / "f.jsonl",
        comparison(0, 0),
        comparison(1, 1),  # the same person about the same replies: this one counts
        comparison(2, "tie", user="bob"),
        comparison(3, "both_bad", user="cy"),
        comparison(4, 0, user="dan", consent=False),
        row(5, kind="thumb", replies=[reply("Nile.")], thumb="up"),
        row(6, kind="thumb", replies=[reply("Nile.")], thumb="down", flags=["incorrect"]),
        row(7, kind="edit", replies=[reply("Nile.")], edited="  "),
    )
    summary = run(DataConfig(source=str(source), out=str(tmp_path / "out")))
    assert summary["rows"] == 8 and summary["without_consent"] == 1 and summary["repeated"] == 2
    assert summary["ties"] == summary["both_bad"] == 1 and summary["users"] == 3
    assert summary["files"] == ["rankings.jsonl", "prompts.jsonl", "thumbs.jsonl"]
    assert not (tmp_path / "out" / "demonstrations.jsonl").exists()
    found = {r.labeler: r.responses for r in read_rankings(tmp_path / "out" / "rankings.jsonl")}
    assert [r.rank for r in found["ann"]] == [2, 1]
    assert [r.rank for r in found["bob"]] == [1, 1] and found["bob"][0].flags == ()
    assert [r.rank for r in found["cy"]] == [1, 1] and found["cy"][1].flags == ("both_bad",)
    assert [r.model for r in found["ann"]] == [f"tiny@{HASH}", f"b@{HASH}"]
    thumb = json.loads((tmp_path / "out" / "thumbs.jsonl").read_text())
    assert thumb["label"] is False and thumb["flags"] == ["incorrect"]
    (prompt,) = read_prompts(tmp_path / "out" / "prompts.jsonl")
    assert [message.role for message in prompt.messages] == ["system", "user"]


def test_the_files_do_not_depend_on_the_order_of_the_rows(tmp_path: Path) -> None:
    rows = [comparison(number, 0, user=f"user {number}") for number in range(6)]
    contents = []
    for name, order in (("a", rows), ("b", rows[::-1])):
        source = write(tmp_path / f"{name}.jsonl", *order)
        run(DataConfig(source=str(source), out=str(tmp_path / name)))
        contents.append((tmp_path / name / "rankings.jsonl").read_bytes())
    assert contents[0] == contents[1]


def test_feedback_of_one_model_or_of_late(tmp_path: Path) -> None:
    source = write(
        tmp_path / "f.jsonl", comparison(0, 0), row(9, kind="thumb", replies=[reply("a", "c")], thumb="up")
    )
    for more, expected in (({"model": "b"}, 1), ({"model": HASH}, 2), ({"since": "2026-09-05"}, 1)):
        out = str(tmp_path / f"{expected}{more}")
        assert run(DataConfig(source=str(source), out=out, **more))["repeated"] == 0  # type: ignore[arg-type]
        assert len(read_prompts(Path(out) / "prompts.jsonl")) == 1
        kinds = [Path(out, f"{name}.jsonl").exists() for name in ("rankings", "thumbs")]
        assert sum(kinds) == expected
    with pytest.raises(DataError, match="of 2 rows none may be used"):
        run(DataConfig(source=str(source), out=str(tmp_path / "none"), model="zzz"))


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[str]:
    """A server that gives feedback lines to who shows a token."""
    lines = json.dumps(comparison(0, 1)).encode() + b"\n"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.headers["Authorization"] == "Bearer secret"
            self.send_response(200 if allowed else 401)
            self.end_headers()
            self.wfile.write(lines if allowed else b"no")

        def log_message(self, *arguments: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/feedback"
    server.shutdown()
    thread.join()
    server.server_close()


def test_feedback_from_a_url(remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ServiceError, match=r"401.*INSTRUCTGPT_FEEDBACK_TOKEN"):
        run(DataConfig(source=remote, out=str(tmp_path / "a")))
    monkeypatch.setenv("INSTRUCTGPT_FEEDBACK_TOKEN", "secret")
    assert run(DataConfig(source=remote, out=str(tmp_path / "b")))["rankings"] == 1
    assert run(DataConfig(source=remote, out=str(tmp_path / "b")))["rankings"] == 1, (
        "and again: it may have grown"
    )


def test_mistakes_say_the_cure(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="serve --feedback FILE"):
        run(DataConfig(out=str(tmp_path / "out")))
    with pytest.raises(DataError, match="no such file"):
        run(DataConfig(source=str(tmp_path / "none.jsonl"), out=str(tmp_path / "out")))


@pytest.mark.parametrize("missing", ["prompt", "replies", "kind", "choice"])
def test_a_row_that_no_server_wrote_is_named(tmp_path: Path, missing: str) -> None:
    row = {
        "kind": "comparison",
        "prompt": [{"role": "user", "content": "?"}],
        "replies": [{"text": "a", "model": "m"}, {"text": "b", "model": "m"}],
        "choice": 0,
        "consent": True,
        "id": "fb_1",
    }
    del row[missing]
    path = tmp_path / "feedback.jsonl"
    path.write_text("\n" + json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"not as `serve` writes one.*{missing}.*feedback\.jsonl:2"):
        run(DataConfig(source=str(path), out=str(tmp_path / "out")))


def test_torn_lines_are_counted_and_a_day_is_a_day(tmp_path: Path) -> None:
    path = tmp_path / "feedback.jsonl"
    path.write_text('{"consent": false}\n{"cut\n', encoding="utf-8")
    said = r"1 rows none.*1 without consent, 1 lines that can't be read.*jsonl:2"
    with pytest.raises(DataError, match=said):
        run(DataConfig(source=str(path), out=str(tmp_path / "out")))
    with pytest.raises(ConfigError, match=r"'yesterday' is no day.*2026-09-30"):
        DataConfig(source=str(path), since="yesterday")
