"""What README and docs/ say can be run, followed and read: commands, links, records, names of flags."""

import dataclasses
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from instructgpt.cli import VERBS
from instructgpt.config import from_table
from instructgpt.data.records import read_demonstrations, read_prompts, read_rankings, read_texts
from instructgpt.rlhf.settings import PPOConfig

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "README.zh.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
# Written by a long measurement (`make verify`, the real run), so they have a test of their own.
MEASURED = {
    *(
        f"docs/results/{page}.md"
        for page in (
            "world",
            "smollm2",
            "certificate",
            "parity",
            "mutation",
            "interpolation",
            "tax",
            "frontier",
            "imdb",
            "lora",
            "comparators",
            "flywheel",
            "label-load",
            "serve-load",
            "coverage",
            "speed-sft",
            "speed-reward",
            "speed-ppo",
            "speed-generate",
            "speed-scaling",
            "speed-evaluate",
        )
    ),
    "docs/images/demo.svg",
}
READERS: dict[str, Callable[[Path], list[Any]]] = {
    "prompt": read_prompts,
    "demonstration": read_demonstrations,
    "ranking": read_rankings,
    "text": read_texts,
}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, kind: str = "") -> Iterator[tuple[str, str]]:
    """(info string, content) of a page's fenced code; of one kind if asked."""
    for info, content in FENCE.findall(page.read_text(encoding="utf-8")):
        if not kind or info.split()[:1] == [kind]:
            yield info, content


def flags_of(verb: str) -> set[str]:
    module = import_module(f"instructgpt.{VERBS[verb].module}")
    fields = dataclasses.fields(getattr(module, VERBS[verb].config_class))
    return {"--" + field.name.replace("_", "-") for field in fields} | {"--config", "--json", "--preset"}


def commands(page: Path) -> list[list[str]]:
    """Lines of fenced code that call the command, as words; a line of output starts with `instructgpt:`."""
    lines = [line for _, content in blocks(page) for line in content.splitlines()]
    return [
        shlex.split(line)
        for line in map(str.strip, lines)
        if line.startswith("instructgpt ") and not line.startswith("instructgpt VERB")
    ]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_name_existing_verbs_and_flags(page: Path) -> None:
    for words in commands(page):
        verb, rest = words[1], words[2:]
        assert verb in VERBS, words
        flags = {word.split("=")[0] for word in rest if word.startswith("--")}
        assert flags <= flags_of(verb) | {"--help"}, words


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_flags_in_running_text_exist(page: Path) -> None:
    known = {flag for verb in VERBS for flag in flags_of(verb)} | {"--help", "--no-deps", "--flag"}
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    found = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text))
    assert found <= known, found - known


def anchors(page: Path) -> set[str]:
    """Anchors that a page's headings have on the usual forges."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_resolve(page: Path) -> None:
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.is_relative_to(ROOT), f"{target} leads out of the repository"
        if name(place) in MEASURED:
            continue
        assert place.exists(), target
        assert not anchor or anchor in anchors(place), target


@pytest.mark.parametrize("path", sorted(MEASURED))
def test_measured_results_are_there(path: str) -> None:
    assert (ROOT / path).exists(), f"README links to {path}: write it from a real run"


def test_every_page_is_in_the_index() -> None:
    linked = set(LINK.findall((ROOT / "docs/index.md").read_text(encoding="utf-8")))
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert pages <= linked, pages - linked


@pytest.mark.parametrize("page", ["docs/data.md", "docs/zh/data.md"])
def test_example_records_are_read(page: str, tmp_path: Path) -> None:
    found = list(blocks(ROOT / page, "jsonl"))
    assert {info.split()[1] for info, _ in found} == set(READERS)
    for number, (info, content) in enumerate(found):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(content, encoding="utf-8")
        kind = info.split()[1]
        assert len(READERS[kind](path)) == len(content.splitlines()), content
        if kind != "text":
            assert all(prompt.text for prompt in read_prompts(path))


def test_the_error_that_the_page_shows_is_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    right = '{"prompt": "a", "response": "b"}\n'
    Path("mine.jsonl").write_text(right * 6 + '{"prompt": "a"}\n', encoding="utf-8")
    with pytest.raises(Exception) as caught:
        read_demonstrations("mine.jsonl")
    assert f"instructgpt: {caught.value}" in (ROOT / "docs/data.md").read_text(encoding="utf-8")


def test_the_pipeline_of_the_page_is_a_pipeline() -> None:
    (_, content), *_ = blocks(ROOT / "docs/pipeline.md", "toml")
    for stage in tomllib.loads(content)["stage"]:
        verb = VERBS[stage["verb"]]
        values = {key: value for key, value in stage.items() if key not in ("verb", "name")}
        from_table(getattr(import_module(f"instructgpt.{verb.module}"), verb.config_class), values, "page")


def test_the_table_of_knobs_has_the_defaults_of_the_code() -> None:
    """Every field of the settings is on the page, and a default that is a number is the code's."""
    page = (ROOT / "docs/ppo.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`--[^|]+) \| ([^|]+) \|", page.split("## Every knob")[1], re.MULTILINE)
    shown = {}
    for flags, default in rows:
        names = re.findall(r"`--([\w-]+)`", flags)
        values = default.split(", ") if len(names) > 1 else [default]
        shown |= dict(zip(names, values, strict=True))
    for field in dataclasses.fields(PPOConfig):
        flag = field.name.replace("_", "-")
        assert f"`--{flag}`" in page or flag in ("out", "model", "reward", "prompts", "pretrain"), flag
        number = re.match(r"\d[\d.,e-]*", shown.get(flag, ""))
        if number:
            assert float(number[0].rstrip(",").replace(",", "")) == float(field.default), flag  # type: ignore[arg-type]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_on_the_pages_imports_what_there_is(page: Path) -> None:
    for _, content in blocks(page, "python"):
        compile(content, name(page), "exec")
        for module, names in re.findall(r"^from (instructgpt[\w.]*) import (.+)$", content, re.MULTILINE):
            for imported in names.split(", "):
                assert hasattr(import_module(module), imported), f"{module}.{imported}"
