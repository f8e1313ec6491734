"""The tiny world of the PPO tests, with rankings."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instructgpt.comparators.settings import A2CConfig, DistillConfig, DPOConfig, GRPOConfig, RLOOConfig

HERE = Path(__file__).parent


def _fixtures_of_rlhf() -> Any:
    spec = importlib.util.spec_from_file_location("rlhf_fixtures_here", HERE.parent / "rlhf" / "conftest.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


_rlhf = _fixtures_of_rlhf()
tiny, episodes, models, rollout, prompts, learner_of = (
    getattr(_rlhf, name) for name in ("tiny", "episodes", "models", "rollout", "prompts", "learner_of")
)
Config = A2CConfig | DistillConfig | DPOConfig | GRPOConfig | RLOOConfig


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTRUCTGPT_PROGRESS", "0")


@pytest.fixture(scope="session")
def rankings(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten prompts with two to four ranked replies each, ties among them."""
    words = _rlhf.WORDS
    rows = []
    for i in range(10):
        replies = [" ".join(words[i + j : i + 2 * j + 1]) for j in range(2 + i % 3)]
        ranks = [1 + (i + j) % (2 + i % 2) for j in range(len(replies))]
        responses = [{"text": text, "rank": rank} for text, rank in zip(replies, ranks, strict=True)]
        rows.append({"prompt": " ".join(words[i : i + 3]), "responses": responses})
    path = tmp_path_factory.mktemp("rankings") / "rankings.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def config_of(tiny: Any, rankings: Path) -> Callable[..., Config]:
    """Settings of a method for a short run on the tiny world."""
    drawn = {
        "model": str(tiny.folder / "sft"),
        "reward": str(tiny.folder / "reward"),
        "prompts": str(tiny.folder / "prompts.jsonl"),
        "iterations": 4,
        "batch": 8,
        "max_new": 6,
        "lr": 1e-3,
        "warmup": 2,
        "save_every": 2,
        "device": "cpu",
    }
    own: dict[type[Config], dict[str, Any]] = {
        RLOOConfig: drawn | {"samples": 2},
        GRPOConfig: drawn | {"samples": 4, "minibatches": 2},
        A2CConfig: drawn | {"value_lr": 1e-3},
        DistillConfig: drawn | {"samples": 2, "minibatches": 2},
        DPOConfig: {
            "model": str(tiny.folder / "sft"),
            "data": str(rankings),
            "validation_share": 0.0,
            "batch": 3,
            "lr": 1e-3,
            "warmup": 2,
            "save_every": 2,
            "device": "cpu",
        },
    }

    def make(kind: type[Config], out: Path | str = "", **changes: Any) -> Config:
        return kind(**(own[kind] | {"out": str(out)} | changes))

    return make
