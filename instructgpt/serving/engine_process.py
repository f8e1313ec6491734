"""The models in a process of their own, as the server sees it.

Python runs one thread at a time. With 64 clients to write to, an engine in a thread of the server waits for
the event loop after each of its few hundred tensor operations a step; in a process of its own for nobody.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch

from instructgpt.errors import InstructGPTError, ServiceError
from instructgpt.serving.admission import Admission
from instructgpt.serving.catalog import Loaded, Served
from instructgpt.serving.engine_child import Add, Drop, Ready, Start, Wire
from instructgpt.serving.engines import Figures
from instructgpt.serving.jobs import Event, Job, Running
from instructgpt.serving.problems import failed, stopping
from instructgpt.serving.settings import ServeConfig
from instructgpt.serving.worker import deliver

POSSIBLE = os.name == "posix"
"""Whether a process can be handed a pipe here."""
_PROGRAM = "from instructgpt.serving.engine_child import main; main()"
"""Not `-m`: the messages' classes must have the same names on both sides."""
_PATIENCE = 10
"""Seconds that the process may take to end."""
_log = logging.getLogger("instructgpt.serving")


class ProcessWorker:
    """A `worker.Worker` whose models are in another process.

    Where that process dies - killed for memory, say - its requests end with an error and another one is
    started; where that happens before it has done any work, the worker stops.
    """

    def __init__(self, config: ServeConfig) -> None:
        """Start the process, which begins to load; `ready` waits for it."""
        self._config = config
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._lanes: dict[Loaded, int] = {}
        self._running: dict[int, tuple[Loaded, Running]] = {}
        self._stop = False
        self._up = False
        self._figures: list[Figures] = []
        self._thread = threading.Thread(target=self._listen, name="news", daemon=True)
        self._launch()

    def _launch(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            os.set_inheritable(theirs.fileno(), True)
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._pipe = Connection(ours.detach())
        self._send(Start(self._config, torch.get_num_threads()))

    def _send(self, message: Any) -> bool:
        """False: the process is gone."""
        try:
            self._pipe.send(message)
        except OSError:
            return False
        return True

    def ready(self, models: Sequence[Loaded]) -> None:
        """Wait until the process has loaded the catalog's checkpoints.

        Raises:
            InstructGPTError: what it could not load, or that it died.
        """
        slots = self._wait()
        self._lanes = {loaded: lane for lane, loaded in enumerate(models)}
        limits = {loaded: slots[lane] + self._config.max_queue for loaded, lane in self._lanes.items()}
        self._admission = Admission(limits)

    def _wait(self) -> list[int]:
        try:
            message = self._pipe.recv()
        except (EOFError, OSError) as error:
            code = self._process.wait()
            raise ServiceError(
                f"the engine's process ended with code {code} while it loaded the models",
                "instructgpt serve",
                "see the lines above; code -9 means that the machine had no memory left",
            ) from error
        if isinstance(message, InstructGPTError):
            raise message
        assert isinstance(message, Ready)
        with self._lock:
            self._figures = [Figures(0, 0, slots, 0, 0, 0, 0) for slots in message.slots]
            self._up = True
        return message.slots

    # -- what `worker.Worker` says -------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to listen for news."""
        self._thread.start()

    def stop(self) -> None:
        """End the process; jobs that are not done fail."""
        with self._lock:
            self._stop = True
            self._send(None)
        if self._thread.is_alive():
            self._thread.join(_PATIENCE)
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._pipe.close()

    @property
    def alive(self) -> bool:
        """Whether the process works, or another one is being started."""
        return self._thread.is_alive() and not self._stop

    @property
    def pids(self) -> list[int]:
        """The engine's process."""
        return [self._process.pid]

    def outstanding(self, loaded: Loaded) -> int:
        """See `Worker`."""
        return self._admission.outstanding(loaded)

    def figures(self) -> list[Figures]:
        """See `Worker`; as of the process's last portion of news."""
        return self._figures

    def submit(self, served: Served, jobs: Sequence[Job], caller: str) -> Running:
        """See `Worker`."""
        loaded = served.loaded
        self._admission.enter(loaded, len(jobs))
        number = next(self._numbers)
        running = Running(jobs, lambda _: self._cancel(number))
        with self._lock:
            if self._stop or not self.alive:
                self._admission.leave(loaded, len(jobs))
                raise stopping()
            self._running[number] = loaded, running
            if not self._up or not self._send(Add(number, self._lanes[loaded], running.jobs, caller)):
                del self._running[number]
                self._admission.leave(loaded, len(jobs))
                raise failed()
        return running

    def _cancel(self, number: int) -> None:
        with self._lock:
            found = self._running.pop(number, None)
            if found is not None and self._up:
                self._send(Drop(number))
        if found is not None:
            self._admission.leave(found[0], found[1].open)

    # -- the listening thread ------------------------------------------------------------------------------

    def _listen(self) -> None:
        while True:
            worked = self._hear()
            self._fail()
            if self._stop:
                return
            code = self._process.wait()
            _log.error("the engine's process ended with code %s; its requests end with an error", code)
            if not worked:
                break
            self._pipe.close()
            try:
                self._launch()
                self._wait()
            except (InstructGPTError, OSError) as error:
                _log.error("%s", error)
                break
            with self._lock:
                if self._stop:  # `stop` spoke to the process before
                    self._send(None)
        self._stop = True

    def _hear(self) -> bool:
        """Hand on news until the process is gone; returns whether there was any."""
        worked = False
        while True:
            try:
                figures, wires = self._pipe.recv()
            except (EOFError, OSError):
                return worked
            worked = True
            self._figures = figures
            deliver(self._events(wires))

    def _events(self, wires: Sequence[Wire]) -> list[tuple[Running, Event]]:
        events = []
        for one in wires:
            with self._lock:
                found = self._running.get(one.number)
                if found is None:  # cancelled meanwhile
                    continue
                loaded, running = found
                running.open -= one.end is not None
                if not running.open:
                    del self._running[one.number]
            if one.end is not None:
                self._admission.leave(loaded, 1)
            events.append((running, one.event()))
        return events

    def _fail(self) -> None:
        """The process is gone: what it had ends without a result."""
        with self._lock:
            self._up = False
            left, self._running = list(self._running.values()), {}
        for loaded, running in left:
            self._admission.leave(loaded, running.open)
            deliver([(running, Event(job, end="failed")) for job in range(len(running.jobs))])
