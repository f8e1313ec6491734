"""What is sent of a reply, at every way to cut it: field faults 42, 43 and 44."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructgpt.generation.requests import TokenLogprobs
from instructgpt.serving.choices import Choice, Piece, place_prompt
from instructgpt.serving.jobs import Token
from instructgpt.serving.logprobs import for_chat, for_completion
from instructgpt.text.tokenizer import Tokenizer, train_tokenizer

TEXT = "ok 👩‍👩‍👧 早上好！🙂 done"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Few merges, so that most characters beyond ASCII are several tokens."""
    return train_tokenizer(["ok done", "good morning 早"] * 3, 275)


def tokens(ids: list[int]) -> list[Token]:
    return [Token(index, TokenLogprobs(-0.5, ((index, -0.5),))) for index in ids]


def cut(ids: list[int], places: set[int]) -> list[list[int]]:
    pieces: list[list[int]] = [[]]
    for number, index in enumerate(ids):
        if number in places and pieces[-1]:
            pieces.append([])
        pieces[-1].append(index)
    return pieces


def stream(tokenizer: Tokenizer, pieces: list[list[int]], stops: tuple[str, ...] = ()) -> list[Piece]:
    choice = Choice(tokenizer, stops)
    return [
        choice.push(tokens(piece), "length" if number == len(pieces) - 1 else None)
        for number, piece in enumerate(pieces)
    ]


def test_no_character_breaks_at_any_split_point(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT)
    assert len(ids) > len(TEXT)
    for place in range(1, len(ids)):
        sent = stream(tokenizer, [ids[:place], ids[place:]])
        assert "".join(piece.text for piece in sent) == TEXT
        assert "\ufffd" not in sent[0].text
    assert "".join(piece.text for piece in stream(tokenizer, [[index] for index in ids])) == TEXT


@pytest.mark.parametrize("stop", ["早上", "🙂", "one", "上好！🙂 d", "e"])
def test_no_part_of_a_stop_string_leaks_at_any_split_point(tokenizer: Tokenizer, stop: str) -> None:
    """Neither in the text nor in the tokens told, whatever the pieces; and what was sent stays right."""
    ids = tokenizer.encode(TEXT)
    expected = TEXT[: TEXT.index(stop)]
    for places in [{place} for place in range(1, len(ids))] + [set(range(len(ids)))]:
        choice = Choice(tokenizer, (stop,))
        sent, told = "", []
        pieces = cut(ids, places)
        for number, piece in enumerate(pieces):
            news = choice.push(tokens(piece), "length" if number == len(pieces) - 1 else None)
            sent, told = sent + news.text, told + news.tokens
            assert expected.startswith(sent)
            assert expected.encode().startswith(b"".join(tokenizer.token_bytes(t.id) for t in told))
        assert sent == expected and choice.finish == "stop"


@given(
    st.text("ab é早🙂", max_size=12),
    st.lists(st.text("ab é早🙂", min_size=1, max_size=4), max_size=3),
    st.data(),
)
@settings(max_examples=150, deadline=None)
def test_pieces_and_whole_agree(text: str, stops: list[str], data: st.DataObject) -> None:
    tokenizer = _TOKENIZER
    ids = tokenizer.encode(text)
    places = data.draw(st.sets(st.integers(0, max(1, len(ids)))))
    sent = stream(tokenizer, cut(ids, places), tuple(stops))
    ends = [(text.index(stop) + len(stop), -len(stop)) for stop in stops if stop in text]
    expected = text[: sum(min(ends))] if ends else text
    assert "".join(piece.text for piece in sent) == expected
    assert [piece.finish for piece in sent][-1] == ("stop" if ends else "length")


_TOKENIZER = train_tokenizer(["ab é早🙂 ba ab"] * 3, 290)


def test_every_drawn_token_is_told_when_nothing_stops_it(tokenizer: Tokenizer) -> None:
    """The end-of-text token too: harnesses count on one entry for each token drawn."""
    ids = [*tokenizer.encode("ok 早"), tokenizer.eos_id]
    choice = Choice(tokenizer)
    piece = choice.push(tokens(ids), "stop")
    assert [token.id for token in piece.tokens] == ids
    assert piece.text == "ok 早" and piece.finish == "stop"
    assert choice.drawn == len(ids) and choice.mean_logprob == pytest.approx(-0.5)


def test_a_reply_cut_within_a_character_ends_with_the_replacement_sign(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a早")
    assert "".join(p.text for p in stream(tokenizer, [ids[:-1]])) == tokenizer.decode(ids[:-1])


def test_offsets_count_characters(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("ok 👩d")
    placed = place_prompt(tokenizer, ids, [None] * len(ids))
    pieces = [tokenizer.token_bytes(index) for index in ids]
    before = [b"".join(pieces[:n]) for n in range(len(ids))]
    assert [token.start for token in placed] == [len(part.decode("utf-8", "ignore")) for part in before]
    special = [tokenizer.bos_id, *tokenizer.encode("ok")]
    assert [t.start for t in place_prompt(tokenizer, special, [None] * 2)] == [0, len("<|bos|>")]  # type: ignore[arg-type]


def test_the_two_shapes_of_logprobs(tokenizer: Tokenizer) -> None:
    """Field fault 42. OpenAI's documented shapes, by hand, for a token that is no character by itself."""
    byte = tokenizer.encode("👩")[0]
    (word,) = tokenizer.encode("ok")[:1]
    view = TokenLogprobs(-0.25, ((word, -0.125), (byte, -0.25)))
    placed = (
        Choice(tokenizer)
        .push([Token(byte, view), Token(word, TokenLogprobs(float("-inf"), ()))], "length")
        .tokens
    )
    name = "".join(f"\\x{value:02x}" for value in tokenizer.token_bytes(byte))
    spelled = tokenizer.token_bytes(word).decode()
    assert for_chat(tokenizer, placed[:1]) == {
        "content": [
            {
                "token": name,
                "logprob": -0.25,
                "bytes": list(tokenizer.token_bytes(byte)),
                "top_logprobs": [
                    {"token": spelled, "logprob": -0.125, "bytes": list(spelled.encode())},
                    {"token": name, "logprob": -0.25, "bytes": list(tokenizer.token_bytes(byte))},
                ],
            }
        ],
        "refusal": None,
    }
    assert for_completion(tokenizer, placed, 10) == {
        "tokens": [f"bytes:{name}", spelled],
        "token_logprobs": [-0.25, -9999.0],
        "top_logprobs": [{spelled: -0.125, f"bytes:{name}": -0.25}, {spelled: -9999.0}],
        "text_offset": [10, 10],  # the sign for the broken character comes out with the token that breaks it
    }


def test_all_cuts_of_a_short_text(tokenizer: Tokenizer) -> None:
    """Every way to cut the ids of two characters, with a stop string that begins in the first."""
    ids = tokenizer.encode("👩好x")
    for marks in product([False, True], repeat=len(ids) - 1):
        places = {number + 1 for number, mark in enumerate(marks) if mark}
        assert "".join(p.text for p in stream(tokenizer, cut(ids, places))) == "👩好x"
        assert "".join(p.text for p in stream(tokenizer, cut(ids, places), ("好x",))) == "👩"
