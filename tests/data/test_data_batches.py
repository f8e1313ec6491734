"""Packing, collating and token shards."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instructgpt.data.collate import pack, pack_ids
from instructgpt.data.packing import plan_batches
from instructgpt.data.records import Text
from instructgpt.data.shards import TokenShards, write_shards
from instructgpt.errors import CheckpointError, ConfigError, DataError
from instructgpt.text.chat import Rendered
from instructgpt.text.tokenizer import Tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["the river runs to the sea"] * 5, 280)


# -- plan_batches


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 120))
def test_plan_has_each_sequence_once_and_keeps_to_the_limit(lengths: list[int], limit: int) -> None:
    batches = plan_batches(lengths, limit)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or sum(lengths[index] for index in batch) <= limit
    flat = [lengths[index] for batch in batches for index in batch]
    assert flat == sorted(lengths, reverse=True)


def test_plan_by_hand() -> None:
    # Longest first: 9 | 5+4 | 4+3 would be 7 <= 10, and 1 fits too.
    assert plan_batches([4, 9, 3, 5, 1, 4], 10) == [[1], [3, 0], [5, 2, 4]]
    assert plan_batches([], 10) == []
    with pytest.raises(ConfigError, match="0 tokens holds nothing"):
        plan_batches([1], 0)


# -- collate


def test_pack_by_hand() -> None:
    """Two documents, targets shifted inside each; the first id of the second is nobody's target."""
    batch = pack([Rendered([10, 11, 12], [False, True, True]), Rendered([20, 21], [False, True])])
    assert batch.ids.tolist() == [10, 11, 12, 20, 21]
    assert batch.positions.tolist() == [0, 1, 2, 0, 1]
    assert batch.lengths == [3, 2]
    assert batch.target_ids.tolist() == [11, 12, 12, 21, 21]
    assert batch.train_mask.tolist() == [True, True, False, True, False]
    assert batch.ids.dtype == batch.positions.dtype == batch.target_ids.dtype == torch.int64
    assert batch.train_mask.dtype == torch.bool


@given(st.lists(st.lists(st.tuples(st.integers(0, 99), st.booleans()), max_size=6), max_size=5))
def test_pack_equals_each_document_alone(documents: list[list[tuple[int, bool]]]) -> None:
    """Against a slow loop; also empty documents, also a mask that counts a first token, which nothing
    predicts."""
    batch = pack([Rendered([i for i, _ in one], [m for _, m in one]) for one in documents])
    counted = []
    place = 0
    for one in documents:
        for position in range(len(one)):
            assert batch.positions[place] == position
            assert batch.ids[place] == one[position][0]
            counts = position + 1 < len(one) and one[position + 1][1]
            assert bool(batch.train_mask[place]) == counts
            if counts:
                counted.append(one[position + 1][0])
            place += 1
    assert batch.target_ids[batch.train_mask].tolist() == counted
    assert sum(batch.lengths) == len(batch.ids) == place


def test_pack_ids_and_moving() -> None:
    ids, positions, lengths = pack_ids([[5, 6], [7]])
    assert (ids.tolist(), positions.tolist(), lengths) == ([5, 6, 7], [0, 1, 0], [2, 1])
    ids, positions, lengths = pack_ids([])
    assert (ids.tolist(), positions.tolist(), lengths) == ([], [], [])
    assert ids.dtype == positions.dtype == torch.int64
    batch = pack([Rendered([1, 2], [False, True])])
    moved = batch.to("meta")
    assert moved.ids.device.type == moved.train_mask.device.type == "meta"
    assert moved.lengths == [2]


def test_importing_records_brings_no_torch() -> None:
    script = (
        "import sys, instructgpt.text.chat, instructgpt.data.records, instructgpt.data.shards\n"
        "import instructgpt.data.clean, instructgpt.data.splits, instructgpt.data.packing\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# -- shards


def _shards(tokenizer: Tokenizer, folder: Path, count: int = 40) -> TokenShards:
    return write_shards((Text("the river " * (number % 5 + 1)) for number in range(count)), tokenizer, folder)


def test_documents_come_back(tokenizer: Tokenizer, tmp_path: Path) -> None:
    shards = write_shards(["the sea", Text("你好"), ""], tokenizer, tmp_path / "tokens")
    assert len(shards) == 3
    again = TokenShards.open(tmp_path / "tokens", tokenizer)
    for number, text in enumerate(["the sea", "你好", ""]):
        assert again.document(number) == [1, *tokenizer.encode(text), 2]  # bos 1, eos 2
    assert again.tokens == sum(len(again.document(number)) for number in range(3))


def test_two_byte_ids_where_they_fit(tokenizer: Tokenizer, tmp_path: Path) -> None:
    shards = write_shards(["the sea"], tokenizer, tmp_path / "small")
    assert (tmp_path / "small" / "tokens.bin").stat().st_size == 2 * shards.tokens
    wide = Tokenizer(tokenizer._trusting, **tokenizer.special_tokens)
    wide.vocab_size = 1 << 17
    shards = write_shards(["the sea"], wide, tmp_path / "wide")
    assert (tmp_path / "wide" / "tokens.bin").stat().st_size == 4 * shards.tokens
    assert shards.document(0) == [1, *tokenizer.encode("the sea"), 2]


def test_an_epoch_visits_each_window_once_in_a_new_order(tokenizer: Tokenizer, tmp_path: Path) -> None:
    shards = _shards(tokenizer, tmp_path / "tokens")
    stream = [index for number in range(len(shards)) for index in shards.document(number)]
    length = 7
    per_epoch = (len(stream) + 1) // length - 1
    epochs = [
        [
            shards._starts(step, 1, length, seed=3)[0]
            for step in range(epoch * per_epoch, (epoch + 1) * per_epoch)
        ]
        for epoch in range(2)
    ]
    for starts in epochs:
        assert sorted(starts) == list(range(min(starts), min(starts) + per_epoch * length, length))
        assert max(starts) + length <= len(stream)
        assert starts != sorted(starts)
    assert epochs[0] != epochs[1]
    first = shards.windows(0, 1, length, seed=3)[0]
    assert first == stream[epochs[0][0] : epochs[0][0] + length]


def test_windows_follow_from_the_step_alone(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Field fault 32: resuming at a step gives the windows that an undisturbed run would have seen."""
    shards = _shards(tokenizer, tmp_path / "tokens")
    straight = [shards.windows(step, 4, 8, seed=1) for step in range(30)]
    resumed = TokenShards.open(tmp_path / "tokens")
    assert [resumed.windows(step, 4, 8, seed=1) for step in reversed(range(30))] == straight[::-1]
    assert [shards.windows(step, 4, 8, seed=2) for step in range(30)] != straight
    # Half the batch at twice the steps is the same order.
    halves = [window for step in range(60) for window in shards.windows(step, 2, 8, seed=1)]
    assert halves == [window for batch in straight for window in batch]


def test_batch_cuts_windows_where_documents_meet(tokenizer: Tokenizer, tmp_path: Path) -> None:
    shards = _shards(tokenizer, tmp_path / "tokens")
    for step in range(10):
        windows = shards.windows(step, 3, 16, seed=0)
        expected = []
        for window in windows:
            cuts = [0, *[place for place in range(1, 16) if window[place] == tokenizer.bos_id], 16]
            parts = [window[cuts[k] : cuts[k + 1]] for k in range(len(cuts) - 1)]
            expected += [part for part in parts if len(part) > 1]
        assert shards.batch(step, 3, 16, seed=0) == expected


def test_windows_as_long_as_everything(tokenizer: Tokenizer, tmp_path: Path) -> None:
    shards = write_shards(["the sea"], tokenizer, tmp_path / "tokens")
    assert shards.windows(5, 2, shards.tokens, seed=0) == [shards.document(0)] * 2
    with pytest.raises(DataError, match=f"only {shards.tokens} tokens, a window needs {shards.tokens + 1}"):
        shards.windows(0, 1, shards.tokens + 1, seed=0)
    with pytest.raises(ConfigError, match="windows of 1 tokens"):
        shards.windows(0, 1, 1, seed=0)


def test_faulty_folders(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no texts"):
        write_shards([], tokenizer, tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()
    with pytest.raises(CheckpointError, match="not a folder of tokens"):
        TokenShards.open(tmp_path / "tokens")
    _shards(tokenizer, tmp_path / "tokens")
    other = train_tokenizer(["quite another text"] * 5, 280)
    with pytest.raises(CheckpointError, match="another tokenizer"):
        TokenShards.open(tmp_path / "tokens", other)
    index = json.loads((tmp_path / "tokens" / "index.json").read_text())
    (tmp_path / "tokens" / "tokens.bin").write_bytes(b"\0" * 10)
    with pytest.raises(CheckpointError, match=f"has 10 bytes, index.json says {2 * index['tokens']}"):
        TokenShards.open(tmp_path / "tokens")
