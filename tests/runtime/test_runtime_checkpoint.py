"""The run folder: atomic checkpoints, resume, identity, interruption, a full disk."""

import json
import os
import resource
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from instructgpt.errors import CheckpointError, ConfigError, DataError, Interrupted, StorageError
from instructgpt.runtime.checkpoint import RunChanged, checkpoints, final_checkpoint, open_run
from instructgpt.runtime.files import hash_path, write_folder
from instructgpt.runtime.metrics import read_metrics
from instructgpt.runtime.seeds import derive_seed


@dataclass(frozen=True)
class Config:
    out: str = ""
    lr: float = 0.1


def write_model(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")


def count(folder: Path, total: int, stop_at: int = -1, lr: float = 0.1) -> torch.Tensor:
    """A stage in miniature: adds the step's number to a tensor at every step."""
    with open_run(folder, "count", Config(lr=lr), {}) as run:
        _, tensors = run.load_state()
        value = tensors.get("value", torch.zeros(1)).clone()
        for step in run.steps(run.start, total, save_every=3):
            value += step
            run.log(step + 1, value=value.item())
            if step == stop_at:
                os.kill(os.getpid(), signal.SIGINT)
            if run.should_save(step + 1):
                run.save(step + 1, write_model, {"value": value}, {"note": "x"}, keep=2)
        run.finish({"checkpoint": f"checkpoints/step-{total:06d}"})
        return value


def test_a_run_saves_finishes_and_says_so(tmp_path: Path) -> None:
    assert count(tmp_path / "r", 8).item() == 28  # 0+1+...+7
    assert [p.name for p in sorted((tmp_path / "r/checkpoints").iterdir())] == ["step-000006", "step-000008"]
    assert [row["step"] for row in read_metrics(tmp_path / "r/metrics.jsonl")] == list(range(1, 9))
    with open_run(tmp_path / "r", "count", Config(), {}) as run:
        assert run.finished is not None and run.finished["seconds"] >= 0
    assert final_checkpoint(tmp_path / "r").name == "step-000008"


def test_ctrl_c_finishes_the_step_saves_and_resumes(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="run the same command again"):
        count(tmp_path / "r", 8, stop_at=4)
    assert (tmp_path / "r/checkpoints/step-000005").exists()
    assert count(tmp_path / "r", 8).item() == 28
    assert [row["step"] for row in read_metrics(tmp_path / "r/metrics.jsonl")] == list(range(1, 9))


def test_checkpoints_are_told_apart_by_number(tmp_path: Path) -> None:
    """As a text, step-1000000 comes before step-999998."""
    for step in (999_998, 1_000_000):
        with open_run(tmp_path, "x", Config(), {}) as run:
            for name in ("step-000009.mine", "step-"):  # not ours: neither latest nor pruned
                (tmp_path / "checkpoints" / name).mkdir(parents=True, exist_ok=True)
            run.save(step, write_model, keep=2)
    with open_run(tmp_path, "x", Config(), {}) as run:
        assert run.start == 1_000_000
        run.save(1_000_001, write_model, keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-1000000", "step-1000001"]
    assert (tmp_path / "checkpoints/step-000009.mine").exists()


def test_spared_checkpoints_stay_without_what_resuming_needs(tmp_path: Path) -> None:
    with open_run(tmp_path, "x", Config(), {}) as run:
        for step, spare in ((1, [1]), (2, [1]), (3, [1, 3]), (4, [3]), (5, [3])):
            run.save(step, write_model, spare=spare)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000003", "step-000005"]
    assert not (tmp_path / "checkpoints/step-000003/train_state").exists()
    with open_run(tmp_path, "x", Config(), {}) as run:
        assert run.start == 5 and len(checkpoints(tmp_path)) == 2


def test_metrics_after_the_checkpoint_are_dropped_on_resume(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        count(tmp_path / "r", 8, stop_at=4)
    with (tmp_path / "r/metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "value": 1}\n{"step": 7, "val')  # written after the checkpoint, cut by a kill
    count(tmp_path / "r", 8)
    assert [row["step"] for row in read_metrics(tmp_path / "r/metrics.jsonl")] == list(range(1, 9))


def test_another_configuration_is_refused_with_the_difference(tmp_path: Path) -> None:
    count(tmp_path / "r", 3)
    with pytest.raises(RunChanged, match=r"lr: 0\.1 -> 0\.2.*another --out"):
        count(tmp_path / "r", 3, lr=0.2)


def test_a_setting_that_is_newer_than_the_run_counts_as_its_default(tmp_path: Path) -> None:
    """A new version's flag must not make old runs foreign; given another value, it does."""
    count(tmp_path / "r", 2)
    path = tmp_path / "r" / "config.json"
    old = json.loads(path.read_text())
    del old["config"]["lr"]
    path.write_text(json.dumps(old))
    assert count(tmp_path / "r", 2).item() == 1  # 0 + 1
    with pytest.raises(RunChanged, match=r"lr: 0\.1 -> 0\.2"):
        count(tmp_path / "r", 2, lr=0.2)


def test_a_changed_input_is_noticed(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("one")
    with open_run(tmp_path / "r", "x", Config(), {"data": data}):
        pass
    data.write_text("two")
    with (
        pytest.raises(RunChanged, match="input data"),
        open_run(tmp_path / "r", "x", Config(), {"data": data}),
    ):
        pass


def test_a_failed_write_leaves_the_old_folder_and_no_rest(tmp_path: Path) -> None:
    write_folder(tmp_path / "c", write_model)

    def fail(folder: Path) -> None:
        (folder / "config.json").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match=r"no space left on device.*free some space"):
        write_folder(tmp_path / "c", fail)
    assert (tmp_path / "c/config.json").read_text() == "{}"
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_a_limit_on_file_size_is_a_storage_error(tmp_path: Path) -> None:
    """A full disk, for instance: the weights can't be written, what was saved before stays."""
    count(tmp_path / "r", 3)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with (
            open_run(tmp_path / "r2", "x", Config(), {}) as run,
            pytest.raises(StorageError, match="can't write"),
        ):
            run.save(1, write_model, {"big": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "r2/checkpoints").glob("step-*")) == []


def test_no_model_in_a_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        final_checkpoint(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="no finished model"):
        final_checkpoint(tmp_path)
    with pytest.raises(ConfigError, match="--out"), open_run("", "x", Config(), {}):
        pass


def test_a_damaged_training_state_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        count(tmp_path / "r", 8, stop_at=4)
    (tmp_path / "r/checkpoints/step-000005/train_state/tensors.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match=r"step-000005.*resume"):
        count(tmp_path / "r", 8)


def test_the_hash_sees_contents_and_names_but_not_train_state(tmp_path: Path) -> None:
    write_model(tmp_path)
    first = hash_path(tmp_path)
    (tmp_path / "train_state").mkdir()
    (tmp_path / "train_state" / "state.json").write_text("{}")
    assert hash_path(tmp_path) == first
    (tmp_path / "model.safetensors").write_bytes(b"weightz")
    assert hash_path(tmp_path) != first
    assert hash_path(tmp_path / "nothing") == "missing"


def test_seeds_are_fixed_and_tell_types_and_order_apart() -> None:
    # blake2b of "int:1\x1fstr:a", first 8 bytes little-endian, shifted right by one.
    import hashlib

    digest = hashlib.blake2b(b"int:1\x1fstr:a", digest_size=8).digest()
    assert derive_seed(1, "a") == int.from_bytes(digest, "little") >> 1
    assert len({derive_seed(1, "a"), derive_seed("1", "a"), derive_seed("a", 1), derive_seed(1, "a", 0)}) == 4


def test_a_mistake_before_any_work_does_not_bind_the_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError), open_run(tmp_path / "r", "x", Config(lr=0.1), {}):
        raise DataError("record has no 'text'")
    with open_run(tmp_path / "r", "x", Config(lr=0.2), {}) as run:
        assert run.start == 0


def test_config_json_holds_lineage(tmp_path: Path) -> None:
    count(tmp_path / "r", 3)
    assert json.loads((tmp_path / "r/checkpoints/step-000003/stage.json").read_text())["config"]["lr"] == 0.1


def test_a_ctrl_c_that_comes_after_the_question_waits_for_the_next_step(tmp_path: Path) -> None:
    """The message says that all is saved, so the step in hand must be: with save_every 0 it would be lost."""
    saved = []
    with (
        pytest.raises(Interrupted, match="after step 3 of 8, all of it saved"),
        open_run(tmp_path / "r", "x", Config(), {}) as run,
    ):
        for step in run.steps(0, 8):
            due = run.should_save(step + 1)
            if step == 1:
                os.kill(os.getpid(), signal.SIGINT)
            if due:
                saved.append(run.save(step + 1, write_model).name)
    assert saved == ["step-000003"]


def test_a_log_that_the_disk_refuses_is_one_error(tmp_path: Path) -> None:
    """Closing the file tries the row again and fails again: that must not hide the first error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with (
            pytest.raises(StorageError, match=r"file too large.*metrics\.jsonl.*To mend it: raise the limit"),
            open_run(tmp_path / "r", "x", Config(), {}) as run,
        ):
            for step in run.steps(0, 8):
                run.log(step + 1, note="x" * 100)
                resource.setrlimit(resource.RLIMIT_FSIZE, (250, before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [row["step"] for row in read_metrics(tmp_path / "r/metrics.jsonl")] in ([1], [1, 2])


def test_a_path_below_a_file_is_told_with_its_cure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "r"):
        with (
            pytest.raises(StorageError, match="choose an --out below a folder"),
            open_run(out, "x", Config(), {}),
        ):
            pass
