"""The verbs `preference` and `power`: votes, a practice world, and a judge behind the OpenAI format."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from instructgpt.cli import main
from instructgpt.errors import ConfigError, ServiceError
from instructgpt.evaluation.collect import WorldStageConfig, write
from instructgpt.evaluation.judge import open_world
from instructgpt.evaluation.preference.power import run as power
from instructgpt.evaluation.preference.run import run
from instructgpt.evaluation.preference.settings import PowerConfig, PreferenceConfig


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def votes(tmp_path: Path) -> Path:
    return lines(
        tmp_path / "votes.jsonl",
        *(
            {"prompt": f"p{i}", "model_a": "sft", "model_b": "ppo", "winner": w, "judge": f"ann{i % 3}"}
            for i, w in enumerate(["model_b", "model_b", "tie", "model_a"] * 6)
        ),
    )


def test_votes_by_the_command_line(votes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["preference", "--data", str(votes), "--draws", "100", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    # 12 wins and 6 ties of 24
    assert "ppo_over_sft" in shown and "0.625 [" in shown
    assert "they hold for these 3 labelers, not for others" in shown
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    rate = summary["win_rate"]["ppo_over_sft"]
    assert (rate["mean"], rate["n"], summary["judge"], summary["baseline"]) == (0.625, 24, "people", "sft")
    assert len((out / "comparisons.jsonl").read_text(encoding="utf-8").splitlines()) == 24
    other = ["preference", "--data", str(votes), "--baseline", "ppo", "--out", str(tmp_path / "b"), "--json"]
    assert main(other) == 0
    turned = json.loads(capsys.readouterr().out)["win_rate"]["sft_over_ppo"]
    assert turned["mean"] == 0.375 and turned["low"] == pytest.approx(1 - rate["high"])
    assert main([*other[:-2], str(tmp_path / "c"), "--baseline", "gpt"]) == 2
    assert "there is no model 'gpt'" in capsys.readouterr().err and not (tmp_path / "c").exists()


def test_the_practice_world_judges(tmp_path: Path) -> None:
    world = tmp_path / "world"
    sizes = {"demonstrations": 4, "demonstrations_valid": 2, "reward": 2, "ppo": 2, "eval": 6, "valid": 2}
    write(WorldStageConfig(out=str(world), seed=2, people=12, pretrain=5, pretrain_valid=2, **sizes))
    rows = [json.loads(line) for line in (world / "prompts_eval.jsonl").read_text().splitlines()]
    opened = open_world(world)
    good = [row | {"response": opened.demonstration(opened.task(row["id"]), "x")} for row in rows]
    silent = [row | {"response": "no"} for row in rows]
    files = {name: lines(tmp_path / f"{name}.jsonl", *r) for name, r in (("no", silent), ("good", good))}
    config = PreferenceConfig(
        replies=",".join(f"{name}={path}" for name, path in files.items()),
        judge=f"practice:{world}",
        out=str(tmp_path / "out"),
    )
    summary = run(config)
    rate = summary["win_rate"]["good_over_no"]
    assert rate["mean"] == 1.0 and rate["low"] < 1.0 and "practice world 2" in summary["judge"]
    assert run(config) == summary


class Judge(BaseHTTPRequestHandler):
    """Chooses the longer reply, whichever place it has; of replies with a question mark the first one."""

    asked: list[str]
    broken = False

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, value: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.answer({"data": [{"id": "judge"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][0]["content"]
        self.asked.append(text)
        first, second = text.split("[reply 1]\n")[1].split("\n\nGive")[0].split("\n\n[reply 2]\n")
        choice = 1 if "?" in first or len(first) > len(second) else 0 if len(first) == len(second) else 2
        said = f'I first thought {{"better": 2}}, but: {{"better": {choice}}}'
        if self.broken:
            said = "Both have their merits."
        self.answer({"choices": [{"message": {"content": said}, "finish_reason": "stop"}]})


@pytest.fixture
def service() -> Iterator[tuple[str, type[Judge]]]:
    handler = type("Handler", (Judge,), {"asked": [], "broken": False})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"llm:http://127.0.0.1:{server.server_port}/v1#judge", handler
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def replies(tmp_path: Path) -> str:
    samples = [
        {"id": f"i{i}", "prompt": f"Question {i}", "replies": {"a": {"text": a}, "b": {"text": b}}}
        for i, (a, b) in enumerate([("x", "long {first}"), ("xyz", "y"), ("same", "size"), ("eh?", "eh??")])
    ]
    return str(lines(tmp_path / "samples.jsonl", *samples))


def test_a_judge_behind_the_openai_format(
    service: tuple[str, type[Judge]], replies: str, tmp_path: Path
) -> None:
    spec, handler = service
    config = PreferenceConfig(replies=replies, judge=spec, draws=100, out=str(tmp_path / "out"))
    summary = run(config)
    found = [json.loads(line) for line in (tmp_path / "out" / "comparisons.jsonl").read_text().splitlines()]
    assert [(one["first"], one["outcome"]) for one in found] == [
        ("b", 1.0),
        ("b", 0.0),
        ("b", 0.5),
        ("b", 0.5),
    ]
    # both orders of four pairs: decided 0, 0 / 1, 1 ... the last one by its place alone
    assert len(handler.asked) == 8 and summary["consistent"] == 0.75 and summary["unreadable"] == 0
    assert summary["first_rate"] == pytest.approx((1 + 1 + 0.5 + 0.5 + 1 + 1) / 8)
    # Several are asked at a time: they come in any order, each pair in both of its orders.
    one, other = sorted(question for question in handler.asked if "Question 0" in question)
    assert "\n[reply 1]\nlong {first}\n" in one and "\n[reply 1]\nx\n" in other
    assert "both orders agree on 75%" in summary["table"] and summary["judge"] == "judge"


def test_what_was_judged_is_not_asked_again(
    service: tuple[str, type[Judge]], replies: str, tmp_path: Path
) -> None:
    spec, handler = service
    config = PreferenceConfig(replies=replies, judge=spec, draws=100, out=str(tmp_path / "out"))
    first = run(config)
    (tmp_path / "out" / "summary.json").unlink()
    judgements = tmp_path / "out" / "judgements.jsonl"
    kept = judgements.read_text(encoding="utf-8").splitlines()
    judgements.write_text("\n".join(kept[:5]) + "\n" + kept[5][:20], encoding="utf-8")  # cut by a crash
    handler.asked.clear()
    again = run(config)
    assert len(handler.asked) == 3 and again["win_rate"] == first["win_rate"]
    (tmp_path / "out" / "summary.json").unlink()
    run(config)
    assert len(handler.asked) == 3


def test_a_judge_that_does_not_choose_is_an_error(
    service: tuple[str, type[Judge]], replies: str, tmp_path: Path
) -> None:
    spec, handler = service
    handler.broken = True
    with pytest.raises(ServiceError, match="no choice for 4 of 4 pairs"):
        run(PreferenceConfig(replies=replies, judge=spec, out=str(tmp_path / "out")))


def test_a_question_of_ones_own(service: tuple[str, type[Judge]], replies: str, tmp_path: Path) -> None:
    spec, handler = service
    question = tmp_path / "question.txt"
    question.write_text(
        "{prompt}?\n[reply 1]\n{first}\n\n[reply 2]\n{second}\n\nGive JSON.", encoding="utf-8"
    )
    run(
        PreferenceConfig(
            replies=replies, judge=spec, question=str(question), draws=100, out=str(tmp_path / "o")
        )
    )
    assert sorted(handler.asked)[0] == "Question 0?\n[reply 1]\nlong {first}\n\n[reply 2]\nx\n\nGive JSON."
    question.write_text("{prompt} {first}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"has no \{second\}"):
        run(PreferenceConfig(replies=replies, judge=spec, question=str(question), out=str(tmp_path / "p")))


def test_a_mistyped_address_binds_no_folder(replies: str, tmp_path: Path) -> None:
    config = PreferenceConfig(replies=replies, judge="llm:http://127.0.0.1:1/v1#j", out=str(tmp_path / "out"))
    with pytest.raises(ConfigError, match="the judge can't be asked"):
        run(config)
    assert not (tmp_path / "out" / "config.json").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "votes or replies"),
        ({"data": "a", "replies": "b"}, "votes or replies"),
        ({"replies": "b"}, "need a judge"),
        ({"data": "a", "judge": "c"}, "need a judge"),
        ({"replies": "b", "judge": "c", "question": "q"}, "asked in words"),
        ({"data": "a", "level": 1.0}, "no interval"),
        ({"data": "a", "draws": 9}, "too few"),
    ],
)
def test_flags_that_do_not_go_together(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(PreferenceConfig(**flags))


def test_power_by_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["power", "--win-rate", "0.6", "--prompts", "194", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["prompts_needed"] == 194  # Fleiss, Levin and Paik (2003), (2.14)
    assert found["detectable_win_rate"] == pytest.approx(0.6, abs=1e-3)
    assert found["power_found"] == pytest.approx(0.8, abs=2e-3)
    assert main(["power", "--win-rate", "0.6", "--votes", "3", "--ties", "0.2"]) == 0
    # (1 + 2 * 0.3) / 3 of ((1.959964 * sqrt(0.2) + 0.841621 * sqrt(0.19)) / 0.1)^2 = 154.44
    assert "0.6              83       249" in capsys.readouterr().out
    assert main(["power"]) == 2
    assert "nothing to work out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"win_rate": 0.5}, "no win rate to find"),
        ({"win_rate": 0.9, "ties": 0.5}, "leave no room"),
        ({"prompts": 10, "votes": 0.5}, "out of range"),
        ({"prompts": 10, "power": 1.0}, "probability"),
    ],
)
def test_power_that_can_not_be(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        power(PowerConfig(**flags))
