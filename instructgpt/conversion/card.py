"""A model card (README.md) for the Hub, written from a run's own facts: what they don't say, it says so."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from instructgpt import __version__
from instructgpt.conversion.facts import Facts, Measure, Step

_URL = re.compile(r"(\w+://)(?:[^/@\s]*@)?([^\s,?#]*)[^\s,]*")
# The folders above a file, where the path begins at the root of a disk or at home.
_FOLDERS = re.compile(r"(?<![\w./\\])(?:[A-Za-z]:)?(?!//)[~/\\](?:[^,:*+/\\]+[/\\])*")

_KINDS = {
    "pretrain": "A base language model, trained from scratch.",
    "sft": "A language model after supervised fine-tuning on demonstrations.",
    "reward": "A reward model: it scores a reply to a prompt, trained on rankings of replies.",
    "ppo": "A language model after reinforcement learning with PPO against a reward model.",
    "convert": "A language model, converted or mixed from others.",
}
_UNITS = {
    "utility": "hidden utility of the practice world, 0 to 1",
    "reward": "by the reward that training followed",
    "score": "by the judge of the evaluation",
    "kl": "nats per reply against the model that training started from",
    "pretrain_loss": "nats per token, held-out pretraining text",
    "text_loss": "nats per token, held-out text",
    "validation_loss": "nats, held-out data",
    "loss": "nats, training data",
    "accuracy": "share of held-out comparisons",
    "longer_wins": "the same, if the longer reply wins",
    "shorter_wins": "the same, if the shorter reply wins",
    "bag_of_words": "the same, by a bag of words",
    "length": "tokens per reply",
    "eos_rate": "share of replies that ended by themselves",
}
_DATA = ("data", "validation", "demonstrations", "pretrain_data", "pretrain", "prompts", "rankings")
_SHOWN = ("alpha", "steps", "epochs", "iterations", "batch", "lr", "beta", "ptx_coef", "seed", "type")


def public(value: Any) -> Any:
    """A JSON value without what is this machine's: folders above a file, users and queries of URLs."""
    if isinstance(value, Mapping):
        return {key: public(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [public(inside) for inside in value]
    if isinstance(value, str):
        return _FOLDERS.sub("", _URL.sub(r"\1\2", value))
    return value


def card(facts: Facts, repository: str, licence: str) -> str:
    """The card's Markdown with the Hub's metadata at its head.

    Args:
        repository: OWNER/NAME, for the title and the example.
        licence: as the Hub writes it; empty = the card says that none was named.
    """
    name = repository.rpartition("/")[2]
    parts = [
        _metadata(facts, licence),
        f"# {name}",
        _what(facts),
        _use(facts, repository),
        _lineage(facts.steps),
        _data(facts.steps),
        _measured(facts.measures),
        _licence(licence),
        f"Written by instructgpt {__version__} from the files of the run. Hash of the model: `{facts.hash}`.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _scalar(facts: Facts) -> bool:
    architectures = facts.model.get("architectures") or [""]
    return str(architectures[0]).endswith("ForSequenceClassification")


def _metadata(facts: Facts, licence: str) -> str:
    from huggingface_hub import ModelCardData

    tags = ["instructgpt", "rlhf", *([facts.verb] if facts.verb in _KINDS else [])]
    data = ModelCardData(
        license=licence or None,
        library_name="transformers" if facts.model else "gguf",
        pipeline_tag="text-classification" if _scalar(facts) else "text-generation",
        tags=tags,
    )
    return f"---\n{data.to_yaml()}\n---"


def _what(facts: Facts) -> str:
    kind = _KINDS.get(facts.verb, "Nothing beside the model says what made it.")
    if facts.verb == "convert" and "alpha" in facts.steps[-1].config:
        kind = "Weights between those of two models: (1 - alpha) first + alpha second, weight by weight."
    if not facts.model:
        return kind
    size = f"{facts.parameters:,} parameters" if facts.parameters else ""
    keys = ("max_position_embeddings", "n_positions")
    context = next((facts.model[key] for key in keys if key in facts.model), None)
    details = [
        str(facts.model.get("model_type", "")),
        size,
        f"context {context} tokens" if context else "",
        f"vocabulary {facts.model.get('vocab_size')}",
    ]
    return f"{kind} {', '.join(part for part in details if part)}."


def _use(facts: Facts, repository: str) -> str:
    if not facts.model:
        return f"## Use\n\nA GGUF file for llama.cpp and what is built on it: `llama-cli -hf {repository}`."
    kind = "AutoModelForSequenceClassification" if _scalar(facts) else "AutoModelForCausalLM"
    lines = [
        "## Use",
        "",
        "```python",
        f"from transformers import {kind}, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{repository}")',
        f'model = {kind}.from_pretrained("{repository}")',
        "```",
    ]
    if _scalar(facts):
        bias = facts.model.get("reward_bias", 0.0)
        lines += ["", f"The reward is the model's one label less `reward_bias`, {bias:.6g} (config.json)."]
    return "\n".join(lines)


def _lineage(steps: Sequence[Step]) -> str:
    if not steps:
        return "## How it was made\n\nUnknown: no stage.json is beside the model."
    lines = [
        "## How it was made",
        "",
        "| stage | verb | settings | hash of what it made |",
        "|---|---|---|---|",
    ]
    for step in steps:
        settings = ", ".join(
            f"{key} {step.config[key]:g}"
            if isinstance(step.config[key], float)
            else f"{key} {step.config[key]}"
            for key in _SHOWN
            if step.config.get(key) not in (None, "")
        )
        lines.append(f"| {step.name} | {step.verb} | {settings or '–'} | `{step.hash or 'unknown'}` |")
    return "\n".join([*lines, "", "All settings of the last stage are in stage.json."])


def _data(steps: Sequence[Step]) -> str:
    rows: dict[str, str] = {}
    for step in steps:
        for key in _DATA:
            made, path = step.inputs.get(key), step.config.get(key)
            if made and path:
                rows.setdefault(f"{made} {step.name}", f"| {step.name} | {key} | {public(path)} | `{made}` |")
    if not rows:
        return ""
    return "\n".join(["## Data", "", "| stage | as | file | hash |", "|---|---|---|---|", *rows.values()])


def _measured(measures: Mapping[str, Sequence[Measure]]) -> str:
    lines = ["## Measured", ""]
    for name, found in measures.items():
        rows = [_row(row) for row in found if row.name in _UNITS or "_over_" in row.name]
        if rows:
            head = ["| | value | 95 % interval | unit |", "|---|---|---|---|"]
            lines += [f"By the stage `{name}`:", "", *head, *rows, ""]
    if len(lines) == 2:
        lines.append("Nothing, or the results are not beside the model.")
        return "\n".join(lines)
    lines.append("What is not in a table was not measured, toxicity, bias and truthfulness among it.")
    return "\n".join(lines)


def _row(row: Measure) -> str:
    ends = "–" if row.low is None or row.high is None else f"{row.low:.4g} to {row.high:.4g}"
    unit = _UNITS.get(row.name, "share of prompts won, ties half")
    return f"| {row.name.replace('_', ' ')} | {row.value:.4g} | {ends} | {unit} |"


def _licence(licence: str) -> str:
    if licence:
        return f"## Licence\n\n{licence}. The licences of the data and of the model it started from hold too."
    return (
        "## Licence\n\nNone was named when this model was uploaded. Without one nobody has the right to use "
        "it: ask its owner."
    )
