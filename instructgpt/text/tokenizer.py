"""Byte-level BPE tokenizer on the `tokenizers` library: train, load, save, stream.

Two rules hold everywhere. Encoding never adds a token of its own (no bos, no eos), and text from outside
never turns into a special id, whatever it spells, unless `special=True` says that the text is ours.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from instructgpt.errors import CheckpointError, ConfigError, DataError
from instructgpt.text.template import OWN_TEMPLATE, PLAIN_TEMPLATE, split_template

SPECIALS = (
    "<|pad|>",
    "<|bos|>",
    "<|eos|>",
    "<|end|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
)
"""Special tokens of the tokenizers we train, ids 0 to 6: pad, bos, eos and end-of-turn are distinct."""

SMALLEST_VOCABULARY = len(SPECIALS) + 256
"""The specials and one token a byte: nothing can be unknown."""


class Tokenizer:
    """A `tokenizers.Tokenizer` with the few facts that a language model needs to know of it.

    Attributes:
        vocab_size: one more than the highest id.
        bos_id, pad_id: None where the tokenizer has none. pad may equal eos in a foreign tokenizer; nothing
            reads it.
        eos_id: ends a document.
        end_of_turn_id: ends a reply; what the chat template prints after an assistant's message, else eos.
        stop_ids: the ids that end a reply.
        chat_template: Jinja source.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        eos_token: str,
        bos_token: str | None = None,
        pad_token: str | None = None,
        chat_template: str = PLAIN_TEMPLATE,
    ) -> None:
        backend.no_padding()
        backend.no_truncation()  # a tokenizer.json may carry both, and would cut texts silently
        names = {"bos_token": bos_token, "eos_token": eos_token, "pad_token": pad_token}
        self.special_tokens: dict[str, str] = {key: name for key, name in names.items() if name is not None}
        ids: dict[str, int] = {}
        for key, name in self.special_tokens.items():
            index = backend.token_to_id(name)
            if index is None:
                raise CheckpointError(
                    f"{key} is {name!r}, which is not in the tokenizer's vocabulary",
                    where="tokenizer_config.json",
                    cure=f"name a token of tokenizer.json as {key}, or add {name!r} to its added_tokens",
                )
            ids[key] = index
        backend.add_special_tokens(list(self.special_tokens.values()))  # foreign files don't always flag them
        self._trusting = backend
        self._plain = tokenizers.Tokenizer.from_str(backend.to_str())
        self._plain.encode_special_tokens = True  # special strings inside a text stay text
        self.chat_template = chat_template
        self.vocab_size: int = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        self.eos_id: int = ids["eos_token"]
        self.bos_id: int | None = ids.get("bos_token")
        self.pad_id: int | None = ids.get("pad_token")

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Read tokenizer.json, and its names and chat template from the files beside it.

        Raises:
            CheckpointError: a file is missing or broken, or no file names the eos token.
        """
        folder = Path(folder)
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(
                "there is no tokenizer.json",
                where=str(folder),
                cure="give the folder of a checkpoint or of a trained tokenizer (instructgpt tokenizer makes "
                "one; instructgpt convert makes one from a GGUF file)",
            )
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise CheckpointError(
                f"tokenizer.json can't be read: {error}",
                where=str(path),
                cure="copy the file again from its source",
            ) from error
        names = _special_names(folder, backend)
        if names.get("eos_token") is None:
            raise CheckpointError(
                "nothing names the token that ends a text",
                where=str(folder),
                cure='add a tokenizer_config.json with {"eos_token": "..."} beside tokenizer.json',
            )
        return cls(
            backend,
            eos_token=str(names["eos_token"]),
            bos_token=names.get("bos_token"),
            pad_token=names.get("pad_token"),
            chat_template=_read_template(folder) or PLAIN_TEMPLATE,
        )

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, which `transformers.AutoTokenizer` opens
        unchanged. Each file is whole or not there, and tokenizer.json comes last."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **self.special_tokens,
            "clean_up_tokenization_spaces": False,
            "chat_template": self.chat_template,
        }
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        for name, content in (
            ("tokenizer_config.json", text),
            ("tokenizer.json", self._trusting.to_str(pretty=True)),
        ):
            temporary = folder / f".{name}.tmp"
            temporary.write_text(content, encoding="utf-8")
            temporary.replace(folder / name)

    @cached_property
    def end_of_turn_id(self) -> int:
        """First special token that the template prints after an assistant's message, eos if there is none."""
        pieces = split_template(
            self.chat_template,
            ("user", "assistant"),
            self.special_tokens,
            add_generation_prompt=False,
        )
        after = self.encode(str(pieces[-1]), special=True)
        return next((token for token in after if token in self.special_ids), self.eos_id)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a reply: eos and end-of-turn."""
        return frozenset({self.eos_id, self.end_of_turn_id})

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that text can never become."""
        added = self._trusting.get_added_tokens_decoder()
        return frozenset(index for index, token in added.items() if token.special)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the vocabulary and rules: equal ids for equal texts (16 hex digits)."""
        return blake2b(self._trusting.to_str().encode(), digest_size=8).hexdigest()

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Ids of a text, with nothing added.

        Args:
            special: True only for text of our own (templates): special strings in it become their ids. By
                default they stay plain text.

        Raises:
            DataError: the text holds half of a surrogate pair, which no UTF-8 can carry.
        """
        return self.encode_batch([text], special=special)[0]

    def encode_batch(self, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
        """`encode` of many texts at once, on all threads that the `tokenizers` library uses."""
        backend = self._trusting if special else self._plain
        try:
            encodings = backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError as error:
            raise _surrogate_error(texts) from error
        return [encoding.ids for encoding in encodings]

    @cached_property
    def begins_with_bos(self) -> bool:
        """Whether the tokenizer's own rules put bos before a text (the post-processor of tokenizer.json)."""
        encoded = self._trusting.encode("a", add_special_tokens=True).ids
        return self.bos_id is not None and encoded[:1] == [self.bos_id]

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of ids; bytes that are no character come out as U+FFFD."""
        return str(self._plain.decode(list(ids), skip_special_tokens=skip_special))

    def token(self, index: int) -> str | None:
        """The vocabulary's own spelling of an id (byte-level: one printable character a byte)."""
        return self._plain.id_to_token(index)

    @cached_property
    def is_byte_level(self) -> bool:
        """Whether each token stands for bytes that are joined as they are (GPT-2's scheme)."""
        return isinstance(self._plain.decoder, decoders.ByteLevel)

    def token_bytes(self, index: int) -> bytes:
        """The bytes that an id stands for, maybe a part of a character; none for an unknown id."""
        found = self._token_bytes.get(index)
        if found is None:
            found = self._spell(index)
            if 0 <= index < self.vocab_size:
                self._token_bytes[index] = found
        return found

    @cached_property
    def _token_bytes(self) -> dict[int, bytes]:
        """What `token_bytes` has found so far; bounded by the vocabulary."""
        return {}

    def _spell(self, index: int) -> bytes:
        token = self.token(index)
        if token is None:
            return b""
        if self.is_byte_level:
            try:
                return bytes(_BYTES[character] for character in token)
            except KeyError:  # an added token is spelled as it is
                return token.encode("utf-8")
        byte = _BYTE_FALLBACK.fullmatch(token)
        return bytes([int(byte[1], 16)]) if byte else token.replace("\u2581", " ").encode("utf-8")


def _surrogate_error(texts: Sequence[Any]) -> DataError:
    for text in texts:
        if not isinstance(text, str):
            return DataError(
                f"text to encode is {type(text).__name__}, not a string",
                cure="pass strings",
            )
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            return DataError(
                f"half of a surrogate pair (\\u{ord(text[error.start]):04x}) is not text",
                where=f"character {error.start} of {text[:40]!r}...",
                cure="remove it, or write the whole character",
            )
    return DataError("text can't be encoded", cure="pass strings of valid Unicode")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(
            f"not readable as JSON: {error}",
            where=str(path),
            cure="copy the file again from its source",
        ) from error
    return found if isinstance(found, dict) else {}


def _special_names(folder: Path, backend: tokenizers.Tokenizer) -> dict[str, str | None]:
    """bos, eos and pad token by the first file that names them; ids in config.json come last."""
    named = [_read_json(folder / name) for name in ("tokenizer_config.json", "special_tokens_map.json")]
    numbered = [_read_json(folder / name) for name in ("generation_config.json", "config.json")]
    names: dict[str, str | None] = {}
    for key in ("bos_token", "eos_token", "pad_token"):
        name: Any = next((found[key] for found in named if found.get(key) is not None), None)
        if isinstance(name, dict):  # an AddedToken written out
            name = name.get("content")
        if name is None and not any(key in found for found in named):  # an explicit null means: none
            index = next(
                (found[f"{key}_id"] for found in numbered if found.get(f"{key}_id") is not None),
                None,
            )
            index = index[0] if isinstance(index, list) and index else index
            name = backend.id_to_token(index) if isinstance(index, int) else None
        names[key] = name
    return names


def _read_template(folder: Path) -> str | None:
    """chat_template.jinja if there, else the entry of tokenizer_config.json (its "default" one of
    several)."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    found = _read_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(found, list):  # [{"name": "default", "template": ...}, ...]
        by_name = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
        found = by_name.get("default") or next(iter(by_name.values()), None)
    return found if isinstance(found, str) and found else None


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE from a stream of texts; the same texts in the same order give the same tokenizer.

    Args:
        texts: read once.
        vocab_size: wanted number of ids, the seven specials and 256 bytes included; fewer come out if the
            texts have no more pairs to merge.

    Raises:
        ConfigError: vocab_size is too small to hold the bytes.
        DataError: there is no text.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise ConfigError(
            f"vocab_size {vocab_size} can't hold the {len(SPECIALS)} special tokens and 256 bytes",
            where="--vocab-size",
            cure=f"use at least {SMALLEST_VOCABULARY}",
        )
    seen = 0

    def counted() -> Iterator[str]:
        nonlocal seen
        for text in texts:
            seen += bool(text)
            yield text

    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(counted(), trainer=trainer)
    if not seen:
        raise DataError(
            "there is no text to train a tokenizer on",
            cure="give texts that are not empty",
        )
    return Tokenizer(
        backend,
        bos_token="<|bos|>",
        eos_token="<|eos|>",
        pad_token="<|pad|>",
        chat_template=OWN_TEMPLATE,
    )


def _byte_of_character() -> dict[str, int]:
    """GPT-2's table: printable Latin-1 characters stand for themselves, the other bytes for U+0100
    upwards."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_BYTES = _byte_of_character()
_BYTE_FALLBACK = re.compile(r"<0x([0-9A-F]{2})>")
"""SentencePiece's token for a single byte; there U+2581 is a space."""


class StreamDecoder:
    """Ids in, text out, one at a time, and never a part of a character (field fault 44).

    What `push` and `finish` gave, joined, equals `tokenizer.decode` of all the ids.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip = tokenizer.special_ids if skip_special else frozenset()
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._ids: list[int] = []  # for other schemes: ids whose text is not all out yet, after one that is
        self._sent = ""
        self._incomplete = False

    def push(self, index: int) -> str:
        """Text that is certain now that this id has come; often empty in the middle of a character."""
        if index in self._skip:
            return ""
        if self._tokenizer.is_byte_level:
            return self._utf8.decode(self._tokenizer.token_bytes(index))
        self._ids.append(index)
        text = self._tokenizer.decode(self._ids, skip_special=False)
        self._incomplete = text.endswith("\ufffd")
        return "" if self._incomplete else self._emit(text)

    def finish(self) -> str:
        """What is left at the end; an unfinished character comes out as U+FFFD."""
        if self._tokenizer.is_byte_level:
            return self._utf8.decode(b"", final=True)
        return self._emit(self._tokenizer.decode(self._ids, skip_special=False)) if self._ids else ""

    @property
    def pending(self) -> bool:
        """Whether the last ids are a character's beginning, whose text has not come out."""
        if self._tokenizer.is_byte_level:
            return bool(self._utf8.getstate()[0])
        return self._incomplete

    def _emit(self, text: str) -> str:
        fresh = text[len(self._sent) :]
        # Keep the last id as context: a SentencePiece token prints its space only when something stands
        # before it. But a lone byte of a character is no context: with byte fallback, a run of bytes decodes
        # as a whole.
        last = self._tokenizer.decode(self._ids[-1:], skip_special=False)
        if "\ufffd" not in last:
            self._ids, text = self._ids[-1:], last
        self._sent = text
        return fresh
