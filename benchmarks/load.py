"""`python -m benchmarks.load`: from nothing to something: help, imports, a checkpoint, the first token.

Where a program's start is measured, it is the time from starting its process to its end, files being in the
system's cache.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial

from benchmarks.inputs import SIZES, model_folder
from benchmarks.turn import Turn, repeat
from benchmarks.turns import Contender, Floor, Race, main

SIZE = "L"
PROMPT = [504, 3575, 282, 4649, 314]
"""Some words in L's vocabulary."""
_PEAK = """
from benchmarks.turn import peak_memory_mib
print("peak", peak_memory_mib())
"""
_HELP = """
import sys
from {module} import main
sys.argv = ["{name}", "--help"]
try:
    main()
except SystemExit:
    pass
"""
IMPORTS = {
    "transformers": "from transformers import AutoModelForCausalLM, AutoTokenizer",
    "TRL": "from trl import SFTTrainer, RewardTrainer",
    "ours": "from instructgpt.sft.train import train\nfrom instructgpt.reward_model.train import train\n"
    "from instructgpt.rlhf.train import train\nfrom instructgpt.generation.engine import generate",
}
FIRST_TOKEN = {
    "transformers": """
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({folder!r}, dtype=torch.float32)
ids = torch.tensor([{prompt}])
print("id", model.generate(ids, max_new_tokens=1, do_sample=False)[0, -1].item())
""",
    "ours": """
from instructgpt.generation.engine import Request, generate
from instructgpt.model.hf import load_language_model
model = load_language_model({folder!r})
(found,) = generate(model, [Request(tuple({prompt}), 0, 1, 0.0, stop_ids=frozenset())])
print("id", found.ids[0])
""",
}


def started(*arguments: str) -> Turn:
    """Starts a second of a program of this interpreter, with what it printed: `peak` MiB, the first `id`."""
    said: dict[str, float] = {}

    def work() -> float:
        done = subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True)
        for line in done.stdout.splitlines():
            words = line.split()
            if len(words) == 2 and words[0] in ("peak", "id"):
                said[words[0]] = float(words[1])
        return 1.0

    rates = repeat(work, times=5)
    memory = said.pop("peak", 0.0)
    return Turn(rates, memory=memory, facts={f"first {name}": value for name, value in said.items()})


def program(text: str) -> Turn:
    """Starts a second of a program that ends by saying its peak memory."""
    return started("-c", text + _PEAK)


def load_transformers() -> Turn:
    """from_pretrained, and each weight looked at once, so that none is left on the disk."""
    import torch
    from transformers import AutoModelForCausalLM

    def work() -> float:
        model = AutoModelForCausalLM.from_pretrained(model_folder(SIZE), dtype=torch.float32)
        return float(sum(p.sum() for p in model.parameters()).isfinite())

    return Turn(repeat(work, times=5), unit_bytes=_bytes())


def load_ours() -> Turn:
    """The same with our reader."""
    import torch

    from instructgpt.model.hf import load_language_model

    def work() -> float:
        model = load_language_model(model_folder(SIZE))
        with torch.no_grad():
            return float(torch.stack([p.sum() for p in model.parameters()]).sum().isfinite())

    return Turn(repeat(work, times=5), unit_bytes=_bytes())


def save_transformers() -> Turn:
    """save_pretrained into a new folder."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_folder(SIZE), dtype=torch.float32)

    def work() -> float:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            model.save_pretrained(folder)
            return time.perf_counter() - start

    return _timed(work)


def save_ours() -> Turn:
    """Our writer into a new folder."""
    from instructgpt.model.hf import load_language_model, save_model

    model = load_language_model(model_folder(SIZE))

    def work() -> float:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            save_model(model, folder)
            return time.perf_counter() - start

    return _timed(work)


def _timed(work: Callable[[], float]) -> Turn:
    """Work that times itself: emptying a temporary folder is not its cost."""
    work()
    return Turn([1 / work() for _ in range(5)], unit_bytes=_bytes())


def _bytes() -> float:
    return float(sum(path.stat().st_size for path in model_folder(SIZE).glob("*.safetensors")))


def races() -> list[Race]:
    """Nothing that a user waits for before the work begins may take longer than with the peers."""
    of = {"transformers": "transformers", "TRL": "trl", "ours": "ours"}
    imports = [Contender(name, partial(program, text), peer=of[name]) for name, text in IMPORTS.items()]
    words = {"folder": str(model_folder(SIZE)), "prompt": PROMPT}
    first = [
        Contender(name, partial(program, text.format(**words)), peer=of[name])
        for name, text in FIRST_TOKEN.items()
    ]
    helps = [
        Contender("TRL", partial(program, _HELP.format(module="trl.cli", name="trl")), peer="trl"),
        Contender("ours", partial(program, _HELP.format(module="instructgpt.cli", name="instructgpt"))),
    ]
    theirs = partial(Contender, "transformers", peer="transformers")
    not_slower = [Floor("ours", 1.0, against="transformers")]
    size = f"model L, {SIZES[SIZE].products / 1e6:.0f} M weights in float32"
    return [
        Race("help", "a command's help", "", helps, [Floor("ours", 1.0, against="TRL")], seconds=True),
        Race("import", "what training and generation import", "", imports, not_slower, seconds=True),
        Race(
            "load",
            f"open a checkpoint: {size}",
            "",
            [theirs(load_transformers), Contender("ours", load_ours)],
            not_slower,
            sizes=[SIZE],
            seconds=True,
        ),
        Race(
            "save",
            f"write a checkpoint: {size}",
            "",
            [theirs(save_transformers), Contender("ours", save_ours)],
            not_slower,
            sizes=[SIZE],
            seconds=True,
        ),
        Race(
            "first-token",
            f"a process from start to its first token: {size}",
            "",
            first,
            not_slower,
            sizes=[SIZE],
            seconds=True,
        ),
    ]


if __name__ == "__main__":
    raise SystemExit(main("load", "Starting, measured", races()))
