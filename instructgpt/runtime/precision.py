"""In which precision and on which kernels a run computes: measured at its first start, kept in its folder.

`choices.json` in the run folder holds what was chosen and why; a run that is resumed reads it, on whatever
machine, so that it goes on as it began.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from instructgpt.errors import CheckpointError
from instructgpt.model.heads import LanguageModel, ScalarModel
from instructgpt.model.linear import linear, route
from instructgpt.runtime.device import pick_dtype
from instructgpt.runtime.files import write_json

AUTO = "auto"

MEASURED_WIDTH = 256
"""Narrower models stay in float32 on oneDNN, and nothing is measured: calls cost them more than products, and
their runs compare across machines."""

WORTH_IT = 1.25
"""bfloat16 is chosen where its products are this many times as fast: the work between them gains nothing."""

_ROWS, _VOCABULARY = 256, 2048
"""Tokens in a measured product, and the most rows of a matrix: of more than these a slice is measured."""
_REPEATS = 3

Shape = tuple[int, int]  # (out, in)


@dataclass(frozen=True)
class Choices:
    """What a run computes with."""

    dtype: str
    """float32 or bfloat16: of the passes; weights, gradients and optimizer are float32."""
    own_product: tuple[Shape, ...]
    """Layers, (out, in), whose float32 product is PyTorch's own and not oneDNN's."""
    why: str
    """For people."""


def settle(folder: Path, asked: str, model: LanguageModel | ScalarModel) -> torch.dtype:
    """The precision that a run's passes are to have; its float32 layers are sent to the faster kernel.

    Args:
        folder: the run folder. What it records is taken; else it is measured, and recorded.
        asked: auto, float32 or bfloat16. The latter two are not measured against each other.
        model: whose shapes count, on the device where it will run.

    Raises:
        ConfigError: another name.
        CheckpointError: the record can't be read.
    """
    if asked != AUTO:
        pick_dtype(asked)
    path = folder / "choices.json"
    choices = _read(path) if path.exists() else None
    if choices is None:
        choices = choose(asked, model)
        own = [list(shape) for shape in choices.own_product]
        write_json(path, {"dtype": choices.dtype, "own_product": own, "why": choices.why})
    route(choices.own_product)
    return pick_dtype(choices.dtype)


def choose(asked: str, model: LanguageModel | ScalarModel) -> Choices:
    """Measure; takes about a second for a model of 100 million weights."""
    width, device = model.config.width, next(model.parameters()).device
    if width < MEASURED_WIDTH:
        dtype = "float32" if asked == AUTO else asked
        return Choices(dtype, (), f"nothing measured: width {width} is below {MEASURED_WIDTH}")
    if device.type == "cuda":
        half = torch.cuda.is_bf16_supported(including_emulation=False)
        dtype = ("bfloat16" if half else "float32") if asked == AUTO else asked
        return Choices(dtype, (), "this GPU computes in bfloat16" if half else "this GPU lacks bfloat16")
    if device.type != "cpu":
        return Choices("float32" if asked == AUTO else asked, (), f"nothing measured on {device.type}")
    shapes = dict(_shapes(model))
    if asked == "bfloat16":
        return Choices(asked, (), "bfloat16 was asked for")
    seconds = {shape: _measure(shape, asked == AUTO) for shape in shapes}
    own = tuple(sorted(shape for shape, (onednn, plain, _) in seconds.items() if plain < onednn))
    if asked != AUTO:
        return Choices(asked, own, f"{asked} was asked for")
    single = sum(min(seconds[shape][:2]) * times for shape, times in shapes.items())
    half_time = sum(seconds[shape][2] * times for shape, times in shapes.items())
    faster = single / half_time
    dtype = "bfloat16" if faster >= WORTH_IT else "float32"
    why = f"bfloat16 products are {faster:.2f} times as fast as float32 ones; from {WORTH_IT} on it is chosen"
    return Choices(dtype, own, why)


def _read(path: Path) -> Choices:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        own = tuple((int(out), int(inner)) for out, inner in found["own_product"])
        return Choices(str(found["dtype"]), own, str(found["why"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"what the run computes with can't be read: {error}"
        raise CheckpointError(what, str(path), "remove the file: it is then measured anew") from error


def _shapes(model: LanguageModel | ScalarModel) -> Iterator[tuple[Shape, float]]:
    """Each shape of a matrix, (out, in), with the matrices of such a shape."""
    counts: dict[Shape, float] = {}
    for module in model.modules():
        # 8-bit layers have no matrix of their own, but are multiplied in the same shape.
        inner, out = getattr(module, "in_features", 0), getattr(module, "out_features", 0)
        if inner and out > 1:
            counts[out, inner] = counts.get((out, inner), 0) + 1
    if isinstance(model, LanguageModel) and model.head is None:
        rows, inner = model.unembedding.shape
        counts[rows, inner] = counts.get((rows, inner), 0) + 1
    yield from counts.items()


def _measure(shape: Shape, half: bool) -> tuple[float, float, float]:
    """Seconds of a product and its two gradients: float32 by oneDNN, float32 by PyTorch's own kernel, and, if
    `half`, bfloat16, else 0."""
    out, inner = shape
    rows = min(out, _VOCABULARY)
    scale = out / rows
    inputs = torch.full((_ROWS, inner), 0.5, requires_grad=True)
    weight = nn.Parameter(torch.full((rows, inner), 0.5))
    gradient = torch.full((_ROWS, rows), 0.5)

    def by_kernel(own: bool) -> None:
        route([(rows, inner)] if own else [])
        _backward(linear(inputs, weight), gradient)

    def rounded() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            result = linear(inputs, weight)
        _backward(result, gradient.to(result.dtype))

    ways: list[Callable[[], None]] = [lambda: by_kernel(False), lambda: by_kernel(True)]
    ways += [rounded] if half else []
    best = [float("inf")] * len(ways)
    for repeat in range(_REPEATS + 1):
        for number, way in enumerate(ways):  # in turn: another job on the machine slows all of them alike
            start = time.perf_counter()
            way()
            if repeat:  # the first call of a shape prepares the kernel
                best[number] = min(best[number], time.perf_counter() - start)
            inputs.grad = weight.grad = None
    onednn, plain, *rest = (seconds * scale for seconds in best)
    return onednn, plain, rest[0] if rest else 0.0


def _backward(result: Tensor, gradient: Tensor) -> None:
    torch.autograd.backward([result], [gradient])
