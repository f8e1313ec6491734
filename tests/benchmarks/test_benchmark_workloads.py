"""The workloads on little data: both sides do the same work, and every race is one that can be run."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import load, peers, scaling, tokenize
from benchmarks.turns import Race

PROSE = (
    "the small cat sat on a mat, and so did 12 other cats;\n\nnobody knows (or asks) why they did it\n\n" * 3
)


@pytest.mark.parametrize("module", [load, scaling, tokenize], ids=lambda module: module.__name__)
def test_races_are_well_formed(module: Any) -> None:
    races: list[Race] = module.races()
    assert len({race.case for race in races}) == len(races) > 0
    for race in races:
        names = [contender.name for contender in race.contenders]
        assert len(set(names)) == len(names) >= 2 and not any("/" in name for name in names)
        assert all(contender.peer in (peers.OURS, *peers.PEERS) for contender in race.contenders)
        assert all(floor.contender in names and floor.against in names for floor in race.floors)


@pytest.fixture
def little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A corpus of two pages for the tokenizer's benchmark."""
    monkeypatch.setattr(tokenize, "texts", lambda: [PROSE, PROSE.upper()])
    monkeypatch.setattr(tokenize, "VOCABULARY", 300)
    monkeypatch.setattr(tokenize, "TOKENIZER", tmp_path / "tokenizer")
    tokenize.make_tokenizer()


def test_all_encode_to_as_many_tokens(little: None) -> None:
    measured = [tokenize.encode_library(), tokenize.encode_transformers(), tokenize.encode_ours()]
    counts = {turn.facts["tokens"] for turn in measured}
    assert len(counts) == 1 and counts.pop() > 100
    assert all(len(turn.rates) == 3 and min(turn.rates) > 0 for turn in measured)


def test_demonstrations_become_as_many_tokens(little: None) -> None:
    ours, theirs = tokenize.prepare_ours(), tokenize.prepare_transformers()
    # Ours ends behind the reply's end; the template writes a line break after it, one token a demonstration.
    after = theirs.facts["tokens"] - ours.facts["tokens"]
    assert after in (0, len(tokenize.demonstrations()))


@pytest.mark.parametrize("verb", ["sft", "pretrain"])
def test_time_per_token_of_a_run(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "PLACE", tmp_path)
    monkeypatch.setattr(scaling, "COUNTS", (64, 256))
    monkeypatch.setattr(scaling, "MODEL", {"width": 8, "layers": 1, "heads": 1, "context": 128})
    monkeypatch.setattr(scaling, "WARM", 1)
    monkeypatch.setattr(scaling, "STEPS", 16)
    scaling.prepare()
    found = scaling.steps(verb, 256)
    assert found.rates[0] > 0
    # sft: 256 sequences twice, 32 a step. pretrain: 2 x 256 x 48 tokens, 32 x 128 a step.
    assert found.facts["steps"] == {"sft": 16, "pretrain": 6}[verb]
    assert 0 < found.facts["share of data"] < 1
    if verb == "sft":
        assert scaling.reading(64).rates[0] > 0


def test_a_program_says_what_it_took() -> None:
    found = load.program("print('id', 7)")
    assert found.facts == {"first id": 7} and found.memory > 1
    assert len(found.rates) == 5
