"""The world that the invariants run in, and the path to the modules beside this file."""

from __future__ import annotations

import importlib.util
import sys
from itertools import count
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # tests have no packages, and these are modules, not tests

from mutant_world import World  # noqa: E402


def _fixtures_of_rlhf():
    spec = importlib.util.spec_from_file_location("rlhf_fixtures", HERE.parent / "rlhf" / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


tiny = _fixtures_of_rlhf().tiny


@pytest.fixture
def world(tiny, tmp_path) -> World:
    numbers = count()
    return World(tiny, lambda: tmp_path / f"run{next(numbers)}")
