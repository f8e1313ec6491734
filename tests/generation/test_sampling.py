"""Keyed uniforms and the draw of ids, against closed forms, plain Python and goodness-of-fit tests."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from instructgpt.generation import sampling
from instructgpt.generation.sampling import keyed_uniform, sample

WORD = (1 << 64) - 1


def splitmix_finalise(value: int) -> int:
    """The finaliser in unbounded Python integers."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & WORD
    return value ^ (value >> 31)


@settings(max_examples=50, deadline=None)
@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**40))
def test_keyed_uniform_is_splitmix_in_plain_integers(key: int, position: int) -> None:
    golden = 0x9E3779B97F4A7C15
    state = splitmix_finalise((key + golden) & WORD)
    bits = splitmix_finalise((state + (position + 1) * golden) & WORD)
    drawn = keyed_uniform(torch.tensor([key]), torch.tensor([position]))
    assert drawn.dtype == torch.float64
    assert drawn.item() == (bits >> 11) / 2**53


def test_published_splitmix_outputs() -> None:
    """The first outputs of splitmix64 seeded with 1234567, as printed in public test vectors."""
    golden = 0x9E3779B97F4A7C15
    seed = 1234567
    outputs = [splitmix_finalise((seed + i * golden) & WORD) for i in (1, 2, 3)]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("axis", ["keys", "positions"])
def test_uniforms_are_equidistributed_and_neighbours_independent(axis: str) -> None:
    count = 40_000
    run = torch.arange(count)
    fixed = torch.full((count,), 7)
    uniforms = keyed_uniform(run, fixed) if axis == "keys" else keyed_uniform(fixed, run)
    assert uniforms.min() >= 0 and uniforms.max() < 1
    assert stats.kstest(uniforms.numpy(), "uniform").pvalue > 1e-3
    # Pairs of neighbours fill the 10 x 10 squares evenly: chi-square with 99 degrees of freedom.
    cells = (uniforms[0::2] * 10).long() * 10 + (uniforms[1::2] * 10).long()
    assert stats.chisquare(torch.bincount(cells, minlength=100).numpy()).pvalue > 1e-3
    # The correlation of n independent pairs has standard deviation 1/sqrt(n).
    for lag in (1, 2, 64):
        correlation = torch.corrcoef(torch.stack([uniforms[:-lag], uniforms[lag:]]))[0, 1]
        assert abs(correlation) < 4 / count**0.5


def test_uniforms_do_not_depend_on_the_batch() -> None:
    keys = torch.tensor([5, -9, 2**62, 5])
    positions = torch.tensor([0, 1, 2, 0])
    together = keyed_uniform(keys, positions)
    alone = torch.cat([keyed_uniform(keys[i : i + 1], positions[i : i + 1]) for i in range(4)])
    assert torch.equal(together, alone)
    assert together[0] == together[3] and len(set(together.tolist())) == 3


def many_uniforms(count: int, key: int = 0) -> torch.Tensor:
    return keyed_uniform(torch.full((count,), key), torch.arange(count))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("vocabulary", [40, 1000])
def test_draws_follow_the_exact_probabilities(temperature: float, vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    logits = torch.randn(vocabulary, generator=generator) * 1.5
    count = 50_000
    chunks = many_uniforms(count).split(5_000)
    ids = torch.cat([sample(logits.expand(len(u), -1), u, temperature)[0] for u in chunks])
    expected = (logits.double() / temperature).softmax(-1) * count
    observed = torch.bincount(ids, minlength=vocabulary).double()
    # Cells with few expected draws are merged into one, as the chi-square test asks.
    rare = expected < 8
    merged_expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
    merged_observed = torch.cat([observed[~rare], observed[rare].sum()[None]])
    keep = merged_expected > 0
    assert stats.chisquare(merged_observed[keep].numpy(), merged_expected[keep].numpy()).pvalue > 1e-3


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.3])
def test_logprob_is_of_the_tempered_distribution(temperature: float) -> None:
    """Field fault 11: the log-prob stored is the one at the temperature that was sampled at."""
    logits = torch.randn(64, 600, generator=torch.Generator().manual_seed(1)) * 4
    ids, logprobs = sample(logits, many_uniforms(64), temperature)
    expected = (logits.double() / temperature).log_softmax(-1).gather(-1, ids[:, None])[:, 0]
    torch.testing.assert_close(logprobs, expected.float(), atol=2e-6, rtol=1e-6)


def test_logprob_is_of_the_truncated_distribution() -> None:
    """Field fault 12: with top-k and top-p on, the log-prob is renormalised over what was kept."""
    # Probabilities 0.4, 0.3, 0.2, 0.1: top-k 3 keeps 4/9, 3/9, 2/9; top-p 0.5 of those keeps the first two.
    logits = torch.tensor([0.3, 0.1, 0.4, 0.2]).log().expand(200, -1)
    ids, logprobs = sample(logits, many_uniforms(200), 1.0, top_k=3, top_p=0.5)
    assert set(ids.tolist()) == {0, 2}
    expected = torch.where(ids == 2, torch.tensor(4 / 7), torch.tensor(3 / 7)).log()
    torch.testing.assert_close(logprobs, expected, atol=1e-6, rtol=1e-6)


def support(logits: torch.Tensor, **filters: float) -> set[int]:
    draws = many_uniforms(400)
    return set(sample(logits.expand(400, -1), draws, **filters)[0].tolist())  # type: ignore[arg-type]


def test_filters_keep_exactly_what_they_say() -> None:
    logits = torch.tensor([0.3, 0.1, 0.4, 0.2]).log()
    assert support(logits) == {0, 1, 2, 3}
    assert support(logits, top_k=2) == {0, 2}
    assert support(logits, top_k=9) == {0, 1, 2, 3}
    # The smallest set that holds 0.65 is {0.4, 0.3}; 0.75 needs the third; a tiny p still keeps the best.
    assert support(logits, top_p=0.65) == {0, 2}
    assert support(logits, top_p=0.75) == {0, 2, 3}
    assert support(logits, top_p=1e-9) == {2}
    # min-p 0.45: at least 0.18.
    assert support(logits, min_p=0.45) == {0, 2, 3}
    assert support(torch.tensor([0.3, 0.1, 0.4, 0.2]).log(), temperature=0.01) == {2}


def test_top_p_stops_as_soon_as_the_mass_is_held() -> None:
    """Half the mass is held by the first id exactly: powers of two leave no rounding."""
    assert support(torch.tensor([0.25, 0.5, 0.25]).log2() * math.log(2), top_p=0.5) == {1}


@pytest.mark.parametrize("vocabulary", [8, 1024])
def test_intervals_are_closed_below_and_open_above(vocabulary: int) -> None:
    """Of 2^k equal ids behind two forbidden ones, number i takes [i, i + 1) / 2^k; the edges are exact."""
    logits = torch.zeros(3, vocabulary + 2)
    logits[:, :2] = -torch.inf
    logits[0, 2:] = torch.arange(vocabulary) * 1e-3  # the heaviest id is the last
    uniforms = torch.tensor([0.0, 0.5, 1 / vocabulary], dtype=torch.float64)
    assert sample(logits, uniforms)[0].tolist() == [2, 2 + vocabulary // 2, 3]


def test_settings_per_row_match_the_same_settings_alone() -> None:
    logits = torch.randn(5, 700, generator=torch.Generator().manual_seed(3)) * 2
    uniforms = many_uniforms(5)
    temperature = torch.tensor([1.0, 0.0, 0.5, 1.0, 2.0])
    top_k = torch.tensor([0, 5, 7, 0, 3])
    top_p = torch.tensor([1.0, 0.5, 1.0, 0.6, 0.9])
    ids, logprobs = sample(logits, uniforms, temperature, top_k, top_p)
    for row in range(5):
        one_id, one_logprob = sample(
            logits[row : row + 1],
            uniforms[row : row + 1],
            temperature[row].item(),
            int(top_k[row]),
            top_p[row].item(),
        )
        assert one_id.item() == ids[row].item()
        torch.testing.assert_close(one_logprob[0], logprobs[row], atol=1e-6, rtol=1e-6)


def test_greedy_takes_the_first_best_and_scores_it_at_temperature_one() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0, -1.0]])
    ids, logprobs = sample(logits, torch.tensor([0.99], dtype=torch.float64), temperature=0)
    assert ids.tolist() == [1]
    torch.testing.assert_close(logprobs[0], logits[0].log_softmax(-1)[1])


@pytest.mark.parametrize("vocabulary", [6, 513, 20_011])
def test_never_an_id_of_probability_zero(vocabulary: int) -> None:
    """At both ends of [0, 1) and with forbidden ids on both ends of the row."""
    logits = torch.full((vocabulary,), -torch.inf)
    logits[2] = 0.0
    logits[vocabulary - 3] = -3.0
    edge = torch.tensor([0.0, 2.0**-53, 0.5, 1 - 2.0**-53], dtype=torch.float64)
    ids, logprobs = sample(logits.expand(4, -1), edge)
    assert ids.tolist() == [2, 2, 2, vocabulary - 3]
    assert torch.isfinite(logprobs).all()
    # An id so improbable that float32 calls it 0 is not drawn either.
    logits[vocabulary - 2] = -200.0
    assert sample(logits.expand(4, -1), edge)[0].tolist() == ids.tolist()


def test_the_tail_of_a_large_vocabulary_is_accurate() -> None:
    """60,000 equal ids: number i is drawn exactly for uniforms in [i/V, (i+1)/V).

    A float32 cumulative sum is off by hundreds of ids here.
    """
    vocabulary = 60_000
    wanted = torch.tensor([0, 1, 127, 128, 30_001, 59_873, 59_998, 59_999])
    uniforms = (wanted.double() + 0.5) / vocabulary
    ids, logprobs = sample(torch.zeros(len(wanted), vocabulary), uniforms)
    assert torch.equal(ids, wanted)
    torch.testing.assert_close(logprobs, torch.full((8,), -torch.log(torch.tensor(60_000.0))))


def test_one_and_two_level_draw_the_same_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(500, 1021, generator=torch.Generator().manual_seed(5)) * 3
    two_level = sample(logits, many_uniforms(500))
    monkeypatch.setattr(sampling, "_ONE_LEVEL_IDS", 10_000)
    one_level = sample(logits, many_uniforms(500))
    assert torch.equal(two_level[0], one_level[0])
    torch.testing.assert_close(two_level[1], one_level[1])
