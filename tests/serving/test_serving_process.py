"""The models in a process of their own: the same answers, and what happens when it dies."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from instructgpt.errors import CheckpointError
from instructgpt.generation.engine import Request, generate
from instructgpt.generation.loading import open_model
from instructgpt.serving.catalog import open_catalog
from instructgpt.serving.engine_process import ProcessWorker
from instructgpt.serving.settings import ServeConfig

if TYPE_CHECKING:
    from conftest import RunningServer

PROMPT = "name a river 早"
LONG = {"prompt": "name a", "max_tokens": 150, "logit_bias": {"2": -100, "3": -100}, "temperature": 0}
"""As many tokens as fit: the ids that would end it are banned."""


def wait_until(ready: Callable[[], bool]) -> None:
    """Look again and again; pytest's own time limit ends what never comes."""
    pause = threading.Event()
    while not ready():
        pause.wait(0.002)


def test_the_answers_are_those_of_the_offline_engine(apart: RunningServer, tiny_checkpoint: Path) -> None:
    """Greedy text whole and as a stream, prompt log-probabilities, and a sampled choice under its seed."""
    model, tokenizer = open_model(tiny_checkpoint)
    ids = tuple(tokenizer.encode(PROMPT))
    completion = generate(model, [Request(ids, 0, 40, 0.0, stop_ids=tokenizer.stop_ids)])[0]
    expected = tokenizer.decode(completion.ids[:-1] if completion.stopped else completion.ids)
    body = {"prompt": PROMPT, "max_tokens": 40, "temperature": 0}
    assert apart.post("/v1/completions", body).json()["choices"][0]["text"] == expected
    streamed = apart.post("/v1/completions", {**body, "stream": True, "n": 2}).text.splitlines()
    chunks = [json.loads(line[6:])["choices"][0] for line in streamed if line.startswith("data: {")]
    for index in range(2):
        assert "".join(chunk["text"] for chunk in chunks if chunk["index"] == index) == expected
    scored = apart.post("/v1/completions", {**body, "max_tokens": 0, "echo": True, "logprobs": 2}).json()
    found = scored["choices"][0]["logprobs"]
    assert found["token_logprobs"][0] is None and len(found["token_logprobs"]) == len(ids)
    assert all(len(top) >= 2 for top in found["top_logprobs"][1:])
    sampled = {**body, "temperature": 1, "seed": 5, "logprobs": 1}
    one = apart.post("/v1/completions", sampled).json()["choices"][0]
    other = apart.post("/v1/completions", {**sampled, "model": "again"}).json()["choices"][0]
    assert one == other and len(one["logprobs"]["tokens"]) > 0


def test_the_server_holds_no_weights(apart: RunningServer) -> None:
    """The shapes alone, which say what fits."""
    (loaded,) = apart.state.catalog.loaded
    assert {p.device.type for p in loaded.model.parameters()} == {"meta"}
    assert apart.client.get("/v1/models").json()["data"][0]["context"] == 160


def test_clients_that_go_away_leave_no_slot(apart: RunningServer) -> None:
    for _ in range(3):
        with apart.client.stream("POST", "/v1/completions", json={**LONG, "n": 8, "stream": True}) as answer:
            next(answer.iter_lines())
    apart.wait_idle()
    wait_until(lambda: apart.state.worker.figures()[0][:2] == (0, 0))
    used = apart.post("/v1/completions", LONG).json()["usage"]["completion_tokens"]
    assert used == 150
    text = apart.client.get("/metrics").text
    assert 'instructgpt_slots{model="tiny"} 4.0' in text and 'instructgpt_active{model="tiny"} 0.0' in text
    drawn = next(line for line in text.splitlines() if line.startswith("instructgpt_drawn_tokens_total{"))
    assert float(drawn.split()[-1]) >= 150


def test_a_process_that_dies_is_told_and_replaced(apart: RunningServer) -> None:
    worker = apart.state.worker
    assert isinstance(worker, ProcessWorker)
    before = worker.pids
    with apart.client.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as answer:
        lines = answer.iter_lines()
        next(lines)
        os.kill(before[0], signal.SIGKILL)
        rest = [line for line in lines if line]
    # A fast engine may have been done before it died.
    assert rest[-1] == "data: [DONE]" or json.loads(rest[-1][6:])["error"]["type"] == "server_error"
    wait_until(lambda: worker.pids != before)
    wait_until(lambda: apart.post("/v1/completions", {"prompt": "a", "max_tokens": 2}).status_code == 200)
    assert worker.alive
    apart.wait_idle()


def test_what_the_process_cannot_load_is_the_users_error(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Config and tokenizer are whole, so that the server has nothing to say against them; not the weights."""
    for path in tiny_checkpoint.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    config = ServeConfig(models=(str(tmp_path),))
    catalog = open_catalog(config.models, shapes_only=True)
    worker = ProcessWorker(config)
    with pytest.raises(CheckpointError):
        worker.ready(catalog.loaded)
    worker.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(worker.pids[0], 0)
