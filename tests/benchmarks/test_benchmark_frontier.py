"""The pages of the frontier and of the tax: made-up summaries that pass, and each figure made worse fails."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks import frontier, tax


def interval(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.05, "high": mean + 0.05, "n": 500}


def compared() -> dict[str, Any]:
    """Shares of a run that reaches 0.95 of best-of-n's gain everywhere."""
    shares = [
        {"n": n, "kind": kind, "kl": 0.2 * n, "reward": interval(0.95), "score": interval(0.95)}
        for n in (2, 4, 8, 16)
        for kind in ("analytic", "estimated")
    ]
    curve = [{"n": 1, "kl": 0.0, "kl_estimated": 0.0, "reward": 0.0}]
    return {"shares": {"ppo_ptx": shares}, "curve": curve, "paths": {}, "optima": {}}


def test_shares_above_the_bound_miss_nothing() -> None:
    rows, missed = frontier.check({"seed-0": compared(), "seed-1": compared()})
    assert missed == 0 and len(rows) == 16
    text = frontier.page({"seed-0": compared(), "seed-1": compared()}, rows, missed)
    assert "0 of 32 shares are below 0.9" in text and "| seed-1 | 16 | estimated |" in text


@pytest.mark.parametrize("key", ["reward", "score"])
def test_one_share_below_the_bound_is_seen(key: str) -> None:
    summary = compared()
    summary["shares"]["ppo_ptx"][3][key] = interval(0.89)
    rows, missed = frontier.check({"seed-0": summary})
    assert missed == 1 and sum("**0.890" in row for row in rows) == 1


def test_all_paths_are_one_set_of_checkpoints(tmp_path: Path) -> None:
    """Best of 2 gains 1 at 0.1931 nats at most; one path is there at 0.1 nats with 0.5, the other with 0.9 at
    0.3: their line is at 0.5 + 0.4 * (0.1931 - 0.1) / 0.2."""
    best = [{"rewards": [0.0, 2.0], "logprobs": [-1.0, -1.0], "same": [0, 1]}] * 3
    path = [
        {"path": name, "checkpoint": name, "reward": [1 + gain] * 3, "kl": [kl] * 3, "score": []}
        | {"length": 1.0, "eos_rate": 1.0}
        for name, gain, kl in (("beta_2", 0.5, 0.1), ("beta_1", 0.9, 0.3))
    ]
    for name, rows in (("best.jsonl", best), ("paths.jsonl", path)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / name).write_text(text, encoding="utf-8")
    summary = {"curve": [{"n": 1}, {"n": 2}]}
    analytic = next(s for s in frontier.joined_shares(tmp_path, summary, 0) if s["kind"] == "analytic")
    assert analytic["kl"] == pytest.approx(0.19315, abs=1e-5)
    assert analytic["reward"]["mean"] == pytest.approx(0.5 + 0.4 * 0.09315 / 0.2, abs=1e-4)


def test_what_each_beta_reached_stands_beside_what_it_could_have(tmp_path: Path) -> None:
    """Rewards 0 and log 3 at beta 1: the optimum gains 0.75 log 3 - 0.5 log 3 of reward, and costs
    log 2 - H(1/4) = 0.1308 nats. Best of 2 has 0.2747 of reward too, and 0.1 nats."""
    (tmp_path / "best.jsonl").write_text(
        json.dumps({"rewards": [0.0, math.log(3)], "logprobs": [-1.0, -1.0], "same": [0, 1]}) + "\n",
        encoding="utf-8",
    )
    start = 0.5 * math.log(3)
    curve = [
        {"n": n, "kl": kl, "kl_estimated": kl, "reward": start + gain}
        for n, kl, gain in ((1, 0.0, 0.0), (2, 0.1, 0.2747), (4, 0.9, 0.3))
    ]
    path = [{"reward": 0.0, "kl": 0.0}, {"reward": start + 0.15, "kl": 0.04}]
    summary = {"curve": curve, "paths": {"beta_1": path}}
    summary["optima"] = frontier.optima(tmp_path, summary)
    assert frontier.reached(summary) == [
        "| 1 | 0.110 = 0.150 - 1 x 0.040 | 0.175 = 0.275 - 1 x 0.100 (n = 2) | 0.144 = 0.275 - 1 x 0.131 |"
    ]


@pytest.mark.parametrize("stage", ["reward", "ppo_ptx"])
@pytest.mark.parametrize("written", [None, "", "{", "[]", "{}"])
def test_a_folder_that_is_no_demo_run_is_one_paragraph(
    written: str | None,
    stage: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(frontier, "train_reward", lambda _: pytest.fail("trained before all was looked at"))
    for other in ("reward", "ppo_ptx"):
        (tmp_path / other).mkdir()
        (tmp_path / other / "config.json").write_text('{"config": {}}', encoding="utf-8")
    (tmp_path / stage / "config.json").unlink()
    if written is not None:
        (tmp_path / stage / "config.json").write_text(written, encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["frontier", "--runs", str(tmp_path), "--out", str(tmp_path / "out")])
    assert frontier.main() == 2
    said = capsys.readouterr().err.strip()
    assert "To mend it: make a demo run" in said and str(tmp_path / stage) in said and "\n" not in said


def swept() -> dict[str, Any]:
    good = {"name": "a", "ptx_coef": 0.5, "beta": 0.1, "recovered": interval(0.95), "cost": interval(0.1)}
    dear = {"name": "b", "ptx_coef": 0.0, "beta": 2.0, "recovered": interval(0.95), "cost": interval(0.5)}
    return {
        "verdict": {"holds": True, "ptx": [good], "beta": [dear], "text": "so it is"},
        "failed": {},
        "table": "a table",
    }


def test_a_sweep_that_holds() -> None:
    text = tax.page({"seed-0": swept()})
    assert "0 of 1 runs miss the bound" in text and "Holds." in text
    assert "| ptx coefficient 0.5 | 0.95 [0.90, 1.00] | 0.10 [0.05, 0.15] | both |" in text
    assert "| beta 2 | 0.95 [0.90, 1.00] | 0.50 [0.45, 0.55] |  |" in text


@pytest.mark.parametrize(
    "worse",
    [{"verdict": None}, {"failed": {"a": "why"}}, {"verdict": {**swept()["verdict"], "holds": False}}],
)
def test_a_sweep_that_does_not_hold_is_seen(worse: dict[str, Any]) -> None:
    bad = copy.deepcopy(swept()) | worse
    assert not tax.held(bad)
    assert "1 of 2 runs miss the bound" in tax.page({"seed-0": swept(), "seed-1": bad})
