"""Verb `generate`: replies to prompts from a file or from the command line."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction

from instructgpt.data.jsonl import expand
from instructgpt.data.records import Demonstration, Prompt, read_prompts, to_row
from instructgpt.errors import ConfigError
from instructgpt.generation.engine import MAX_ACTIVE
from instructgpt.generation.loading import open_model
from instructgpt.generation.lookup import check_lookup
from instructgpt.generation.reply import Reply, reply_requests, sample_replies
from instructgpt.generation.spool import Spool
from instructgpt.generation.task_prompts import (
    fit_task_prompts,
    read_task_prompts,
    task_file_inputs,
    task_table,
)
from instructgpt.model.heads import LanguageModel
from instructgpt.runtime.checkpoint import Run, open_run
from instructgpt.runtime.device import pick_device, pick_dtype, tune_malloc
from instructgpt.text.chat import Message
from instructgpt.text.tokenizer import Tokenizer

FILE = "replies.jsonl"
_PORTION_ROUNDS = 2
"""Replies written at a time, in units of the rows of one decode step."""


@dataclass(frozen=True)
class GenerateConfig:
    """Answer prompts, or do a task with a text, with a language model."""

    file: Positional[str] = ""
    """For --task: the text to work on, a JSONL file of fields, a glob of either, or - for standard input."""
    model: str = ""
    """Checkpoint, or the folder of a finished stage."""
    prompt: str = ""
    """One prompt, given on the command line."""
    prompts: str = ""
    """Prompts: a JSONL file, a glob, or several with commas."""
    system: str = ""
    """System message put before every prompt that has none."""
    task: str = ""
    """A task template, such as summarize or translate; see --list-tasks."""
    field: Annotated[tuple[str, ...], UseAppendAction] = ()
    """A field of the task as name=value, or name=@FILE for a file's text; may be given several times."""
    language: Literal["en", "zh"] = "en"
    """Of the task's instructions; the text may be in any language."""
    truncate: bool = False
    """Cut the end of a task's text that is too long for the model, instead of refusing it."""
    list_tasks: bool = False
    """Only list the tasks with their fields (optional ones in brackets)."""
    out: str = ""
    """Run folder for replies.jsonl and summary.json; without it the replies are printed."""
    n: int = 1
    """Replies to each prompt."""
    max_new: int = 256
    """Largest length of a reply in tokens."""
    temperature: float = 1.0
    """0 takes the most probable token every time."""
    top_k: int = 0
    """Sample from the k most probable tokens only; 0 = from all."""
    top_p: float = 1.0
    """Sample from the most probable tokens that hold this mass together; 1 = from all."""
    seed: int = 0
    """Decides every reply, with the prompt's id and the number of the sample."""
    max_active: int = MAX_ACTIVE
    """Replies drawn at the same time: bounds memory, changes no reply."""
    lookup: int = 0
    """Guess up to so many tokens ahead from what the text holds already, while few replies are drawn: faster
    where replies repeat their prompts, changes no reply. 0 = no guessing."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the model."""
    weights: Literal["full", "int8", "int4"] = "full"
    """How the model's matrices are stored: as they are, or rounded to 8 or 4 bits: smaller, and for few
    replies at a time faster."""

    def __post_init__(self) -> None:
        for name in ("n", "max_active"):
            if getattr(self, name) < 1:
                flag = "--" + name.replace("_", "-")
                raise ConfigError(f"{name} is {getattr(self, name)}", flag, "use at least 1")
        check_lookup(self.lookup)


def run(config: GenerateConfig) -> dict[str, Any]:
    """Draw the replies; returns the summary.

    With `out`: a line for each reply in replies.jsonl (a demonstration, with `sample`, `tokens`, `stopped`
    and `logprob` in nats), written portion by portion; the same command goes on where it was stopped.
    Summary: `prompts`, `replies`, `length` (mean, tokens), `eos_rate`, `tokens_per_second`, `file`. Without
    `out`: the lines themselves under `rows`.

    Raises:
        ConfigError, DataError, CheckpointError, StorageError: see flags, prompts, model, disk.
        Interrupted: Ctrl-C; the replies so far are saved.
    """
    if config.list_tasks:
        return {"verb": "generate", "table": task_table(config.language)}
    prompts = _prompts(config)
    tune_malloc()
    if not config.out:
        model, tokenizer = open_model(
            config.model, pick_device(config.device), pick_dtype(config.dtype), config.weights
        )
        prompts = _check(model, tokenizer, prompts, config)
        rows = _answer(model, tokenizer, prompts, config)
        shown = [
            f"> {p.text}\n{row['response']}" for row, p in zip(rows, _repeat(prompts, config.n), strict=True)
        ]
        return {"verb": "generate", "model": config.model, "rows": rows, "table": "\n\n".join(shown)}
    inputs = {
        "model": config.model,
        "prompts": ",".join(map(str, expand(config.prompts))) if config.prompts else "",
    }
    if config.task:
        inputs["file"] = task_file_inputs(config)
    with open_run(config.out, "generate", config, inputs) as opened:
        return opened.finished or _write(opened, config, prompts)


def _write(run: Run, config: GenerateConfig, prompts: Sequence[Prompt]) -> dict[str, Any]:
    model, tokenizer = open_model(
        config.model, pick_device(config.device), pick_dtype(config.dtype), config.weights
    )
    # Every prompt must fit before the first one is answered.
    prompts = _check(model, tokenizer, prompts, config)
    portion = max(1, _PORTION_ROUNDS * config.max_active // config.n)  # prompts
    spool = Spool(run.folder / FILE, portion * config.n)
    tokens, start = 0, time.monotonic()
    for step in run.steps(spool.done, -(-len(prompts) // portion)):
        rows = _answer(model, tokenizer, prompts[step * portion : (step + 1) * portion], config)
        spool.append(rows)
        tokens += sum(row["tokens"] for row in rows)
        run.log(step + 1, tokens_per_second=tokens / (time.monotonic() - start))
    rows = spool.rows()
    return run.finish(
        {
            "model": config.model,
            "prompts": len(prompts),
            "replies": len(rows),
            "length": sum(row["tokens"] for row in rows) / len(rows),
            "eos_rate": sum(row["stopped"] for row in rows) / len(rows),
            "tokens_per_second": tokens / max(time.monotonic() - start, 1e-9),
            "file": FILE,
        }
    )


def _prompts(config: GenerateConfig) -> list[Prompt]:
    if config.task:
        if given := [name for name in ("prompt", "prompts", "system") if getattr(config, name)]:
            flag = f"--{given[0]}"
            raise ConfigError(f"a task makes its own prompts; {flag} was given too", flag, "leave one out")
        if config.file == "-" and config.out:
            cure = "save the text in a file, so that the run can go on where it was stopped"
            raise ConfigError("a run folder can't be made from standard input", "--out", cure)
        return list(read_task_prompts(config))
    if config.file or config.field:
        where = "FILE" if config.file else "--field"
        raise ConfigError("nothing says what to do with it", where, "name a task: --task summarize")
    if bool(config.prompt) == bool(config.prompts):
        what = "both a prompt and a file of prompts were given" if config.prompt else "no prompt was given"
        raise ConfigError(what, "--prompt", 'give either --prompt "..." or --prompts FILE.jsonl')
    prompts = [Prompt.of(config.prompt)] if config.prompt else read_prompts(config.prompts)
    if not config.system:
        return prompts
    return [_with_system(prompt, config.system) for prompt in prompts]


def _with_system(prompt: Prompt, system: str) -> Prompt:
    if prompt.messages[0].role == "system":
        return prompt
    return Prompt(**{**vars(prompt), "messages": (Message("system", system), *prompt.messages)})


def _check(
    model: LanguageModel, tokenizer: Tokenizer, prompts: Sequence[Prompt], config: GenerateConfig
) -> list[Prompt]:
    """The prompts as they will be asked; raises what answering would raise, without answering."""
    if config.task:
        prompts = fit_task_prompts(config, prompts, tokenizer, model.config.context)
    reply_requests(
        model,
        tokenizer,
        prompts,
        1,
        config.max_new,
        config.temperature,
        config.seed,
        top_k=config.top_k,
        top_p=config.top_p,
        source=config.prompts or config.file or "--prompt",
    )
    return list(prompts)


def _answer(
    model: LanguageModel, tokenizer: Tokenizer, prompts: Sequence[Prompt], config: GenerateConfig
) -> list[dict[str, Any]]:
    """Rows of the file: the n replies to the first prompt, those to the second, ..."""
    replies = sample_replies(
        model,
        tokenizer,
        prompts,
        config.n,
        config.max_new,
        config.temperature,
        config.seed,
        top_k=config.top_k,
        top_p=config.top_p,
        max_active=config.max_active,
        lookup=config.lookup,
    )
    return [
        _row(prompt, sample, reply)
        for prompt, row in zip(prompts, replies, strict=True)
        for sample, reply in enumerate(row)
    ]


def _row(prompt: Prompt, sample: int, reply: Reply) -> dict[str, Any]:
    return to_row(Demonstration(prompt, reply.text)) | {
        "sample": sample,
        "tokens": len(reply.ids),
        "stopped": reply.stopped,
        "logprob": round(sum(reply.logprobs), 4),
    }


def _repeat(prompts: Sequence[Prompt], n: int) -> list[Prompt]:
    return [prompt for prompt in prompts for _ in range(n)]
