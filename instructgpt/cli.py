"""The `instructgpt` command: verb -> module, configuration class and function; imported when called.

Exit codes: 0 done, 2 a mistake that the user can mend (one paragraph on stderr), 130 interrupted.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from instructgpt import __version__
from instructgpt.errors import ConfigError, InstructGPTError, Interrupted
from instructgpt.runtime.signals import deferred_interrupts


class Verb(NamedTuple):
    """Where a verb lives: `function(config)` in `module`, where `config` is a `config_class`."""

    module: str
    config_class: str
    function: str
    help: str


VERBS: dict[str, Verb] = {
    "demo": Verb("pipeline", "DemoConfig", "demo", "the whole recipe on the built-in practice world"),
    "run": Verb(
        "pipeline", "RunConfig", "run", "run the stages of a TOML file in order, skipping finished ones"
    ),
    "tokenizer": Verb("pretrain.tokenizer", "TokenizerConfig", "train", "train a byte-level BPE tokenizer"),
    "pretrain": Verb(
        "pretrain.train", "PretrainConfig", "train", "train a language model from scratch on text"
    ),
    "sft": Verb("sft.train", "SFTConfig", "train", "instruction tuning on demonstrations"),
    "reward": Verb("reward_model.train", "RewardConfig", "train", "train a reward model on rankings"),
    "ppo": Verb("rlhf.train", "PPOConfig", "train", "PPO with the pretraining mix (PPO-ptx)"),
    "a2c": Verb("comparators.a2c", "A2CConfig", "train", "advantage actor-critic: PPO's one-step form"),
    "rloo": Verb(
        "comparators.rloo", "RLOOConfig", "train", "REINFORCE leave-one-out: no value network, no clipping"
    ),
    "grpo": Verb(
        "comparators.grpo", "GRPOConfig", "train", "group-relative policy optimisation: no value network"
    ),
    "dpo": Verb("comparators.dpo", "DPOConfig", "train", "rankings teach the policy without a reward model"),
    "distill": Verb(
        "comparators.distill", "DistillConfig", "train", "SFT on the best of n replies by the reward"
    ),
    "best-of-n": Verb(
        "evaluation.best_of_n", "BestOfNConfig", "run", "sample n replies, keep the best by reward"
    ),
    "sweep": Verb(
        "evaluation.sweep",
        "SweepConfig",
        "run",
        "the alignment-tax dial: PPO-ptx over coefficients and betas",
    ),
    "generate": Verb(
        "generation.run", "GenerateConfig", "run", "answer prompts from a file or the command line"
    ),
    "chat": Verb("generation.chat", "ChatConfig", "run", "talk to a model in the terminal"),
    "serve": Verb("serving.run", "ServeConfig", "run", "serve models behind the OpenAI wire format"),
    "data": Verb(
        "serving.export", "DataConfig", "run", "make training data of what users said: data feedback"
    ),
    "keys": Verb("serving.keys", "KeysConfig", "run", "API keys of `serve`: make, list, revoke"),
    "label": Verb(
        "labelling.app.run", "LabelConfig", "run", "collect demonstrations and rankings in the browser"
    ),
    "eval": Verb(
        "evaluation.verb", "EvalConfig", "run", "tasks with intervals, win rates of models, loss on text"
    ),
    "preference": Verb(
        "evaluation.preference.run",
        "PreferenceConfig",
        "run",
        "win rates and ratings by people's votes or a judge, with intervals",
    ),
    "power": Verb("evaluation.preference.power", "PowerConfig", "run", "how many prompts a comparison needs"),
    "convert": Verb(
        "conversion.convert",
        "ConvertConfig",
        "convert",
        "read and write GGUF and Hugging Face, mix two models, push to the Hub",
    ),
    "doctor": Verb(
        "doctor.run", "DoctorConfig", "run", "what is installed; --certify: PPO against a known optimum"
    ),
}


def _help() -> str:
    width = max(len(verb) for verb in VERBS)
    lines = [f"  {verb:<{width}}  {entry.help}" for verb, entry in VERBS.items()]
    return "\n".join(
        [
            f"instructgpt {__version__}: the InstructGPT recipe, complete",
            "",
            "usage: instructgpt VERB [--preset NAME] [--config FILE.toml] [--flag value ...] [--json]",
            "       instructgpt run FILE.toml | --preset NAME [--flag value ...] [--json]",
            "",
            *lines,
            "",
            "`instructgpt VERB --help` lists a verb's flags. --preset and --config read flags from a file.",
            "--json prints the summary alone on stdout.",
        ]
    )


def _load(verb: str) -> tuple[type[Any], Callable[[Any], dict[str, Any]]]:
    entry = VERBS[verb]
    module = import_module(f"instructgpt.{entry.module}")
    return getattr(module, entry.config_class), getattr(module, entry.function)


def _dispatch(argv: list[str]) -> None:
    from instructgpt.config import near, parse

    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_help())
        return
    if argv[0] in ("-V", "--version"):
        print(__version__)
        return
    verb, rest = argv[0], argv[1:]
    if verb not in VERBS:
        raise ConfigError(f"unknown verb {verb!r}", "instructgpt", near(verb, list(VERBS)))
    as_json = "--json" in rest
    rest = [argument for argument in rest if argument != "--json"]
    with deferred_interrupts():
        config_class, function = _load(verb)
        config = parse(config_class, rest, verb)
    # With --json the summary stands alone on stdout: a chat, or what a user's reward prints, goes to stderr.
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        summary = function(config)
    if os.environ.get("RANK", "0") != "0":  # of the processes that torchrun starts one speaks
        return
    if as_json:
        print(json.dumps(summary, ensure_ascii=False))
    else:
        _show(summary)


def _show(summary: dict[str, Any]) -> None:
    """The summary as `key value` lines; a `table` entry (text) is printed as it is."""
    if table := summary.get("table"):
        print(table)
    for key, value in summary.items():
        if isinstance(value, float):
            print(f"{key:<24} {value:.6g}")
        elif isinstance(value, str | int) and key != "table":
            print(f"{key:<24} {value}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Read by OpenMP when torch loads: idle threads spin for some microseconds, then sleep. Spinning on, as is
    # the default, brings two jobs on the same cores to a standstill (15,600 tokens/s of pretraining alone,
    # 170 beside another job); sleeping at once halves the speed of small models (8,000 against 18,900).
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    # Read by oneDNN: it keeps the code of so many products, each shape another. With the usual 1,024 the
    # demo's PPO, whose batches have ever new shapes, takes 300 MiB more in six rounds than with 32, in the
    # same time. A server goes through some hundred shapes over and over, as replies come and go: with 64 of
    # them kept it made code anew all the time, and its products took twice as long.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "1024" if arguments[:1] == ["serve"] else "64")
    try:
        _dispatch(arguments)
    except InstructGPTError as error:
        print(f"instructgpt: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        # CPython ends a process by SIGINT, whatever its exit code, when the interrupt went through an exec()
        # of text, as in torch's late imports; the next such exec() clears that mark.
        exec("")
        stop = Interrupted("interrupted", cure="run the same command again; it goes on from what was saved")
        print(f"instructgpt: {stop}", file=sys.stderr)
        return stop.exit_code
    except BrokenPipeError:
        return 0
    return 0
