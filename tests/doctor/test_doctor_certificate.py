"""certificate.py, verdict.py, spread.py: PPO reaches the optimum, a fault keeps it away, bounds are held."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from instructgpt.doctor import spread
from instructgpt.doctor.certificate import (
    BETAS,
    PROMPTS,
    RUN,
    SEEDS,
    SHIFT,
    Outcome,
    Setting,
    certify,
    problem,
    settings_of,
    table_models,
)
from instructgpt.doctor.tables import policy_logits
from instructgpt.doctor.verdict import full_settings, quick_settings, rows_as_json, rows_of, rows_table
from instructgpt.doctor.world import LARGEST, optimal_logprobs

CPU = torch.device("cpu")
EASY = Setting("flat", "structured", 0.5)
SMALL = replace(RUN, iterations=30, batch=512, value_warmup=3)
"""A short run: far from the certificate's settings, but enough for the easiest kind of world."""


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return certify(EASY, 0, CPU, SMALL)


def test_a_short_run_comes_near_the_optimum(outcome) -> None:
    assert 0.9 < outcome.raw <= 1.0
    assert 0.85 < outcome.ema <= 1.0
    assert outcome.kl == pytest.approx(outcome.optimal_kl, rel=0.3)


def test_the_same_seed_is_the_same_run(outcome) -> None:
    again = certify(EASY, 0, CPU, SMALL)
    assert replace(again, seconds=outcome.seconds) == outcome


def test_it_does_not_depend_on_how_many_are_sampled_at_a_time(outcome) -> None:
    """Keyed sampling through continuous batching: 100 rows at a time give the run of 1,024."""
    again = certify(EASY, 0, CPU, replace(SMALL, max_active=100))
    assert again.raw == pytest.approx(outcome.raw, abs=1e-6)


def test_the_share_is_zero_at_the_reference_and_one_at_the_optimum() -> None:
    found = problem(Setting("peaked", "independent", 0.2), 3)
    assert found.share(found.reference) == pytest.approx(0.0, abs=1e-12)
    assert found.share(optimal_logprobs(found.reference, found.rewards, 0.2)) == pytest.approx(1.0, abs=1e-12)
    policy, reference, _ = table_models(found, CPU)
    assert found.share(found.world.reply_logprobs(policy_logits(policy))) == pytest.approx(0.0, abs=1e-12)
    assert not any(p.requires_grad for p in reference.parameters())


def test_worlds_of_the_certificate() -> None:
    plain, shifted = problem(EASY, 1), problem(replace(EASY, shift=SHIFT), 1)
    # 7 ids, 4 places, two prompts: 2 * (1 + 6 + 36 + 216 + 6^4)
    assert plain.world.leaves.numel() == 3110 <= LARGEST
    assert len({len(prompt) for prompt in PROMPTS}) == 2
    torch.testing.assert_close(shifted.rewards, plain.rewards + 10.0)
    torch.testing.assert_close(shifted.logits, plain.logits, rtol=0, atol=0)
    rows = problem(replace(EASY, reference="peaked"), 1).logits
    assert float(plain.logits.std()) == pytest.approx(0.3, abs=0.01)
    assert float(rows.std()) == pytest.approx(1.0, abs=0.03)


def test_a_peaked_reference_is_given_more_episodes() -> None:
    flat, peaked = settings_of(EASY), settings_of(Setting("peaked", "independent", 0.1))
    assert (flat.batch, flat.minibatches, flat.beta) == (2048, 8, 0.5)
    assert (peaked.batch, peaked.minibatches, peaked.beta) == (8192, 32, 0.1)
    assert replace(peaked, batch=2048, minibatches=8, beta=0.5) == flat


def test_a_shift_is_one_of_the_heads_bias() -> None:
    """The shifted reward model says 10 more of every sequence, prefixes too, and so does V, its copy."""
    plain, shifted = problem(EASY, 1), problem(replace(EASY, shift=SHIFT), 1)
    models = [table_models(found, CPU)[2] for found in (plain, shifted)]
    ids = torch.tensor([*PROMPTS[0], 3, 4, *PROMPTS[1], 0])
    positions, lengths = torch.tensor([0, 1, 2, 3, 0, 1]), [4, 2]
    before, after = (model.score(model(ids, positions, lengths)) for model in models)
    torch.testing.assert_close(after, before + 10.0)
    leaf = int((plain.world.replies == torch.tensor([0, -1, -1, -1])).all(1).nonzero())
    torch.testing.assert_close(after[-1].double(), shifted.rewards[1, leaf], rtol=0, atol=1e-5)
    torch.testing.assert_close(before[:4], torch.zeros(4))


def test_a_shift_changes_no_run() -> None:
    """In the kind of world where chance decides most."""
    hard = Setting("peaked", "independent", 0.05)
    few = replace(SMALL, iterations=10)
    plain, shifted = certify(hard, 3, CPU, few), certify(replace(hard, shift=SHIFT), 3, CPU, few)
    assert 0 < plain.raw < 1
    assert shifted.raw == pytest.approx(plain.raw, abs=2e-3)


FAULTS = {
    "sign of the KL": ("instructgpt.rlhf.reward.k1", lambda ours, theirs: theirs - ours),
    "no KL": ("instructgpt.rlhf.reward.k1", lambda ours, theirs: torch.zeros_like(ours)),
    "advantage of the other sign": (
        "instructgpt.rlhf.round.estimate",
        lambda *args, **kwargs: tuple(-x for x in ESTIMATE(*args, **kwargs)),
    ),
    "reward one index late": (
        "instructgpt.rlhf.update.policy_terms",
        lambda logprobs, micro, rollout, advantages, *rest: TERMS(
            logprobs, micro, rollout, advantages.roll(1, dims=1), *rest
        ),
    ),
}


def _originals() -> tuple:
    from instructgpt.rlhf.advantage import estimate
    from instructgpt.rlhf.update import policy_terms

    return estimate, policy_terms


ESTIMATE, TERMS = _originals()


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_a_fault_keeps_ppo_from_the_optimum(name, monkeypatch, outcome) -> None:
    monkeypatch.setattr(*FAULTS[name])
    faulty = certify(EASY, 0, CPU, SMALL)
    assert not faulty.raw > 0.8
    assert not rows_of([faulty])[0].holds


def outcome_of(setting: Setting, seed: int, raw: float, ema: float = 0.5) -> Outcome:
    return Outcome(setting, seed, raw, ema, kl=1.0, optimal_kl=1.1, seconds=1.0)


def test_bounds_by_hand() -> None:
    hard = replace(EASY, rewards="independent")
    for setting, raws, holds in (
        (EASY, (0.995, 0.992, 0.985), True),  # mean 0.9907, worst 0.985
        (EASY, (0.995, 0.992, 0.98), False),  # mean 0.989
        (EASY, (1.0, 1.0, 0.969), False),  # mean 0.9897, worst below 0.97
        (EASY, (1.0,) * 4 + (0.969,), False),  # mean 0.9938, worst below 0.97
        (hard, (1.0, 1.0, 0.86), True),  # mean 0.953: the worst is reported only
        (hard, (1.0, 1.0, 0.84), False),  # mean 0.947
        (replace(EASY, reference="peaked"), (1.0, 1.0, 0.86), True),
        (EASY, (float("nan"), 1.0, 1.0), False),
    ):
        (row,) = rows_of([outcome_of(setting, seed, raw) for seed, raw in enumerate(raws)])
        assert row.holds is holds, raws
        assert row.raw == pytest.approx(raws, nan_ok=True)


def test_the_shift_is_compared_seed_by_seed() -> None:
    shifted = replace(EASY, shift=SHIFT)
    plain = [outcome_of(EASY, 0, 0.999), outcome_of(EASY, 1, 0.991)]
    for change, ema, holds in ((0.003, 0.5, True), (-0.021, 0.5, False), (0.0, 0.53, False)):
        others = [outcome_of(shifted, 1, 0.991 + change, ema), outcome_of(shifted, 0, 0.999)]
        (row,) = rows_of([*plain, *others])
        assert row.shift_change == pytest.approx(max(abs(change), ema - 0.5))
        assert row.holds is holds
    # the same numbers with the seeds exchanged are another world's
    (row,) = rows_of([*plain, outcome_of(shifted, 0, 0.991), outcome_of(shifted, 1, 0.999)])
    assert row.shift_change == pytest.approx(0.008)


def test_table_and_json_say_what_was_missed() -> None:
    hard = replace(EASY, rewards="independent", beta=0.05)
    rows = rows_of([outcome_of(EASY, 0, 0.9), outcome_of(hard, 0, 0.9712)])
    table = rows_table(rows).splitlines()
    assert "0.9000 (0.99)" in table[1] and table[1].endswith("MISSED")
    assert "0.9712 (0.95)" in table[2] and table[2].endswith("ok")
    first, second = rows_as_json(rows)
    assert (first["least_worst"], second["least_worst"]) == (0.97, None)
    assert first["raw"] == [0.9] and first["holds"] is False and second["holds"] is True


def test_settings_of_the_two_kinds() -> None:
    """Every bound that is promised is in the full certificate, and the quick one is a part of it."""
    full = full_settings()
    assert len(full) == len(set(full)) == 2 * 2 * len(BETAS) * 2
    assert set(quick_settings()) <= set(full)
    easy = {
        s.beta for s in quick_settings() if (s.reference, s.rewards, s.shift) == ("flat", "structured", 0)
    }
    assert easy == {0.05, 0.1, 0.5} and set(BETAS) == {0.05, 0.1, 0.2, 0.5}
    assert any(s.shift for s in quick_settings()) and len(SEEDS) == 5


JOBS = [(EASY, 0), (replace(EASY, beta=0.2), 1), (EASY, 2)]
SCRIPT = """
import json, os
from functools import partial
import torch
from instructgpt.doctor import spread
from instructgpt.doctor.certificate import RUN, Setting, certify
from dataclasses import replace
config = replace(RUN, iterations=4, batch=64, minibatches=2, value_warmup=1)
spread.certify = partial(certify, config=config)
if __name__ == "__main__":
    own = []
    jobs = [(Setting("flat", "structured", b), s) for b, s in ((0.5, 0), (0.2, 1), (0.5, 2))]
    processes = int(os.environ.get("PROCESSES", "1"))
    found = spread.run_jobs(jobs, torch.device("cpu"), processes, lambda outcome: own.append(outcome.seed))
    rank = os.environ.get("RANK", "0")
    with open(f"rank{rank}.json", "w") as file:
        json.dump({"own": own, "raw": [o.raw for o in found], "seeds": [o.seed for o in found]}, file)
"""


@pytest.fixture
def inline(monkeypatch) -> list[Outcome]:
    tiny = replace(RUN, iterations=4, batch=64, minibatches=2, value_warmup=1)
    monkeypatch.setattr(spread, "certify", lambda *args: certify(*args, config=tiny))
    return spread.run_jobs(JOBS, CPU, 1, lambda _: None)


@pytest.mark.slow
def test_torchrun_shares_the_work_and_changes_nothing(tmp_path, inline) -> None:
    (tmp_path / "work.py").write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*torchrun, "work.py"], cwd=tmp_path, check=True, env=environment, timeout=300)
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert [rank["own"] for rank in ranks] == [[0, 2], [1]]
    for rank in ranks:
        assert rank["seeds"] == [0, 1, 2]
        assert rank["raw"] == [o.raw for o in inline]


@pytest.mark.slow
def test_processes_change_nothing(tmp_path, inline) -> None:
    (tmp_path / "work.py").write_text(SCRIPT)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PROCESSES": "2"}
    subprocess.run([sys.executable, "work.py"], cwd=tmp_path, check=True, env=environment, timeout=300)
    found = json.loads((tmp_path / "rank0.json").read_text())
    assert sorted(found["own"]) == found["seeds"] == [0, 1, 2]
    assert found["raw"] == [o.raw for o in inline]


def test_processes_are_started_as_asked(monkeypatch) -> None:
    started = []

    class Pool:
        def __init__(self, workers, context, initializer):
            started.append((workers, context.get_start_method()))
            raise KeyboardInterrupt

    monkeypatch.setattr(spread, "ProcessPoolExecutor", Pool)
    for processes, expected in ((2, 2), (99, 3)):  # never more than there are jobs
        with pytest.raises(KeyboardInterrupt):
            spread.run_jobs(JOBS, CPU, processes, lambda _: None)
        assert started.pop() == (expected, "spawn")
