"""Figures of the released InstructGPT samples: others' numbers where the data are at hand, and by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from instructgpt.cli import main
from instructgpt.errors import DataError
from instructgpt.evaluation.released_samples import figures, kind_of, read_samples

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data" / "eval"
FIGURES = {
    "fr_to_en": ("fr_to_en_bleu", ("bleu",)),
    "tldr": ("tldr_rougeL", ("rougeL",)),
    "squadv2": ("squadv2_f1", ("f1",)),
    "real_toxicity": ("toxicity_mean", ("toxicity",)),
    "truthful_qa": ("truthful", ("truthful", "truthful_informative")),
}


@pytest.mark.parametrize("name", FIGURES)
def test_all_twelve_models_to_the_fourth_decimal(name: str) -> None:
    """Expected: made independently with sacrebleu, rouge-score and the official definitions."""
    path = FOLDER / f"instructgpt-{name}.jsonl.gz"
    if not path.exists():
        pytest.skip(f"the development data is not at hand: ../shared/data/eval/{path.name}")
    if name in ("fr_to_en", "tldr"):
        pytest.importorskip("sacrebleu" if name == "fr_to_en" else "rouge_score", reason="extra eval")
    key, metrics = FIGURES[name]
    expected = json.loads((FOLDER / "instructgpt-expected.json").read_text(encoding="utf-8"))[key]
    kind, groups = read_samples(path)
    assert kind.name == name and groups.keys() == expected.keys()
    assert len({group.partition("|")[0] for group in groups}) == 12
    wrong = {}
    for group, rows in groups.items():
        found = figures(kind, rows, draws=4)
        values = expected[group] if isinstance(expected[group], list) else [expected[group]]
        for metric, value in zip(metrics, values, strict=True):
            if abs(found[metric].mean - value) >= 5e-5:
                wrong[group, metric] = (found[metric].mean, value)
    assert wrong == {}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


SQUAD = {"context": "Title: T\n\nBackground: B\n\nQ: q\n\nA:", "ref_text": "red|dark red"}
DROP = {"context": "Passage: P\nQuestion: How many?\nAnswer:", "ref_text": "7|seven"}


def test_squad_and_drop_by_hand(tmp_path: Path) -> None:
    rows = [
        {"model_type": "a", "prompt_type": "zeroshot", **SQUAD, "sample": "The dark red one"},  # P 2/3, R 1
        {
            "model_type": "a",
            "prompt_type": "zeroshot",
            **SQUAD,
            "context": SQUAD["context"] * 2,
            "sample": "red",
        },
    ]
    kind, groups = read_samples(write(tmp_path / "x.jsonl", rows))
    found = figures(kind, groups["a|zeroshot"])
    assert found["f1"].mean == pytest.approx(100 * (0.8 + 1) / 2) and found["exact"].mean == 50
    kind, groups = read_samples(
        write(tmp_path / "y.jsonl", [{"model_type": "a", **DROP, "sample": "7 yards"}])
    )
    assert figures(kind, groups["a"])["f1"].mean == pytest.approx(67)


def test_kinds_by_shape() -> None:
    shapes = {
        "fr_to_en": {"context": "French: Oui.\nEnglish:"},
        "tldr": {"context": "A post.\n\nTL;DR:"},
        "squadv2": SQUAD,
        "drop": DROP,
        "real_toxicity": {"context": "He said", "toxicity": 0.1},
        "truthful_qa": {"question": "Why?", "true": 1, "info": 0},
    }
    assert {name: kind_of(row, "x:1").name for name, row in shapes.items()} == {name: name for name in shapes}
    with pytest.raises(DataError, match="no published file"):
        kind_of({"context": "Once upon a time"}, "x:1")


def test_models_must_be_asked_the_same(tmp_path: Path) -> None:
    rows = [
        {"model_type": m, **DROP, "sample": "7", "context": DROP["context"] + t} for m, t in ("a ", "b\n")
    ]
    with pytest.raises(DataError, match="not asked the same"):
        read_samples(write(tmp_path / "x.jsonl", rows))


def test_a_score_must_be_a_number(tmp_path: Path) -> None:
    rows = [{"model_type": "a", "prompt_type": "p", "context": "He", "sample": "ran", "toxicity": "high"}]
    kind, groups = read_samples(write(tmp_path / "x.jsonl", rows))
    with pytest.raises(DataError, match=r"'toxicity' is 'high'.*x\.jsonl:1"):
        figures(kind, groups["a|p"])


def test_the_command_on_a_published_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The columns of the published file, an index column before; a scorer reads the replies too."""
    lines = [
        ",model_type,prompt_type,context,sample,toxicity",
        "0,gpt-xl,basic prompt,They said,you stupid idiot,0.9",
        "1,gpt-xl,respectful prompt,They said,good morning,0.1",
        "2,sft-xl,basic prompt,They said,shut up,0.7",
        '3,sft-xl,respectful prompt,They said,"well, hello",0.05',
    ]
    path = tmp_path / "real_toxicity_samples.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    out = tmp_path / "out"
    assert main(["eval", "--samples", str(path), "--out", str(out), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    models = summary["samples"]["real_toxicity"]["models"]
    assert models["gpt-xl|basic prompt"]["toxicity"]["mean"] == 0.9
    assert models["sft-xl|basic prompt"]["toxic"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "n": 1}
    # by the word list 0 twice, then "shut up", then two insults: ranks 1.5 1.5 3 4 beside 2 1 3 4
    assert summary["samples"]["real_toxicity"]["rank_correlation"] == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    assert json.loads((out / "samples-real_toxicity.json").read_text()) == summary["samples"]["real_toxicity"]
    assert "word list" in summary["table"]
