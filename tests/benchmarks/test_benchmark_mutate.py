"""`make mutate` counts what it is given, finds the line of a change, and wants a reason for each survivor."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import mutate, mutate_kept
from benchmarks.mutate import Mutant, Reason, first_line, locate, reasons, report
from benchmarks.mutate_order import pytest_collection_modifyitems

ROOT = Path(__file__).parent.parent.parent

SOURCE = '''"""A module."""

CONSTANT = 1


def double(x):
    """Twice x."""
    return 2 * x


class Box:
    def __init__(self, x):
        self.x = x

    @staticmethod
    def half(x):
        y = x

        return y / 2
'''

DIFF = """# instructgpt.maths.toy.xǁBoxǁhalf__mutmut_2: survived
--- instructgpt/maths/toy.py
+++ instructgpt/maths/toy.py
@@ -2,4 +2,4 @@
 def half(x):
     y = x

-    return y / 2
+    return y * 2"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "instructgpt" / "maths").mkdir(parents=True)
    (tmp_path / "instructgpt" / "maths" / "toy.py").write_text(SOURCE)
    monkeypatch.setattr(mutate, "mutmut", lambda *arguments, capture: DIFF)
    return tmp_path


def test_functions_and_methods_are_found(work: Path) -> None:
    path = work / "instructgpt" / "maths" / "toy.py"
    assert first_line(path, "instructgpt.maths.toy.x_double__mutmut_1") == 6
    assert first_line(path, "instructgpt.maths.toy.xǁBoxǁ__init____mutmut_1") == 12
    assert first_line(path, "instructgpt.maths.toy.xǁBoxǁhalf__mutmut_2") == 15


def test_a_diff_gives_the_files_own_line(work: Path) -> None:
    """`return y / 2` is line 19 of the file, and line 5 of a function that starts on line 15."""
    found = locate(work, "instructgpt.maths.toy.xǁBoxǁhalf__mutmut_2", "survived")
    assert (found.place, found.before, found.after) == (
        "instructgpt/maths/toy.py:19",
        "return y / 2",
        "return y * 2",
    )
    assert SOURCE.splitlines()[18].strip() == found.before


def _mutant(number: int, status: str = "survived") -> Mutant:
    return Mutant(
        f"m{number}", status, "instructgpt/maths/toy.py", number, "return y / 2", f"return y / {number}"
    )


def test_enough_killed_and_every_survivor_explained_is_good() -> None:
    totals = {"maths": Counter(killed=18, survived=1), "rlhf": Counter(killed=0, timeout=1)}
    known = [Reason("instructgpt/maths/toy.py", "return y / 2", "equal for even numbers")]
    text, good = report(totals, [_mutant(5)], known, "mutmut 3")
    assert good
    # 18 + 1 of 20
    assert "| together | 20 | 19 | 1 | **95.0%** |" in text
    assert "equal for even numbers" in text and "`instructgpt/maths/toy.py:5`" in text


def test_too_many_survivors_are_not_good() -> None:
    known = [Reason("instructgpt/maths/toy.py", "return y / 2", "equal for even numbers")]
    _, good = report({"maths": Counter({"killed": 8, "survived": 1, "no tests": 1})}, [], known, "mutmut 3")
    assert not good


@pytest.mark.parametrize(
    "known",
    [
        [],
        [Reason("instructgpt/maths/other.py", "return y / 2", "why")],
        [Reason("instructgpt/maths/toy.py", "return y / 3", "why")],
        [Reason("instructgpt/maths/toy.py", "return y / 2", "why", ("return y / 6",))],
    ],
)
def test_a_survivor_without_a_reason_is_not_good(known: list[Reason]) -> None:
    text, good = report(
        {"maths": Counter(killed=99, survived=1)}, [_mutant(5, "no tests")], known, "mutmut 3"
    )
    assert not good
    assert "a missing test" in text and "(no tests)" in text


def test_every_kept_reason_is_about_a_line_that_is_there() -> None:
    """A reason whose line was changed is forgotten, not carried along."""
    for reason in reasons():
        lines = [line.strip() for line in (ROOT / reason.file).read_text(encoding="utf-8").splitlines()]
        assert reason.line in lines, f"{reason.file}: {reason.line}"
        assert reason.reason


def test_every_part_names_what_is_there() -> None:
    """A pattern or a test that is gone would mean a part of nothing."""
    for part in mutate.PARTS.values():
        for pattern in (*part.only, *part.without):
            assert list(ROOT.glob(pattern)), pattern
        assert all((ROOT / place).exists() for place in part.tests if place.startswith("tests/"))
    changed = {path for part in mutate.PARTS.values() for pattern in part.only for path in ROOT.glob(pattern)}
    assert changed == {path for room in ("maths", "rlhf") for path in (ROOT / "instructgpt" / room).iterdir()}


def test_the_quickest_file_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = (("slow", 1), ("quick", 2), ("slow", 3))
    items = [SimpleNamespace(path=Path(file), nodeid=f"{file}::{test}") for file, test in names]
    unknown = list(items)
    pytest_collection_modifyitems(unknown)
    assert unknown == items
    times = {"slow::1": 1.0, "slow::3": 2.0, "quick::2": 2.5}
    (tmp_path / "mutmut-stats.json").write_text(json.dumps({"duration_by_test": times}))
    pytest_collection_modifyitems(items)
    assert [item.nodeid for item in items] == ["quick::2", "slow::1", "slow::3"]


def test_what_became_of_the_changes_is_kept_for_another_machine(tmp_path: Path) -> None:
    """mutmut's own file, through ours, into a work folder that has none; one that has is left alone."""
    codes: dict[str, int | None] = {
        "instructgpt.maths.toy.x_double__mutmut_1": 1,
        "instructgpt.maths.toy.xǁBoxǁhalf__mutmut_2": None,
        "instructgpt.maths.toy.xǁBoxǁhalf__mutmut_1": 0,
    }
    hashes = {"x_double": "aa", "xǁBoxǁhalf": "bb"}
    meta = tmp_path / "one" / "mutants" / "instructgpt" / "maths" / "toy.py.meta"
    meta.parent.mkdir(parents=True)
    meta.write_text(json.dumps({"exit_code_by_key": codes, "hash_by_function_name": hashes}))
    kept = tmp_path / "kept" / "maths.json"
    mutate_kept.save(tmp_path / "one", kept)
    assert json.loads(kept.read_text()) == {
        "instructgpt/maths/toy.py": {"x_double": ["aa", [1]], "xǁBoxǁhalf": ["bb", [0, None]]}
    }
    mutate_kept.restore(kept, tmp_path / "two")
    found = json.loads((tmp_path / "two" / meta.relative_to(tmp_path / "one")).read_text())
    assert (found["exit_code_by_key"], found["hash_by_function_name"]) == (codes, hashes)
    before = meta.read_text()
    mutate_kept.restore(kept, tmp_path / "one")
    mutate_kept.restore(tmp_path / "none.json", tmp_path / "three")
    assert meta.read_text() == before and not (tmp_path / "three").exists()
    mutate_kept.save(tmp_path / "three", kept)  # mutmut did not get as far: what is kept stays
    assert "x_double" in kept.read_text()
    kept.write_text("{")
    with pytest.raises(SystemExit, match="can't be read"):
        mutate_kept.restore(kept, tmp_path / "three")
