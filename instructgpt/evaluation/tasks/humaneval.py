"""HumanEval: write a function; the data set's tests decide (arXiv:2107.03374).

Files: the official `HumanEval.jsonl`. What the model writes is run, so an explicit setting is needed:
`run_code=yes` runs it in the sandbox of `evaluation/sandbox` with its filter of system calls,
`run_code=limits-only` where the system has no filter. Metric: pass@k, the unbiased estimate over `samples`
programs a problem; one greedy program if that is 1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from instructgpt.errors import ConfigError
from instructgpt.evaluation.metrics.pass_at_k import pass_at_k
from instructgpt.evaluation.sandbox.run import run_programs
from instructgpt.evaluation.suite.reading import rows, text_of
from instructgpt.evaluation.suite.task import Answer, Generate, Generated, Item, Metric, Options, Scored, Task
from instructgpt.text.chat import Message

_LONGEST = 512
_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""Where a program that goes on from the prompt ends (arXiv:2107.03374 §3.1)."""
_KS = (1, 10, 100)
_FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL | re.IGNORECASE)
_REQUEST = (
    "Complete this Python function. Answer with the whole function in one block of code.\n\n```python\n"
)


def make(options: Options) -> Task:
    """HumanEval; settings: `run_code`, `samples` (1), `temperature` (0.8 if samples are several), `style`
    (`completion` goes on from the prompt, `chat` asks for the function in words).

    Raises:
        ConfigError: running the programs was not allowed, or a setting can't be used.
    """
    allowed = options.get("run_code")
    if allowed not in ("yes", "limits-only"):
        what = "HumanEval runs programs that the model writes, and that was not allowed"
        raise ConfigError(what, "humaneval", "allow it with --option run_code=yes (docs/evaluation-tasks.md)")
    samples, style = _whole(options, "samples", 1), options.get("style", "completion")
    if style not in ("completion", "chat"):
        raise ConfigError(f"there is no style {style!r}", "humaneval", "use completion or chat")
    temperature = _number(options, "temperature", 0.8 if samples > 1 else 0.0)

    def ask(item: Item, shots: Sequence[Item]) -> list[Generate]:
        if style == "completion":
            return [
                Generate(item.data["prompt"], _LONGEST, _STOPS, temperature, 0.95, number)
                for number in range(samples)
            ]
        asked = (Message("user", f"{_REQUEST}{item.data['prompt'].rstrip()}\n```"),)
        return [Generate(asked, _LONGEST, (), temperature, 0.95, number) for number in range(samples)]

    def score(items: Sequence[Item], answers: Sequence[Sequence[Answer]]) -> list[Scored]:
        replies = [[_text(answer) for answer in found] for found in answers]
        programs = [
            program(item, reply) for item, found in zip(items, replies, strict=True) for reply in found
        ]
        outcomes = iter(run_programs(programs, filtered=allowed == "yes"))
        scored = []
        for item, found in zip(items, replies, strict=True):
            ended = [next(outcomes) for _ in found]
            right = sum(outcome.passed for outcome in ended)
            figures = {f"pass@{k}": pass_at_k(len(ended), right, k) for k in _KS if k <= len(ended)}
            shown = {"prompt": item.data["prompt"], "reply": found[0], "gold": item.data["solution"]}
            scored.append(Scored(figures, {**shown, "outcome": ended[0].reason}))
        return scored

    return Task(
        name="humaneval",
        version=1,
        files=("HumanEval.jsonl", "humaneval*.jsonl", "[Hh]uman*[Ee]val*.parquet"),
        read=_read,
        ask=ask,
        score=score,
        metrics=tuple(Metric(f"pass@{k}") for k in _KS if k <= samples),
        hub=("openai/openai_humaneval:openai_humaneval/test-00000-of-00001.parquet",),
        source="Chen et al. 2021, arXiv:2107.03374",
        options=("run_code", "samples", "temperature", "style"),
    )


def _whole(options: Options, name: str, default: int) -> int:
    value = options.get(name, str(default))
    if not value.isdecimal() or int(value) < 1:
        raise ConfigError(f"{name} is {value!r}", "humaneval", "give a whole number of at least 1")
    return int(value)


def _number(options: Options, name: str, default: float) -> float:
    value = options.get(name, str(default))
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 10:
        raise ConfigError(f"{name} is {value!r}", "humaneval", "give a number from 0 to 10")
    return number


def _read(paths: list[Path]) -> list[Item]:
    items = []
    for path in paths:
        for place, row in rows(path):
            data = {key: text_of(row, key, place) for key in ("prompt", "entry_point", "test")}
            data["solution"] = text_of(row, "canonical_solution", place)
            items.append(Item(text_of(row, "task_id", place), data))
    return items


def _text(answer: Answer) -> str:
    assert isinstance(answer, Generated)
    return answer.text


def program(item: Item, reply: str) -> str:
    """The whole program: the prompt and what goes on from it, or the function that the reply has in a block
    of code (with the prompt's imports before it), then the tests."""
    prompt, entry = item.data["prompt"], item.data["entry_point"]
    fenced = _FENCED.search(reply)
    code = fenced[1] if fenced else reply
    if re.search(rf"^def {re.escape(entry)}\b", code, re.MULTILINE):
        before = prompt[: _start(prompt, entry)]
        code = f"{before}\n{code}"
    else:
        code = prompt + code
    return f"{code}\n{item.data['test']}\ncheck({entry})\n"


def _start(prompt: str, entry: str) -> int:
    found = re.search(rf"^def {re.escape(entry)}\b", prompt, re.MULTILINE)
    return found.start() if found else 0
