"""SIGKILL at random moments, the same command again: the final weights are those of an undisturbed run."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from safetensors import safe_open

pytestmark = pytest.mark.slow

# One thread: two threads on a busy machine give the same numbers, only later.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "INSTRUCTGPT_PROGRESS": "0"}
KILLS = 3
WEIGHTS = "model.safetensors"


def command(verb: str, **flags: object) -> list[str]:
    words = [sys.executable, "-m", "instructgpt", verb]
    for name, value in flags.items():
        words += ["--" + name.replace("_", "-"), str(value)]
    return words


def finish(words: Sequence[str]) -> None:
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def weights(folder: Path) -> dict[str, bytes]:
    """Every weight file below the folder, as bytes: final ones, earlier candidates, moving average, value."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob(WEIGHTS)}
    assert found
    return found


def everything_is_whole(folder: Path) -> None:
    """Whatever has a checkpoint's name opens and has all its parts, those that resuming needs too."""
    for checkpoint in folder.rglob("checkpoints/step-*"):
        assert (checkpoint / WEIGHTS).exists(), checkpoint
        for path in checkpoint.rglob("*.safetensors"):
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    file.get_tensor(name)
        for path in [*checkpoint.rglob("*.json"), checkpoint / "stage.json", checkpoint / "config.json"]:
            json.loads(path.read_text())
        if (checkpoint / "train_state").exists():
            assert (checkpoint / "train_state" / "state.json").exists(), checkpoint
    for summary in folder.rglob("summary.json"):
        named = json.loads(summary.read_text()).get("checkpoint")
        assert named is None or (summary.parent / named / WEIGHTS).exists()


def kill(words: Sequence[str], delay: float) -> bool:
    """Start the command and kill it after `delay` seconds; False when it had ended by itself."""
    process = subprocess.Popen(words, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    errors = process.communicate()[1]
    assert process.returncode in (0, -signal.SIGKILL), errors
    return process.returncode != 0


def kill_and_compare(
    tmp_path: Path, words: Sequence[str], compared: Callable[[Path], dict[str, bytes]] = weights
) -> None:
    """Run the command undisturbed, then beside it with kills, and compare what `compared` finds.

    The first kill's moment is uniform over an undisturbed run's time, from just before its first file on;
    each other's is over the time that is then left. A run that was quicker than its kill starts anew.
    """
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    started = time.time()
    finish([*words, "--out", str(whole)])
    duration = time.time() - started
    startup = min(path.stat().st_mtime for path in whole.rglob("*.*")) - started
    seed = random.SystemRandom().randrange(10**6)
    rng = random.Random(seed)
    left, killed = duration, 0
    for _ in range(2 * KILLS):
        delay = rng.uniform(0.9 * startup, left)
        if kill([*words, "--out", str(folder)], delay):
            killed += 1
            everything_is_whole(folder)
            left = max(left - max(0.0, delay - startup), 1.2 * startup)
            if killed == KILLS:
                break
        else:
            shutil.rmtree(folder)
            left = duration
    assert killed, f"no kill came in time, seed {seed}"
    finish([*words, "--out", str(folder)])
    everything_is_whole(folder)
    assert compared(folder) == compared(whole), f"kill moments of seed {seed}"

    def names(top: Path) -> list[str]:
        return sorted(str(path.relative_to(top)) for path in top.rglob("*"))

    assert names(folder) == names(whole), f"kill moments of seed {seed}"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny data and a tiny model for every stage, made by the stages themselves."""
    folder = tmp_path_factory.mktemp("world")
    rng = random.Random(7)
    words = ["red", "blue", "green", "one", "two", "three", "cat", "dog", "sun", "moon", "sea", "tree"]

    def text(length: int) -> str:
        return " ".join(rng.choice(words) for _ in range(length))

    def write(name: str, rows: list[dict[str, object]]) -> None:
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("text.jsonl", [{"text": text(40)} for _ in range(60)])
    write("demonstrations.jsonl", [{"prompt": text(4), "response": text(5)} for _ in range(96)])
    write("prompts.jsonl", [{"prompt": text(4), "id": f"p{i}"} for i in range(32)])
    ranked = [
        {"prompt": text(4), "responses": [{"text": text(4), "rank": k + 1} for k in range(4)]}
        for _ in range(64)
    ]
    write("rankings.jsonl", ranked)
    finish(command("tokenizer", data=folder / "text.jsonl", out=folder / "tokenizer", vocab_size=300))
    base = {**TINY, "data": folder / "text.jsonl", "tokenizer": folder / "tokenizer", "steps": 10}
    finish(command("pretrain", **base, out=folder / "base"))
    finish(
        command(
            "reward", model=folder / "base", data=folder / "rankings.jsonl", out=folder / "reward", **REWARD
        )
    )
    return folder


TINY = {"width": 16, "layers": 2, "heads": 2, "context": 128, "batch": 4, "length": 32, "lr": 1e-3}
REWARD = {"epochs": 1, "batch": 4, "lr": 1e-3}


def test_tokenizer(world: Path, tmp_path: Path) -> None:
    rng = random.Random(3)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 12))) for _ in range(10_000)]
    texts = (json.dumps({"text": " ".join(rng.choices(words, k=300))}) + "\n" for _ in range(3000))
    (tmp_path / "text.jsonl").write_text("".join(texts))

    def files(folder: Path) -> dict[str, bytes]:
        return {name: (folder / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json")}

    words = command("tokenizer", data=tmp_path / "text.jsonl", vocab_size=3000)
    kill_and_compare(tmp_path, words, files)


def test_pretrain(world: Path, tmp_path: Path) -> None:
    words = command(
        "pretrain",
        data=world / "text.jsonl",
        validation=world / "text.jsonl",
        tokenizer=world / "tokenizer",
        **TINY,
        steps=300,
        save_every=5,
        eval_every=50,
        eval_documents=8,
    )
    kill_and_compare(tmp_path, words)


def test_sft(world: Path, tmp_path: Path) -> None:
    words = command(
        "sft",
        model=world / "base",
        data=world / "demonstrations.jsonl",
        pretrain_data=world / "text.jsonl",
        pretrain_fraction=0.1,
        pretrain_length=32,
        reward=world / "reward",
        eval_prompts=2,
        max_new=8,
        epochs=9,
        batch=8,
        lr=1e-3,
        residual_dropout=0.1,
        checkpoints_per_epoch=3,
    )
    kill_and_compare(tmp_path, words)


def test_reward(world: Path, tmp_path: Path) -> None:
    words = command(
        "reward",
        model=world / "base",
        data=world / "rankings.jsonl",
        demonstrations=world / "demonstrations.jsonl",
        **{**REWARD, "epochs": 8},
        save_every=3,
    )
    kill_and_compare(tmp_path, words)


def test_members_of_an_ensemble(world: Path, tmp_path: Path) -> None:
    words = command(
        "reward",
        model=world / "base",
        data=world / "rankings.jsonl",
        **{**REWARD, "epochs": 4},
        save_every=3,
        members=2,
    )
    kill_and_compare(tmp_path, words)


def test_ppo(world: Path, tmp_path: Path) -> None:
    words = command(
        "ppo",
        model=world / "base",
        reward=world / "reward",
        prompts=world / "prompts.jsonl",
        eval_prompts=world / "prompts.jsonl",
        eval_every=4,
        pretrain=world / "text.jsonl",
        ptx_length=32,
        iterations=12,
        batch=16,
        minibatches=2,
        max_new=12,
        kl_target=1.0,
        lr=1e-3,
        value_lr=1e-3,
        save_every=1,
    )
    kill_and_compare(tmp_path, words)


def test_pipeline(world: Path, tmp_path: Path) -> None:
    """Two stages of a file: the second starts from the first's weights, whichever of them a kill met."""
    settings = "".join(f"{name} = {value}\n" for name, value in TINY.items())
    (tmp_path / "two.toml").write_text(
        f"""
seed = 5
summary = "tuned"
[[stage]]
verb = "pretrain"
name = "base"
data = "{world / "text.jsonl"}"
tokenizer = "{world / "tokenizer"}"
steps = 120
save_every = 4
{settings}
[[stage]]
verb = "sft"
name = "tuned"
model = "{{base}}"
data = "{world / "demonstrations.jsonl"}"
epochs = 6
batch = 8
lr = 1e-3
checkpoints_per_epoch = 3
eval_prompts = 0
"""
    )
    kill_and_compare(tmp_path, [*command("run"), str(tmp_path / "two.toml")])
