"""Numbered details: each names the function that does it, and that function exists."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
REFERENCE = re.compile(r"`(instructgpt/[\w/]+)\.py:\s+([A-Za-z_][\w.]*)`")
"""`instructgpt/rlhf/reward.py: shape_rewards`, or a class and its member."""
HEADINGS = {
    "docs/reward-model.md": "## Details that matter",
    "docs/zh/reward-model.md": "## 关键细节",
    "docs/ppo.md": "## Details that matter",
    "docs/zh/ppo.md": "## 关键细节",
}
"""Pages in which every detail of the numbered list must name its code."""
PAGES = sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))


def details(page: str) -> list[str]:
    """The items of the numbered list below the page's heading, in order."""
    text = (ROOT / page).read_text(encoding="utf-8").split(HEADINGS[page])[1].split("\n## ")[0]
    items = re.split(r"^(?=\d+\. )", text, flags=re.MULTILINE)[1:]
    assert [item.split(".")[0] for item in items] == [str(n) for n in range(1, len(items) + 1)]
    return items


def resolve(module: str, name: str) -> Any:
    found = import_module(module.replace("/", "."))
    for part in name.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_named_code_exists(page: str) -> None:
    """And is defined in the file named, not only imported there."""
    for module, name in REFERENCE.findall((ROOT / page).read_text(encoding="utf-8")):
        assert (ROOT / f"{module}.py").exists(), module
        found = resolve(module, name)
        place = getattr(found, "__module__", None)
        if callable(found):
            assert place == module.replace("/", "."), f"{name} is defined in {place}"


@pytest.mark.parametrize("page", HEADINGS)
def test_every_detail_names_its_code(page: str) -> None:
    items = details(page)
    assert len(items) >= 20
    for item in items:
        assert REFERENCE.search(item), item
    # A reference in another form would go unchecked.
    named = re.findall(r"`instructgpt/[^`]*`", "".join(items))
    assert all(REFERENCE.fullmatch(reference) for reference in named), named


@pytest.mark.parametrize("page", [page for page in HEADINGS if "/zh/" in page])
def test_the_chinese_list_names_the_same_code(page: str) -> None:
    ours, theirs = details(page.replace("/zh/", "/")), details(page)
    assert [REFERENCE.findall(item) for item in ours] == [REFERENCE.findall(item) for item in theirs]
