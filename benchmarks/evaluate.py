"""`python -m benchmarks.evaluate`: HellaSwag questions a second, lm-evaluation-harness and ours in turn.

SmolLM2-135M in float32 answers the same questions (the first of a local copy, 500 or 60) by lm-eval's `hf`
model, one question at a time and in batches, by lm-eval on our model, and by our suite. Loading the model is
left out of every time, reading the questions and making the numbers is in. The answers must be the same: the
run fails where one of them differs.

The questions are those of INSTRUCTGPT_HELLASWAG (JSONL with `context`, `endings` and `label`), by default the
development data's.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from benchmarks.inputs import model_folder
from benchmarks.peers import FOLDER, ROOT
from benchmarks.turn import Turn
from benchmarks.turns import RUNS, Contender, Floor, Race, main

SOURCE = os.environ.get("INSTRUCTGPT_HELLASWAG", str(ROOT / "../shared/data/eval/hellaswag.jsonl.gz"))
ITEMS = (500, 60)
BATCH = 16


def copies(items: int) -> Path:
    """The folder with the questions for both sides."""
    return FOLDER / "hellaswag" / str(items)


def prepare(items: int) -> None:
    """Write the first questions as our task reads them and as lm-eval's does, and lm-eval's own definition of
    the task with that file in place of the Hub's."""
    from instructgpt.evaluation.suite.reading import rows

    if not Path(SOURCE).exists():
        raise FileNotFoundError(f"{SOURCE} is not there: name HellaSwag as text with INSTRUCTGPT_HELLASWAG")
    folder = copies(items)
    folder.mkdir(parents=True, exist_ok=True)
    questions = [row for _, row in rows(Path(SOURCE))][:items]
    for name, form in (("hellaswag.jsonl", dict), ("harness.jsonl", _official)):
        text = "".join(json.dumps(form(row)) + "\n" for row in questions)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "hellaswag_local.yaml").write_text(
        f"include: INCLUDED\ntask: hellaswag_local\ntag: null\ndataset_path: json\ndataset_name: null\n"
        f"dataset_kwargs: {json.dumps({'data_files': {'validation': str(folder / 'harness.jsonl')}})}\n"
        "training_split: null\n",
        encoding="utf-8",
    )


def _official(row: dict[str, Any]) -> dict[str, Any]:
    """The text form as a record of hellaswag_val.jsonl, which lm-eval's task puts together again."""
    activity, _, context = row["context"].partition(": ")
    return {
        "activity_label": activity,
        "ctx_a": context,
        "ctx_b": "",
        "endings": row["endings"],
        "label": str(row["label"]),
    }


def harness(items: int, ours: bool, batch: int = 1) -> Turn:
    """lm-eval with its `hf` model, or with ours."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    folder = copies(items)
    definition = (folder / "hellaswag_local.yaml").read_text(encoding="utf-8")
    own = Path(lm_eval.__file__).parent / "tasks" / "hellaswag" / "hellaswag.yaml"
    tasks = folder / "tasks"
    tasks.mkdir(exist_ok=True)
    (tasks / "hellaswag_local.yaml").write_text(definition.replace("INCLUDED", str(own)), encoding="utf-8")
    if ours:
        from instructgpt.evaluation.harness import register

        model = register()(pretrained=str(model_folder("L")), device="cpu")
    else:
        from lm_eval.models.huggingface import HFLM

        model = HFLM(pretrained=str(model_folder("L")), device="cpu", dtype="float32", batch_size=batch)
    start = time.perf_counter()
    found = lm_eval.simple_evaluate(
        model=model,
        tasks=["hellaswag_local"],
        task_manager=TaskManager(include_path=str(tasks)),
        bootstrap_iters=1000,
        log_samples=True,
    )
    seconds = time.perf_counter() - start
    samples = sorted(found["samples"]["hellaswag_local"], key=lambda sample: sample["doc_id"])
    nats = [[float(response[0][0]) for response in sample["resps"]] for sample in samples]
    lengths = [[len(choice) for choice in sample["doc"]["choices"]] for sample in samples]
    return Turn([items / seconds], facts=_facts(nats, lengths, [int(s["doc"]["gold"]) for s in samples]))


def suite(items: int) -> Turn:
    """Our suite, from the file to the numbers."""
    from instructgpt.evaluation.eval_settings import EvalConfig
    from instructgpt.evaluation.suite.asking import answer_all
    from instructgpt.evaluation.suite.local import LocalModel
    from instructgpt.evaluation.suite.metrics import estimate
    from instructgpt.evaluation.suite.problems import prepare as problem_of

    handle = LocalModel.load(str(model_folder("L")), device="cpu")
    start = time.perf_counter()
    problem = problem_of("hellaswag", EvalConfig(data=f"hellaswag={copies(items) / 'hellaswag.jsonl'}"))
    asks = [problem.task.ask(item, ()) for item in problem.items]
    scored = problem.task.score(problem.items, answer_all(handle, problem.task.name, problem.items, asks))
    records = [
        {"id": i.id, "group": i.group, "scores": s.scores} for i, s in zip(problem.items, scored, strict=True)
    ]
    for metric in problem.task.metrics:
        estimate(metric, records)
    seconds = time.perf_counter() - start
    nats = [list(found.shown["nats"]) for found in scored]
    lengths = [[len(choice) for choice in item.data["endings"]] for item in problem.items]
    return Turn(
        [items / seconds], facts=_facts(nats, lengths, [item.data["label"] for item in problem.items])
    )


def _facts(
    nats: Sequence[Sequence[float]], lengths: Sequence[Sequence[int]], gold: Sequence[int]
) -> dict[str, Any]:
    """Accuracies, and a hash of the answers by both rules."""
    plain = [_best(row) for row in nats]
    per_character = [
        _best([value / length for value, length in zip(row, sizes, strict=True)])
        for row, sizes in zip(nats, lengths, strict=True)
    ]
    answers = json.dumps([plain, per_character])
    return {
        "dtype": "float32",
        "acc": round(_share(plain, gold), 4),
        "acc_norm": round(_share(per_character, gold), 4),
        "answers": sha256(answers.encode()).hexdigest()[:16],
    }


def _best(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def _share(chosen: Sequence[int], gold: Sequence[int]) -> float:
    return sum(one == other for one, other in zip(chosen, gold, strict=True)) / len(gold)


def race(items: int) -> Race:
    """All contenders on so many questions."""
    measures: dict[str, tuple[Callable[[], Turn], str]] = {
        "lm-eval hf": (partial(harness, items, False), "lm-eval"),
        f"lm-eval hf, batch {BATCH}": (partial(harness, items, False, BATCH), "lm-eval"),
        "lm-eval on ours": (partial(harness, items, True), "lm-eval"),
        "ours": (partial(suite, items), "ours"),
    }
    contenders = [Contender(name, measure, peer) for name, (measure, peer) in measures.items()]
    floors = [
        Floor(name, 2.0, against=against)
        for name in ("ours", "lm-eval on ours")
        for against in ("lm-eval hf", f"lm-eval hf, batch {BATCH}")
    ]
    title = f"HellaSwag, {items} questions, SmolLM2-135M in float32"
    return Race(
        f"hellaswag-{items}", title, "questions/s", contenders, floors, ["L"], partial(prepare, items)
    )


def check() -> int:
    """Whether all contenders of the last run gave the same answers; 1 if not."""
    result = json.loads((RUNS / "evaluate.json").read_text(encoding="utf-8"))
    code = 0
    for found in result["races"]:
        answers = {row["name"]: row["facts"]["answers"] for row in found["contenders"]}
        if len(set(answers.values())) > 1:
            print(f"{found['case']}: the answers differ: {answers}", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    missed = main("evaluate", "Evaluating, measured", [race(items) for items in ITEMS])
    raise SystemExit(missed if any(word.startswith("--turn") for word in sys.argv) else missed or check())
