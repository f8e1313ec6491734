"""Configuration from TOML and flags, and the command line's behaviour on mistakes."""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from instructgpt.cli import main
from instructgpt.config import parse
from instructgpt.errors import ConfigError


@dataclass(frozen=True)
class Sample:
    """Sample verb."""

    lr: float = 0.1
    """Learning rate."""
    steps: int = 5
    """Number of steps."""
    data: tuple[str, ...] = ()
    """Files."""
    quick: bool = False
    """A switch."""


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('lr = 1\nsteps = 7\ndata = ["a", "b"]\n')
    config = parse(Sample, ["--config", str(file), "--steps", "9"], "sample")
    assert config == Sample(lr=1.0, steps=9, data=("a", "b"))


def test_a_table_named_after_the_verb_is_read(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[sample]\nsteps = 3\n[other]\nx = 1\n")
    assert parse(Sample, [f"--config={file}"], "sample").steps == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz = 3", r"unknown key 'stepz'.*did you mean steps"),
        ('steps = "many"', r"'many' is not of type int"),
        ("steps = true", r"True is not of type int"),
        ("lr = 1\nsteps = x\n", r"not TOML.*line 2"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        parse(Sample, ["--config", str(file)], "sample")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--stepz", "3"], r"unknown flag --stepz.*did you mean --steps"),
        (["--steps", "many"], r"many"),
        (["--config", "nowhere.toml"], r"no such configuration file \(nowhere.toml\)"),
        (["--preset", "nowhere"], r"no preset 'nowhere'"),
        (["--config"], r"--config needs a value"),
    ],
)
def test_mistakes_in_flags_are_named(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(Sample, argv, "sample")


def test_an_unknown_verb_names_the_near_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrian"]) == 2
    error = capsys.readouterr().err
    assert "did you mean pretrain" in error and "Traceback" not in error and error.count("\n") == 1


def test_help_and_import_are_quick() -> None:
    """Budgets of the issue: import under 0.5 s, --help under 1 s (best of three; the machine is shared)."""

    def seconds(arguments: list[str]) -> float:
        start = time.monotonic()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        return time.monotonic() - start

    assert min(seconds(["-c", "import instructgpt"]) for _ in range(3)) < 0.5
    assert min(seconds(["-m", "instructgpt", "--help"]) for _ in range(3)) < 1.0
