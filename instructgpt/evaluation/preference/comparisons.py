"""Comparisons of two models' replies to one prompt: read from people's votes, or made by a judge of replies.

| line | from |
|---|---|
| `{"prompt", "responses": [{"text", "rank", "model"}, ...], "labeler"}` | the labelling app's export |
| `{"prompt", "model_a", "model_b", "winner": "model_a"}` (or `model_b`, `tie`), `judge`? | Chatbot Arena |
| `{"prompt", "model_a", "model_b", "preference": "a-is-better"}`, `annotator`? | open-instruct |
| `{"prompt", "response"}`, a file a model | replies that are still to be judged |
| `{"id", "prompt", "replies": {NAME: {"text"}}}` | `samples.jsonl` of `instructgpt eval`, to be judged |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from instructgpt.data.jsonl import expand, read_jsonl
from instructgpt.data.records import Prompt, content_id, read_demonstrations, read_prompts, read_rankings
from instructgpt.errors import ConfigError, DataError

_EXAMPLE = '{"prompt": "Name a river.", "model_a": "sft", "model_b": "ppo", "winner": "model_b"}'
_WINNERS = {
    "model_a": 1.0, "model_b": 0.0, "a": 1.0, "b": 0.0, "tie": 0.5, "tie (bothbad)": 0.5, "bothbad": 0.5,
    "both_bad": 0.5, "a-is-better": 1.0, "a-is-slightly-better": 1.0, "b-is-better": 0.0,
    "b-is-slightly-better": 0.0,
}  # fmt: skip
_SHOWN = 3


@dataclass(frozen=True)
class Comparison:
    """One vote on two models' replies to one prompt."""

    prompt: str
    """Id of the prompt: what belongs to one prompt is not independent."""
    first: str
    second: str
    """The two models."""
    outcome: float
    """1 if the first one's reply is better, 0 if the second one's, 0.5 for a tie."""
    judge: str = ""
    """Who said so: a labeler's pseudonym; empty if unknown."""
    lengths: tuple[int, int] | None = None
    """Of the two replies, in characters; None if the texts are not known."""

    def of(self, model: str) -> float:
        """The outcome from this model's side."""
        return self.outcome if model == self.first else 1.0 - self.outcome


# -- votes


def read_comparisons(path: str | Path) -> list[Comparison]:
    """Votes of .jsonl files in any of the shapes of the module's table that hold votes.

    Every pair of replies of one ranking by different models is a comparison.

    Raises:
        DataError: a line is none of these, a ranked reply doesn't say its model, or there is no comparison.
    """
    found: list[Comparison] = []
    for file in expand(path):
        first = next(iter(read_jsonl(file, _EXAMPLE)))[1]
        found += _votes(file) if "model_a" in first else _ranked(file)
    if not found:
        raise DataError(
            "no two replies of different models were compared",
            str(path),
            "export comparisons or rankings of replies by two or more models",
        )
    return found


def _ranked(file: Path) -> list[Comparison]:
    found = []
    for number, ranking in enumerate(read_rankings(file), start=1):
        for reply in ranking.responses:
            if not reply.model:
                raise DataError(
                    f"the reply that starts {reply.text[:40]!r} doesn't say which model it is of",
                    f"{file}, record {number}, prompt {ranking.prompt.id}",
                    'add "model" to each of its responses: the labelling app does where the task was made '
                    "with the model's name",
                )
        for one, other in combinations(ranking.responses, 2):
            if one.model != other.model and one.model and other.model:
                outcome = 1.0 if one.rank < other.rank else 0.0 if one.rank > other.rank else 0.5
                lengths = (len(one.text), len(other.text))
                found.append(
                    Comparison(
                        ranking.prompt.id, one.model, other.model, outcome, ranking.labeler or "", lengths
                    )
                )
    return found


def _votes(file: Path) -> list[Comparison]:
    found = []
    for where, row in read_jsonl(file, _EXAMPLE):
        first, second = (_name(row, key, where) for key in ("model_a", "model_b"))
        said = row.get("winner", row.get("preference"))
        if not isinstance(said, str) or said not in _WINNERS:
            raise DataError(
                f"'winner' is {said!r}, none of model_a, model_b, tie", where, f"write a line like {_EXAMPLE}"
            )
        if first == second:
            raise DataError(f"{first} is compared with itself", where, "leave the line out")
        one, other = row.get("completion_a"), row.get("completion_b")
        lengths = (len(one), len(other)) if isinstance(one, str) and isinstance(other, str) else None
        prompt = row.get("prompt", row.get("question_id", row.get("conversation_a")))
        if prompt is None:
            raise DataError("the comparison has no 'prompt'", where, f"write a line like {_EXAMPLE}")
        judge = str(row.get("judge") or row.get("annotator") or row.get("labeler") or "")
        identity = content_id(str(prompt))
        found.append(Comparison(identity, first, second, _WINNERS[said], judge, lengths))
    return found


def _name(row: Mapping[str, Any], key: str, where: str) -> str:
    name = row.get(key)
    if not isinstance(name, str) or not name:
        raise DataError(f"the comparison has no {key!r}", where, f"write a line like {_EXAMPLE}")
    return name


# -- replies to be judged


@dataclass(frozen=True)
class Replies:
    """Replies of several models to the same prompts, row by row."""

    prompts: tuple[Prompt, ...]
    texts: Mapping[str, tuple[str, ...]]
    """Model -> one reply a prompt."""


def read_replies(spec: str) -> Replies:
    """Replies of models to the same prompts.

    Args:
        spec: `NAME=FILE,NAME=FILE`, each of demonstrations, or one `samples.jsonl` of `instructgpt eval`.

    Raises:
        ConfigError: the flag can't be read. DataError: a file can't, or a prompt that one model answered
            has no reply of another, or two.
    """
    parts = [part.strip() for part in spec.split(",") if part.strip()]
    if len(parts) == 1 and "=" not in parts[0]:
        return _samples(Path(parts[0]))
    models: dict[str, dict[str, tuple[Prompt, str]]] = {}
    for part in parts:
        name, equals, file = part.partition("=")
        if not equals or not name or name in models:
            what = (
                f"{part!r} does not name a model and its file" if not equals else f"{name!r} is there twice"
            )
            raise ConfigError(what, "--replies", "write NAME=FILE with commas between, each name once")
        models[name] = _by_prompt(name, file)
    return _matched(models)


def _by_prompt(name: str, file: str) -> dict[str, tuple[Prompt, str]]:
    found: dict[str, tuple[Prompt, str]] = {}
    for row in read_demonstrations(file):
        if row.prompt.id in found:
            raise DataError(
                f"{name} answers the prompt {row.prompt.id} twice",
                file,
                "give one reply a prompt, or prompts an 'id' of their own",
            )
        found[row.prompt.id] = (row.prompt, row.response)
    return found


def _samples(file: Path) -> Replies:
    models: dict[str, dict[str, tuple[Prompt, str]]] = {}
    prompts = read_prompts(file)
    rows = read_jsonl(file, '{"id": "p1", "prompt": "Name a river.", "replies": {"sft": {"text": "..."}}}')
    for prompt, (where, row) in zip(prompts, rows, strict=True):
        replies = row.get("replies")
        if not isinstance(replies, dict) or not replies:
            raise DataError(
                "the line has no 'replies' by model", where, "give samples.jsonl of eval, or NAME=FILE,..."
            )
        for name, reply in replies.items():
            text = reply.get("text") if isinstance(reply, dict) else reply
            if not isinstance(text, str):
                raise DataError(f"the reply of {name} has no 'text'", where, "write the reply's text")
            models.setdefault(name, {})[prompt.id] = (prompt, text)
    return _matched(models)


def _matched(models: Mapping[str, Mapping[str, tuple[Prompt, str]]]) -> Replies:
    """
    Raises:
        DataError: naming the rows that are not matched (field fault 47).
    """
    if len(models) < 2:
        raise ConfigError(
            "there is only one model, and nothing to compare it with", "--replies", "name two or more"
        )
    everyone = {identity: row[0] for rows in models.values() for identity, row in rows.items()}
    for name, rows in models.items():
        missing = [identity for identity in everyone if identity not in rows]
        if missing:
            shown = ", ".join(f"{one} ({everyone[one].text[:40]!r})" for one in missing[:_SHOWN])
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            raise DataError(
                f"{name} has no reply to {len(missing)} of {len(everyone)} prompts: {shown}{more}",
                "--replies",
                "let all models answer the same prompts, with the same ids if they carry ids",
            )
    texts = {name: tuple(rows[identity][1] for identity in everyone) for name, rows in models.items()}
    return Replies(tuple(everyone.values()), texts)


def names(comparisons: Sequence[Comparison]) -> list[str]:
    """The models, in the order in which they first appear."""
    return list(dict.fromkeys(name for one in comparisons for name in (one.first, one.second)))
