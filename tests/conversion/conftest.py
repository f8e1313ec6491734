"""A stand-in of the Hugging Face Hub's HTTP API on this machine: what creating a repository, an LFS upload
and a commit need, as huggingface_hub speaks it. The client is the real one."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

TOKEN = "hf_of_this_test"


@dataclass
class Hub:
    """What the stand-in holds, and how it misbehaves.

    Attributes:
        files: repository -> name -> bytes.
        private: repository -> whether it was created so.
        owner: whose names the token may create.
        fails: path's end -> status that a request to it gets.
        requests: method and path of everything that was asked.
    """

    endpoint: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    owner: str = "team"
    fails: dict[str, int] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The stand-in, to which HF_ENDPOINT points, with a token that it takes."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the storage protocol of LFS, in plain HTTP
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with hub_on_this_machine() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.endpoint)
        yield found


@contextmanager
def hub_on_this_machine() -> Iterator[Hub]:
    """Serve on a free port of this machine; stopped at the end."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        """Silence."""

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path, body = self.path.partition("?")[0], self._body()
        self.hub.requests.append(f"{self.command} {path}")
        for end, status in self.hub.fails.items():
            if path.endswith(end):
                return self._send(status, {"error": f"told to fail with {status}"})
        if path.startswith("/lfs/"):  # where the upload goes: storage elsewhere, which sees no token
            self.hub.stored[path.removeprefix("/lfs/")] = body
            return self._send(200, {})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(401, {"error": "Invalid credentials in Authorization header"})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return self._send(200, {"errors": [], "warnings": []})
        if path.endswith("/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        repository = path.removeprefix("/api/models/").rsplit("/", 2)[0]
        if repository not in self.hub.files:
            return self._send(404, {"error": "Repository not found"}, code="RepoNotFound")
        if path.endswith("/preupload/main"):
            return self._preupload(json.loads(body))
        return self._commit(repository, [json.loads(line) for line in body.splitlines() if line])

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != self.hub.owner:
            error = f"You don't have the rights to create a model under {asked['organization']}"
            return self._send(403, {"error": error})
        if name in self.hub.files:
            return self._send(409, {"error": "You already created this model repo", "url": self._url(name)})
        self.hub.files[name] = {}
        self.hub.private[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
        return self._send(200, {"url": self._url(name), "name": name, "id": "1"})

    def _url(self, name: str) -> str:
        return f"{self.hub.endpoint}/{name}"

    def _preupload(self, asked: dict[str, Any]) -> None:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".gguf")) else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for file in asked["files"]
        ]
        self._send(200, {"files": files})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = [
            {
                "oid": each["oid"],
                "size": each["size"],
                "actions": {"upload": {"href": f"{self.hub.endpoint}/lfs/{each['oid']}", "header": {}}},
            }
            for each in asked["objects"]
        ]
        self._send(200, {"transfer": "basic", "objects": objects})

    def _commit(self, repository: str, lines: list[dict[str, Any]]) -> None:
        files = self.hub.files[repository]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
            else:
                self.hub.messages.append(value["summary"])
        oid = "a" * 40
        url = f"{self._url(repository)}/commit/{oid}"
        self._send(200, {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, status: int, answer: dict[str, Any], code: str = "") -> None:
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        self.wfile.write(text)
