"""What the server holds while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from instructgpt.errors import ConfigError
from instructgpt.runtime.device import pick_device, pick_dtype, tune_malloc
from instructgpt.serving.access import Access
from instructgpt.serving.catalog import Catalog, open_catalog
from instructgpt.serving.engine_process import POSSIBLE, ProcessWorker
from instructgpt.serving.journal import Journal
from instructgpt.serving.keys import KeyRing
from instructgpt.serving.metrics import Metrics
from instructgpt.serving.profiles import Profiles
from instructgpt.serving.settings import ServeConfig
from instructgpt.serving.worker import ThreadWorker, Worker

if TYPE_CHECKING:
    from instructgpt.serving.feedback import FeedbackStore


@dataclass
class ServerState:
    """Models, worker, limits and stores; made by `open_state`, closed by the app's shutdown."""

    config: ServeConfig
    catalog: Catalog
    worker: Worker
    access: Access
    profiles: Profiles
    feedback: FeedbackStore
    prompt_log: Journal | None
    metrics: Metrics
    draining: bool = False
    """A signal to stop has come: replies in hand are finished, new requests get status 503."""


def open_state(config: ServeConfig) -> ServerState:
    """Load everything; the worker is started by the app.

    Raises:
        ConfigError, CheckpointError, StorageError: see flags, models, files.
    """
    from instructgpt.serving.feedback import open_store

    tune_malloc()
    ring = KeyRing(config.keys) if config.keys else None
    if ring is None and config.host not in ("127.0.0.1", "localhost", "::1") and not config.open:
        raise ConfigError(
            f"everyone who reaches {config.host} could ask",
            "--host",
            "give --keys FILE (made by `instructgpt keys`), or --open if that is meant",
        )
    catalog, worker = _open_models(config)
    profiles = Profiles.read(config.profiles, catalog.names) if config.profiles else Profiles()
    state = ServerState(
        config=config,
        catalog=catalog,
        worker=worker,
        access=Access(ring, config.rate, lambda: state.draining),
        profiles=profiles,
        feedback=open_store(config.feedback, config.feedback_url),
        prompt_log=Journal(config.prompt_log) if config.prompt_log else None,
        metrics=Metrics(catalog, worker),
    )
    return state


def _open_models(config: ServeConfig) -> tuple[Catalog, Worker]:
    """What is served, and who answers; a process that was started is stopped where the rest fails."""
    device, dtype = pick_device(config.device), pick_dtype(config.dtype)
    if config.engine == "thread" or not config.models or not POSSIBLE:
        catalog = open_catalog(config.models, config.rewards, device, dtype, weights=config.weights)
        return catalog, ThreadWorker(
            catalog.loaded, config.slots, config.max_queue, config.cache_mib << 20, lookup=config.lookup
        )
    worker = ProcessWorker(config)
    try:
        catalog = open_catalog(config.models, config.rewards, device, dtype, shapes_only=True)
        worker.ready(catalog.loaded)
    except BaseException:
        worker.stop()
        raise
    return catalog, worker
