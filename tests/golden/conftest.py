"""The little world of the golden runs, written once."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.golden_world import write_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("golden-world"))
