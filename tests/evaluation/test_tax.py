"""The verdict on a sweep by hand arithmetic, the Pareto front, and the plots on made-up numbers."""

import itertools
from typing import Any

import numpy as np
import pytest

from instructgpt.evaluation.drawing import standalone
from instructgpt.evaluation.sweep_figures import coefficients, trade_off
from instructgpt.evaluation.tax import Measured, judge_dials, pareto_front, trade


def model(name: str, ptx: float, beta: float, loss: float, reward: float) -> Measured:
    """Two documents of unequal length with this mean loss, and prompts that scatter around the reward."""
    tokens = np.array([30.0, 10.0])
    nats = tokens * loss + np.array([3.0, -3.0])
    return Measured(name, ptx, beta, reward + np.tile([0.4, -0.4], 10), nats, tokens)


START = model("start", 0, 0, 1.0, 0.0)
ALONE = model("alone", 0, 0.1, 1.5, 2.0)


def test_a_trade_by_hand() -> None:
    """PPO alone lost 0.5 and gained 2; this run has 1.05 and 1.8: 0.45 of 0.5 recovered, 0.2 of 2 paid."""
    found = trade(START, ALONE, model("c", 1, 0.1, 1.05, 1.8))
    assert found.recovered.mean == pytest.approx(0.9) and found.cost.mean == pytest.approx(0.1)
    assert found.good
    # prompts scatter alike in all models, documents too, so that no resample differs
    assert found.cost.low == pytest.approx(found.cost.high)
    assert not trade(START, ALONE, model("c", 1, 0.1, 1.11, 1.8)).good  # 0.78 recovered
    assert not trade(START, ALONE, model("c", 1, 0.1, 1.05, 1.69)).good  # 0.155 paid


def test_loss_is_over_tokens_not_over_documents() -> None:
    """A document of three times the tokens counts three times: (30 * 1 + 10 * 2) / 40 = 1.25, lost 0.25."""
    alone = Measured("a", 0, 0.1, ALONE.reward, np.array([30.0, 20.0]), np.array([30.0, 10.0]))
    start = Measured("s", 0, 0, START.reward, np.array([30.0, 10.0]), np.array([30.0, 10.0]))
    verdict = judge_dials(start, [alone], 0.1)
    assert verdict is not None and verdict.lost.mean == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("ptx", "beta", "holds", "says"),
    [
        ((1.05, 1.8), (1.2, 1.9), True, "0.5 recovers 90% at 10%; none of 1 betas does"),
        ((1.05, 1.8), (1.05, 1.8), False, "beta 2 does so too"),
        ((1.3, 1.9), (1.2, 1.9), False, "None of 1 ptx coefficients recovers 80%"),
    ],
)
def test_verdict(ptx: tuple[float, float], beta: tuple[float, float], holds: bool, says: str) -> None:
    runs = [model("b", 0, 2.0, *beta), model("p", 0.5, 0.1, *ptx), ALONE, model("both", 0.5, 2.0, 1.0, 1.0)]
    verdict = judge_dials(START, runs, 0.1)
    assert verdict is not None and verdict.alone == "alone"
    assert [t.name for t in verdict.ptx] == ["p"] and [t.name for t in verdict.beta] == ["b"]
    assert verdict.holds is holds and says in verdict.text
    assert verdict.lost.mean == pytest.approx(0.5) and verdict.gained.mean == pytest.approx(2.0)


def test_without_a_tax_or_a_gain_there_is_no_verdict_to_hold() -> None:
    for alone, says in (
        (model("alone", 0, 0.1, 0.9, 2.0), "there is no tax"),
        (model("alone", 0, 0.1, 1.5, -0.1), "gained no reward"),
    ):
        verdict = judge_dials(START, [alone, model("p", 0.5, 0.1, 0.8, 1.9)], 0.1)
        assert verdict is not None and not verdict.holds and says in verdict.text
    assert judge_dials(START, [model("p", 0.5, 0.1, 0.8, 1.9)], 0.1) is None
    assert judge_dials(START, [ALONE], 0.2) is None


def test_front_by_hand() -> None:
    """(loss, reward): a is beaten by b, d by c (equal reward, more loss); equal points stay."""
    a, b, c, d = (1.2, 0.5), (1.1, 0.6), (1.3, 0.9), (1.4, 0.9)
    assert pareto_front([a, b, c, d, b]) == [1, 4, 2]
    points = [tuple(map(float, pair)) for pair in np.random.default_rng(1).normal(size=(40, 2))]
    front = {points[i] for i in pareto_front(points)}  # type: ignore[arg-type, misc]
    slow = {p for p in points if not any(q[0] <= p[0] and q[1] >= p[1] and q != p for q in points)}
    assert front == slow


def run_row(ptx: float, beta: float, judged: bool) -> dict[str, Any]:
    """A row of the summary: ptx brings the loss back, beta both loss and reward."""
    reward = 1.2 / (1 + 0.5 * beta) - 0.02 * ptx
    row = {
        "name": f"ptx-{ptx:g}_beta-{beta:g}",
        "ptx_coef": ptx,
        "beta": beta,
        "reward": reward,
        "reward_low": reward - 0.05,
        "reward_high": reward + 0.05,
        "pretrain_loss": 1.15 + 0.2 / (1 + 8 * ptx) / (1 + beta) - 0.04,
    }
    return row | ({"score": 0.5 - 0.02 * beta} if judged else {})


@pytest.mark.parametrize(
    ("ptx", "betas", "judge", "panels"),
    [((0, 0.1, 1.0), (0.1, 1.0), "hidden utility of practice world 0", 6), ((0, 0.5), (0.2,), None, 2)],
)
def test_plots_show_every_value(
    ptx: tuple[float, ...], betas: tuple[float, ...], judge: str | None, panels: int
) -> None:
    start = {"reward": 0.1, "pretrain_loss": 1.15, "score": 0.4}
    runs = [run_row(p, b, judge is not None) for p, b in itertools.product(ptx, betas)]
    dials = coefficients(start, runs, betas[0], judge)
    assert dials.count('id="coefficients-axes_') == panels
    assert "80% recovered" in dials and "85% of the gain" in dials and "ptx coefficient γ" in dials
    assert ("KL coefficient β" in dials) == (len(betas) > 1)
    front = trade_off(start, runs, ["start", runs[-1]["name"]], betas[0])
    assert f"PPO-ptx, β = {betas[0]:g}" in front and "SFT, the start" in front
    last = f"γ {ptx[-1]:g}" + (f", β {betas[-1]:g}" if len(betas) > 1 else "")
    assert f">{last}<" in front and ("both varied" in front) == (len(betas) > 1)
    assert standalone(front).count("<style>") == 1
