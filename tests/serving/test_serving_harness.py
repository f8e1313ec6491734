"""Scores for evaluation harnesses: echo with log-probabilities, in the way lm-eval reads them."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from instructgpt.maths.logprobs import token_logprobs

if TYPE_CHECKING:
    from conftest import RunningServer

CONTEXT, CONTINUATION = "name a river 早", " please, 好 day"


def own_scores(server: RunningServer, ids: list[int]) -> list[float]:
    """log p of ids[1:], by the room that trains and evaluates."""
    model = server.state.catalog.models["tiny"].loaded.model
    with torch.no_grad():
        hidden = model(torch.tensor(ids), torch.arange(len(ids)), [len(ids)])
        return token_logprobs(hidden[:-1], model.unembedding, torch.tensor(ids[1:])).tolist()


@pytest.mark.parametrize("max_tokens", [0, 1])
@pytest.mark.parametrize("streamed", [False, True])
def test_echo_with_logprobs_is_our_own_scoring(
    server: RunningServer, max_tokens: int, streamed: bool
) -> None:
    tokenizer = server.state.catalog.models["tiny"].loaded.tokenizer
    texts = [CONTEXT + CONTINUATION, "count to three"]
    ids = [tokenizer.encode(text) for text in texts]
    body: dict[str, Any] = {
        "prompt": ids,
        "max_tokens": max_tokens,
        "echo": True,
        "logprobs": 1,
        "temperature": 0,
    }
    if streamed:
        with server.client.stream("POST", "/v1/completions", json={**body, "stream": True}) as response:
            lines = [line[6:] for line in response.iter_lines() if line.startswith("data: {")]
        choices: list[dict[str, Any]] = [{"index": i, "text": "", "logprobs": None} for i in range(2)]
        for line in lines:
            for choice in json.loads(line)["choices"]:
                mine = choices[choice["index"]]
                mine["text"] += choice["text"]
                before = mine["logprobs"] or {key: [] for key in choice["logprobs"]}
                mine["logprobs"] = {key: before[key] + choice["logprobs"][key] for key in before}
    else:
        choices = server.post("/v1/completions", body).json()["choices"]
    for text, prompt, choice in zip(texts, ids, choices, strict=True):
        logprobs = choice["logprobs"]
        assert choice["text"].startswith(text)
        assert len(logprobs["tokens"]) == len(logprobs["top_logprobs"]) == len(prompt) + max_tokens
        assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
        assert logprobs["token_logprobs"][1 : len(prompt)] == pytest.approx(
            own_scores(server, prompt), abs=1e-4
        )
        assert logprobs["text_offset"][0] == 0 and logprobs["text_offset"][-1] <= len(choice["text"])


def test_as_lm_eval_reads_it(server: RunningServer) -> None:
    """Its sum runs over token_logprobs[context:-1]: one token must have been drawn, and be listed even where
    it ends the text. A continuation is greedy where no top entry exceeds the token's own number."""
    loaded = server.state.catalog.models["tiny"].loaded
    context, whole = (loaded.tokenizer.encode(text) for text in (CONTEXT, CONTEXT + CONTINUATION))
    # A second continuation that greedy decoding would take.
    greedy = server.post(
        "/v1/completions", {"prompt": [context], "max_tokens": 4, "temperature": 0, "logprobs": 0}
    )
    with torch.no_grad():
        likely = list(context)
        for _ in range(4):
            hidden = loaded.model(torch.tensor(likely), torch.arange(len(likely)), [len(likely)])
            likely.append(int(loaded.model.logits(hidden[-1:]).argmax()))
    assert len(greedy.json()["choices"][0]["logprobs"]["tokens"]) == 4
    body = {
        "model": "tiny",
        "prompt": [whole, likely],
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }
    choices = server.post("/v1/completions", {**body, "temperature": 0}).json()["choices"]
    for ids, choice, expected in ((whole, choices[0], False), (likely, choices[1], True)):
        logprobs = choice["logprobs"]
        mine = logprobs["token_logprobs"][len(context) : -1]
        assert sum(mine) == pytest.approx(sum(own_scores(server, ids)[len(context) - 1 :]), abs=1e-3)
        tops = logprobs["top_logprobs"][len(context) : -1]
        assert all(own == max(top.values()) for own, top in zip(mine, tops, strict=True)) is expected


def test_an_empty_prompt_begins_a_document(server: RunningServer) -> None:
    tokenizer = server.state.catalog.models["tiny"].loaded.tokenizer
    body = {"max_tokens": 6, "temperature": 0}
    empty = server.post("/v1/completions", {"prompt": "", **body}).json()
    begun = server.post("/v1/completions", {"prompt": [[tokenizer.bos_id]], **body}).json()
    assert empty["choices"] == begun["choices"] and empty["usage"]["prompt_tokens"] == 1


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl: apt-get install curl")
def test_curl(server: RunningServer) -> None:
    """As the pages show it, stream included."""
    body = {"messages": [{"role": "user", "content": "name a river"}], "max_tokens": 8, "temperature": 0}

    def curl(**more: Any) -> str:
        command = ["curl", "-sS", "-N", f"{server.url}/v1/chat/completions"]
        command += ["-H", "Content-Type: application/json", "-d", json.dumps({**body, **more})]
        return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout.decode()

    whole = json.loads(curl())["choices"][0]["message"]["content"]
    lines = [line.removeprefix("data: ") for line in curl(stream=True).splitlines() if line]
    assert lines[-1] == "[DONE]"
    deltas = [json.loads(line)["choices"][0]["delta"] for line in lines[:-1]]
    assert "".join(delta.get("content", "") for delta in deltas) == whole


TASKS = {
    "local_choice": """
task: local_choice
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
target_delimiter: ""
metric_list: [{metric: acc}]
""",
    "local_text": """
task: local_text
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 8, do_sample: false, temperature: 0}
metric_list: [{metric: exact_match}]
""",
}


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None or importlib.util.find_spec("tenacity") is None,
    reason="needs lm-eval with its api extra: pip install 'lm-eval[api]'",
)
def test_lm_eval(server: RunningServer, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A real harness, log-likelihood and generation, on a data set of this test."""
    rows = [
        {"question": "name a", "choices": [" river", " day"], "answer": 0},
        {"question": "count to", "choices": [" three", " the end"], "answer": 0},
        {"question": "good morning 早", "choices": ["上好", "天"], "answer": 1},
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    for name, text in TASKS.items():
        (tmp_path / f"{name}.yaml").write_text(text.replace("DATA", str(data)), encoding="utf-8")
    settings = f"model=tiny,base_url={server.url}/v1/completions,tokenizer={tiny_checkpoint},num_concurrent=2"
    command = [sys.executable, "-m", "lm_eval", "--model", "local-completions", "--model_args", settings]
    command += [
        "--tasks",
        ",".join(TASKS),
        "--include_path",
        str(tmp_path),
        "--output_path",
        str(tmp_path / "out"),
    ]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache"), "OPENAI_API_KEY": "none"}
    done = subprocess.run(command, env=os.environ | offline, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = (tmp_path / "out").rglob("results*.json")
    found = json.loads(results.read_text(encoding="utf-8"))["results"]
    tokenizer = server.state.catalog.models["tiny"].loaded.tokenizer
    right = 0
    for row in rows:
        start = len(tokenizer.encode(row["question"]))
        sums = []
        for choice in row["choices"]:
            ids = tokenizer.encode(row["question"] + choice)
            sums.append(sum(own_scores(server, ids)[start - 1 :]))
        right += sums.index(max(sums)) == row["answer"]
    assert found["local_choice"]["acc,none"] == pytest.approx(right / len(rows))
    assert "exact_match,none" in found["local_text"]
