"""The race of instruction tuning: its floors, and that the plain loop trains on what the others train on."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from benchmarks import plain_loop, sft
from benchmarks.inputs import CONTEXT, SIZES, Size


def test_the_floors_are_the_projects_own() -> None:
    floors = {
        (case, floor.against or floor.of): floor.bound for case in "SML" for floor in sft.race(case).floors
    }
    assert floors == {
        ("S", "TRL"): 4.5,
        ("M", "TRL"): 4.0,
        ("L", "TRL"): 2.5,
        ("M", "TRL packing, bf16"): 2.3,
        ("M", "bfloat16"): 0.6,
    }
    for case in "SML":
        race = sft.race(case)
        names = {contender.name for contender in race.contenders}
        assert {floor.contender for floor in race.floors} <= names
        assert {floor.against for floor in race.floors} - {""} <= names


def test_rows_hold_every_token_once_and_predict_the_next() -> None:
    texts = [list(range(10 * k, 10 * k + 7)) for k in range(200)]  # 1,400 tokens: 2 rows of 512, then 1 more
    found = list(plain_loop.batches(texts, 2 * CONTEXT, seed=0))
    assert [tuple(ids.shape) for ids, _ in found] == [(2, CONTEXT), (2, CONTEXT)]
    ids = torch.cat([ids.flatten() for ids, _ in found])
    targets = torch.cat([targets.flatten() for _, targets in found])
    assert sorted(ids[:1400].tolist()) == sorted(i for text in texts for i in text)
    assert not ids[1400:].any()
    assert torch.equal(targets[:1399], ids[1:1400]) and (targets[1399:] == -1).all()


def test_the_plain_model_is_causal_and_starts_at_chance(monkeypatch) -> None:
    """A random model of 40 words is near log 40; later ids change no earlier prediction."""
    monkeypatch.setitem(SIZES, "tiny", Size(40, 2, 16, 2, 0))
    torch.manual_seed(0)
    model = plain_loop.PlainGPT("tiny")
    ids = torch.randint(40, (2, 12), generator=torch.Generator().manual_seed(1))
    targets = torch.full_like(ids, -1)
    targets[:, 3] = 5
    loss = model(ids, targets)
    assert abs(loss.item() - torch.tensor(40.0).log().item()) < 0.2
    changed = ids.clone()
    changed[:, 4:] = 7
    assert torch.allclose(model(changed, targets), loss)
    logits = F.linear(
        model.norm(model.blocks(model.words(ids) + model.places(torch.arange(12)))), model.words.weight
    )
    expected = -torch.log_softmax(logits[:, 3], dim=1)[:, 5].mean()
    assert torch.allclose(loss, expected)
