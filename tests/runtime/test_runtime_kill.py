"""A kill at every file operation of a run: what is left is whole, and the run goes on to the same end."""

import builtins
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from instructgpt.runtime import checkpoint
from instructgpt.runtime.checkpoint import open_run
from instructgpt.runtime.files import write_folder
from instructgpt.runtime.metrics import read_metrics

CHANGING = ("replace", "rename", "mkdir", "unlink", "rmdir", "fsync", "truncate")
STEPS = 5
TOTAL = 0 + 1 + 2 + 3 + 4  # what the stage below adds up


class Killed(BaseException):
    """Stands for SIGKILL."""


@contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, operation: int) -> Iterator[list[int]]:
    """From the n-th operation that changes the disk on, none does anything: the process is dead.

    Clean-up code that a real kill would not let run can't change anything either. A file that is opened for
    writing at the very moment is left with half a content. Yields the count of operations so far.
    """
    count = [0]

    def alive() -> None:
        count[0] += 1
        if count[0] >= operation:
            raise Killed

    def guarded(function: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            alive()
            return function(*arguments, **named)

        return call

    def opening(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        if any(letter in mode for letter in "wax+"):
            first = count[0] + 1 == operation
            try:
                alive()
            except Killed:
                if first and "w" in mode:
                    Path(os.fspath(file)).touch()
                    os.write(descriptor := os.open(file, os.O_WRONLY), b'{"half')
                    os.close(descriptor)
                raise
        return plain(file, mode, *arguments, **named)

    plain = io.open
    with monkeypatch.context() as patch:
        for name in CHANGING:
            patch.setattr(os, name, guarded(getattr(os, name)))
        patch.setattr(checkpoint, "save_file", guarded(checkpoint.save_file))
        patch.setattr(io, "open", opening)
        patch.setattr(builtins, "open", opening)
        yield count


@dataclass(frozen=True)
class Config:
    lr: float = 0.1


def write_model(folder: Path) -> None:
    (folder / "config.json").write_text('{"whole": true}')
    (folder / "sub").mkdir()
    (folder / "sub" / "config.json").write_text('{"whole": true}')


def stage(folder: Path, keep: int | None, spare: tuple[int, ...] = ()) -> float:
    """A stage in miniature: adds the step's number to a tensor at every step, saves at every second."""
    with open_run(folder, "count", Config(), {}) as run:
        if run.finished is not None:
            return float(run.finished["value"])
        value = run.load_state()[1].get("value", torch.zeros(1)).clone()
        for step in run.steps(run.start, STEPS, save_every=2):
            value += step
            run.log(step + 1, value=value.item())
            if run.should_save(step + 1):
                run.save(step + 1, write_model, {"value": value}, keep=keep, spare=spare)
        return float(run.finish({"value": value.item()})["value"])


def whole(folder: Path) -> None:
    """Everything under a good name is complete."""
    for found in (folder / "checkpoints").glob("step-*"):
        for name in ("config.json", "sub/config.json", "stage.json"):
            json.loads((found / name).read_text())
        if (found / "train_state").exists():
            load_file(found / "train_state" / "tensors.safetensors")
            json.loads((found / "train_state" / "state.json").read_text())
    for name in ("config.json", "summary.json"):
        if (folder / name).exists():
            json.loads((folder / name).read_text())


@pytest.mark.parametrize(("keep", "spare"), [(1, ()), (1, (2,)), (None, ())])
def test_killed_at_every_operation_and_at_another_one_after_that(
    keep: int | None, spare: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with killed_at(monkeypatch, operation=10**9) as count:
        assert stage(tmp_path / "undisturbed", keep, spare) == TOTAL
    operations = count[0]
    assert operations > 50
    names = sorted(p.relative_to(tmp_path / "undisturbed") for p in (tmp_path / "undisturbed").rglob("*"))
    for first in range(1, operations + 1):
        folder = tmp_path / f"at-{first}"
        for operation in (first, first * 7 % operations + 1):
            with killed_at(monkeypatch, operation), suppress(Killed):
                stage(folder, keep, spare)
            whole(folder)
        assert stage(folder, keep, spare) == TOTAL
        assert sorted(p.relative_to(folder) for p in folder.rglob("*")) == names, f"killed at {first}"
        assert [row["step"] for row in read_metrics(folder / "metrics.jsonl")] == list(range(1, STEPS + 1))


def test_killed_while_a_folder_is_written_again_it_is_whole_or_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the old folder under the good name would be taken for a checkpoint."""

    def fill(text: str) -> Any:
        def write(folder: Path) -> None:
            for name in ("a", "b", "c"):
                (folder / name).write_text(text)

        return write

    seen = set()
    for operation in range(1, 40):
        target = tmp_path / f"at-{operation}" / "model"
        write_folder(target, fill("old"))
        with killed_at(monkeypatch, operation), suppress(Killed):
            write_folder(target, fill("new"))
        contents = {path.name: path.read_text() for path in target.glob("*")}
        assert contents in ({}, dict.fromkeys("abc", "old"), dict.fromkeys("abc", "new"))
        seen.add(contents.get("a"))
        write_folder(target, fill("newer"))
        assert {p.name for p in target.parent.iterdir()} == {"model"}
        assert (target / "c").read_text() == "newer"
    assert seen == {"old", "new", None}
