"""A server of our own in a process of its own, and a client for what simulated people do with it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import IO, Any

from instructgpt.data.records import Prompt
from instructgpt.errors import ServiceError

_SECONDS = 600.0  # for one request; many people share one machine
_STARTED = re.compile(r" at (http://127\.0\.0\.1:(\d+)) ")
_REMEMBERED = 20  # lines of the server's that an error repeats


class Client:
    """Speaks the server's HTTP interface. May be used by several threads."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._own = threading.local()  # a connection a thread, kept open
        self._lines: list[HTTPConnection] = []

    def close(self) -> None:
        """Hang up; to be called when no thread uses it any more."""
        for line in self._lines:
            line.close()

    def chat(self, model: str, prompt: Prompt, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The replies to a prompt, each as feedback names it: text, model, system_fingerprint, parameters.

        Raises:
            ServiceError: the server refused, or is gone.
        """
        body = {"model": model, "messages": _messages(prompt), **parameters}
        answer = self._post("/v1/chat/completions", body)
        return [
            {
                "text": choice["message"]["content"],
                "model": model,
                "system_fingerprint": answer["system_fingerprint"],
                "parameters": dict(parameters),
            }
            for choice in answer["choices"]
        ]

    def feedback(self, prompt: Prompt, row: Mapping[str, Any]) -> None:
        """Send what somebody said, with consent.

        Raises:
            ServiceError: the server refused, or is gone.
        """
        self._post("/v1/feedback", {"prompt": _messages(prompt), "consent": True, **row})

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        if not hasattr(self._own, "line"):
            self._own.line = HTTPConnection("127.0.0.1", self._port, timeout=_SECONDS)
            self._lines.append(self._own.line)
        line: HTTPConnection = self._own.line
        try:
            line.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = line.getresponse()
            content = response.read()
        except (OSError, HTTPException) as error:
            line.close()
            what = f"the server that the stage started does not answer: {error}"
            raise ServiceError(what, path, "run the same command again") from error
        if response.status != 200:
            what = f"the server that the stage started refused: {content.decode('utf-8', 'replace')[:500]}"
            raise ServiceError(what, path, "look at the settings of the stage")
        answer: dict[str, Any] = json.loads(content)
        return answer


def _messages(prompt: Prompt) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in prompt.messages]


@contextmanager
def serving(models: Mapping[str, Path], feedback: Path, slots: int = 64) -> Iterator[Client]:
    """`instructgpt serve` of models by name, at a free port; it is stopped at the end, whatever happens.

    Args:
        feedback: file that the server appends feedback to.

    Raises:
        ServiceError: it does not start.
    """
    command = [sys.executable, "-m", "instructgpt", "serve"]
    command += [f"{name}={folder}" for name, folder in models.items()]
    command += ["--port", "0", "--chat", "False", "--feedback", str(feedback), "--slots", str(slots)]
    command += ["--max-queue", "4096"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said: deque[str] = deque(maxlen=_REMEMBERED)
    # Read to the end, so that a server that has much to say never waits for a reader.
    reader = threading.Thread(target=said.extend, args=(process.stderr,), daemon=True)
    try:
        client = Client(_wait(process.stderr, said))
        reader.start()
        try:
            yield client
        finally:
            client.close()
    finally:
        _stop(process)
        if reader.ident is not None:
            reader.join()
        process.stderr.close()


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait(output: IO[str], said: deque[str]) -> int:
    """The port, once the server says it."""
    for line in output:
        said.append(line)
        if match := _STARTED.search(line):
            return int(match[2])
    reason = " ".join("".join(said).split())
    raise ServiceError(f"the server did not start: {reason or 'it said nothing'}", "serve", "mend that first")
