"""The report of an evaluation: what it compares, a page that stands alone, JSON and cards that agree."""

import json
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from instructgpt.errors import ConfigError
from instructgpt.evaluation.eval_settings import EvalConfig
from instructgpt.evaluation.suite.results import read_results
from instructgpt.evaluation.suite.task import Metric
from instructgpt.evaluation.suite_report.document import Figure
from instructgpt.evaluation.suite_report.side_by_side import side_by_side, tally, tax_table
from instructgpt.evaluation.suite_report.write import write
from instructgpt.evaluation.verb import run

METRICS = {"toy": (Metric("accuracy"), Metric("bits", better="lower", unit="bits"))}
NASTY = "</script><img src=x onerror=alert(1)> & \u2028 \u00e9\u4f60"


def write_result(
    out: Path, model: str, scores: Sequence[float], order: int = 0, task: str = "toy", **about: Any
) -> None:
    """A finished result in the layout of `suite.results`, written by hand."""
    folder = out / "results" / model
    folder.mkdir(parents=True, exist_ok=True)
    mean = sum(scores) / len(scores)
    lines = [
        json.dumps(
            {
                "id": f"item-{i}",
                "group": "",
                "scores": {"accuracy": value, "bits": 2 - value},
                "shown": {"prompt": f"{NASTY} {i}", "gold": "yes", "reply": f"{model} says {value}"},
            }
        )
        for i, value in enumerate(scores)
    ]
    (folder / f"{task}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    content = {
        "task": task,
        "version": 1,
        "source": "By hand.",
        "model": {"name": model, "spec": f"runs/{model}", "identity": {"weights": f"hash-{model}"}},
        "identity": {},
        "data": {"files": ["toy.jsonl"], "sha256": "ab" * 32},
        "items": len(scores),
        "shots": 0,
        "seed": 3,
        "limit": 0,
        "options": {},
        "chat": False,
        "metrics": {
            "accuracy": {"value": mean, "low": mean - 0.1, "high": mean + 0.1, "n": len(scores),
                         "better": "higher", "unit": "share"},
            "bits": {"value": 2 - mean, "low": None, "high": None, "n": len(scores),
                     "better": "lower", "unit": "bits"},
        },
        "headline": "accuracy",
        "seconds": 12.5,
        "tokens": 100,
        "command": f"instructgpt eval runs/{model} --suite toy",
        "package": "1",
        "device": "cpu",
        "dtype": "float32",
        "place": order,
        "finished": True,
    }  # fmt: skip
    (folder / f"{task}.json").write_text(json.dumps(content | about), encoding="utf-8")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    write_result(tmp_path, "base", [0.0, 0.0, 0.0, 0.0], 0)
    write_result(tmp_path, "sft", [1.0, 0.0, 1.0, 1.0], 1)
    write_result(tmp_path, "ppo", [1.0, 1.0, 1.0, 1.0], 2)
    return tmp_path


def test_every_pair_of_models_is_compared_on_the_same_items(out: Path) -> None:
    (row,) = side_by_side(read_results(out), metrics=METRICS)
    assert list(row.results) == ["base", "sft", "ppo"]
    assert {pair: found.estimate.mean for pair, found in row.pairs.items()} == {
        ("sft", "base"): 0.75,
        ("ppo", "base"): 1.0,
        ("ppo", "sft"): 0.25,
    }
    sure = row.pairs["ppo", "base"]  # 1 on every item, so on every resample
    assert (sure.estimate.low, sure.estimate.high, sure.verdict) == (1.0, 1.0, "better")
    # the one item of four is missing in a share 0.75^4 = 0.32 of the resamples, far more than 2.5 %
    assert row.pairs["ppo", "sft"].estimate.low == 0.0
    assert row.pairs["ppo", "sft"].verdict == ""
    assert tally([row], "ppo", "base") == {"better": 1, "worse": 0, "neither": 0}
    assert tally([row], "ppo", "sft") == {"better": 0, "worse": 0, "neither": 1}


def test_lower_may_be_better(out: Path) -> None:
    for model in ("base", "ppo"):
        path = out / "results" / model / "toy.json"
        path.write_text(path.read_text().replace('"headline": "accuracy"', '"headline": "bits"'))
    (row,) = side_by_side(read_results(out), ["ppo", "base"], METRICS)
    pair = row.pairs["base", "ppo"]  # 2 bits less 1 bit on every item
    assert (pair.estimate.mean, pair.verdict) == (1.0, "worse")


def test_shots_are_rows_and_a_place_is_claimed_once(out: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    write_result(few, "base", [1.0, 1.0, 0.0, 0.0], shots=5)
    rows = side_by_side([*read_results(out), *read_results(few)], metrics=METRICS)
    assert [row.label for row in rows] == ["toy, 0 shots", "toy, 5 shots"]
    assert [len(row.pairs) for row in rows] == [3, 0]
    table = tax_table(rows)
    assert re.search(r"toy, 0 shots accuracy +0 +0.75 \(\+0.75\) \+ +1 \(\+1\) \+", table), table
    with pytest.raises(ConfigError, match="base has two results of toy"):
        side_by_side([*read_results(out), *read_results(out)], metrics=METRICS)
    with pytest.raises(ConfigError, match="no result of nobody"):
        side_by_side(read_results(out), ["nobody"], METRICS)


@pytest.mark.parametrize(
    ("about", "why"),
    [
        ({"data": {"files": ["toy.jsonl"], "sha256": "cd" * 32}}, "different data"),
        ({"limit": 4}, "different limit"),
        ({"version": 2}, "different version"),
    ],
)
def test_what_was_run_differently_is_not_compared(about: Mapping[str, Any], why: str, tmp_path: Path) -> None:
    write_result(tmp_path, "base", [0.0, 1.0], 0)
    write_result(tmp_path, "sft", [1.0, 1.0], 1, **about)
    (row,) = side_by_side(read_results(tmp_path), metrics=METRICS)
    assert row.pairs == {} and why in row.unpaired
    write(tmp_path, metrics=METRICS)
    assert f"Not compared: sft and base were run with {why}" in (tmp_path / "report.html").read_text()


class Page(HTMLParser):
    """Elements, links and texts of a page; unclosed or crossed elements fail."""

    VOID = ("meta", "input", "br", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        self.ids += [str(values["id"])] if "id" in values else []
        self.links += [str(values[key]) for key in ("href", "src", "action", "data") if values.get(key)]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if self.open[-1:] != ["script"] else ""


def test_the_page_stands_alone_and_no_text_becomes_markup(out: Path) -> None:
    figure = Figure("Loss", '<svg role="img" aria-label="loss"><path d="M0 0"/></svg>')
    found = write(out, title="Toy & more", metrics=METRICS, figures=[figure], notes=["By <hand>."])
    text = Path(found["report"]).read_text(encoding="utf-8")
    page = Page(text)
    assert "img" not in page.tags and page.tags.count("script") == 2
    assert all(link.startswith("#task-") and link[1:] in page.ids for link in page.links) and page.links
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r"https?://|@import|url\(", text)
    assert "Toy & more" in page.text and "By <hand>." in page.text
    (data,) = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)
    items = json.loads(data)["items"]
    assert [item["shown"]["prompt"] for item in items] == [f"{NASTY} {i}" for i in range(4)]
    assert [reply["model"] for reply in items[0]["replies"]] == ["base", "sft", "ppo"]
    assert items[1]["replies"][0]["shown"] == {"reply": "base says 0.0"}  # gold is common to all
    assert [item["differ"] for item in items] == [True, True, True, True]


def test_every_number_comes_with_how_it_was_made(out: Path) -> None:
    text = Page(Path(write(out, metrics=METRICS)["report"]).read_text(encoding="utf-8")).text
    for model in ("base", "sft", "ppo"):
        assert f"instructgpt eval runs/{model} --suite toy" in text
        assert f"weights hash-{model}" in text
    assert "ab" * 32 in text and "toy.jsonl" in text and "12.5" in text
    assert re.search(r"\bseed\s*3\b", text)
    assert "0.750 [0.650, 0.850]" in text  # sft
    assert "1.250" in text  # its bits, without an interval


def test_json_has_all_of_it_and_only_json_numbers(out: Path) -> None:
    found = write(out, metrics=METRICS)
    read = json.loads(Path(found["json"]).read_text(encoding="utf-8"), parse_constant=pytest.fail)
    (task,) = read["tasks"]
    assert (read["baseline"], list(read["models"]), read["seconds"]) == ("base", ["base", "sft", "ppo"], 37.5)
    assert task["results"]["sft"]["accuracy"]["value"] == 0.75
    assert task["results"]["sft"]["bits"]["low"] is None
    assert task["differences"]["sft_over_base"]["value"] == 0.75
    assert task["made"]["ppo"]["sha256"] == "ab" * 32 and task["made"]["ppo"]["seed"] == 3
    assert read["tally"]["ppo_over_base"] == {"better": 1, "worse": 0, "neither": 0}


def test_the_hub_reads_the_card(out: Path) -> None:
    found = write(out, metrics=METRICS)
    card = ModelCard.load(found["cards"]["sft"])
    (result,) = card.data.eval_results
    assert (result.dataset_type, result.metric_type, result.metric_value) == ("toy", "accuracy", 0.75)
    assert "| toy | **accuracy** | 0.750 [0.650, 0.850] | 4 | share | higher |" in card.text
    assert "| toy | accuracy | +0.750" in card.text
    assert "`abababababababab`" in card.text and "`instructgpt eval runs/sft --suite toy`" in card.text
    assert "Against" not in ModelCard.load(found["cards"]["base"]).text


def test_a_drawn_part_of_many_items_is_shown(tmp_path: Path) -> None:
    write_result(tmp_path, "base", [i % 2 for i in range(50)])
    found = write(tmp_path, metrics=METRICS, each=7)
    text = Path(found["report"]).read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)
    numbers = [int(item["id"].split("-")[1]) for item in json.loads(data)["items"]]
    assert len(numbers) == 7 and numbers == sorted(set(numbers))
    assert "Side by side" not in text  # there is one model


def test_the_verb_writes_one_report_of_several_folders(out: Path, tmp_path: Path) -> None:
    write_result(tmp_path / "few", "sft", [1.0, 1.0, 1.0, 0.0], shots=5)
    both = f"{out},{tmp_path / 'few'}"
    found = run(EvalConfig(report=both, models="sft,base", out=str(tmp_path / "both")))
    assert "toy, 5 shots" in found["table"] and "ppo" not in found["table"]
    assert Path(found["report"]).exists()
    with pytest.raises(ConfigError, match="no results"):
        run(EvalConfig(report=str(tmp_path / "nothing"), out=str(tmp_path / "x")))
    with pytest.raises(ConfigError, match="only reads"):
        run(EvalConfig(report=both, suite="hellaswag"))
