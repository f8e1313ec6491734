"""The load benchmark runs, small: a real server, real log-ins, and nothing lost or doubled."""

import argparse

import pytest

pytest.importorskip("sqlalchemy", reason="install the label extra")
pytest.importorskip("httpx", reason="install the label extra")

from benchmarks import label_load


@pytest.mark.slow
def test_a_small_load_loses_and_doubles_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    settings = argparse.Namespace(labelers=6, seconds=3.0, tasks=40, think=(0.1, 0.3), databases="sqlite")
    section, _ = label_load.measure(settings, "sqlite")
    assert "| requests that failed | 0 |" in section, capfd.readouterr().err
    faults = section.split("| fault | count |\n|---|---|\n")[1].split("\n\n")[0].splitlines()
    assert len(faults) == 9 and all(line.endswith("| 0 |") for line in faults)
    assert "## SQLite" in label_load.page(settings, [section])


def test_bounds_are_bounds() -> None:
    found = label_load.Acknowledged()
    assert not label_load.holds(found, {}), "no request at all is no success"
    found.seconds["submit"] = [0.04] * 99 + [0.2]
    assert label_load.holds(found, {"lost": 0})
    assert not label_load.holds(found, {"lost": 1})
    found.seconds["submit"] = [0.06] * 100
    assert not label_load.holds(found, {"lost": 0})
    found.seconds["submit"] = [0.01] * 97 + [0.4] * 3
    assert not label_load.holds(found, {"lost": 0})
