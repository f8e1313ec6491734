"""Streamed text: stop strings never leak, however the text is cut (field fault 43)."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructgpt.errors import ConfigError
from instructgpt.generation.stream import StopFilter, TextStream
from instructgpt.text.tokenizer import Tokenizer, train_tokenizer


def run(stops: list[str], pieces: list[str]) -> tuple[str, str | None]:
    passing = StopFilter(stops)
    text = "".join(passing.push(piece) for piece in pieces)
    return text + passing.finish(), passing.matched


def expected(stops: list[str], text: str) -> tuple[str, str | None]:
    """By definition: reading characters one by one, the first moment at which a stop string is complete."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            longest = max(complete, key=len)
            return text[: end - len(longest)], longest
    return text, None


@pytest.mark.parametrize(
    ("stops", "text"),
    [
        (["END"], "one ENtwo END three"),
        (["\n\nHuman:", "\n\n"], "hello\n\nHuman: hi"),
        (["aab"], "aaaab"),
        (["abc", "b"], "xabcx"),
        (["bc", "abc"], "xabcx"),
        (["停止"], "早上好停一下停止吧"),
        ([], "no stops"),
        (["never"], "neve"),
    ],
)
def test_every_cut_of_the_text_gives_the_same(stops: list[str], text: str) -> None:
    wanted = expected(stops, text)
    if len(text) <= 12:
        cuts = itertools.product([False, True], repeat=len(text) - 1)  # all ways to cut
    else:
        cuts = (
            tuple(i in (a, b) for i in range(len(text) - 1)) for a in range(len(text)) for b in range(a + 1)
        )
    for cut in cuts:
        pieces = [""]
        for character, ends in zip(text, (*cut, False), strict=True):
            pieces[-1] += character
            if ends:
                pieces.append("")
        assert run(stops, pieces) == wanted


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.lists(st.text("ab", max_size=5), max_size=8),
)
def test_random_texts_and_cuts(stops: list[str], pieces: list[str]) -> None:
    assert run(stops, pieces) == expected(stops, "".join(pieces))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.text("ab", max_size=3), max_size=8),
)
def test_nothing_is_shown_too_early_nor_held_too_long(stops: list[str], pieces: list[str]) -> None:
    passing = StopFilter(stops)
    shown, read = "", ""
    for piece in pieces:
        shown += passing.push(piece)
        read += piece
        final, matched = expected(stops, read)
        assert final.startswith(shown)
        if matched is None:
            held = read[len(shown) :]
            assert held == "" or any(stop.startswith(held) for stop in stops)


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ConfigError, match="--stop"):
        StopFilter(["a", ""])


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["good morning 早上好 STOP here"] * 4, 300)


def test_ids_to_text_with_a_stop_string_inside_tokens(tokenizer: Tokenizer) -> None:
    """Characters of several tokens come out whole, the stop string in no part (field faults 43, 44)."""
    ids = tokenizer.encode("早上好🙂 good STOP here")
    stream = TextStream(tokenizer, ["STOP"])
    pieces = [stream.push(index) for index in ids]
    assert "".join(pieces) + stream.finish() == "早上好🙂 good "
    assert stream.matched == "STOP"
    assert not any("�" in piece for piece in pieces)


def test_without_stops_the_stream_is_the_decoded_text(tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode("good 早"), tokenizer.end_of_turn_id]
    stream = TextStream(tokenizer)
    assert "".join(stream.push(index) for index in ids) + stream.finish() == "good 早"
    assert stream.matched is None


def test_a_reply_that_ends_inside_a_character(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a🙂")[:-1]
    stream = TextStream(tokenizer, ["zz"])
    text = "".join(stream.push(index) for index in ids)
    assert "�" not in text
    assert text + stream.finish() == tokenizer.decode(ids)
