"""Byte-level BPE tokenizers between GGUF metadata and tokenizer.json, both ways."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from instructgpt.errors import CheckpointError
from instructgpt.model.gguf_layout import needed

# Kinds of tokens in tokenizer.ggml.token_type.
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
# How Llama 3 and Qwen 2 split text before the merges; they differ in how many digits stay together.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
# tokenizer.ggml.pre -> the rule before the byte level; None: only the byte level's own. A wrong one gives
# other ids without any error, so a name that is not here is refused.
_PRE_TOKENIZERS: dict[str, pre_tokenizers.PreTokenizer | None] = {
    "gpt-2": None,
    "smollm": pre_tokenizers.Digits(individual_digits=True),
    "llama-bpe": pre_tokenizers.Split(Regex(_SPLIT.replace("DIGITS", "{1,3}")), "isolated"),
    "qwen2": pre_tokenizers.Split(Regex(_SPLIT.replace("DIGITS", "")), "isolated"),
}
_SAME = {"llama3": "llama-bpe", "llama-v3": "llama-bpe", "deepseek-r1-qwen": "qwen2"}
_IGNORE_MERGES = {"llama-bpe"}  # a word that is a token is that token, whatever the merges say
_SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}


def read_tokenizer(fields: Mapping[str, Any], path: Path) -> Tokenizer:
    """The tokenizer in the metadata, as the `tokenizers` library writes it.

    Raises `CheckpointError` for another kind than byte-level BPE or an unknown way of splitting text.
    """
    kind = needed(fields, "tokenizer.ggml.model", path)
    if kind != "gpt2":
        raise CheckpointError(
            f"the tokenizer is of kind {kind!r}; only byte-level BPE ('gpt2') can be imported",
            where=str(path),
            cure="give a model with a byte-level BPE tokenizer",
        )
    named = fields.get("tokenizer.ggml.pre", "gpt-2")
    split = _SAME.get(named, named)
    if split not in _PRE_TOKENIZERS:
        raise CheckpointError(
            f"the tokenizer splits text by the rule {split!r}; known are {', '.join(_PRE_TOKENIZERS)}",
            where=str(path),
            cure="convert the model's Hugging Face folder instead, whose tokenizer.json carries the rule",
        )
    tokens: list[str] = needed(fields, "tokenizer.ggml.tokens", path)
    types = fields.get("tokenizer.ggml.token_type") or [_NORMAL] * len(tokens)
    merges = [tuple(merge.split(" ", 1)) for merge in needed(fields, "tokenizer.ggml.merges", path)]
    # Rows of the embedding beyond the vocabulary are unused tokens there and nothing here.
    unused = {i for i, kind in enumerate(types) if kind == _UNUSED and tokens[i] == f"[PAD{i}]"}
    vocab = {token: i for i, token in enumerate(tokens) if i not in unused}
    try:
        model = models.BPE(vocab=vocab, merges=merges, ignore_merges=split in _IGNORE_MERGES)
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(
            f"vocabulary and merges do not fit: {error}", where=str(path), cure="copy the file again"
        ) from error
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = _pre_tokenizer(
        split, bool(fields.get("tokenizer.ggml.add_space_prefix", False))
    )
    if split == "qwen2":  # as in Qwen's tokenizer.json; GGUF has no place for it
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    for token, token_type in zip(tokens, types, strict=False):
        if token_type == _CONTROL:
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif token_type == _USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, normalized=False)])
    # Only for other programs: our own rendering never adds a token beside the template's.
    around = {}
    for name in ("bos", "eos"):
        index = fields.get(f"tokenizer.ggml.{name}_token_id")
        if index is not None and fields.get(f"tokenizer.ggml.add_{name}_token", False):
            around[name] = (tokens[index], index)
    if around:
        words = [around[name][0] if name in around else "" for name in ("bos", "eos")]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{words[0]} $A {words[1]}".strip(), special_tokens=list(around.values())
        )
    return tokenizer


def _pre_tokenizer(split: str, prefix: bool = False) -> pre_tokenizers.PreTokenizer:
    rule = _PRE_TOKENIZERS[split]
    own = rule is None or split == "smollm"  # the byte level splits words too
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=own)
    return byte_level if rule is None else pre_tokenizers.Sequence([rule, byte_level])


def write_tokenizer(folder: Path, vocab_size: int) -> dict[str, Any]:
    """Metadata of the tokenizer and the chat template in a model folder.

    vocab_size: rows of the embedding; those beyond the tokenizer's become unused tokens.
    Raises `CheckpointError` for a tokenizer that llama.cpp would apply in another way.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(
            "the folder has no tokenizer.json",
            where=str(folder),
            cure="put the model's tokenizer.json beside its weights",
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(
            f"tokenizer.json can't be read: {error}", where=str(path), cure="copy the file again"
        ) from error
    # As the library writes it: a file may leave defaults out, and hold merges in an older form.
    spec: dict[str, Any] = json.loads(tokenizer.to_str())
    split = _check(spec, path)
    added = {int(token["id"]): token for token in spec["added_tokens"]}
    by_id = {index: token for token, index in tokenizer.get_vocab(with_added_tokens=True).items()}
    if max(by_id) >= vocab_size:
        raise CheckpointError(
            f"the tokenizer has ids up to {max(by_id)}, the model {vocab_size} rows",
            where=str(path),
            cure="tokenizer and model are of different checkpoints: copy both again from one",
        )
    tokens, types = [], []
    for index in range(vocab_size):
        tokens.append(by_id.get(index, f"[PAD{index}]"))
        flagged = _CONTROL if added.get(index, {}).get("special") else _USER_DEFINED
        types.append(_UNUSED if index not in by_id else flagged if index in added else _NORMAL)
    names = _json(folder / "tokenizer_config.json")
    ids = _special_ids(names, _json(folder / "generation_config.json"), tokenizer)
    fields: dict[str, Any] = {
        "model": "gpt2",
        "pre": split,
        "tokens": tokens,
        "token_type": types,
        "merges": [" ".join(merge) for merge in spec["model"]["merges"]],
        **{f"{name}_token_id": index for name, index in ids.items()},
        **_added_around(tokenizer, ids, path),
        "add_space_prefix": False,
    }
    template = _template(folder, names)
    values = {f"tokenizer.ggml.{name}": value for name, value in fields.items()}
    return values | ({"tokenizer.chat_template": template} if template else {})


def _check(spec: Mapping[str, Any], path: Path) -> str:
    """The name of its way of splitting text, if llama.cpp gives the same ids."""
    model = spec["model"]
    wrong = ""
    split = next(
        (
            name
            for name in _PRE_TOKENIZERS
            if _steps(_as_json(_pre_tokenizer(name))) == _steps(spec["pre_tokenizer"])
        ),
        "",
    )
    normalizer = (spec.get("normalizer") or {}).get("type")
    if model.get("type") != "BPE" or (spec.get("decoder") or {}).get("type") != "ByteLevel":
        wrong = "is not byte-level BPE"
    elif not split:
        wrong = f"splits text in a way that is none of {', '.join(_PRE_TOKENIZERS)}"
    elif normalizer is not None and (split, normalizer) != ("qwen2", "NFC"):
        wrong = f"normalises text ({normalizer})"
    elif bool(model.get("ignore_merges")) != (split in _IGNORE_MERGES):
        wrong = f"has ignore_merges = {model.get('ignore_merges')!r}, which {split} has not"
    elif model.get("continuing_subword_prefix") or model.get("end_of_word_suffix") or model.get("dropout"):
        wrong = "marks parts of words, or drops merges at random"
    elif stripping := [t["content"] for t in spec["added_tokens"] if t.get("lstrip") or t.get("rstrip")]:
        wrong = f"strips spaces around {stripping[0]!r}"
    if wrong:
        raise CheckpointError(
            f"the tokenizer {wrong}: llama.cpp would give other ids",
            where=str(path),
            cure="keep this model as a Hugging Face folder",
        )
    return split


def _as_json(rule: pre_tokenizers.PreTokenizer) -> dict[str, Any]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = rule
    found: dict[str, Any] = json.loads(tokenizer.to_str())["pre_tokenizer"]
    return found


def _steps(rule: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """A pre-tokenizer's steps, without what changes no id (`trim_offsets`)."""
    if rule is None:
        return []
    parts = rule["pretokenizers"] if rule["type"] == "Sequence" else [rule]
    return [{k: v for k, v in part.items() if k != "trim_offsets"} for part in parts]


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"not readable: {error}", where=str(path), cure="copy the file again"
        ) from error
    return found if isinstance(found, dict) else {}


def _special_ids(
    names: Mapping[str, Any], generation: Mapping[str, Any], tokenizer: Tokenizer
) -> dict[str, int]:
    """Ids by their GGUF names. What ends a reply, where it is not eos itself, is eot there."""
    ids: dict[str, int] = {}
    for ours, theirs in _SPECIAL.items():
        name = names.get(f"{ours}_token")
        name = name.get("content") if isinstance(name, dict) else name
        index = tokenizer.token_to_id(name) if isinstance(name, str) else None
        if index is not None:
            ids[theirs] = index
    ends = generation.get("eos_token_id")
    for end in ends if isinstance(ends, list) else [ends]:
        if isinstance(end, int) and end != ids.setdefault("eos", end):
            ids.setdefault("eot", end)
    return ids


def _added_around(tokenizer: Tokenizer, ids: Mapping[str, int], path: Path) -> dict[str, bool]:
    """Whether the tokenizer puts bos before and eos behind a text when asked for special tokens."""
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.encode("a", add_special_tokens=True).ids
    for bos in (False, True):
        for eos in (False, True):
            before = [ids.get("bos", -1)] if bos else []
            if whole == before + plain + ([ids.get("eos", -1)] if eos else []):
                return {"add_bos_token": bos, "add_eos_token": eos}
    raise CheckpointError(
        "the tokenizer puts other tokens than bos and eos around a text",
        where=str(path),
        cure="name bos_token and eos_token in tokenizer_config.json",
    )


def _template(folder: Path, names: Mapping[str, Any]) -> str | None:
    """chat_template.jinja, else the entry of tokenizer_config.json (of several the one named default)."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    found = names.get("chat_template")
    if isinstance(found, list):
        found = {entry.get("name"): entry.get("template") for entry in found}.get("default")
    return found if isinstance(found, str) and found else None
