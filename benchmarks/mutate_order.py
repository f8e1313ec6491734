"""A pytest plugin for `make mutate`: the quickest file of tests first, so that most changes are noticed soon.

Files stay together, since their fixtures are shared. Times are those that mutmut measured before.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

STATS = Path("mutmut-stats.json")
"""In the folder that mutmut runs pytest in; not there yet while it measures."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort by (time of the file's tests that were asked for, file); the order within a file stays."""
    if not STATS.exists():
        return
    seconds: dict[str, float] = json.loads(STATS.read_text(encoding="utf-8"))["duration_by_test"]
    totals: dict[Path, float] = {}
    for item in items:
        totals[item.path] = totals.get(item.path, 0.0) + seconds.get(item.nodeid, 0.0)
    items.sort(key=lambda item: (totals[item.path], item.path))
