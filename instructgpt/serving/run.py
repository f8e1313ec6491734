"""Verb `serve`."""

from __future__ import annotations

import logging
import math
import signal
import socket
import sys
from types import FrameType
from typing import Any

import uvicorn

from instructgpt.errors import ConfigError
from instructgpt.serving.app import create_app
from instructgpt.serving.engine_child import keep_for_good
from instructgpt.serving.settings import ServeConfig
from instructgpt.serving.state import ServerState, open_state

_SWITCH_SECONDS = 0.0005
"""Of Python's lock between threads. The engine lets go of it for every tensor operation and waits for it
after each while the event loop writes to clients: with Python's 5 ms it would wait longer than compute."""


class Server(uvicorn.Server):
    """uvicorn's server, which lets replies in hand end after a signal and then returns.

    A second Ctrl-C ends it at once.
    """

    def __init__(self, config: uvicorn.Config, state: ServerState) -> None:
        super().__init__(config)
        self._state = state

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal to stop: take nothing new."""
        self._state.draining = True
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True


def make_server(state: ServerState) -> Server:
    """The server of a state; it listens when it is run."""
    config = uvicorn.Config(
        create_app(state),
        host=state.config.host,
        port=state.config.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="on",
        ws="none",
        timeout_graceful_shutdown=math.ceil(state.config.drain),
    )
    return Server(config, state)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: the address is taken, forbidden or none.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        found = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = error.strerror or error
        cure = "choose another --port, or stop what listens there (--port 0 takes any free one)"
        raise ConfigError(f"can't listen at {host}:{port}: {reason}", "--port", cure) from error
    found.set_inheritable(False)
    return found


def run(config: ServeConfig) -> dict[str, Any]:
    """Serve until SIGTERM or Ctrl-C, then finish the replies in hand; returns the totals.

    Raises:
        ConfigError, CheckpointError, StorageError: see `open_state`, `listen`.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    if not 0 <= config.port < 65536:
        raise ConfigError(f"port is {config.port}", "--port", "use 0 to 65535")
    with listen(config.host, config.port) as listening:
        state = open_state(config)
        server = make_server(state)
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        names = ", ".join([*state.catalog.names, *state.catalog.rewards])
        print(
            f"serving {names} at http://{shown}:{port} (API: /v1, its documentation: /docs)", file=sys.stderr
        )
        sys.stderr.flush()
        sys.setswitchinterval(_SWITCH_SECONDS)
        keep_for_good()
        server.run(sockets=[listening])
    figures = state.worker.figures()
    return {
        "verb": "serve",
        "models": state.catalog.names,
        "replies": sum(one.ended for one in figures),
        "drawn_tokens": sum(one.drawn for one in figures),
        "read_tokens": sum(one.read for one in figures),
    }
