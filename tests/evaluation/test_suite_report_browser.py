"""The report in a real browser: search, filters, more samples, nothing fetched, no overflow on a phone."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from instructgpt.evaluation.suite.task import Metric
from instructgpt.evaluation.suite_report.write import write

playwright = pytest.importorskip("playwright.sync_api", reason="pip install 'instructgpt[test]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]
FLAGS = """--no-sandbox --disable-gpu --no-first-run --disable-background-networking
--disable-component-update --disable-sync"""
HOSTILE = '<img src="x" onerror="window.pwned=1"><script>window.pwned=1</script>'


def write_results(out: Path) -> None:
    """Two tasks of 30 items; the second model differs from the first on item 7 of task two alone."""
    for task in ("one", "two"):
        for order, model in enumerate(("base", "sft")):
            folder = out / "results" / model
            folder.mkdir(parents=True, exist_ok=True)
            scores = [float(i % 2) for i in range(30)]
            if (task, model) == ("two", "sft"):
                scores[7] = 0.0
            records = [
                {
                    "id": str(i),
                    "group": "",
                    "scores": {"accuracy": score},
                    "shown": {"prompt": f"Needle {i}. {HOSTILE}", "reply": f"{model} {i} " + "word" * 60},
                }
                for i, score in enumerate(scores)
            ]
            lines = "".join(json.dumps(record) + "\n" for record in records)
            (folder / f"{task}.jsonl").write_text(lines, encoding="utf-8")
            mean = sum(scores) / 30
            figure = {"value": mean, "low": mean - 0.1, "high": mean + 0.1, "n": 30, "better": "higher"}
            about = {
                "task": task, "version": 1, "model": {"name": model, "spec": f"runs/{model}", "identity": {}},
                "data": {"files": [f"{task}.jsonl"], "sha256": "00" * 32}, "items": 30, "shots": 0, "seed": 0,
                "limit": 0, "options": {}, "metrics": {"accuracy": {**figure, "unit": "share"}},
                "headline": "accuracy", "seconds": 1.0, "command": "instructgpt eval --suite " + "x" * 300,
                "place": order, "finished": True, "identity": {},
            }  # fmt: skip
            (folder / f"{task}.json").write_text(json.dumps(about), encoding="utf-8")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("report")
    write_results(out)
    metrics = {"one": (Metric("accuracy"),), "two": (Metric("accuracy"),)}
    return Path(write(out, metrics=metrics)["report"]).as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


def test_samples_are_searched_filtered_and_grown(browser: Any, report: str) -> None:
    page = browser.new_page()
    wrong: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report)
    cards = page.locator("article.sample")
    assert cards.count() == 20 and page.locator("#count").inner_text() == "60 of 60 items"
    assert HOSTILE in cards.first.inner_text()
    for _ in range(2):
        page.get_by_role("button", name="Show more").click()
    assert cards.count() == 60 and not page.locator("#more").is_visible()
    page.get_by_label("Which items").select_option("differ")
    assert cards.count() == 1 and "two · 7" in cards.first.inner_text()
    page.get_by_label("Which items").select_option("")
    page.get_by_label("Search in all texts").fill("NEEDLE 12.")
    assert cards.count() == 2 and page.locator("mark").first.inner_text() == "Needle 12."
    page.get_by_label("Task", exact=True).select_option(label="one")
    assert cards.count() == 1
    page.get_by_label("Search in all texts").fill("no such words")
    assert cards.count() == 0 and page.locator("#count").inner_text() == "0 of 60 items"
    assert page.evaluate("window.pwned") is None
    assert asked == [report] and wrong == []
    page.close()


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out_and_texts_can_be_read(browser: Any, report: str, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    page.goto(report)
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for kind in ("body", ".note", ".told", "summary", "td small", ".sample .why"):
        assert contrast(page, kind) >= 4.5, kind
    context.close()


def contrast(page: Any, selector: str) -> float:
    """Ratio of a text's luminance to the page's (WCAG 2.1, 1.4.3: at least 4.5)."""
    colours = page.evaluate(
        """selector => [getComputedStyle(document.querySelector(selector)).color,
                        getComputedStyle(document.body).backgroundColor]""",
        selector,
    )
    text, ground = sorted(map(luminance, colours), reverse=True)
    return (text + 0.05) / (ground + 0.05)


def luminance(colour: str) -> float:
    """Of `rgb(r, g, b)`, as WCAG 2.1 defines it."""
    channels = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
