"""Asking servers for replies in the background, one job a project."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from instructgpt.errors import InstructGPTError
from instructgpt.labelling.store import fetch
from instructgpt.labelling.store.database import Store


@dataclass
class Job:
    """A run of questions to a server.

    Attributes:
        done, wanted: replies that came and that were missing at the start.
        problem: why it ended early, or what failed on the way; empty if nothing did.
    """

    server: fetch.ReplyServer
    done: int = 0
    wanted: int = 0
    running: bool = True
    problem: str = ""
    stopping: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None


class Jobs:
    """The jobs of this process. They are not kept: a new one asks for whatever is still missing."""

    def __init__(self) -> None:
        self._jobs: dict[int, Job] = {}
        self._lock = threading.Lock()

    def state(self, project_id: int) -> Job | None:
        """The last job of a project."""
        return self._jobs.get(project_id)

    def start(self, store: Store, project_id: int, server: fetch.ReplyServer, *, by: int) -> Job:
        """Begin; while a job of the project runs it goes on, and no second one is begun."""
        with self._lock:
            running = self._jobs.get(project_id)
            if running is not None and running.running:
                return running
            job = self._jobs[project_id] = Job(server)
            job.thread = threading.Thread(
                target=_work, args=(store, project_id, job, by), name=f"ask-{project_id}", daemon=True
            )
            job.thread.start()
            return job

    def stop(self, project_id: int) -> None:
        """Ask a job to end after the replies that are on their way."""
        job = self._jobs.get(project_id)
        if job is not None:
            job.stopping.set()

    def close(self, timeout: float = 10) -> None:
        """End all jobs, waiting at most `timeout` seconds for each."""
        for job in self._jobs.values():
            job.stopping.set()
        for job in self._jobs.values():
            if job.thread is not None:
                job.thread.join(timeout)


def _work(store: Store, project_id: int, job: Job, by: int) -> None:
    def progress(done: int, wanted: int) -> None:
        job.done, job.wanted = done, wanted

    try:
        fetched = fetch.fetch_replies(
            store, project_id, [job.server], by=by, on_progress=progress, stop=job.stopping.is_set
        )
        job.done = fetched.replies
        if fetched.failed:
            key, reason = fetched.failed[0]
            job.problem = f"{len(fetched.failed)} x {reason} ({key})"
    except InstructGPTError as error:
        job.problem = str(error)
    finally:
        job.running = False
