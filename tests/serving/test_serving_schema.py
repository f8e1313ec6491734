"""Schemathesis on the OpenAPI schema: whatever fits it or does not, no answer is a 500."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis: pip install schemathesis")

from schemathesis.generation.modes import GenerationMode  # noqa: E402

if TYPE_CHECKING:
    from conftest import RunningServer

PATHS = (
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/rewards",
    "/v1/feedback",
    "/v1/models",
    "/v1/models/{name}",
)


@pytest.fixture(scope="module")
def operations(server: RunningServer) -> dict[str, Any]:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    found = [result.ok() for result in schema.get_all_operations()]
    return {operation.path: operation for operation in found}


@pytest.mark.parametrize(
    ("path", "mode"),
    [(path, mode) for path in PATHS for mode in GenerationMode if mode == "positive" or "models" not in path],
)
def test_no_input_is_a_server_error(operations: dict[str, Any], path: str, mode: GenerationMode) -> None:
    """Replies are kept short: it is the reading of requests that is tried here."""

    @given(operations[path].as_strategy(mode))
    @settings(max_examples=15, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def hold(case: Any) -> None:
        if isinstance(case.body, dict) and path.endswith("completions"):
            case.body = {**case.body, "max_tokens": 2}
        answer = case.call()
        assert answer.status_code < 500, answer.content
        if answer.status_code >= 400 and "json" in answer.headers["content-type"][0]:
            assert "To mend it" in answer.json()["error"]["message"]

    hold()


def test_the_schema_names_the_api(server: RunningServer) -> None:
    paths = server.client.get("/openapi.json").json()["paths"]
    assert {*PATHS, "/health", "/metrics"} <= {path.replace("{name:path}", "{name}") for path in paths}
    assert server.client.get("/docs").status_code == 200
