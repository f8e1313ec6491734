"""`instructgpt label --quality`: the report of a database, as a table and as JSON."""

import json
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="install the label extra")
pytest.importorskip("krippendorff", reason="install the label extra")

from instructgpt.cli import main
from instructgpt.labelling.demo import NAME, make_demo
from instructgpt.labelling.store.database import open_store


def test_it_prints_the_table_and_the_report_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = f"sqlite:///{tmp_path / 'labels.db'}"
    for reads in (["--quality"], ["--export", str(tmp_path / "out")]):  # what only reads makes no database
        assert main(["label", *reads, "--database", database]) == 2
        assert "there is no such database" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    store = open_store(database)
    assert main(["label", "--quality", "--database", database]) == 2
    assert "no project yet" in capsys.readouterr().err
    make_demo(store)
    store.close()
    assert main(["label", "--quality", "--database", database, "--project", NAME]) == 0
    shown = capsys.readouterr().out
    assert NAME in shown and "pairs in the same order, untied" in shown and "Fang (simulated)" in shown
    assert main(["label", "--quality", "--database", database, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["projects"][NAME]
    assert report["annotations"] == 72 and len(report["labelers"]) == 6
    assert main(["label", "--quality", "--database", database, "--project", "none"]) == 2
    assert main(["label", "--database", database, "--project", NAME]) == 2
    assert "--quality" in capsys.readouterr().err
