"""The evaluation benchmark: both sides are given the same questions, and a differing answer is noticed."""

import json
from pathlib import Path

import pytest

from benchmarks import evaluate, peers
from instructgpt.evaluation.suite.task import Choices, Options
from instructgpt.evaluation.tasks import hellaswag


def test_races_are_well_formed() -> None:
    races = evaluate.races()
    assert len({race.case for race in races}) == len(races)
    for race in races:
        names = [contender.name for contender in race.contenders]
        assert not any("/" in name for name in names)
        assert all(contender.peer in (peers.OURS, *peers.PEERS) for contender in race.contenders)
        assert all(floor.contender in names and floor.against in names for floor in race.floors)


def test_the_copy_asks_what_the_suite_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval's HellaSwag puts a record together as the official form of our reader does."""
    row = {"context": "Baking a loaf: A baker stands: he waits.", "endings": ["a b.", "c."], "label": 1}
    text = json.dumps(row) + "\n" + json.dumps({**row, "context": "Home: x."}) + "\n"
    source = tmp_path / "hellaswag.jsonl"
    source.write_text(text, encoding="utf-8")
    monkeypatch.setattr(evaluate, "DATA", tmp_path)
    monkeypatch.setattr(evaluate, "FOLDER", tmp_path / "peers")
    copy = evaluate.COPIES["hellaswag"]
    monkeypatch.setitem(
        evaluate.COPIES,
        "hellaswag",
        evaluate.Copy(source.name, copy.task, copy.definition, copy.split, copy.form),
    )
    evaluate.prepare("hellaswag", 1)
    written = evaluate.folder("hellaswag", 1) / "questions.jsonl"
    task = hellaswag.make(Options())
    (ours,), (theirs,) = task.read([source])[:1], task.read([written])
    assert task.ask(ours, ()) == task.ask(theirs, ()) == [Choices(row["context"], (" a b.", " c."))]
    assert ours.data["label"] == theirs.data["label"] == 1
    monkeypatch.setattr(evaluate, "DATA", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="INSTRUCTGPT_EVAL_DATA"):
        evaluate.prepare("hellaswag", 1)


def test_a_differing_answer_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same, other = (
        evaluate.answers([[-1.0, -2.0], [-3.0, -1.0]]),
        evaluate.answers([[-2.0, -1.0], [-3.0, -1.0]]),
    )
    assert same == evaluate.answers([[-1.5, -9.0], [-3.0, -2.9]]) != other
    rows = [{"name": "a", "facts": {"answers": same}}, {"name": "b", "facts": {"answers": same}}]
    path = tmp_path / "found.json"
    path.write_text(json.dumps({"races": [{"case": "x", "contenders": rows}]}))
    assert evaluate.check(path) == 0
    rows[1]["facts"] = {"answers": other}
    path.write_text(json.dumps({"races": [{"case": "x", "contenders": rows}]}))
    assert evaluate.check(path) == 1 and "x: the answers differ" in capsys.readouterr().err
