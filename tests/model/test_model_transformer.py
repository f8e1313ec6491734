"""The Transformer against itself in every layout. (Against transformers: test_model_hf.py.)"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from instructgpt.errors import ConfigError
from instructgpt.model.attention import EXPLICIT_LENGTH, packed_attention, plan_packed
from instructgpt.model.cache import KVCache
from instructgpt.model.config import ModelConfig, RopeScaling
from instructgpt.model.heads import new_language_model, new_scalar_model, scalar_from_language
from instructgpt.model.rope import rotary_table, rotate

GPT2 = ModelConfig.gpt2(vocab_size=61, width=32, layers=2, heads=4, context=160)
LLAMA = ModelConfig.llama(vocab_size=61, width=32, layers=2, heads=4, kv_heads=2, context=160, tied=False)
# Windows on either side of the length from which another kernel computes attention.
MISTRAL = dataclasses.replace(LLAMA, family="mistral", window=5)
WIDE = dataclasses.replace(MISTRAL, window=EXPLICIT_LENGTH + 6)
QWEN3 = dataclasses.replace(LLAMA, family="qwen3", qk_norm=True, rope=RopeScaling("yarn", 4.0, 40))
CONFIGS = pytest.mark.parametrize(
    "config", [GPT2, LLAMA, MISTRAL, WIDE, QWEN3], ids=["gpt2", "llama", "mistral", "wide", "qwen3"]
)


def lively(config, seed=0):
    """A model whose weights are large enough that a wrong position or a leak shows."""
    model = new_language_model(config, seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5) if parameter.dim() > 1 else parameter.add_(0.1)
    return model


def documents(lengths, seed=0, vocab=61):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, vocab, (n,), generator=generator) for n in lengths]


def packed(rows, first=None):
    first = first or [0] * len(rows)
    positions = torch.cat([torch.arange(len(r)) + f for r, f in zip(rows, first, strict=True)])
    return torch.cat(rows), positions, [len(r) for r in rows]


def alone(model, rows):
    return [model.logits(model(*packed([row]))) for row in rows]


@CONFIGS
@pytest.mark.parametrize(
    "lengths", [[7] * 5, [1, 9, 3, 30, 8, 8, 2], [100, 3, 90, 64, 65, 1], [EXPLICIT_LENGTH + 1] * 2, [1]]
)
def test_packed_equals_each_document_alone(config, lengths):
    """Field fault 8: neither neighbours nor padding change a document."""
    model, rows = lively(config), documents(lengths)
    together = model.logits(model(*packed(rows))).split(lengths)
    for got, expected in zip(together, alone(model, rows), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@CONFIGS
def test_packed_gradients_equal_the_sum_over_documents(config):
    lengths = [5, 70, 1, 12, 80]
    rows = documents(lengths)
    first, second = lively(config), lively(config)
    first.logits(first(*packed(rows))).square().sum().backward()
    for row in rows:
        second.logits(second(*packed([row]))).square().sum().backward()
    for (name, left), right in zip(first.named_parameters(), second.parameters(), strict=True):
        scale = float(right.grad.abs().max())
        torch.testing.assert_close(left.grad / scale, right.grad / scale, atol=1e-5, rtol=1e-5, msg=name)


@CONFIGS
def test_prefill_then_decode_equals_the_full_forward(config):
    model, rows = lively(config), documents([12, 3, 25, 1])
    expected = alone(model, rows)
    cache = KVCache(config, slots=4, capacity=25)
    cut = [8, 2, 20, 1]
    with torch.inference_mode():
        start = [row[:n] for row, n in zip(rows, cut, strict=True)]
        got = list(model.logits(model(*packed(start), cache=cache)).split(cut))
        while True:
            live = [r for r in range(4) if int(cache.lengths[r]) < len(rows[r])]
            if not live:
                break
            at = [int(cache.lengths[r]) for r in live]
            step = [rows[r][n : n + 1] for r, n in zip(live, at, strict=True)]
            out = model.logits(model(*packed(step, at), cache=cache, slots=torch.tensor(live)))
            for r, row_logits in zip(live, out, strict=True):
                got[r] = torch.cat((got[r], row_logits[None]))
    assert cache.lengths.tolist() == [12, 3, 25, 1]
    for left, right in zip(got, expected, strict=True):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-5)


@CONFIGS
def test_several_tokens_after_a_prefix_on_any_slots(config):
    """A second turn: rows with different prefixes (one of them empty) append different numbers of tokens."""
    model, rows = lively(config), documents([14, 9, 6])
    expected = alone(model, rows)
    cache = KVCache(config, slots=6, capacity=16)
    cache.keys.fill_(7.0)  # left over from other rows: must not show
    cache.values.fill_(7.0)
    cut, slots = [10, 0, 5], [5, 1, 2]
    with torch.inference_mode():
        some = [rows[0][:10], rows[2][:5]]
        model(*packed(some), cache=cache, slots=torch.tensor([5, 2]))
        rest = [row[n:] for row, n in zip(rows, cut, strict=True)]
        out = model.logits(model(*packed(rest, cut), cache=cache, slots=torch.tensor(slots)))
    for got, full, n in zip(out.split([4, 9, 1]), expected, cut, strict=True):
        torch.testing.assert_close(got, full[n:], atol=1e-5, rtol=1e-5)
    assert cache.lengths.tolist() == [0, 9, 6, 0, 0, 14]


def slow_attention(query_key, value, heads, window):
    """One document, one head and one token at a time: a softmax over itself and the window - 1 before it."""
    out = []
    for t in range(value.shape[0]):
        for h in range(heads):
            k = h * value.shape[1] // heads
            first = max(0, t + 1 - window)
            keys = query_key[first : t + 1, heads + k]
            scores = (keys @ query_key[t, h]) / value.shape[2] ** 0.5
            out.append(scores.softmax(0) @ value[first : t + 1, k])
    return torch.stack(out).view(value.shape[0], -1)


@pytest.mark.parametrize("length", [6, EXPLICIT_LENGTH, EXPLICIT_LENGTH + 20])
@pytest.mark.parametrize("window", [1, 5, EXPLICIT_LENGTH + 3, 1000])
def test_a_token_sees_its_window(length, window):
    generator = torch.Generator().manual_seed(0)
    query_key = torch.randn(length, 6, 8, generator=generator)  # 4 query and 2 key heads
    value = torch.randn(length, 2, 8, generator=generator)
    plan = plan_packed([length], torch.device("cpu"), torch.float32, window)
    got = packed_attention(query_key, value, 4, plan)
    torch.testing.assert_close(got, slow_attention(query_key, value, 4, window), atol=1e-5, rtol=1e-5)


def test_a_document_inside_the_window_takes_the_path_without_one():
    """Bit by bit the same numbers, and no mask is made for long documents."""
    for length in (10, EXPLICIT_LENGTH + 6):
        with_window = plan_packed([length, 7], torch.device("cpu"), torch.float32, length).groups
        without = plan_packed([length, 7], torch.device("cpu"), torch.float32).groups
        for left, right in zip(with_window, without, strict=True):
            assert (left.bias is None) == (right.bias is None)
            assert left.bias is None or torch.equal(left.bias, right.bias)


def test_decoding_reads_no_more_of_the_cache_than_the_window():
    cache = KVCache(MISTRAL, slots=2, capacity=40)
    cache.lengths[:] = torch.tensor([30, 20])
    plan = cache.plan([1, 1], None)
    # New tokens at 30 and 20 with a window of 5: the first one seen is at 16.
    assert (plan.first, plan.seen) == (16, 31)
    assert plan.read(cache.keys[0]).shape == (2, 2, 15, 8)
    seen = [[place for place in range(16, 31) if plan.bias[row, 0, 0, place - 16] == 0] for row in range(2)]
    assert seen == [[26, 27, 28, 29, 30], [16, 17, 18, 19, 20]]
    cache.lengths[:] = 30
    assert cache.plan([1, 1], None).bias is None  # all five for both rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("slot", [0, 2])
def test_a_single_row_is_stored_where_a_table_of_places_puts_it(slot, dtype):
    """Twelve tokens behind the eleven that the slot holds, and nothing else is written."""
    new = torch.randn(12, 2, 8, generator=torch.Generator().manual_seed(1))
    cache = KVCache(MISTRAL, slots=4, capacity=40, dtype=dtype)
    cache.lengths[:] = 11
    plan = cache.plan([12], torch.tensor([slot]))
    assert plan.alone == (slot, 11)
    table = KVCache(MISTRAL, slots=4, capacity=40, dtype=dtype)
    for name in ("keys", "values"):
        plan.store(getattr(cache, name)[0], new)
        dataclasses.replace(plan, alone=None).store(getattr(table, name)[0], new)
        assert torch.equal(getattr(cache, name), getattr(table, name))
        by_hand = getattr(cache, name)[0, slot, :, 11:23].transpose(0, 1)
        assert torch.equal(by_hand, new.to(dtype)) and int(getattr(cache, name).count_nonzero()) == 12 * 2 * 8
    assert cache.plan([12, 3], None).alone is None


@CONFIGS
@pytest.mark.parametrize("slots", [None, [5, 2, 0, 4, 1]])
def test_new_prompts_are_read_where_others_go_on(config, slots):
    """One pass in which two rows take their next tokens and three prompts are read, and one more behind it:
    every token as in its own document alone. What the slots of the new ones held before is not seen."""
    model, rows = lively(config), documents([12, 31, 9, 1, 20])
    cache = KVCache(config, slots=6, capacity=64)
    torch.nn.init.normal_(cache.keys)
    torch.nn.init.normal_(cache.values)
    chosen = None if slots is None else torch.tensor(slots)
    places = list(range(5)) if slots is None else slots
    begun = [rows[0][:7], rows[1][:30]]
    with torch.inference_mode():
        model(*packed(begun), cache, None if chosen is None else chosen[:2])
        cache.lengths[torch.tensor(places[2:])] = 0
        parts = [rows[0][7:11], rows[1][30:], rows[2][:8], rows[3], rows[4][:15]]
        first = [7, 30, 0, 0, 0]
        got = model(*packed(parts, first), cache, chosen, fresh=3).split([len(p) for p in parts])
        assert [int(cache.lengths[place]) for place in places] == [11, 31, 8, 1, 15]
        left = torch.tensor([0, 2, 4])
        rest = [rows[0][11:], rows[2][8:], rows[4][15:]]
        after = model(*packed(rest, [11, 8, 15]), cache, torch.tensor(places)[left])
        for row, part, start in zip(rows, got, first, strict=True):
            expected = model(*packed([row]))[start : start + len(part)]
            torch.testing.assert_close(part, expected, atol=2e-5, rtol=2e-5)
        for number, part in zip(left.tolist(), after.split([len(r) for r in rest]), strict=True):
            torch.testing.assert_close(
                part, model(*packed([rows[number]]))[-len(part) :], atol=2e-5, rtol=2e-5
            )


@pytest.mark.parametrize("count", [3, 12])
def test_slots_move(count):
    """Few are copied one by one, many at once; to each its own, or one to all."""
    cache = KVCache(LLAMA, slots=2 * count, capacity=9)
    generator = torch.Generator().manual_seed(0)
    for stored in (cache.keys, cache.values):
        stored.copy_(torch.randn(stored.shape, generator=generator))
    cache.lengths[:] = torch.arange(2 * count) % 9
    before = [cache.keys.clone(), cache.values.clone(), cache.lengths.clone()]
    sources, targets = list(range(count, 2 * count)), list(range(count))[::-1]
    cache.move(sources, targets)
    for source, target in zip(sources, targets, strict=True):
        length = int(before[2][source])
        assert int(cache.lengths[target]) == length
        for stored, was in zip((cache.keys, cache.values), before, strict=False):
            assert torch.equal(stored[:, target, :, :length], was[:, source, :, :length])
            assert torch.equal(stored[:, source], was[:, source])
    cache.move(count, targets)
    length = int(before[2][count])
    assert all(torch.equal(cache.keys[:, t, :, :length], before[0][:, count, :, :length]) for t in targets)


@pytest.mark.parametrize("length", [20, EXPLICIT_LENGTH + 20])
def test_a_window_under_autocast(length):
    """bfloat16 products take the same mask."""
    model, rows = lively(MISTRAL), documents([length, 3])
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            got = model.logits(model(*packed(rows))).float()
        expected = torch.cat(alone(model, rows))
    # bfloat16 keeps 8 bits: 2^-8 a rounding of numbers of size about 1, a few dozen roundings.
    assert float((got - expected).abs().max()) < 0.05 * float(expected.abs().max())


def test_dynamic_scaling_follows_each_documents_own_length():
    """Within the context nothing changes; beyond, a document's neighbours do not matter."""
    scaled = dataclasses.replace(LLAMA, context=16, rope=RopeScaling("dynamic", 2.0))
    model, plain = lively(scaled), lively(dataclasses.replace(LLAMA, context=16))
    short, long = documents([16, 40])
    assert torch.equal(alone(model, [short])[0], alone(plain, [short])[0])
    together = model.logits(model(*packed([short, long]))).split([16, 40])
    for got, expected in zip(together, alone(model, [short, long]), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together[1], alone(plain, [long])[0], atol=1e-3)


def test_cache_moves_grows_and_resets():
    model, rows = lively(LLAMA), documents([6, 4])
    cache = KVCache(LLAMA, slots=3, capacity=6)
    with torch.inference_mode():
        model(*packed([rows[0][:5], rows[1][:3]]), cache=cache)
        cache.move(0, [1, 2])
        cache.reset([0])
        cache.grow(9)
        assert cache.lengths.tolist() == [0, 5, 5] and cache.capacity == 9
        out = model.logits(model(rows[0][5:], torch.tensor([5]), [1], cache=cache, slots=torch.tensor([2])))
    torch.testing.assert_close(out[0], alone(model, rows[:1])[0][-1], atol=1e-5, rtol=1e-5)


def test_cached_forward_refuses_overflow_and_gradients():
    model, cache = lively(LLAMA), KVCache(LLAMA, slots=1, capacity=2)
    ids = torch.tensor([1, 2, 3])
    with torch.inference_mode(), pytest.raises(ValueError, match="capacity 2"):
        model(ids, torch.arange(3), [3], cache=cache)
    with pytest.raises(ValueError, match="inference_mode"):
        model(ids[:1], torch.arange(1), [1], cache=cache)


def test_plan_pads_little_and_restores_every_token():
    lengths = [3, 40, 41, 5, 200, 39, 12]
    plan = plan_packed(lengths, torch.device("cpu"), torch.float32)
    assert plan.gather is not None and plan.restore is not None
    assert plan.gather[plan.restore].tolist() == list(range(sum(lengths)))
    assert sum(g.documents for g in plan.groups) == len(lengths)
    assert sum(g.documents * g.length for g in plan.groups) == plan.gather.numel()
    assert plan.gather.numel() <= 1.25 * sum(lengths) + 8 * len(lengths)


def test_rotary_keeps_length_and_sees_only_the_distance():
    """arXiv:2104.09864 eq. 16: the product of two rotated vectors depends on the distance alone."""
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 1, LLAMA.head_dim, generator=generator)

    def product(m, n):
        at = rotary_table(torch.tensor([m, n]), [1, 1], LLAMA, torch.float32)
        turned = rotate(torch.cat((query, key)), at)
        return float(turned[0].flatten() @ turned[1].flatten())

    assert product(3, 1) == pytest.approx(product(53, 51), abs=1e-4)
    assert product(0, 0) == pytest.approx(float(query.flatten() @ key.flatten()), abs=1e-6)
    assert abs(product(3, 1) - product(9, 1)) > 1e-3


def test_dropout_only_when_asked():
    model, rows = lively(GPT2).train(), documents([9])
    torch.testing.assert_close(model(*packed(rows)), model(*packed(rows)), atol=0, rtol=0)
    torch.manual_seed(0)
    assert not torch.equal(model(*packed(rows), dropout=0.5), model(*packed(rows)))


def test_scalar_model_scores_a_linear_map_minus_its_bias():
    model = new_scalar_model(LLAMA, seed=3)
    hidden = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    model.reward_bias.fill_(0.25)
    by_hand = [
        sum(h * w for h, w in zip(row, model.head.weight[0].tolist(), strict=True)) - 0.25
        for row in hidden.tolist()
    ]
    assert model.score(hidden).tolist() == pytest.approx(by_hand, abs=1e-5)


def test_head_initialisation():
    """Std 1 / sqrt(D + 1) (arXiv:2403.17031): at D = 8192 the sample std is within 4 % (5 sigma) of that."""
    wide = dataclasses.replace(GPT2, width=8192, heads=1, kv_heads=1, head_dim=8192, layers=1, ffn_width=1)
    model = new_scalar_model(dataclasses.replace(wide, context=1, vocab_size=1), seed=0)
    assert float(model.head.weight.detach().std()) == pytest.approx(0.0110479, rel=0.04)
    assert new_scalar_model(GPT2, seed=0, zero_head=True).head.weight.abs().sum() == 0


def test_scalar_from_language_copies_the_body():
    language = new_language_model(LLAMA, seed=1)
    scalar = scalar_from_language(language, seed=2)
    for left, right in zip(scalar.transformer.parameters(), language.transformer.parameters(), strict=True):
        assert torch.equal(left, right) and left.data_ptr() != right.data_ptr()
    assert torch.equal(scalar.head.weight, scalar_from_language(language, seed=2).head.weight)
    assert not torch.equal(scalar.head.weight, scalar_from_language(language, seed=3).head.weight)


def test_the_seed_decides_every_weight():
    same, other = new_language_model(GPT2, 1), new_language_model(GPT2, 2)
    for (name, left), right in zip(
        new_language_model(GPT2, 1).named_parameters(), same.parameters(), strict=True
    ):
        assert torch.equal(left, right), name
    assert not torch.equal(same.unembedding, other.unembedding)


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"heads": 5}, "heads"),
        ({"kv_heads": 3}, "kv_heads"),
        ({"layers": 0}, "layers"),
        ({"width": 36}, "rotary"),
        ({"head_dim": 7}, "head_dim"),
    ],
)
def test_impossible_sizes_are_refused(change, flag):
    sizes = {"vocab_size": 61, "width": 32, "layers": 2, "heads": 4, "context": 16} | change
    with pytest.raises(ConfigError, match=flag):
        ModelConfig.llama(**sizes)


def test_a_mixture_of_families_is_refused():
    with pytest.raises(ConfigError, match="positions"):
        dataclasses.replace(GPT2, positions="rotary")
