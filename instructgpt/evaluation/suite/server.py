"""A model behind an OpenAI-compatible server, asked over HTTP by several threads at once.

Likelihoods come from `/completions` with `echo` and `logprobs`, as lm-evaluation-harness asks for them;
servers without that (chat-only ones, llama.cpp's) can be asked for replies alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, TypeVar
from urllib.parse import urlsplit

from instructgpt.errors import ConfigError, ServiceError
from instructgpt.evaluation.suite.models import TOKEN, Done
from instructgpt.evaluation.suite.task import Choices, Document, Generate, Generated, Likelihood
from instructgpt.text.chat import Message

THREADS = 16
"""Requests at one time."""
TIMEOUT = 600.0
"""Seconds for one request: a busy server may let it wait."""
TRIES = 5
"""For a request that a busy or restarting server refuses."""
_FIRST_PAUSE = 0.5  # seconds; doubles with every try
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})

Asked = TypeVar("Asked")
Given = TypeVar("Given")


class ServerModel:
    """See `models.Handle` for the methods."""

    def __init__(self, base: str, model: str, *, name: str, chat: bool, token: str) -> None:
        self.name, self.spec, self.chat = name or model, f"{base}#{model}", chat
        self.cut = 0
        self._base, self._model, self._token = base, model, token
        self._pool = ThreadPoolExecutor(THREADS, "eval")

    @classmethod
    def connect(cls, url: str, *, name: str = "", chat: bool = False, token: str = "") -> ServerModel:
        """The model that a URL names after `#`, or the only one that the server has.

        Raises:
            ConfigError: the URL has no host, or the server has several models and none was named.
            ServiceError: nobody answers there, or not as an OpenAI-compatible server would.
        """
        base, _, model = url.partition("#")
        base = base.rstrip("/")
        parts = urlsplit(base)
        if not parts.hostname or parts.query:
            raise ConfigError("the server's URL can't be used", base, "write it as http://localhost:8000/v1")
        if parts.username is not None or parts.password is not None:
            cure = f"leave it out, and put the key into the environment variable {TOKEN}"
            raise ConfigError("the server's URL holds a name or a password", "CHECKPOINT", cure)
        found = _exchange(base, "GET", "/models", None, token)
        try:
            names = [str(entry["id"]) for entry in found["data"]]
        except (KeyError, TypeError) as error:
            cure = "give the URL up to /v1, such as http://localhost:8000/v1"
            raise ServiceError("the server lists no models", f"{base}/models", cure) from error
        if not model:
            if len(names) != 1:
                cure = f"name one after the URL: {base}#{names[0] if names else 'MODEL'}"
                raise ConfigError(f"the server has the models {', '.join(names) or '(none)'}", base, cure)
            model = names[0]
        return cls(base, model, name=name, chat=chat, token=token)

    @property
    def identity(self) -> dict[str, str]:
        """Where it is and how it is called: what is behind that is the server's affair."""
        return {"server": self._base, "model": self._model}

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def choices(self, asks: Sequence[Choices], on_done: Done | None = None) -> list[tuple[Likelihood, ...]]:
        """See `models.Handle`."""
        if self.chat:
            raise ConfigError(
                "a server gives no likelihoods of replies to chat messages",
                f"--chat {self.name}",
                "ask it without its chat template, or evaluate the checkpoint's folder",
            )
        pairs = [(ask.context, text) for ask in asks for text in ask.continuations]
        found = iter(self._each(lambda pair: self._likelihood(*pair), pairs, on_done))
        return [tuple(next(found) for _ in ask.continuations) for ask in asks]

    def loglikelihoods(self, contexts: Sequence[str], continuations: Sequence[str]) -> list[Likelihood]:
        """See `models.Handle`."""
        asks = [Choices(c, (t,)) for c, t in zip(contexts, continuations, strict=True)]
        return [found[0] for found in self.choices(asks)]

    def documents(self, asks: Sequence[Document], on_done: Done | None = None) -> list[Likelihood]:
        """See `models.Handle`."""
        return self._each(lambda ask: self._likelihood("", ask.text), asks, on_done)

    def generate(
        self, asks: Sequence[Generate], keys: Sequence[int], on_done: Done | None = None
    ) -> list[Generated]:
        """See `models.Handle`. The server draws, with our seeds if it takes any."""
        return self._each(lambda pair: self._reply(*pair), list(zip(asks, keys, strict=True)), on_done)

    def _each(
        self, act: Callable[[Asked], Given], asks: Sequence[Asked], on_done: Done | None
    ) -> list[Given]:
        results = []
        for result in self._pool.map(act, asks):
            results.append(result)
            if on_done is not None:
                on_done(1)
        return results

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return _exchange(self._base, "POST", path, {"model": self._model, **body}, self._token)

    def _likelihood(self, context: str, text: str) -> Likelihood:
        """The tokens that begin in the continuation, the context's trailing blanks belonging to it."""
        start = len(context.rstrip())
        body = {"prompt": context + text, "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0}
        answer = self._post("/completions", body)
        try:
            found = answer["choices"][0]["logprobs"]
            offsets, values, tops = found["text_offset"], found["token_logprobs"], found["top_logprobs"]
        except (KeyError, IndexError, TypeError) as error:
            what = "the server does not give the log-probabilities of a prompt (echo with logprobs)"
            cure = "evaluate the checkpoint's folder, or leave tasks with likelihoods out"
            raise ServiceError(what, f"{self._base}/completions", cure) from error
        end = len(context) + len(text)
        nats, tokens, greedy = 0.0, 0, True
        for place, (offset, value) in enumerate(zip(offsets, values, strict=True)):
            following = offsets[place + 1] if place + 1 < len(offsets) else end + 1
            if not start <= offset < end or (value is None and following == offset):
                continue  # the latter is a token without text that begins the document
            if value is None:
                what = "the server gives no probability for the first token of a text"
                cure = "evaluate the checkpoint's folder, or leave this task out"
                raise ServiceError(what, f"{self._base}/completions", cure)
            best = max((tops[place] or {}).values(), default=value)
            nats, tokens, greedy = nats + value, tokens + 1, greedy and value >= best
        return Likelihood(nats, tokens, greedy)

    def _reply(self, ask: Generate, key: int) -> Generated:
        body: dict[str, Any] = {
            "max_tokens": ask.max_new,
            "temperature": ask.temperature,
            "top_p": ask.top_p,
            "seed": key % (1 << 31),
        }
        if ask.stop:
            body["stop"] = list(ask.stop)
        prompt = ask.prompt
        if isinstance(prompt, str) and not self.chat:
            answer = self._post("/completions", body | {"prompt": prompt})
        else:
            turns = (Message("user", prompt),) if isinstance(prompt, str) else prompt
            messages = [{"role": turn.role, "content": turn.content} for turn in turns]
            answer = self._post("/chat/completions", body | {"messages": messages})
        try:
            choice = answer["choices"][0]
            text = choice["text"] if "text" in choice else choice["message"]["content"]
            tokens = (answer.get("usage") or {}).get("completion_tokens", 0)
            return Generated(str(text or ""), int(tokens), choice.get("finish_reason") != "length")
        except (KeyError, IndexError, TypeError) as error:
            cure = "look at what runs there"
            raise ServiceError("the server's answer is not OpenAI's", self._base, cure) from error


def _exchange(base: str, method: str, path: str, body: dict[str, Any] | None, token: str) -> dict[str, Any]:
    """One request, tried again while the server is busy.

    Raises:
        ServiceError: it refuses, or never answers.
    """
    parts = urlsplit(base)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    content = None if body is None else json.dumps(body)
    reason, place = "", f"{base}{path}"
    for attempt in range(TRIES):
        if attempt:
            time.sleep(_FIRST_PAUSE * 2 ** (attempt - 1))
        line = kind(parts.hostname or "", parts.port, timeout=TIMEOUT)
        try:
            line.request(method, f"{parts.path}{path}", content, headers)
            response = line.getresponse()
            said = response.read()
            if response.status == 200:
                answer = json.loads(said)
                if isinstance(answer, dict):
                    return answer
                reason = "its answer is no JSON object"
                break
            reason = f"status {response.status}: {said.decode('utf-8', 'replace')[:300]}"
            if response.status not in _AGAIN:
                break
        except ConnectionRefusedError as error:
            cure = "start the server, or mend the URL"
            raise ServiceError("nobody answers there", place, cure) from error
        except (OSError, HTTPException, ValueError) as error:
            reason = str(error) or type(error).__name__
        finally:
            line.close()
    raise ServiceError(
        f"the server does not do what was asked: {reason}", place, "look at the server's own messages"
    )
