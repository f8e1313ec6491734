"""PPO with rewards from a service, from verifiers and from weighted sums: logged, resumed, unspoilt."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from instructgpt.errors import CheckpointError, ConfigError, DataError, ServiceError
from instructgpt.model.hf import load_scalar_model
from instructgpt.rlhf.train import train
from instructgpt.runtime.checkpoint import RunChanged
from instructgpt.scoring.selftest import write_selftest
from instructgpt.scoring.spec import RESERVED
from instructgpt.text.tokenizer import train_tokenizer

Answer = Callable[[list[str]], tuple[int, bytes] | None]


def letters(replies: list[str]) -> tuple[int, bytes]:
    """What a healthy service says: the share of the letter e."""
    scores = [reply.count("e") / (1 + len(reply)) for reply in replies]
    return 200, json.dumps({"scores": scores}).encode()


class Judge:
    """A local service. `answer` may be changed while it runs; None as an answer hangs until the end."""

    def __init__(self, port: int = 0) -> None:
        self.answer: Answer = letters
        self.calls = 0
        self._end = threading.Event()
        judge = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                judge.calls += 1
                found = judge.answer(request["replies"])
                if found is None:
                    judge._end.wait(60)
                    return
                self.send_response(found[0])
                self.send_header("Content-Length", str(len(found[1])))
                self.end_headers()
                self.wfile.write(found[1])

            def log_message(self, *arguments: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/score"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self._end.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[Judge]:
    monkeypatch.setenv("INSTRUCTGPT_PROGRESS", "0")
    monkeypatch.setenv("INSTRUCTGPT_REWARD_RETRIES", "0")
    monkeypatch.setenv("INSTRUCTGPT_REWARD_BACKOFF", "0")
    monkeypatch.setenv("INSTRUCTGPT_REWARD_BATCH", "3")
    started = Judge()
    yield started
    started.stop()


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def weights(out: Path, step: int) -> dict[str, torch.Tensor]:
    folder = out / "checkpoints" / f"step-{step:06d}"
    files = ["model", "ema/model", "value/model", "train_state/tensors"]
    return {f"{f}:{k}": t for f in files for k, t in load_file(folder / f"{f}.safetensors").items()}


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


HOSTILE: dict[str, Answer] = {
    "down": lambda replies: (503, b"down"),
    "slow": lambda replies: None,
    "zeros too few": lambda replies: (200, b'{"scores": []}'),
    "nan": lambda replies: (200, json.dumps({"scores": [float("nan")] * len(replies)}).encode()),
    "huge": lambda replies: (200, b"[" * 3_000_000),
}


def test_a_hostile_service_stops_the_run_and_spoils_nothing(tiny, tmp_path, judge, monkeypatch) -> None:
    """Stopped in the third and in the fourth round, each way: what is saved stays as it is, byte by byte, and
    going on gives the weights of an undisturbed run, bit by bit."""
    settings: dict[str, Any] = {"reward": judge.url, "iterations": 4, "save_every": 2}
    train(tiny.config(tmp_path / "undisturbed", **settings))
    wanted = weights(tmp_path / "undisturbed", 4)
    assert judge.calls == 4 * 3  # 8 replies in batches of 3
    stopped = tmp_path / "stopped"  # after two rounds, six requests
    for kind, hostile in HOSTILE.items():
        out = tmp_path / kind.replace(" ", "_")
        served, spoiled = 0, {"zeros too few": 9, "huge": 11}.get(kind, 7)  # 7 to 9: third round; fourth
        if stopped.exists():
            shutil.copytree(stopped, out)
            served = 6

        def answer(replies: list[str], spoiled: int = spoiled, hostile: Answer = hostile) -> Any:
            nonlocal served
            served += 1
            return hostile(replies) if served >= spoiled else letters(replies)

        judge.answer = answer
        config = tiny.config(out, **settings)
        with monkeypatch.context() as hasty:
            if kind == "slow":
                hasty.setenv("INSTRUCTGPT_REWARD_TIMEOUT", "1")
            with pytest.raises(ServiceError, match="gave no usable scores") as caught:
                train(config)
        assert judge.url in str(caught.value) and "of 8; the first prompt ends" in str(caught.value)
        checkpoint = out / "checkpoints" / "step-000002"
        assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-000002"]
        assert not (out / "summary.json").exists()
        if not stopped.exists():
            shutil.copytree(out, stopped)
        assert content(checkpoint) == content(stopped / "checkpoints" / "step-000002")
        judge.answer = letters
        assert train(config)["iterations"] == 4
        assert_same(weights(out, 4), wanted)


def test_a_service_that_fails_now_and_then_changes_no_weight(tiny, tmp_path, judge, monkeypatch) -> None:
    settings: dict[str, Any] = {"reward": judge.url, "iterations": 2}
    train(tiny.config(tmp_path / "undisturbed", **settings))
    monkeypatch.setenv("INSTRUCTGPT_REWARD_RETRIES", "8")
    monkeypatch.setenv("INSTRUCTGPT_REWARD_PARALLEL", "1")
    asked = 0

    def moody(replies: list[str]) -> tuple[int, bytes]:
        nonlocal asked
        asked += 1
        return letters(replies) if asked % 2 == 0 else (500, b"not now")

    judge.answer = moody
    train(tiny.config(tmp_path / "moody", **settings))
    assert_same(weights(tmp_path / "moody", 2), weights(tmp_path / "undisturbed", 2))
    # three batches a round, each at the second try
    assert [row["reward_failures"] for row in rows_of(tmp_path / "moody")] == [3, 3]
    assert [row["reward_failures"] for row in rows_of(tmp_path / "undisturbed")] == [0, 0]


def test_a_service_that_is_not_there_binds_no_folder(tiny, tmp_path, judge) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match=f"no reward service answers at http://127.0.0.1:{port}/"):
        train(tiny.config(out, reward=f"http://127.0.0.1:{port}/", iterations=1))
    assert train(tiny.config(out, reward=judge.url, iterations=1))["iterations"] == 1


def test_a_sum_logs_its_parts(tiny, tmp_path, judge) -> None:
    """And its reward model reads the sampled ids as it does alone."""
    folder = tiny.folder / "reward"
    train(tiny.config(tmp_path / "alone", iterations=1))
    spec = f"rm=0.5*{folder} + short=2*verify:characters(at_most=12) + -1*{judge.url}"
    held_out = {"eval_every": 2, "eval_prompts": str(tiny.folder / "prompts.jsonl")}
    summary = train(tiny.config(tmp_path / "sum", reward=spec, **held_out))
    rows = rows_of(tmp_path / "sum")
    assert summary["value_init"] == "policy"
    assert rows[0]["reward_rm"] == pytest.approx(rows_of(tmp_path / "alone")[0]["reward"], abs=1e-6)
    for row in rows:
        expected = 0.5 * row["reward_rm"] + 2 * row["reward_short"] - row["reward_score"]
        assert row["reward"] == pytest.approx(expected, abs=1e-5)
        assert 0 <= row["reward_short"] <= 1 and row["reward_score"] >= 0
    last = rows[1]
    held = 0.5 * last["eval_reward_rm"] + 2 * last["eval_reward_short"] - last["eval_reward_score"]
    assert last["eval_reward"] == pytest.approx(held, abs=1e-5)
    # A part can't take the name of another metric: the names that are taken are all known.
    logged = {name.removeprefix("reward_") for name in rows[0] if name.startswith("reward_")}
    assert logged - {"rm", "short", "score"} == RESERVED - {"disagreement"}


def test_an_ensemble_logs_the_remaining_reserved_name(tiny, tmp_path) -> None:
    folder = tiny.folder / "reward"
    train(tiny.config(tmp_path / "run", reward=f"{folder},{folder}", iterations=1))
    assert "reward_disagreement" in rows_of(tmp_path / "run")[0]


def test_answers_of_the_records_reach_the_verifier(tiny, tmp_path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "the cat", "answer": "."}\n' * 4)
    train(tiny.config(tmp_path / "run", reward="2*verify:regex + b=verify:regex", iterations=1,
                      prompts=str(path)))  # fmt: skip
    row = rows_of(tmp_path / "run")[0]
    # "." finds any reply that is not empty
    assert row["reward"] == pytest.approx(2 * row["reward_regex"] + row["reward_b"])
    assert 0 < row["reward_regex"] <= 1


def test_prompts_without_an_answer_are_found_before_the_start(tiny, tmp_path) -> None:
    with pytest.raises(DataError, match=r"needs the record's 'answer'.*prompts\.jsonl, prompt "):
        train(tiny.config(tmp_path / "run", reward="0.5*verify:json + verify:exact"))
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_reward_model_within_a_sum_is_an_input_like_another(tiny, tmp_path) -> None:
    folder = tmp_path / "reward"
    shutil.copytree(tiny.folder / "reward", folder)
    config = tiny.config(tmp_path / "run", reward=f"0.5*{folder} + verify:json", iterations=1)
    train(config)
    write_selftest(folder, load_scalar_model(folder), train_tokenizer(["other words here"] * 3, 270))
    with pytest.raises(RunChanged, match="input reward_models"):
        train(config)


def test_a_reward_model_of_other_tokens_is_refused_within_a_sum_too(tiny, tmp_path) -> None:
    folder = tmp_path / "reward"
    shutil.copytree(tiny.folder / "reward", folder)
    other = train_tokenizer(["quite other words for this one"] * 4, vocab_size=270)
    other.save(folder)
    write_selftest(folder, load_scalar_model(folder), other)
    with pytest.raises(CheckpointError, match="other tokens"):
        train(tiny.config(tmp_path / "run", reward=f"0.5*{folder} + verify:json"))
