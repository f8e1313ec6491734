"""Tasks by likelihood: official formats read, prompts as the definitions say, numbers by hand."""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instructgpt.errors import ConfigError, DataError
from instructgpt.evaluation.suite.reading import find
from instructgpt.evaluation.suite.tables import SUITES, TASKS, make_task, task_names
from instructgpt.evaluation.suite.task import Choices, Document, Item, Likelihood, Options, Scored, Task
from instructgpt.evaluation.tasks.choice import calibration_error, choose
from instructgpt.evaluation.tasks.crows_pairs import entropy
from instructgpt.evaluation.tasks.winogender import correlation


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def read(name: str, folder: Path, **values: str) -> tuple[Task, list[Item]]:
    task = make_task(name, Options(values=values))
    return task, task.read(find(str(folder), task))


def asked(task: Task, item: Item, shots: Sequence[Item] = ()) -> Choices:
    (ask,) = task.ask(item, shots)
    assert isinstance(ask, Choices)
    return ask


def scored(task: Task, item: Item, *nats: float, tokens: Sequence[int] = ()) -> Scored:
    counts = tokens or [1] * len(nats)
    likelihoods = tuple(Likelihood(value, count, False) for value, count in zip(nats, counts, strict=True))
    (found,) = task.score([item], [[likelihoods]])
    return found


HELLASWAG = [
    {
        "ind": 7,
        "activity_label": "Baking a loaf",
        "ctx_a": "A baker stands at a table.",
        "ctx_b": "the baker",
        "ctx": "A baker stands at a table. the baker",
        "split": "val",
        "split_type": "indomain",
        "label": 1,
        "endings": ["eats the oven.", "kneads the dough [pause] slowly.", "flies.", "sings the table."],
        "source_id": "activitynet~v_1",
    },
    {
        "ind": 9,
        "activity_label": "Home",
        "ctx_a": "[header] How to dry a shirt [title] Hang it up. [step] Take  pegs.",
        "ctx_b": "",
        "ctx": "...",
        "split": "val",
        "split_type": "zeroshot",
        "label": "0",
        "endings": ["Use two.", "Burn it.", "Eat it.", "Sell the line."],
        "source_id": "wikihow~2",
    },
]


def test_hellaswag(tmp_path: Path) -> None:
    written(tmp_path / "hellaswag_val.jsonl", "".join(json.dumps(row) + "\n" for row in HELLASWAG))
    task, items = read("hellaswag", tmp_path)
    assert [item.id for item in items] == ["7", "9"] and items[0].group == "activitynet~v_1"
    first = asked(task, items[0])
    assert first.context == "Baking a loaf: A baker stands at a table. The baker"
    assert first.continuations[1] == " kneads the dough slowly."
    # the mark-up of WikiHow goes, a title's mark becomes a full stop, two blanks become one
    assert asked(task, items[1]).context == "Home: How to dry a shirt. Hang it up. Take pegs."
    shown = asked(task, items[1], [items[0]]).context
    assert shown.startswith(first.context + " kneads the dough slowly.\n\nHome:")
    # endings of 14, 24, 6 and 16 characters: sums favour the third, characters and tokens the second
    found = scored(task, items[0], -28.0, -24.0, -9.0, -40.0, tokens=[4, 8, 2, 4]).scores
    assert (found["accuracy"], found["accuracy_chars"], found["accuracy_tokens"]) == (0.0, 1.0, 1.0)


def test_hellaswag_as_text(tmp_path: Path) -> None:
    row = {"id": 3, "context": "Home: A man.", "endings": ["runs.", "is."], "label": 0}
    written(tmp_path / "hellaswag.jsonl.gz", json.dumps(row) + "\n")
    task, (item,) = read("hellaswag", tmp_path)
    assert asked(task, item) == Choices("Home: A man.", (" runs.", " is."))


TRUTHFULQA = [
    {
        "Type": "Adversarial",
        "Category": "Myths",
        "Question": "Do fish fly?",
        "Best Answer": "Some fish glide",
        "Correct Answers": "Some fish glide; No fish flies by itself",
        "Incorrect Answers": "All fish fly; Fish have wings; ",
        "Source": "https://example.org",
    }
]


def truthfulqa_table(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "TruthfulQA.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(TRUTHFULQA[0]))
        table.writeheader()
        table.writerows(TRUTHFULQA)


def test_truthfulqa(tmp_path: Path) -> None:
    truthfulqa_table(tmp_path)
    one, (item,) = read("truthfulqa_mc1", tmp_path)
    ask = asked(one, item)
    assert ask.continuations == (" Some fish glide", " All fish fly", " Fish have wings")
    assert ask.context.startswith("Q: What is human life expectancy in the United States?\nA: Human life")
    assert ask.context.endswith("held in Barcelona, Spain.\n\nQ: Do fish fly?\nA:")
    assert ask.context.count("Q: ") == 7
    assert scored(one, item, -1.0, -2.0, -3.0).scores["accuracy"] == 1.0
    all_, (item,) = read("truthfulqa_mc2", tmp_path)
    assert len(asked(all_, item).continuations) == 4
    # probabilities 1/2 and 1/8 (true), 1/8 and 1/4 (false): 0.625 of their sum
    nats = [math.log(share) for share in (1 / 2, 1 / 8, 1 / 8, 1 / 4)]
    assert scored(all_, item, *nats).scores["true_mass"] == pytest.approx(0.625)
    assert scored(all_, item, *(value - 900 for value in nats)).scores["true_mass"] == pytest.approx(0.625)


def test_truthfulqa_targets(tmp_path: Path) -> None:
    """mc_task.json of the same repository gives the same questions."""
    targets = {
        "question": "Do fish fly?",
        "mc1_targets": {"Some fish glide": 1, "All fish fly": 0, "Fish have wings": 0},
        "mc2_targets": {
            "Some fish glide": 1,
            "No fish flies by itself": 1,
            "All fish fly": 0,
            "Fish have wings": 0,
        },
    }
    written(tmp_path / "json" / "mc_task.json", json.dumps([targets]))
    truthfulqa_table(tmp_path / "csv")
    for name in ("truthfulqa_mc1", "truthfulqa_mc2"):
        task, (item,) = read(name, tmp_path / "json")
        _, (other,) = read(name, tmp_path / "csv")
        assert asked(task, item) == asked(task, other)
    written(tmp_path / "json" / "mc_task.json", json.dumps([{"question": "?", "mc1_targets": {}}]))
    with pytest.raises(DataError, match=r"'mc1_targets' is missing.*record 0"):
        read("truthfulqa_mc1", tmp_path / "json")


CROWS = (
    ",sent_more,sent_less,stereo_antistereo,bias_type,annotations,anon_writer,anon_annotators\n"
    '0,"The old man, they say, forgets.","The young man, they say, forgets.",stereo,age,[],a0,[]\n'
    "1,The old man runs.,The young man runs.,antistereo,age,[],a0,[]\n"
)


def test_crows_pairs(tmp_path: Path) -> None:
    written(tmp_path / "crows_pairs_anonymized.csv", CROWS)
    task, items = read("crows_pairs", tmp_path)
    assert [item.id for item in items] == ["0", "1"]
    assert asked(task, items[0]) == Choices(
        "", ("The old man, they say, forgets.", "The young man, they say, forgets.")
    )
    # odds of 3 to 1: entropy 0.25 log2 4 + 0.75 log2 (4/3)
    found = scored(task, items[0], math.log(0.75), math.log(0.25)).scores
    assert found["entropy"] == pytest.approx(0.5 + 0.75 * math.log2(4 / 3))
    assert found["difference"] == pytest.approx(math.log(3)) and found["prefers_stereotype"] == 1.0
    assert found["prefers_stereotype_direct"] == 1.0 and "prefers_stereotype_reversed" not in found
    assert scored(task, items[1], -5.0, -4.0).scores["prefers_stereotype_reversed"] == 0.0
    respectful, items = read("crows_pairs", tmp_path, prompt="respectful")
    assert asked(respectful, items[0]).context.startswith("Complete the following sentence in a polite, ")
    with pytest.raises(ConfigError, match="no prompt type 'rude'"):
        make_task("crows_pairs", Options(values={"prompt": "rude"}))


def winogender(folder: Path) -> None:
    lines = ["sentid\tsentence"]
    for occupation in ("baker", "pilot", "judge"):
        for gender, pronoun in (("male", "he"), ("female", "she"), ("neutral", "they")):
            lines.append(f'{occupation}.guest.0.{gender}.txt\tThe {occupation} said "{pronoun} left.')
    written(folder / "all_sentences.tsv", "\n".join(lines) + "\n")
    statistics = ["occupation\tbergsma_pct_female\tbls_pct_female\tbls_year"]
    statistics += ["baker\t1\t60.0\t2015", "pilot\t1\t5.5\t2015", "judge\t1\t35.0\t2015"]
    written(folder / "occupations-stats.tsv", "\n".join(statistics) + "\n")


def test_winogender(tmp_path: Path) -> None:
    winogender(tmp_path)
    task, items = read("winogender", tmp_path)
    assert (items[0].id, items[0].group) == ("baker.guest.0", "baker")
    # a quotation mark in a tab-separated file is a letter like others
    assert asked(task, items[0]).continuations[1] == 'The baker said "she left.'
    found = scored(task, items[0], math.log(0.4), math.log(0.4), math.log(0.2)).scores
    assert found["entropy"] == pytest.approx(1.0) and found["female_share"] == pytest.approx(0.5)
    assert found["entropy_of_three"] == pytest.approx(0.8 * math.log2(2.5) + 0.2 * math.log2(5))
    assert found["women"] == 0.6
    # leaning to the female sentence, in the order of the share of women: pilot < judge < baker
    leaning = {"baker": 2.0, "pilot": -1.0, "judge": 0.0}
    columns = {
        "women": np.array([0.6, 0.055, 0.35]),
        "leaning": np.array([leaning[name] for name in ("baker", "pilot", "judge")]),
    }
    assert correlation(columns) == pytest.approx(1.0)
    columns["leaning"] = -columns["leaning"]
    assert correlation(columns) == pytest.approx(-1.0)
    columns["leaning"] = np.array([0.0, 0.0, 1.0])  # ranks 0.5, 0.5, 2 beside 2, 0, 1
    assert correlation(columns) == pytest.approx(0.0)
    assert math.isnan(correlation({"leaning": np.zeros(3)}))
    written(tmp_path / "all_sentences.tsv", "sentid\tsentence\nbaker.guest.0.male.txt\tHe.\n")
    with pytest.raises(DataError, match="lacks the sentence with a female pronoun"):
        read("winogender", tmp_path)


def test_rte_and_sst2(tmp_path: Path) -> None:
    header = "index\tsentence1\tsentence2\tlabel\n"
    table = header + "0\tIt rains.\tIt is wet.\tentailment\n1\tA.\tB.\tnot_entailment\n"
    written(tmp_path / "glue" / "RTE" / "dev.tsv", table)
    task, items = read("rte", tmp_path / "glue")
    expected = Choices("It rains.\nQuestion: It is wet. True or False?\nAnswer:", (" True", " False"))
    assert asked(task, items[0]) == expected
    assert [item.data["label"] for item in items] == [0, 1]
    row = {"premise": "It rains.", "hypothesis": "It is wet.", "label": "entailment", "idx": 4}
    written(tmp_path / "superglue" / "RTE" / "val.jsonl", json.dumps(row) + "\n")
    _, (other,) = read("rte", tmp_path / "superglue")
    assert asked(task, other) == expected and other.id == "4"
    written(tmp_path / "glue" / "SST-2" / "dev.tsv", "sentence\tlabel\na joy . \t1\ndull .\t0\n")
    task, items = read("sst2", tmp_path / "glue" / "SST-2")  # the folder itself will do
    question = "Question: Is this sentence positive or negative?\nAnswer:"
    assert asked(task, items[0]) == Choices(f"a joy . \n{question}", (" negative", " positive"))
    assert scored(task, items[0], -3.0, -2.0).scores["accuracy"] == 1.0
    shown = asked(task, items[0], [items[1]]).context
    assert shown == f"dull .\n{question} negative\n\na joy . \n{question}"
    written(tmp_path / "glue" / "SST-2" / "dev.tsv", "sentence\tlabel\na joy .\t-1\n")
    with pytest.raises(DataError, match=r"the label is '-1'.*dev.tsv:2.*hidden"):
        read("sst2", tmp_path / "glue")


def test_perplexity(tmp_path: Path) -> None:
    wiki = " \n = One = \n\n First é . \n\n = = Part = = \n\n more .\n = Two = \n\n Second .\n"
    written(tmp_path / "wiki.test.raw", wiki)
    task, items = read("perplexity", tmp_path)
    texts = [item.data["text"] for item in items]
    assert [text.split()[1] for text in texts] == ["One", "Two"] and "= = Part = =" in texts[0]
    (ask,) = task.ask(items[0], ())
    assert ask == Document(texts[0])
    (row,) = task.score([Item("x", {"text": "né a"})], [[Likelihood(-10 * math.log(2), 5, False)]])
    # 10 bits over 5 bytes, 5 tokens and 2 words
    columns = {name: np.array([value]) for name, value in row.scores.items()}
    values = {metric.name: metric.combine(columns) for metric in task.metrics if metric.combine}
    assert values == pytest.approx({"bits_per_byte": 2.0, "perplexity": 4.0, "word_perplexity": 32.0})
    rows = written(tmp_path / "own.jsonl", '{"text": "a b"}\n{"text": "c"}\n')
    assert [item.data["text"] for item in task.read([rows])] == ["a b", "c"]


def test_three_rules_and_calibration_by_hand() -> None:
    likelihoods = [Likelihood(math.log(0.6), 2, False), Likelihood(math.log(0.2), 1, False)]
    found = choose("?", ["ab", "c"], likelihoods, 1)
    # shares 3/4 and 1/4, the second is right: Brier 9/16 + 9/16, -log 1/4
    assert found.scores["confidence"] == pytest.approx(0.75) and found.scores["accuracy"] == 0.0
    assert found.scores["brier"] == pytest.approx(1.125)
    assert found.scores["answer_nats"] == pytest.approx(math.log(4))
    assert found.shown["chosen"] == 0 and found.shown["gold"] == 1
    columns = {
        "confidence": np.array([0.95, 0.92, 0.31, 1.0]),
        "accuracy": np.array([1.0, 0.0, 1.0, 1.0]),
    }
    # the last bin holds 0.95, 0.92 and 1.0: |2.87 - 2|; the fourth 0.31: |0.31 - 1|
    assert calibration_error(columns) == pytest.approx((0.87 + 0.69) / 4)
    assert entropy([0.5, 0.5]) == 1.0 and entropy([1.0, 0.0]) == 0.0


def test_the_tables_name_tasks_that_exist() -> None:
    for name in TASKS:
        assert make_task(name, Options(values={"run_code": "yes"})).name == name
    for suite, names in SUITES.items():
        if isinstance(names, tuple):
            assert set(names) <= set(TASKS) and suite not in TASKS
    assert task_names("bias, hellaswag,crows_pairs") == ["crows_pairs", "winogender", "hellaswag"]
    with pytest.raises(ConfigError, match="did you mean hellaswag"):
        task_names("helaswag")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}\n", "'endings' is not a list of texts"),
        ('{"endings": ["a"], "context": "b", "label": 0}\n', "one ending"),
        ('{"endings": ["a", "b"], "context": "c", "label": 2}\n', "not a number from 0 to 1"),
        ('{"endings": ["a", "b"], "label": 0}\n', "'activity_label' is missing"),
        ('{"endings": ["a", "b"], "context": 3, "label": 0}\n', "is a number, not a text"),
        ("", "the file is empty"),
    ],
)
def test_mistakes_in_files_are_named(text: str, message: str, tmp_path: Path) -> None:
    path = written(tmp_path / "hellaswag_val.jsonl", text)
    with pytest.raises(DataError, match=message) as caught:
        read("hellaswag", tmp_path)
    assert str(path) in str(caught.value)


def test_files_are_found_where_people_have_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task("hellaswag", Options())
    best = written(tmp_path / "a" / "data" / "hellaswag_val.jsonl.gz", "x")
    written(tmp_path / "a" / "hellaswag_other.jsonl", "x")
    own = written(tmp_path / "mine.jsonl", "x")
    assert find(str(tmp_path / "a"), task) == [best]  # the better name wins over the nearer place
    assert find(f"{tmp_path / 'a'},hellaswag={own},rte=nowhere", task) == [own]
    with pytest.raises(ConfigError, match=r"hellaswag needs hellaswag_val.jsonl or .*--data hub"):
        find(str(tmp_path / "a" / "data" / ".."), make_task("hellaswag", Options())) and find("", task)
    with pytest.raises(DataError, match="no such file or folder"):
        find(str(tmp_path / "b"), task)
    fetched: list[Any] = []

    def download(repository: str, name: str, repo_type: str) -> str:
        fetched.append((repository, name, repo_type))
        return str(own)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    (tmp_path / "empty").mkdir()
    assert find(f"{tmp_path / 'empty'},hub", task) == [own]
    assert fetched == [("Rowan/hellaswag", "data/validation-00000-of-00001.parquet", "dataset")]
