"""`python -m benchmarks.generate`: sampled tokens a second, transformers or llama.cpp and ours in turn.

Prompts of 64 tokens, replies of up to 128. Where each reply stops is drawn beforehand (geometric, mean 60)
and the same for everyone: random models do not stop by themselves. Nobody knows it in advance. Tokens up to
the stops count, the reading of the prompts is in the time. Temperature 1, the whole vocabulary.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.inputs import SIZES, gguf_file, model_folder, tokens
from benchmarks.turn import Turn, repeat
from benchmarks.turns import Contender, Floor, Race, main

PROMPT, MOST, MEAN = 64, 128, 60
SINGLE = 4
"""Prompts of a batch of one, one after another."""

Group = list[tuple[list[int], int]]
"""(prompt, where its reply stops)."""


def groups(size: str, batch: int) -> list[Group]:
    """What is asked together."""
    count = max(batch, SINGLE)
    stops = np.minimum(np.random.default_rng(7).geometric(1 / MEAN, count), MOST)
    asked = [(tokens(size, PROMPT, 1000 + number), int(stop)) for number, stop in enumerate(stops)]
    return [asked[start : start + batch] for start in range(0, count, batch)]


def measured(size: str, batch: int, answer: Callable[[Group], None], bytes_read: float, **facts: Any) -> Turn:
    """`answer` asked for every group, again and again.

    Args:
        bytes_read: that a step has to read of the weights; for a batch of one it is what a token costs.
    """
    asked = groups(size, batch)

    def work() -> float:
        for group in asked:
            answer(group)
        return sum(stop for group in asked for _, stop in group)

    flops = 2.0 * SIZES[size].products
    return Turn(repeat(work), flops, bytes_read if batch == 1 else 0.0, {"batch": batch, **facts})


def transformers(size: str, batch: int, dtype: str) -> Turn:
    """`generate` with a criterion that ends each row where it stops."""
    import torch
    from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList

    model = AutoModelForCausalLM.from_pretrained(model_folder(size), dtype=getattr(torch, dtype)).eval()

    class At(StoppingCriteria):  # type: ignore[misc, valid-type, unused-ignore]
        def __init__(self, stops: Sequence[int]) -> None:
            self._stops = torch.tensor(stops)

        def __call__(self, ids: Any, scores: Any, **_: Any) -> Any:
            return ids.shape[1] - PROMPT >= self._stops

    @torch.inference_mode()
    def answer(group: Group) -> None:
        ids = torch.tensor([prompt for prompt, _ in group])
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            stopping_criteria=StoppingCriteriaList([At([stop for _, stop in group])]),
            do_sample=True,
            top_k=0,
            temperature=1.0,
            max_new_tokens=MOST,
            pad_token_id=0,
            eos_token_id=None,
        )

    return measured(size, batch, answer, _bytes(size, 4 if dtype == "float32" else 2), dtype=dtype)


def llama_cpp(size: str) -> Turn:
    """llama.cpp's own server in this process, asked over a socket; weights as the package has them."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(gguf_file())
    settings.n_ctx, settings.n_parallel, settings.port = 512, 1, 0
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 2
    server = xllamacpp.Server(settings)
    plain = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "samplers": ["temperature"]}
    fixed = {"ignore_eos": True, "cache_prompt": False, "return_tokens": True, **plain}

    def answer(group: Group) -> None:
        for prompt, stop in group:
            body = json.dumps({"prompt": prompt, "n_predict": stop, **fixed}).encode()
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{server.listening_address}/completion", body, headers)
            with urllib.request.urlopen(request, timeout=300) as reply:
                drawn = len(json.load(reply)["tokens"])
            assert drawn == stop, f"asked for {stop} tokens, {drawn} came"

    return measured(size, 1, answer, gguf_file().stat().st_size, dtype="Q4_1")


def ours(size: str, batch: int, dtype: str, weights: str = "") -> Turn:
    """The engine of `generate`, `chat` and `serve`; a reply is cancelled where it stops."""
    from instructgpt.generation.engine import Engine, Request
    from instructgpt.generation.loading import open_model
    from instructgpt.runtime.device import pick_dtype, tune_malloc

    tune_malloc()
    model, _ = open_model(model_folder(size), dtype=pick_dtype(dtype), weights=weights or "full")

    def answer(group: Group) -> None:
        engine = Engine(model, len(group), PROMPT + MOST, want_tokens=True)
        left = {engine.submit(Request(tuple(ids), n, MOST)): stop for n, (ids, stop) in enumerate(group)}
        while engine.busy:
            for number, _ in engine.step().tokens:
                left[number] -= 1
                if not left[number]:
                    engine.cancel(number)

    size_of = {"": 4.0 if dtype == "float32" else 2.0, "int8": 1.0, "int4": 0.625}[weights]
    facts = {"dtype": dtype, "weights": weights or dtype}
    return measured(size, batch, answer, _bytes(size, size_of), **facts)


def _bytes(size: str, each: float) -> float:
    return SIZES[size].products * each


def races() -> list[Race]:
    """The workloads and their floors."""
    theirs = {name: partial(transformers, dtype=name) for name in ("float32", "bfloat16")}
    many = Race(
        "M-32",
        "Generation, model M, 32 prompts at a time",
        "tokens/s",
        [
            Contender("transformers float32", partial(theirs["float32"], "M", 32), peer="transformers"),
            Contender("transformers bfloat16", partial(theirs["bfloat16"], "M", 32), peer="transformers"),
            Contender("ours float32", partial(ours, "M", 32, "float32")),
            Contender("ours bfloat16", partial(ours, "M", 32, "bfloat16")),
        ],
        [
            Floor("ours bfloat16", 4.5, against="transformers float32"),
            Floor("ours bfloat16", 3.0, against="transformers bfloat16"),
        ],
        sizes=["M"],
    )
    one = Race(
        "L-1",
        "Generation, model L, one prompt at a time",
        "tokens/s",
        [
            Contender("transformers bfloat16", partial(theirs["bfloat16"], "L", 1), peer="transformers"),
            Contender("ours bfloat16", partial(ours, "L", 1, "bfloat16")),
        ],
        [Floor("ours bfloat16", 2.0, against="transformers bfloat16")],
        sizes=["L"],
    )
    small = Race(
        "L-1-quantised",
        "Generation, model L, one prompt at a time, weights of 4 or 8 bits",
        "tokens/s",
        [
            Contender("llama.cpp Q4_1", partial(llama_cpp, "L"), peer="llama.cpp"),
            Contender("ours int8", partial(ours, "L", 1, "bfloat16", "int8")),
            Contender("ours int4", partial(ours, "L", 1, "bfloat16", "int4")),
        ],
        [Floor("ours int8", 0.8, against="llama.cpp Q4_1")],
        sizes=["L"],
    )
    return [many, one, small]


if __name__ == "__main__":
    raise SystemExit(main("generate", "Generation, measured", races()))
