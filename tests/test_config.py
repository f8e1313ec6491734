"""Configuration from TOML and flags, and the command line's behaviour on mistakes."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from instructgpt.cli import main
from instructgpt.config import parse, preset_path, presets_for
from instructgpt.errors import ConfigError
from instructgpt.pipeline import DemoConfig, RunConfig, run


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
    kind: Literal["a", "b"] = "a"
    """One of two."""
    limit: float | None = None
    """A number or none."""

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ConfigError(f"--steps is {self.steps}", cure="give more")


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('lr = 1\nsteps = 7\ndata = ["a", "b"]\n')
    config = parse(Sample, ["--config", str(file), "--steps", "9"], "sample")
    assert config == Sample(lr=1.0, steps=9, data=("a", "b"))


def test_a_table_named_after_the_verb_is_read(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[sample]\nsteps = 3\n[other]\nx = 1\n")
    assert parse(Sample, [f"--config={file}"], "sample").steps == 3
    file.write_text('limit = 3\nkind = "b"')
    assert parse(Sample, [f"--config={file}"], "sample") == Sample(limit=3.0, kind="b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz = 3", r"unknown key 'stepz'.*did you mean steps"),
        ('steps = "many"', r"'many' is not of type int"),
        ("steps = true", r"True is not of type int"),
        ("lr = 1\nsteps = x\n", r"not TOML.*line 2"),
        ('kind = "c"', r"'c' is not known .*kind.*choose one of a, b"),
        ('limit = "low"', r"'low' is not of type float"),
        ("steps = -1", r"--steps is -1"),
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
        (
            ["--steps", "many"],
            r"^--steps: 'many' is not a whole number \(instructgpt sample\)\. To mend it: see ",
        ),
        (["--lr", "fast"], r"^--lr: 'fast' is not a number \(instr"),
        (["--kind", "c"], r"^invalid choice 'c' for argument '--kind'. Expected one of \('a', 'b'\) \(instr"),
        (["--limit", "low"], r"^--limit: no type matching .*'low'\] \(instr"),
        (["--steps"], r"^Missing value for argument '--steps'"),
        (["--steps", "-1"], r"^--steps is -1\. To mend it: give more\.$"),
        (["--config", "nowhere.toml"], r"no such configuration file \(nowhere.toml\)"),
        (["--preset", "nowhere"], r"no preset 'nowhere'"),
        (["--preset", "quick"], r"lists stages.*instructgpt run quick"),
        (["--preset", "nplus"], r"holds flags of sft, reward, ppo, and none of `sample`.*no preset is for"),
        (["--prset", "nplus"], r"unknown flag --prset.*did you mean --preset"),
        (["--steps", "3", "more"], r"'more' is too much"),
        (["--config"], r"--config needs a value"),
    ],
)
def test_mistakes_in_flags_are_named(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(Sample, argv, "sample")


@pytest.mark.parametrize("argv", [["--preset", "quick", "--seed", "3"], ["--preset=quick", "--seed=3"]])
def test_a_preset_is_the_file_that_run_takes(argv: list[str]) -> None:
    config = parse(RunConfig, argv, "run")
    assert config == RunConfig(file=str(preset_path("quick")), seed=3)


def test_a_preset_with_tables_is_not_for_run(tmp_path: Path) -> None:
    message = r"holds flags of single verbs \(sft, reward, ppo\).*instructgpt ppo --preset nplus"
    with pytest.raises(ConfigError, match=message):
        parse(RunConfig, ["--preset", "nplus"], "run")
    with pytest.raises(ConfigError, match=message):
        run(RunConfig(file="nplus", out=str(tmp_path)))


def test_a_file_wins_over_a_preset_whatever_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("instructgpt.config.preset_folder", lambda: tmp_path)
    (tmp_path / "mine.toml").write_text("[sample]\nsteps = 1\nlr = 1\nlimit = 1\n[other]\nsteps = 99\n")
    file = tmp_path / "folder"
    file.mkdir()
    (file / "c.toml").write_text("lr = 2\nlimit = 2\n")
    expected = Sample(steps=1, lr=2.0, limit=3.0)
    for argv in (
        ["--preset", "mine", "--config", str(file / "c.toml")],
        [f"--config={file / 'c.toml'}", "--preset=mine"],
    ):
        assert parse(Sample, [*argv, "--limit", "3"], "sample") == expected
    assert presets_for("sample") == presets_for("other") == ["mine"] and presets_for("run") == []
    with pytest.raises(ConfigError, match=r"none of `third`"):
        parse(Sample, ["--preset", "mine"], "third")
    (tmp_path / "mine.toml").write_text("[sample]\nstepz = 1\n")
    with pytest.raises(ConfigError, match=r"unknown key 'stepz' \(.*mine.toml\).*did you mean steps"):
        parse(Sample, ["--preset", "mine"], "sample")


def test_a_name_that_is_refused_says_why(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Strict(Sample):
        refused: ClassVar[dict[str, str]] = {"step_size": "it has no size"}

    with pytest.raises(
        ConfigError, match=r"unknown flag --step-size=3, and there is none on purpose: it has no"
    ):
        parse(Strict, ["--step-size=3"], "sample")
    with pytest.raises(
        ConfigError, match=r"unknown key 'step_size', and there is none on purpose: it has no"
    ):
        parse(Strict, ["--config", str(_write(tmp_path / "c.toml", "step_size = 3"))], "sample")
    with pytest.raises(ConfigError, match=r"unknown flag --stepz.*did you mean --steps"):
        parse(Strict, ["--stepz", "3"], "sample")


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_help_offers_the_presets_of_a_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    usage = [line for line in capsys.readouterr().out.splitlines() if "--preset" in line]
    assert any("instructgpt run" in line for line in usage)
    for verb, offered in (("run", "demo"), ("sft", "instructgpt, nplus"), ("ppo", "nplus"), ("generate", "")):
        with pytest.raises(SystemExit):
            main([verb, "--help"])
        said = capsys.readouterr().out
        assert ("--preset" in said) == bool(offered) and offered in said and "--config" in said


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


@pytest.mark.parametrize(
    ("words", "quick"),
    [
        (["--quick"], True),
        (["--quick", "--seed", "3"], True),
        (["--quick", "True"], True),
        (["--quick", "false"], False),
        (["--quick=False"], False),
        ([], False),
    ],
)
def test_a_switch_may_stand_alone(words: list[str], quick: bool) -> None:
    assert parse(DemoConfig, words, "demo").quick is quick


def test_a_switch_takes_no_other_word() -> None:
    with pytest.raises(ConfigError, match="--quick: 'maybe' is neither True nor False"):
        parse(DemoConfig, ["--quick", "maybe"], "demo")


@pytest.mark.parametrize(("verb", "kept"), [("serve", "1024"), ("ppo", "64")])
def test_a_server_keeps_the_code_of_more_products(
    verb: str, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few for memory, but a server goes through hundreds of shapes over and over; what the user set stays."""
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.setenv(name, "")  # put back at the end
    monkeypatch.delenv(name)
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    assert os.environ[name] == kept
    monkeypatch.setenv(name, "7")
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    assert os.environ[name] == "7"
