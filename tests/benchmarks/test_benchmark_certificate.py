"""The certificate's page: a summary made by hand, passed and missed."""

from typing import Any

from benchmarks.certificate import page


def summary(holds: bool) -> dict[str, Any]:
    row = {
        "reference": "flat",
        "rewards": "structured",
        "beta": 0.05,
        "raw": [0.9991, 0.9876],
        "raw_mean": 0.9934,
        "raw_worst": 0.9876,
        "ema_mean": 0.991,
        "ema_worst": 0.985,
        "kl": 7.5,
        "optimal_kl": 7.6,
        "least_mean": 0.99,
        "least_worst": 0.97,
        "shift_change": 0.0031,
        "holds": holds,
    }
    return {
        "certify": "full",
        "installed": {"device": "cpu", "cores": 2, "python": "3.11.7"},
        "certificate": [row, row | {"least_worst": None, "shift_change": None}],
        "invariants": [
            {"number": 9, "name": "EMA = its closed form", "measured": 1e-7, "bound": 1e-5, "holds": True}
        ],
        "missed": 0 if holds else 2,
        "seconds": 90.0,
    }


def test_every_figure_is_on_the_page() -> None:
    text = page(summary(holds=True))
    assert "0 of 3 bounds missed" in text and "1.5 minutes" in text
    assert "| flat | structured | 0.05 | 0.9934 | 0.99 | 0.9876 | 0.97 | 0.9991, 0.9876 |" in text
    assert "| 0.0031 | yes |" in text and "| 9 | EMA = its closed form | 1.0e-07 | 1e-05 | yes |" in text


def test_what_is_missed_is_said() -> None:
    text = page(summary(holds=False))
    assert "2 of 3 bounds missed" in text and text.count("**no**") == 2
