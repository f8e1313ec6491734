"""GET /v1/models, /health and /metrics."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Depends
from starlette.responses import JSONResponse, Response

from instructgpt import __version__
from instructgpt.serving.access import Caller
from instructgpt.serving.metrics import CONTENT_TYPE
from instructgpt.serving.problems import Problem
from instructgpt.serving.state import ServerState


def router(state: ServerState) -> APIRouter:
    """The routes."""
    routes = APIRouter()
    allowed = Depends(state.access.reader)
    started = int(time.time())

    def entries() -> list[dict[str, Any]]:
        shared = {"object": "model", "created": started, "owned_by": "instructgpt"}
        models = [
            {
                "id": name,
                **shared,
                "kind": "language",
                "hash": served.hash,
                "context": served.loaded.model.config.context,
            }
            for name, served in state.catalog.models.items()
        ]
        return models + [{"id": name, **shared, "kind": "reward"} for name in state.catalog.rewards]

    @routes.get("/v1/models", tags=["models"], summary="Models and rewards")
    async def models(caller: Caller = allowed) -> Response:
        return JSONResponse({"object": "list", "data": entries()})

    @routes.get("/v1/models/{name:path}", tags=["models"], summary="One of them")
    async def model(name: str, caller: Caller = allowed) -> Response:
        for entry in entries():
            if entry["id"] == name:
                return JSONResponse(entry)
        raise Problem(
            f"there is no model {name!r} here",
            "see /v1/models",
            status=404,
            param="model",
            code="model_not_found",
        )

    @routes.get("/health", tags=["operation"], summary="Whether requests are taken")
    async def health() -> Response:
        up = state.worker.alive and not state.draining
        word = "ok" if up else "draining" if state.draining else "stopped"
        body = {"status": word, "version": __version__, "keys": state.access.needs_key}
        return JSONResponse(body, 200 if up else 503)

    @routes.get("/metrics", tags=["operation"], summary="Numbers for Prometheus")
    async def metrics(caller: Caller = allowed) -> Response:
        return Response(state.metrics.text(), media_type=CONTENT_TYPE)

    return routes
