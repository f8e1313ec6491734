"""Reviews are read from both official forms, split by film, and seen as head and tail."""

from pathlib import Path

import pytest

from instructgpt.errors import ConfigError, DataError
from instructgpt.evaluation.sentiment.reviews import (
    GAP,
    Review,
    demonstration,
    found_reviews,
    question,
    read_reviews,
    split_reviews,
    views,
)
from instructgpt.text.tokenizer import Tokenizer, train_tokenizer

WORDS = ["the", "film", "was", "good", "bad", "plot", "actors", "caf\u00e9"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([" ".join(WORDS)] * 4, 300)


def test_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "reviews.jsonl"
    path.write_text(
        '{"id": "train/neg/1", "text": "Bad.", "label": 0, "movie": "tt1"}\n'
        '{"sentence": "a joy", "label": 1}\n{"text": "Fine.", "label": "positive"}\n',
        encoding="utf-8",
    )
    assert read_reviews(path) == [
        Review("train/neg/1", "Bad.", 0, "tt1"),
        Review("2", "a joy", 1),
        Review("3", "Fine.", 1),
    ]


def test_the_folder_of_aclimdb(tmp_path: Path) -> None:
    for name, text in (("pos/0_9.txt", "Good.<br /><br />Very."), ("neg/1_2.txt", "Bad.")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_reviews(tmp_path) == [Review("neg/1_2", "Bad.", 0), Review("pos/0_9", "Good.\n\nVery.", 1)]
    assert found_reviews(sorted(tmp_path.glob("*/*.txt"))) == str(tmp_path)
    (tmp_path / "urls_neg.txt").write_text(
        "http://www.imdb.com/title/tt0000005/usercomments\nhttp://www.imdb.com/title/tt0000007/usercomments\n"
    )
    assert [review.movie for review in read_reviews(tmp_path)] == ["tt0000007", ""]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"text": "Fine.", "label": 2}', "label is 2"),
        ('{"text": "Fine."}', "label is None"),
        ('{"text": " ", "label": 1}', "no text"),
    ],
)
def test_a_wrong_line_is_named(line: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "reviews.jsonl"
    path.write_text('{"text": "Bad.", "label": 0}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=what) as caught:
        read_reviews(path)
    assert f"{path}:2" in str(caught.value)


def test_one_label_alone_and_an_empty_folder_are_errors(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text('{"text": "Bad.", "label": 0}\n', encoding="utf-8")
    with pytest.raises(DataError, match="same label"):
        read_reviews(tmp_path / "one.jsonl")
    with pytest.raises(DataError, match="no reviews"):
        read_reviews(tmp_path)


def test_the_split_is_by_film_and_does_not_depend_on_the_others() -> None:
    reviews = [Review(str(i), f"text {i}", i % 2, f"film {i % 200}") for i in range(1000)]
    kept, held = split_reviews(reviews, 0.1)
    assert {r.movie for r in kept}.isdisjoint({r.movie for r in held})
    assert 50 <= len(held) <= 150 and len(kept) + len(held) == 1000
    assert split_reviews(held, 0.1) == ([], held)
    assert split_reviews(reviews, 0.0) == (reviews, [])
    with pytest.raises(ConfigError):
        split_reviews(reviews, 1.0)


def test_a_short_text_is_its_own_view(tokenizer: Tokenizer) -> None:
    assert views(tokenizer, ["the film was good"], 64) == ["the film was good"]


def test_a_long_text_is_seen_by_its_ends(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(" ".join(WORDS * 20))
    (view,) = views(tokenizer, [tokenizer.decode(ids)], 10)
    head, tail = view.split(GAP)
    assert head == tokenizer.decode(ids[:5]).rstrip() and tail == tokenizer.decode(ids[-5:]).lstrip()


def test_a_character_that_the_cut_splits_is_left_out() -> None:
    plain = train_tokenizer(["a"], 263)  # bytes alone: an accented letter is two tokens
    (view,) = views(plain, ["ab\u00e9" + "x" * 20 + "\u00e9cd"], 6)
    assert view == "ab" + GAP + "cd"  # 3 tokens from each end: a b C3 | A9 c d


def test_a_demonstration_answers_the_question_with_one_word() -> None:
    made = demonstration(Review("7", "Long.", 1), "Short.")
    assert (made.prompt.text, made.response, made.prompt.id) == (question("Short."), "positive", "7")
