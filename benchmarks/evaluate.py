"""`python -m benchmarks.evaluate`: questions a second, lm-evaluation-harness and ours in turn.

SmolLM2-135M in float32 answers the same questions by lm-eval's `hf` model, one question at a time and in
batches, by lm-eval on our model, and by our suite: the first of HellaSwag, TruthfulQA (MC1) and CrowS-Pairs,
from local copies, by lm-eval's own definitions of the tasks. Loading the model is left out of every time,
reading the questions and making the numbers is in. The answers must be the same: the run fails where one
differs.

The copies are made of `hellaswag.jsonl.gz` (`context`, `endings`, `label`), `truthfulqa.csv` and
`crows_pairs.csv` in the folder that INSTRUCTGPT_EVAL_DATA names, by default the development data's.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from benchmarks.inputs import model_folder
from benchmarks.peers import FOLDER, ROOT
from benchmarks.turn import Turn
from benchmarks.turns import RUNS, Contender, Floor, Race, main

DATA = Path(os.environ.get("INSTRUCTGPT_EVAL_DATA", str(ROOT / "../shared/data/eval")))
BATCH = 16
Row = dict[str, Any]


@dataclass(frozen=True)
class Copy:
    """A data set for both sides.

    Attributes:
        file: in the folder of data.
        task: of our suite.
        definition: of lm-eval's task, in its folder of tasks.
        split: that it asks.
        form: an item of ours (`Item.data`) as the record that lm-eval's definition reads.
    """

    file: str
    task: str
    definition: str
    split: str
    form: Callable[[Mapping[str, Any]], Row]


def _hellaswag(data: Mapping[str, Any]) -> Row:
    """The prompt taken apart, which lm-eval's task puts together again."""
    activity, _, context = data["prompt"].partition(": ")
    endings, label = data["endings"], str(data["label"])
    return {"activity_label": activity, "ctx_a": context, "ctx_b": "", "endings": endings, "label": label}


def _truthfulqa(data: Mapping[str, Any]) -> Row:
    return {"question": data["question"], "mc1_targets": data["mc1"], "mc2_targets": data["mc2"]}


def _crows_pairs(data: Mapping[str, Any]) -> Row:
    return {"sent_more": data["more"], "sent_less": data["less"]}


COPIES = {
    "hellaswag": Copy(
        "hellaswag.jsonl.gz", "hellaswag", "hellaswag/hellaswag.yaml", "validation", _hellaswag
    ),
    "truthfulqa": Copy(
        "truthfulqa.csv", "truthfulqa_mc1", "truthfulqa/truthfulqa_mc1.yaml", "validation", _truthfulqa
    ),
    "crows-pairs": Copy(
        "crows_pairs.csv", "crows_pairs", "crows_pairs/crows_pairs_english.yaml", "test", _crows_pairs
    ),
}
ITEMS = (("hellaswag", 500), ("truthfulqa", 100), ("crows-pairs", 500), ("hellaswag", 60))


def folder(name: str, items: int) -> Path:
    """Where a copy's first questions lie for lm-eval."""
    return FOLDER / "evaluate" / f"{name}-{items}"


def prepare(name: str, items: int) -> None:
    """Write the first questions as lm-eval's task reads them."""
    copy, place = COPIES[name], folder(name, items)
    if not (DATA / copy.file).exists():
        raise FileNotFoundError(
            f"{DATA / copy.file} is not there: name its folder with INSTRUCTGPT_EVAL_DATA"
        )
    place.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(copy.form(item.data)) + "\n" for item in _problem(copy, items).items)
    (place / "questions.jsonl").write_text(text, encoding="utf-8")


def _problem(copy: Copy, items: int) -> Any:
    from instructgpt.evaluation.eval_settings import EvalConfig
    from instructgpt.evaluation.suite.problems import prepare as ready

    return ready(copy.task, EvalConfig(data=f"{copy.task}={DATA / copy.file}", limit=items))


def harness(name: str, items: int, ours: bool, batch: int = 1) -> Turn:
    """lm-eval with its `hf` model, or with ours."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    copy, place = COPIES[name], folder(name, items)
    own = Path(lm_eval.__file__).parent / "tasks" / copy.definition
    files = json.dumps({"data_files": {copy.split: str(place / "questions.jsonl")}})
    (place / "local.yaml").write_text(
        f"include: {own}\ntask: local\ntag: null\ndataset_path: json\ndataset_name: null\n"
        f"dataset_kwargs: {files}\ntraining_split: null\n",
        encoding="utf-8",
    )
    if ours:
        from instructgpt.evaluation.harness import register

        model = register()(pretrained=str(model_folder("L")), device="cpu")
    else:
        from lm_eval.models.huggingface import HFLM

        model = HFLM(pretrained=str(model_folder("L")), device="cpu", dtype="float32", batch_size=batch)
    start = time.perf_counter()
    found = lm_eval.simple_evaluate(
        model=model,
        tasks=["local"],
        task_manager=TaskManager(include_path=str(place)),
        bootstrap_iters=1000,
        log_samples=True,
    )
    seconds = time.perf_counter() - start
    samples = sorted(found["samples"]["local"], key=lambda sample: sample["doc_id"])
    nats = [[float(response[0][0]) for response in sample["resps"]] for sample in samples]
    numbers = {
        key.removesuffix(",none"): round(value, 4)
        for key, value in found["results"]["local"].items()
        if isinstance(value, float) and "stderr" not in key
    }
    return Turn([items / seconds], facts={"dtype": "float32", **numbers, "answers": answers(nats)})


def suite(name: str, items: int) -> Turn:
    """Our suite, from the file to the numbers."""
    from instructgpt.evaluation.suite.asking import answer_all
    from instructgpt.evaluation.suite.local import LocalModel
    from instructgpt.evaluation.suite.metrics import estimate

    handle = LocalModel.load(str(model_folder("L")), device="cpu")
    start = time.perf_counter()
    problem = _problem(COPIES[name], items)
    asks = [problem.task.ask(item, ()) for item in problem.items]
    scored = problem.task.score(problem.items, answer_all(handle, name, problem.items, asks))
    pairs = zip(problem.items, scored, strict=True)
    records = [{"id": item.id, "group": item.group, "scores": found.scores} for item, found in pairs]
    numbers = {metric.name: round(estimate(metric, records).mean, 4) for metric in problem.task.metrics}
    seconds = time.perf_counter() - start
    nats = [list(found.shown["nats"]) for found in scored]
    return Turn([items / seconds], facts={"dtype": "float32", **numbers, "answers": answers(nats)})


def answers(nats: Sequence[Sequence[float]]) -> str:
    """A hash of the most probable answer to each question."""
    chosen = [max(range(len(row)), key=row.__getitem__) for row in nats]
    return sha256(json.dumps(chosen).encode()).hexdigest()[:16]


def race(name: str, items: int) -> Race:
    """All contenders on the first questions of a data set; the bound of two is HellaSwag's."""
    batched = f"lm-eval hf, batch {BATCH}"
    contenders = [
        Contender("lm-eval hf", partial(harness, name, items, False), "lm-eval"),
        Contender(batched, partial(harness, name, items, False, BATCH), "lm-eval"),
        Contender("lm-eval on ours", partial(harness, name, items, True), "lm-eval"),
        Contender("ours", partial(suite, name, items)),
    ]
    bound = 2.0 if name == "hellaswag" else 1.0
    floors = [
        Floor(mine, bound, against=theirs)
        for mine in ("ours", "lm-eval on ours")
        for theirs in ("lm-eval hf", batched)
    ]
    title = f"{name}, {items} questions, SmolLM2-135M in float32"
    case = f"{name}-{items}"
    return Race(case, title, "questions/s", contenders, floors, ["L"], partial(prepare, name, items))


def races() -> list[Race]:
    """HellaSwag's 500 first; its 60 are for trying things out."""
    return [race(name, items) for name, items in ITEMS]


def check(path: Path) -> int:
    """Whether all contenders of a run gave the same answers; 1 if not."""
    result = json.loads(path.read_text(encoding="utf-8"))
    code = 0
    for found in result["races"]:
        given = {row["name"]: row["facts"]["answers"] for row in found["contenders"]}
        if len(set(given.values())) > 1:
            print(f"{found['case']}: the answers differ: {given}", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    code = main("evaluate", "Evaluating, measured", races())
    named = sys.argv[sys.argv.index("--out") + 1] if "--out" in sys.argv else RUNS / "evaluate.json"
    raise SystemExit(code if "--turn" in sys.argv else max(code, check(Path(named))))
