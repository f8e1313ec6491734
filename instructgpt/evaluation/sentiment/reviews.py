"""Labelled reviews, from the files of aclImdb or from JSONL, and the short view of one that models read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from instructgpt.data.jsonl import expand, read_text
from instructgpt.data.records import Demonstration, Prompt
from instructgpt.errors import ConfigError, DataError
from instructgpt.evaluation.suite.reading import rows
from instructgpt.text.tokenizer import Tokenizer

LABELS = ("negative", "positive")
"""What the two labels, 0 and 1, are called; a language model answers with one of these words."""
VIEW_TOKENS = 128
QUESTION = "Is this film review positive or negative? Answer with one word."
GAP = "\n[...]\n"
TRAIN_FILES = ("imdb*train*.jsonl", "train/[np]*/*.txt", "train-*.parquet")
TEST_FILES = ("imdb*test*.jsonl", "test/[np]*/*.txt", "test-*.parquet")
HUB = ("stanfordnlp/imdb:plain_text/test-00000-of-00001.parquet",)
_ENDINGS = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".json", ".json.gz", ".parquet")
_EXAMPLE = '{"text": "A joy from start to end.", "label": 1}'
_FILM = re.compile(r"tt\d+")
_WORDS = {"neg": 0, "negative": 0, "pos": 1, "positive": 1, "0": 0, "1": 1}


@dataclass(frozen=True)
class Review:
    """One text with its label.

    Attributes:
        id: names it in results.
        text: as written.
        label: 0 negative, 1 positive.
        movie: what it is about; reviews of one film never lie on both sides of a split. Empty = not known.
    """

    id: str
    text: str
    label: int
    movie: str = ""


def read_reviews(path: str | Path) -> list[Review]:
    """Reviews of files with `text` or `sentence` and `label` in each record (perhaps `id` and `movie`), or of
    a folder of aclImdb with `pos` and `neg` in it.

    Args:
        path: a folder, a file, a glob, or several files with commas; .jsonl, .csv, .tsv, .json or .parquet.

    Raises:
        DataError: nothing is there, a record is malformed, or only one of the labels occurs.
    """
    folder = Path(path)
    reviews = _read_folder(folder) if folder.is_dir() else _read_files(expand(path, _ENDINGS))
    if len({review.label for review in reviews}) < 2:
        raise DataError(
            f"all {len(reviews)} reviews have the same label", str(path), "give reviews of both labels"
        )
    return reviews


def found_reviews(files: Sequence[Path]) -> str:
    """What `read_reviews` takes, of the files that a search found: texts of aclImdb mean their folder."""
    if files and files[0].suffix == ".txt":
        return str(files[0].parent.parent)
    return ",".join(map(str, files))


def _read_files(files: Sequence[Path]) -> list[Review]:
    reviews = []
    for file in files:
        for number, (where, row) in enumerate(rows(file), start=1):
            text = row.get("text", row.get("sentence"))
            if not isinstance(text, str) or not text.strip():
                raise DataError("the review has no text", where, f"write records such as {_EXAMPLE}")
            label = _WORDS.get(str(row.get("label")).lower())
            if label is None:
                what = f"the label is {row.get('label')!r}, not 0 or 1"
                raise DataError(what, where, f"write records such as {_EXAMPLE}")
            text = text.replace("<br />", "\n").strip()
            reviews.append(Review(str(row.get("id", number)), text, label, str(row.get("movie") or "")))
    return reviews


def _read_folder(folder: Path) -> list[Review]:
    """`pos/ID_STARS.txt` and `neg/ID_STARS.txt` as unpacked from aclImdb_v1.tar.gz; `urls_pos.txt` beside
    them has the address of review ID's film in its line ID."""
    reviews = []
    for name in ("neg", "pos"):
        urls = folder / f"urls_{name}.txt"
        films = [_FILM.search(line) for line in read_text(urls).splitlines()] if urls.exists() else []
        for file in sorted((folder / name).glob("*.txt")):
            text = read_text(file).replace("<br />", "\n").strip()
            number = file.stem.partition("_")[0]
            film = films[int(number)] if number.isdecimal() and int(number) < len(films) else None
            reviews.append(Review(f"{name}/{file.stem}", text, _WORDS[name], film[0] if film else ""))
    if not reviews:
        cure = "name aclImdb/train or aclImdb/test, with the folders pos and neg in it, or a file"
        raise DataError("there are no reviews in this folder", str(folder), cure)
    return reviews


def review_files(path: str) -> str:
    """What `read_reviews` reads, as the inputs of a run: a folder, or files with commas between.

    Raises:
        DataError: a file is not there.
    """
    return path if Path(path).is_dir() else ",".join(map(str, expand(path, _ENDINGS)))


def split_reviews(reviews: Sequence[Review], share: float) -> tuple[list[Review], list[Review]]:
    """(kept, held out): about `share` held out, by film where films are known, else by text.

    A review's side follows from its film (or text) alone: the same on every machine and in every run.

    Raises:
        ConfigError: `share` is not in [0, 1).
    """
    if not 0 <= share < 1:
        raise ConfigError(f"a share of {share} can't be held out", "--valid-share", "give 0 up to below 1")
    sides: tuple[list[Review], list[Review]] = ([], [])
    for review in reviews:
        digest = blake2b((review.movie or review.text).encode(), digest_size=8, person=b"held out").digest()
        sides[int.from_bytes(digest, "big") < share * 2**64].append(review)
    return sides


def views(tokenizer: Tokenizer, texts: Sequence[str], tokens: int = VIEW_TOKENS) -> list[str]:
    """Each text itself where it has at most `tokens` tokens, else its first and its last `tokens` / 2.

    Reviewers say what they think at the start and at the end. A character that a cut splits is left out.
    """
    first = tokens // 2
    last = tokens - first
    found = []
    for text, ids in zip(texts, tokenizer.encode_batch(list(texts)), strict=True):
        if len(ids) <= tokens:
            found.append(text)
            continue
        head = tokenizer.decode(ids[:first]).rstrip("\ufffd").rstrip()
        tail = tokenizer.decode(ids[len(ids) - last :]).lstrip("\ufffd").lstrip()
        found.append(head + GAP + tail)
    return found


def question(view: str) -> str:
    """What a language model is asked about a view."""
    return f"{QUESTION}\n\n{view}"


def demonstration(review: Review, view: str) -> Demonstration:
    """The question with the right answer, to train a language model on."""
    return Demonstration(Prompt.of(question(view), id=review.id), LABELS[review.label])
