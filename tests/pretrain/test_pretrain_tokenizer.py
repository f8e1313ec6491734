"""The verb `tokenizer`: a folder that transformers opens, and a summary."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from instructgpt.errors import ConfigError, DataError
from instructgpt.pretrain.tokenizer import TokenizerConfig, train
from instructgpt.text.tokenizer import Tokenizer


def test_it_writes_a_tokenizer_and_a_summary(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("aaaa bbbb aaaa bbbb\n\naaaa\n")
    summary = train(TokenizerConfig(str(tmp_path / "a.txt"), str(tmp_path / "tok"), 270))
    ours, theirs = Tokenizer.load(tmp_path / "tok"), AutoTokenizer.from_pretrained(tmp_path / "tok")
    assert ours.encode("aaaa bb") == theirs.encode("aaaa bb", add_special_tokens=False)
    assert summary["vocab_size"] == ours.vocab_size <= 270
    assert summary["texts"] == 1
    assert summary["characters"] == 25  # "aaaa bbbb aaaa bbbb", an empty line (2 breaks), "aaaa"
    assert (tmp_path / "tok/summary.json").exists()
    assert train(TokenizerConfig(str(tmp_path / "a.txt"), str(tmp_path / "tok"), 270)) == summary


def test_wrong_inputs_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--data"):
        train(TokenizerConfig(out=str(tmp_path / "t")))
    (tmp_path / "a.txt").write_text("aaaa")
    with pytest.raises(ConfigError, match=r"--vocab-size.*263"):
        train(TokenizerConfig(str(tmp_path / "a.txt"), str(tmp_path / "t"), 100))
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(DataError, match=r"bad\.jsonl:2"):
        train(TokenizerConfig(str(tmp_path / "bad.jsonl"), str(tmp_path / "t2")))
