"""A tiny checkpoint, and real servers on free ports that are always torn down."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import new_language_model, new_scalar_model
from instructgpt.model.hf import save_model
from instructgpt.scoring.selftest import write_selftest
from instructgpt.serving.run import listen, make_server
from instructgpt.serving.settings import ServeConfig
from instructgpt.serving.state import ServerState, open_state
from instructgpt.text.tokenizer import Tokenizer, train_tokenizer

CONTEXT = 160
TEXTS = [
    "name a river",
    "say good morning 早上好 🙂🙃",
    "count to three please",
    "the end of the day 天下为公",
]
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def tiny_tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS * 4, 320)


def write_language_model(folder: Path, seed: int) -> Path:
    """Two random layers whose distributions are sharp enough that greedy choices have no close seconds."""
    folder.mkdir(parents=True)
    tokenizer = tiny_tokenizer()
    sizes = {"width": 16, "layers": 2, "heads": 2, "context": CONTEXT, "tied": False}
    model = new_language_model(ModelConfig.llama(vocab_size=tokenizer.vocab_size, **sizes), seed)
    with torch.no_grad():
        model.unembedding.mul_(8)
    save_model(model, folder, special=SPECIAL)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_language_model(tmp_path_factory.mktemp("serving") / "tiny", 1)


@pytest.fixture(scope="session")
def other_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_language_model(tmp_path_factory.mktemp("serving") / "other", 2)


class RunningServer:
    """A server in a thread: `url`, `state`, and clients that are closed with it."""

    def __init__(self, state: ServerState) -> None:
        self.state = state
        self._socket = listen("127.0.0.1", 0)
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._server = make_server(state)
        self._thread = threading.Thread(
            target=lambda: self._server.run(sockets=[self._socket]), name="uvicorn", daemon=True
        )
        self._thread.start()
        self.client = httpx.Client(base_url=self.url, timeout=60)
        # A socket that listens takes connections before the server runs, so this waits for it.
        assert self.client.get("/health").status_code == 200

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return self.client.post(path, json=body, headers=headers)

    def wait_idle(self) -> None:
        """Until no job is left in any engine or queue."""
        pause = threading.Event()
        while any(map(self.state.worker.outstanding, self.state.catalog.loaded)):
            assert self.state.worker.alive
            pause.wait(0.002)

    def close(self) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join(30)
        self.state.worker.stop()
        self._socket.close()
        assert not self._thread.is_alive()


StartServer = Callable[..., RunningServer]


@pytest.fixture
def start_server(tiny_checkpoint: Path, tmp_path: Path) -> Iterator[StartServer]:
    """`start_server(**flags)`: serves the tiny checkpoint as "tiny" unless `models` says otherwise."""
    running: list[RunningServer] = []

    def start(**flags: Any) -> RunningServer:
        defaults = {
            "models": (f"tiny={tiny_checkpoint}",),
            "feedback": str(tmp_path / "feedback.jsonl"),
            "engine": "thread",
        }
        running.append(RunningServer(open_state(ServeConfig(**{**defaults, **flags}))))
        return running[-1]

    yield start
    for server in running:
        server.close()


@pytest.fixture(scope="session")
def server(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server for all tests that change nothing in it."""
    feedback = tmp_path_factory.mktemp("serving") / "feedback.jsonl"
    models = (f"tiny={tiny_checkpoint}",)
    config = ServeConfig(models=models, feedback=str(feedback), slots=8, engine="thread")
    running = RunningServer(open_state(config))
    yield running
    running.close()


@pytest.fixture(scope="session")
def apart(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """As `server`, with the models in a process of their own, under two names."""
    feedback = tmp_path_factory.mktemp("serving") / "feedback.jsonl"
    models = (f"tiny={tiny_checkpoint}", f"again={tiny_checkpoint}")
    running = RunningServer(open_state(ServeConfig(models=models, feedback=str(feedback), slots=4)))
    yield running
    running.close()


@pytest.fixture(scope="session")
def reward_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serving") / "reward"
    folder.mkdir()
    tokenizer = tiny_tokenizer()
    sizes = {"width": 16, "layers": 2, "heads": 2, "context": CONTEXT}
    model = new_scalar_model(ModelConfig.llama(vocab_size=tokenizer.vocab_size, **sizes), 3)
    save_model(model, folder, special=SPECIAL)
    tokenizer.save(folder)
    write_selftest(folder, model, tokenizer)
    return folder
