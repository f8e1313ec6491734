"""A full disk and Ctrl-C while a stage runs: one paragraph, nothing lost, and the same command goes on.

Exit code 2 for the disk, 130 for Ctrl-C.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors import safe_open

from instructgpt.cli import main

pytestmark = pytest.mark.slow

Flags = dict[str, object]
TINY: Flags = {"width": 16, "layers": 1, "heads": 2, "context": 96, "batch": 2, "length": 16, "lr": 1e-3}


def words(flags: Flags) -> list[str]:
    named = [part for name, value in flags.items() for part in ("--" + name.replace("_", "-"), str(value))]
    return ["pretrain", *named]


def paragraph(errors: str) -> str:
    """The one paragraph on stderr, with its cure; fails if there is anything else."""
    assert errors.endswith("\n") and "\n" not in errors[:-1], errors
    assert errors.startswith("instructgpt: ") and "Traceback" not in errors
    assert errors.count("To mend it: ") == 1
    return errors[:-1]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some text and a tokenizer."""
    folder = tmp_path_factory.mktemp("world")
    names = ["red", "blue", "green", "one", "two", "three", "cat", "dog"]
    rows = [{"text": " ".join(names[i % 8 :] + names[: i % 8])} for i in range(12)]
    (folder / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--data", str(folder / "text.jsonl"), "--vocab-size", "300", "--out", str(folder / "tokenizer")]
    assert main(["tokenizer", *flags]) == 0
    return folder


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "INSTRUCTGPT_PROGRESS": "0"}


def start(flags: Flags) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "instructgpt", *words(flags)]
    return subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def wait_for(pattern: str, out: Path, process: subprocess.Popen[str]) -> None:
    """Until the run has written such a file."""
    deadline = time.monotonic() + 120
    while not list(out.glob(pattern)):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def long_run(world: Path, out: Path) -> Flags:
    data: Flags = {"data": world / "text.jsonl", "tokenizer": world / "tokenizer"}
    return {**TINY, **data, "steps": 400, "save_every": 10, "out": out}


def finish(flags: Flags) -> bytes:
    """Run to the end, with as many threads as `start`; the final weights."""
    process = start(flags)
    errors = process.communicate()[1]
    assert process.returncode == 0, errors
    return (Path(str(flags["out"])) / "checkpoints" / "step-000400" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(world: Path) -> bytes:
    """The final weights of a run that nothing stopped."""
    return finish(long_run(world, world / "whole"))


def last_checkpoint(out: Path) -> Path:
    """The latest one; it opens and is complete."""
    folder = max((out / "checkpoints").glob("step-*"))
    for path in (folder / "model.safetensors", folder / "train_state" / "tensors.safetensors"):
        with safe_open(path, "pt") as file:
            assert list(file.keys())
    assert int(json.loads((folder / "train_state" / "state.json").read_text())["step"]) > 0
    assert not list((out / "checkpoints").glob(".*"))
    return folder


@pytest.mark.parametrize("limit", [20_000, 1])
def test_a_full_disk(limit: int, world: Path, undisturbed: bytes, tmp_path: Path) -> None:
    """A limit on file size, put on the running process: the weights (20,000 bytes are too few for them), or
    the very next line of the log, can't be written. The checkpoint before it stays."""
    out = tmp_path / "out"
    flags = long_run(world, out)
    process = start(flags)
    wait_for("checkpoints/step-*", out, process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    errors = process.communicate()[1]
    assert process.returncode == 2, errors
    said = paragraph(errors)
    assert "can't write" in said and str(out) in said and "file" in said and "same command again" in said
    assert last_checkpoint(out) < out / "checkpoints" / "step-000400"
    assert finish(flags) == undisturbed


def test_a_disk_that_is_full_from_the_start(world: Path, undisturbed: bytes, tmp_path: Path) -> None:
    flags = long_run(world, tmp_path / "out")
    process = start(flags)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    errors = process.communicate()[1]
    assert process.returncode == 2, errors
    assert "can't write" in paragraph(errors)
    assert finish(flags) == undisturbed


def test_ctrl_c(world: Path, undisturbed: bytes, tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = long_run(world, out)
    process = start(flags)
    wait_for("checkpoints/step-*", out, process)
    process.send_signal(signal.SIGINT)
    errors = process.communicate()[1]
    assert process.returncode == 130, errors
    said = paragraph(errors)
    step = int(last_checkpoint(out).name.removeprefix("step-"))
    assert f"pretrain stopped after step {step} of 400, all of it saved ({out})" in said
    assert "run the same command again" in said
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()][-1] == step
    assert finish(flags) == undisturbed


@pytest.mark.parametrize("library", ["multiarray", "libtorch_cpu", "libtorch_python"])
@pytest.mark.parametrize("seconds", [0.0, 0.3])
def test_ctrl_c_before_the_first_step(library: str, seconds: float, world: Path, tmp_path: Path) -> None:
    """While libraries are imported or files are read nothing is there to save, and no import is half done."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("only Linux says which libraries a process has loaded")
    flags = {**long_run(world, tmp_path / "out"), "steps": 100_000}
    process = start(flags)
    while library not in Path(f"/proc/{process.pid}/maps").read_text():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.002)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    errors = process.communicate()[1]
    assert process.returncode == 130, errors
    assert "same command again" in paragraph(errors)
