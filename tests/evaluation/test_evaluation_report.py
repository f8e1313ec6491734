"""The report on made-up numbers: one file, nothing loaded, everything escaped, samples chosen by rule."""

import json
import math
import random
import re
from pathlib import Path
from typing import Any

import pytest

from instructgpt.errors import ConfigError
from instructgpt.evaluation.figures import smooth
from instructgpt.evaluation.report import ReportConfig, build, choose_samples, read_stages, write

MODELS = {
    "base": (0.02, -2.9, 9.1, 0.957, 46.0, 0.1),
    "sft": (0.578, 0.02, 0.0, 0.959, 21.0, 0.98),
    "best_of_2": (0.633, 0.41, 0.193, 0.959, 20.6, 0.99),
    "best_of_4": (0.690, 0.71, 0.636, 0.959, 20.1, 1.0),
    "sft_best": (0.584, 0.03, 0.11, 0.957, 21.1, 0.98),
    "ppo": (0.652, 0.73, 0.52, 0.966, 19.8, 0.99),
    "ppo_ptx": (0.661, 0.71, 0.50, 0.957, 19.9, 1.0),
    "ppo_drift": (0.431, 1.62, 9.7, 1.021, 17.2, 1.0),
    "ppo_ptx_drift": (0.472, 1.55, 8.8, 0.978, 17.9, 1.0),
}
KEYS = ("utility", "reward", "kl", "pretrain_loss", "length", "eos_rate")


def interval(mean: float, half: float = 0.022, n: int = 2000) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


def curve(peak: float, top: float, end: float) -> list[dict[str, float]]:
    """Reward that rises with KL; utility that rises to `peak` and falls."""
    points = []
    for i in range(6):
        kl = end * (i / 5) ** 2
        utility = 0.578 + peak * math.sqrt(kl) - 0.055 * kl
        points.append(
            {
                "iteration": 4 * i,
                "kl": kl,
                "reward": top * (1 - math.exp(-1.4 * math.sqrt(kl))),
                "utility": utility,
                "utility_low": utility - 0.03,
                "utility_high": utility + 0.03,
            }
        )
    return points


def evaluation() -> dict[str, Any]:
    baselines = {"longer": 0.47, "shorter": 0.53, "bag_of_words": 0.622}
    return {
        "reward_model": {
            "accuracy": 0.724,
            "pairs": 9120,
            "prompts": 500,
            "baselines": baselines,
            "labels": {"accuracy": 0.621, "baselines": baselines, "true_utility": 0.781},
            "agreement": 0.731,
        },
        "models": {name: dict(zip(KEYS, values, strict=True)) for name, values in MODELS.items()},
        "best_sft": {},
        "win_rate": {
            **{
                f"{n}_over_sft": interval(max(0.03, 0.5 + 1.1 * (v[0] - 0.584)))
                for n, v in MODELS.items()
                if n != "sft_best"
            },
            "ppo_over_best_of_4": interval(0.468, 0.04, 500),
            "ppo_ptx_over_best_of_4": interval(0.474, 0.04, 500),
        },
        "gain": {"over_sft_best": {"ppo_ptx": interval(0.077, 0.012)}},
        "tax": {n: v[3] - 0.959 for n, v in MODELS.items() if not n.startswith("best") and n != "sft"},
        "curves": {
            "ppo": curve(0.145, 1.4, 0.52),
            "ppo_ptx": curve(0.15, 1.4, 0.50),
            "ppo_drift": curve(0.13, 1.65, 9.7),
            "ppo_ptx_drift": curve(0.13, 1.6, 8.8),
            "best_of_n": [
                {"n": 1, "kl": 0.0, "reward": 0.02, "utility": 0.578},
                {"n": 2, "kl": 0.193, "reward": 0.41, "utility": 0.633},
                {"n": 4, "kl": 0.636, "reward": 0.71, "utility": 0.690},
            ],
        },
        "seconds": 61.0,
        "peak_memory_mib": 900.0,
    }


def metrics(verb: str, name: str) -> list[dict[str, Any]]:
    draw = random.Random(name)
    if verb in ("pretrain", "sft"):
        rows = []
        for step in range(1, 401):
            level = 0.95 + 5.5 * math.exp(-step / 40)
            row = {"step": step, "loss": level + draw.gauss(0, 0.06)}
            rows.append(row | ({"validation_loss": level + 0.02} if step % 50 == 0 else {}))
        return rows
    pace = 0.06 if "drift" in name else 0.03
    return [
        {
            "step": i,
            "reward": 1.4 * (1 - math.exp(-pace * i * 3)) + draw.gauss(0, 0.04),
            "kl": pace * i + (pace * i) ** 2,
            "length": 21 - pace * 3 * i + draw.gauss(0, 0.3),
            "entropy": 0.9 * math.exp(-pace * i) + draw.gauss(0, 0.01),
        }
        for i in range(1, (25 if "drift" in name else 15))
    ]


def samples() -> list[dict[str, Any]]:
    draw = random.Random(1)
    texts = (
        "hello ana. tom lives in rome. thank you!",
        "<b>tom</b> & the cat",
        "你好，安娜。猫是黑色的。谢谢！",
        "",
    )
    rows = []
    for i in range(40):
        replies = {
            name: {"text": texts[(i + k) % 4], "utility": draw.random(), "reward": draw.gauss(0, 1)}
            for k, name in enumerate(("sft", "best_of_4", "ppo_ptx"))
        }
        prompt = f"i am ana. where does tom live? ({i}) <script>alert(1)</script>"
        rows.append({"prompt": prompt, "category": "open_qa", "group": "plain", "replies": replies})
    return rows


def fabricate(folder: Path) -> Path:
    """A run folder as the pipeline leaves it, with made-up numbers."""
    entries = []
    stages = (
        ("pretrain", "pretrain"),
        ("sft", "sft"),
        ("ppo", "ppo"),
        ("ppo", "ppo_ptx"),
        ("ppo", "ppo_drift"),
        ("ppo", "ppo_ptx_drift"),
        ("evaluate", "evaluate"),
    )
    for verb, name in stages:
        place = folder / name
        place.mkdir(parents=True)
        summary = evaluation() if verb == "evaluate" else {"seconds": 30.0, "peak_memory_mib": 700.0}
        (place / "summary.json").write_text(json.dumps(summary))
        rows = samples() if verb == "evaluate" else metrics(verb, name)
        file = "samples.jsonl" if verb == "evaluate" else "metrics.jsonl"
        (place / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
        entries.append({"name": name, "verb": verb, "folder": str(place), "config": {}})
    (folder / "lineage.json").write_text(json.dumps({"stages": entries}))
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = fabricate(tmp_path_factory.mktemp("run"))
    return build(ReportConfig(folder=str(folder)), read_stages(folder))


def test_nothing_is_loaded_from_anywhere(page: str) -> None:
    assert "http" not in page and "url(" not in page.replace("url(#", "")
    assert re.findall(r'(?:src|href)="(?!#)', page) == []
    assert "<script" not in page and "@import" not in page


def test_every_section_is_there(page: str) -> None:
    for title in (
        "Results",
        "Win rates",
        "Training and validation loss",
        "Reward model",
        "PPO, iteration by iteration",
        "Reward and hidden utility against KL",
        "Alignment tax",
        "Before and after",
        "Stages",
    ):
        assert f"<h2>{title}</h2>" in page
    # two win-rate plots, losses, accuracy, PPO, over-optimisation, tax
    assert page.count("<svg") == 7
    assert "0.661" in page and "0.724" in page


def test_replies_are_escaped(page: str) -> None:
    assert "&lt;script&gt;alert(1)" in page and "&lt;b&gt;tom&lt;/b&gt; &amp; the cat" in page


def test_ids_of_plots_differ(page: str) -> None:
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for target in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page):
        assert (target[0] or target[1]) in set(ids)


def test_plots_take_the_colours_of_the_page(page: str) -> None:
    assert "currentColor" in page and "#010203" not in page and "#040506" not in page
    assert "#000000" not in page


def test_a_run_on_real_data_has_its_own_sections(tmp_path: Path) -> None:
    """No practice world: the reward stage's own accuracy, and the `eval` verb's scores and replies."""
    reward = {"accuracy": 0.61, "pairs": 900, "longer_wins": 0.55, "shorter_wins": 0.45, "bag_of_words": None}
    replies = {name: {"text": name, "score": score} for name, score in (("base", 0.1), ("ppo", 0.7))}
    compared = {
        "judge": "runs/reward",
        "models": {n: {"score": r["score"], "kl": 0.0, "length": 30.0} for n, r in replies.items()},
        "win_rate": {"ppo_over_base": interval(0.64)},
    }
    entries = []
    for verb, summary in (("reward", reward), ("eval", compared)):
        place = tmp_path / verb
        place.mkdir()
        times = {"seconds": 1.0, "peak_memory_mib": 1.0}
        (place / "summary.json").write_text(json.dumps(summary | times))
        entries.append({"name": verb, "verb": verb, "folder": str(place), "config": {}})
    row = {"id": "1", "prompt": "hi", "replies": replies}
    (tmp_path / "eval" / "samples.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "lineage.json").write_text(json.dumps({"stages": entries}))
    config = ReportConfig(folder=str(tmp_path), before="base", after="ppo")
    page = build(config, read_stages(tmp_path))
    assert "against people&#39;s order" in page or "against people's order" in page
    assert "Judged by runs/reward." in page and "score 0.70" in page and page.count("<svg") == 2


def test_samples_are_chosen_by_rule() -> None:
    rows = [
        {"prompt": str(i), "replies": {"a": {"utility": 0.5}, "b": {"utility": 0.5 + gain}}}
        for i, gain in enumerate([0.0, 0.4, -0.3, 0.1, -0.1, 0.3, -0.4, 0.2, 0.05, -0.2])
    ]
    chosen = choose_samples(rows, "a", "b", "utility", seed=0)
    assert [row["prompt"] for why, row in chosen if why == "largest gain"] == ["1", "5", "7"]
    assert [row["prompt"] for why, row in chosen if why == "largest loss"] == ["6", "2", "9"]
    rest = {row["prompt"] for why, row in chosen if why == "drawn at random"}
    assert len(rest) == 3 and rest <= {"0", "3", "4", "8"}


def test_few_samples_are_shown_once() -> None:
    rows = [{"prompt": str(i), "replies": {"a": {"utility": 0.0}, "b": {"utility": i}}} for i in range(4)]
    chosen = choose_samples(rows, "a", "b", "utility", seed=0)
    assert sorted(row["prompt"] for _, row in chosen) == ["0", "1", "2", "3"]


def test_smoothing_has_no_start_up_bias() -> None:
    assert smooth([2.0] * 5, 10) == pytest.approx([2.0] * 5, abs=1e-12)
    # decay 1/2: weights 1/2, 1/4 on 4 and 1 -> (0.5 * 4 + 0.25 * 1) / 0.75
    assert smooth([1.0, 4.0], 2)[1] == pytest.approx(3.0, abs=1e-12)


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not the folder of a run"):
        read_stages(tmp_path)


def test_the_report_is_written_once_and_again_after_a_change(tmp_path: Path) -> None:
    folder = fabricate(tmp_path / "run")
    config = ReportConfig(out=str(folder / "report"), folder=str(folder))
    path = Path(write(config)["report"])
    first = path.stat().st_mtime_ns
    assert Path(write(config)["report"]).stat().st_mtime_ns == first
