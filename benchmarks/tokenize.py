"""`python -m benchmarks.tokenize`: training a tokenizer, encoding texts, preparing demonstrations.

The text is the standard library's own source, about 8 MB of it, so that nothing has to be downloaded. All use
all threads that the library `tokenizers` takes, on which everybody here stands.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.peers import FOLDER
from benchmarks.turn import Turn, repeat
from benchmarks.turns import Contender, Floor, Race, main

VOCABULARY, BYTES, DEMONSTRATIONS = 8192, 8_000_000, 2000
TOKENIZER = FOLDER / "tokenizer-8192"
PARALLEL = {"TOKENIZERS_PARALLELISM": "true"}


def texts() -> list[str]:
    """Files of the standard library in order, until there are enough."""
    found, size = [], 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" in path.parts:
            continue
        found.append(path.read_text(encoding="utf-8", errors="ignore"))
        size += len(found[-1].encode())
        if size > BYTES:
            break
    return found


def paragraphs() -> list[str]:
    """The same in pieces of some lines, as documents of a corpus are."""
    return [piece for text in texts() for piece in text.split("\n\n") if piece.strip()]


def megabytes(pieces: Sequence[str]) -> float:
    """Size as UTF-8, 1e6 bytes."""
    return sum(len(piece.encode()) for piece in pieces) / 1e6


def demonstrations() -> list[tuple[str, str]]:
    """Prompts and replies: neighbouring paragraphs, cut at 400 characters."""
    pieces = [piece[:400] for piece in paragraphs()]
    return list(zip(pieces[::2], pieces[1::2], strict=False))[:DEMONSTRATIONS]


def make_tokenizer() -> None:
    """The tokenizer that all encode with, in the layout that all of them open."""
    if (TOKENIZER / "tokenizer.json").exists():  # written last
        return
    from instructgpt.text.tokenizer import train_tokenizer

    train_tokenizer(texts(), VOCABULARY).save(TOKENIZER)


def train_library() -> Turn:
    """Byte-level BPE with `tokenizers` itself."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    corpus = texts()

    def work() -> float:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False, special_tokens=["<eos>"]
        )
        backend.train_from_iterator(corpus, trainer=trainer)
        return megabytes(corpus)

    return Turn(repeat(work))


def train_ours() -> Turn:
    """The same by our function."""
    from instructgpt.text.tokenizer import train_tokenizer

    corpus = texts()

    def work() -> float:
        train_tokenizer(corpus, VOCABULARY)
        return megabytes(corpus)

    return Turn(repeat(work))


def _encoded(encode: Callable[[list[str]], Sequence[Sequence[int]]]) -> Turn:
    pieces, tokens = paragraphs(), 0
    size = megabytes(pieces)

    def work() -> float:
        nonlocal tokens
        tokens = sum(map(len, encode(pieces)))
        return size

    rates = repeat(work)
    return Turn(rates, facts={"tokens": tokens})


def encode_library() -> Turn:
    """`encode_batch` of `tokenizers`, ids read."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))
    return _encoded(lambda pieces: [found.ids for found in backend.encode_batch(pieces)])


def encode_transformers() -> Turn:
    """Calling transformers' fast tokenizer."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(TOKENIZER)
    return _encoded(lambda pieces: tokenizer(pieces, add_special_tokens=False)["input_ids"])


def encode_ours() -> Turn:
    """Our `encode_batch`, which also keeps special strings in a text from becoming special ids."""
    from instructgpt.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(TOKENIZER)
    return _encoded(tokenizer.encode_batch)


def prepare_transformers() -> Turn:
    """Chat template of the prompt and of the whole, each as ids: what TRL maps over prompt and completion."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(TOKENIZER)
    pairs, tokens = demonstrations(), 0

    def work() -> float:
        nonlocal tokens
        tokens = 0
        for prompt, reply in pairs:
            asked = [{"role": "user", "content": prompt}]
            whole = [*asked, {"role": "assistant", "content": reply}]
            head = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)
            ids = tokenizer.apply_chat_template(whole, return_dict=True)["input_ids"]
            mask = [False] * len(head["input_ids"]) + [True] * (len(ids) - len(head["input_ids"]))
            tokens += len(mask)
        return len(pairs)

    rates = repeat(work)
    return Turn(rates, facts={"tokens": tokens})


def prepare_ours() -> Turn:
    """`render_reply`: ids and mask at once."""
    from instructgpt.text.chat import Message, render_reply
    from instructgpt.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(TOKENIZER)
    pairs, tokens = demonstrations(), 0

    def work() -> float:
        nonlocal tokens
        rendered = [render_reply(tokenizer, [Message("user", prompt)], reply) for prompt, reply in pairs]
        tokens = sum(len(one.train_mask) for one in rendered)
        return len(pairs)

    rates = repeat(work)
    return Turn(rates, facts={"tokens": tokens})


def races() -> list[Race]:
    """Three kinds of work. All stand on one library: nobody can be much faster than it, and ours may not be
    slower than its other callers."""
    ours = partial(Contender, "ours", environment=PARALLEL)
    library = partial(Contender, "tokenizers", environment=PARALLEL)
    theirs = partial(Contender, "transformers", peer="transformers", environment=PARALLEL)
    return [
        Race(
            "train",
            f"byte-level BPE of {VOCABULARY} ids from {BYTES / 1e6:.0f} MB",
            "MB/s",
            [library(train_library), ours(train_ours)],
            [Floor("ours", 0.95, against="tokenizers")],
        ),
        Race(
            "encode",
            f"{BYTES / 1e6:.0f} MB in paragraphs to ids",
            "MB/s",
            [library(encode_library), theirs(encode_transformers), ours(encode_ours)],
            [Floor("ours", 0.95, against="tokenizers"), Floor("ours", 1.0, against="transformers")],
            prepare=make_tokenizer,
        ),
        Race(
            "demonstrations",
            f"{DEMONSTRATIONS} prompts and replies to ids and mask",
            "demonstrations/s",
            [theirs(prepare_transformers), ours(prepare_ours)],
            [Floor("ours", 1.0, against="transformers")],
            prepare=make_tokenizer,
        ),
    ]


if __name__ == "__main__":
    raise SystemExit(main("tokenize", "Tokenizing, measured", races()))
