"""Opening a model costs what its weights cost: no compiler is imported, nothing is kept twice or shared."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import new_language_model
from instructgpt.model.hf import load_language_model, save_model

SIZES = {"vocab_size": 40, "width": 16, "layers": 2, "heads": 2, "context": 16}
SHAPES = {
    "gpt2": ModelConfig.gpt2(**SIZES),
    "llama": ModelConfig.llama(**SIZES, kv_heads=1, ffn_width=24, tied=False),
}


@pytest.fixture(params=SHAPES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A random model of a family."""
    save_model(new_language_model(SHAPES[request.param], seed=0), tmp_path)
    return tmp_path


def test_opening_a_model_does_not_import_the_compiler(folder: Path) -> None:
    """PyTorch's own layers would: drawing numbers on the meta device brings in torch._dynamo and sympy."""
    program = (
        "import sys; from instructgpt.model.hf import load_language_model;"
        f"load_language_model({str(folder)!r});"
        "print(sorted({'sympy', 'torch._dynamo'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_weights_have_memory_of_their_own(folder: Path) -> None:
    """Not the file's, which is mapped, nor one another's; no storage is larger than its tensor."""
    file = folder / "model.safetensors"
    before = file.read_bytes()
    model = load_language_model(folder)
    storages = [parameter.untyped_storage() for parameter in model.parameters()]
    assert len({storage.data_ptr() for storage in storages}) == len(storages)
    for parameter, storage in zip(model.parameters(), storages, strict=True):
        assert parameter.is_contiguous() and storage.nbytes() == parameter.numel() * 4
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert file.read_bytes() == before
