"""Every stage gives the numbers on record, however the work is cut; the changelog says why they changed."""

from __future__ import annotations

import copy
import math
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import golden
from benchmarks.golden import Explanation, Golden, Row, differences, digest_of, explain, explanations, run
from benchmarks.golden_world import STAGES, STEPS

PREFIX = 8
"""Rounds of PPO that are run again in another way: its schedule does not depend on how many follow."""


def recorded(stage: str) -> Golden:
    found = golden.read(stage)
    assert found is not None, f"{stage} has no golden run: make golden"
    return found


def hold(stage: str, found: list[Row], rows: int = STEPS) -> None:
    """`found` is the first `rows` rows of the golden run."""
    lines = differences(stage, recorded(stage).rows[:rows], found)
    assert not lines, "\n".join(
        [*lines[:5], f"{len(lines)} differences; if the change is meant: make golden WHY=..."]
    )


@pytest.mark.parametrize("stage", STAGES)
def test_the_numbers_are_those_on_record(world: Path, stage: str) -> None:
    hold(stage, run(stage, world))


@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward"])
def test_one_micro_batch_of_eight_is_eight_of_one(world: Path, stage: str) -> None:
    """Every document, demonstration and prompt in a pass of its own (field fault 16), so without packing."""
    hold(stage, run(stage, world, micro_tokens=1))


@pytest.mark.parametrize(
    "changes",
    [{"max_tokens": 1}, {"max_active": 1}, {"max_active": 3, "max_tokens": 40}, {"old_logprobs": "rollout"}],
    ids=str,
)
def test_ppo_is_the_same_however_it_is_cut(world: Path, changes: dict[str, Any]) -> None:
    """Each reply in a pass of its own, replies sampled one after another, log-probs from the sampler."""
    hold("ppo", run("ppo", world, iterations=PREFIX, **changes), PREFIX)


@pytest.mark.parametrize(
    "stage",
    ["pretrain", "ppo", *(pytest.param(stage, marks=pytest.mark.slow) for stage in ("sft", "reward"))],
)
def test_two_threads_do_what_one_does(world: Path, stage: str) -> None:
    short: dict[str, Any] = {"iterations": PREFIX} if stage == "ppo" else {}
    hold(stage, run(stage, world, workers=2, **short), PREFIX if short else STEPS)


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the variables name instruction sets of x86-64")
@pytest.mark.parametrize(
    ("aten", "onednn", "mkl"), [("default", "SSE41", "SSE4_2"), ("avx2", "AVX2", "AVX2")]
)
def test_older_processors_give_the_same_rows(aten: str, onednn: str, mkl: str) -> None:
    """`make golden` on kernels for other instruction sets: nothing to renew."""
    kernels = {"ATEN_CPU_CAPABILITY": aten, "ONEDNN_MAX_CPU_ISA": onednn, "MKL_ENABLE_INSTRUCTIONS": mkl}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.golden"],
        cwd=golden.ROOT,
        env=os.environ | kernels,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == " ".join(f"{stage}: as recorded" for stage in STAGES).split()


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("pretrain", {"beta2": 0.951}),
        ("sft", {"pretrain_fraction": 0.1001}),
        ("reward", {"lr": 1e-3 * 1.001}),
        ("ppo", {"lam": 0.951, "iterations": 4}),
        ("ppo", {"ptx_coef": 1.001, "iterations": 4}),
    ],
)
def test_a_slightly_other_recipe_is_seen(world: Path, stage: str, changes: dict[str, Any]) -> None:
    rows = changes.get("iterations", STEPS)
    assert differences(stage, recorded(stage).rows[:rows], run(stage, world, **changes))


def test_the_runs_are_worth_keeping() -> None:
    """They learn, and PPO's reach what they guard: clipping, replies of several lengths, KL."""
    rows = {stage: recorded(stage).rows for stage in STAGES}
    assert all(len(found) == STEPS for found in rows.values())
    assert rows["pretrain"][-1]["loss"] < rows["pretrain"][0]["loss"] / 2
    assert rows["sft"][-1]["loss"] < rows["sft"][0]["loss"] / 2
    assert rows["reward"][-1]["loss"] < math.log(2) / 2
    ppo = rows["ppo"]
    assert sum(row["reward"] for row in ppo[-10:]) / 10 > sum(row["reward"] for row in ppo[:10]) / 10 + 0.25
    assert ppo[-1]["ptx_loss"] < ppo[0]["ptx_loss"] - 1
    assert ppo[0]["kl"] == 0.0 and max(row["kl"] for row in ppo) > 1
    for name in ("clip_fraction", "value_clip_fraction"):
        assert max(row[name] for row in ppo) > 0
    assert len({row["length"] for row in ppo}) > 10


# -- what counts as a difference ---------------------------------------------------------------------------


def rows() -> list[Row]:
    return [{"step": step, "loss": 2.0, "grad_norm": 1.0} for step in range(1, STEPS + 1)]


@pytest.mark.parametrize(
    ("step", "off", "seen"),
    [(1, 0.9e-5, False), (1, 1.1e-5, True), (10, 1.1e-5, True), (11, 1.1e-5, False), (50, 6e-5, True)],
)
def test_the_first_rows_are_held_tighter(step: int, off: float, seen: bool) -> None:
    found = rows()
    found[step - 1]["loss"] *= 1 + off
    lines = differences("sft", rows(), found)
    assert len(lines) == seen and all(f"sft, step {step}, loss: 2.0 recorded" in line for line in lines)


def test_a_drift_to_one_side_is_no_rounding() -> None:
    """2e-5 to and fro passes from row 11 on; all to one side, (10 x 0 + 40 x 2e-5) / 50 = 1.6e-5 does not."""
    to_and_fro, aside = rows(), rows()
    for row in to_and_fro[10:]:
        row["loss"] *= 1 + 2e-5 * (-1) ** row["step"]
    for row in aside[10:]:
        row["loss"] *= 1 + 2e-5
    assert differences("sft", rows(), to_and_fro) == []
    assert differences("sft", rows(), aside) == ["sft, loss: off by 1.6e-05 on average, so not by rounding"]


def test_nan_and_what_is_missing_or_new_are_differences() -> None:
    broken, shorter, other = rows(), rows()[:-1], rows()
    broken[3]["loss"] = math.nan
    other[9]["validation_loss"] = 1.0
    for found in (broken, shorter, other):
        assert differences("sft", rows(), found)
        assert differences("sft", found, rows())


def test_signed_means_are_measured_against_their_unit() -> None:
    """A mean KL of 1e-6 nats that becomes 2e-6 is rounding; a loss that does so is another one."""
    old, new = ([{"step": 1, "kl": kl, "ptx_loss": 1.0}] for kl in (1e-6, 2e-6))
    assert differences("ppo", old, new) == []
    old, new = ([{"step": 1, "kl": 0.0, "ptx_loss": loss}] for loss in (1e-6, 2e-6))
    assert differences("ppo", old, new)


# -- the record --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_the_changelog_says_why_the_rows_are_what_they_are(stage: str) -> None:
    """Whoever changes a digit of a golden run has to write a reason beside its digest."""
    found = recorded(stage)
    assert found.digest == digest_of(found.rows), "the rows were changed by hand"
    lines = explanations(golden.CHANGELOG.read_text(encoding="utf-8"))
    assert [line.number for line in lines] == sorted({line.number for line in lines})
    reasons = [
        line.why for line in lines if line.number == found.number and line.digests.get(stage) == found.digest
    ]
    assert len(reasons) == 1 and len(reasons[0].split()) >= 2, f"no line of Golden runs {found.number}"


def test_a_reason_is_written_where_it_is_read_back() -> None:
    log = "# Changelog\n\n## Unreleased\n\n### Added\n- a thing\n\n## 0.1.0\n\n- older\n"
    why = "losses are " + "divided by the number of tokens and " * 5 + "no longer by rows"
    digests = {"ppo": "0123456789ab", "sft": "ba9876543210"}
    found = explain(log, Explanation(3, digests, why))
    assert explanations(found) == [Explanation(3, digests, why)]
    assert max(map(len, found.splitlines())) <= 118
    before, after = found.split("\n\n## 0.1.0\n")
    assert before.startswith(log.split("\n\n## 0.1.0\n")[0] + "\n- **numbers** Golden runs 3 (ppo 0123")
    assert after == "\n- older\n"
    twice = explain(found, Explanation(4, {"ppo": "00"}, "again"))
    assert [line.number for line in explanations(twice)] == [3, 4]


def test_numbers_are_renewed_with_a_reason_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One stage changes: without a reason nothing is written, with one its file alone, and the changelog."""
    now = {stage: rows() for stage in STAGES}
    monkeypatch.setattr(golden, "run", lambda stage, world: copy.deepcopy(now[stage]))
    monkeypatch.setattr(golden, "FOLDER", tmp_path)
    monkeypatch.setattr(golden, "CHANGELOG", tmp_path / "CHANGELOG.md")
    golden.CHANGELOG.write_text("# Changelog\n\n## Unreleased\n")
    assert golden.renew(tmp_path, "first recording") == 0
    assert golden.renew(tmp_path, "") == 0  # nothing to renew
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    now["sft"][20]["loss"] = 2.1
    assert golden.renew(tmp_path, " ") == 1 and "Say why" in capsys.readouterr().out
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before
    assert golden.renew(tmp_path, "the prompt counts too") == 0
    after = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"sft.jsonl", "CHANGELOG.md"}
    sft = golden.read("sft", tmp_path)
    assert sft == Golden(2, digest_of(now["sft"]), now["sft"])
    first, second = explanations(after["CHANGELOG.md"])
    assert first.digests.keys() == STAGES.keys() and second == Explanation(
        2, {"sft": sft.digest}, "the prompt counts too"
    )
