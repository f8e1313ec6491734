"""The table of parity: what it measures can fail, and the committed page has every family in its bounds."""

import dataclasses
from pathlib import Path

import torch

from benchmarks import parity

PAGE = Path(__file__).parent.parent.parent / "docs" / "results" / "parity.md"
GOOD = parity.Parity(1e-6, 1e-6, 1e-6, True, True)


def test_every_bound_can_be_missed() -> None:
    assert GOOD.holds
    for change in (
        {"logits": 2e-4},
        {"gradients": 2e-4},
        {"ragged": 2e-4},
        {"greedy": False},
        {"round_trip": False},
    ):
        bad = dataclasses.replace(GOOD, **change)
        assert not bad.holds
        text = parity.page({"GPT-2": GOOD, "Mistral": bad})
        assert "1 of 2 rows miss a bound" in text and "| Mistral |" in text and "**" in text


def test_a_forgotten_window_is_seen(monkeypatch) -> None:
    """The measure itself: one family as it is, and with its window left out by the reader."""
    _, build = parity.MODELS["Mistral"]
    assert parity.measure(build, (0,)).holds
    load = parity.load_language_model

    def without_window(folder: Path) -> torch.nn.Module:
        model = load(folder)
        model.transformer.config = dataclasses.replace(model.config, window=None)
        return model

    monkeypatch.setattr(parity, "load_language_model", without_window)
    found = parity.measure(build, (0,))
    assert found.logits > 1e-2 and not found.holds


def test_the_committed_page_is_of_these_families() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    assert [row[0].removeprefix("| ") for row in rows] == list(parity.MODELS)
    assert [row[1] for row in rows] == [features for features, _ in parity.MODELS.values()]
    assert f"0 of {len(rows)} rows miss a bound" in text
