"""Foreign shapes: by hand, and on the real files of ../shared/data where they are at hand."""

import json
from pathlib import Path

import pytest

from instructgpt.data.records import read_demonstrations, read_prompts, read_rankings, read_texts
from instructgpt.data.sources import normalise
from instructgpt.errors import DataError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


ASKED = {"prompt": "Q", "response": "A"}
DEMONSTRATIONS = [
    ({"instruction": "Q", "input": "", "output": " A\n"}, ASKED),
    ({"instruction": "Q ", "input": "text", "output": "A"}, {"prompt": "Q\n\ntext", "response": "A"}),
    (
        {"instruction": "Q", "input": "", "output": "A", "history": [["q", "a"]]},
        {"prompt": [_user("q"), _assistant("a"), _user("Q")], "response": "A"},
    ),
    (
        {"id": 4, "instruction": "Q", "context": "text", "response": "A", "category": "closed QA"},
        {"id": 4, "category": "closed QA", "prompt": "Q\n\ntext", "response": "A"},
    ),
    ({"id": "s", "instruction": "Q", "instances": [{"input": "", "output": "A"}]}, {"id": "s", **ASKED}),
    ({"prompt": "Q", "completion": "A "}, ASKED),
    ({"prompt": "Q", "response": "A", "history": []}, ASKED),
    (
        {"prompt": "Q", "response": "A", "history": [["q", "a"]]},
        {"prompt": [_user("q"), _assistant("a"), _user("Q")], "response": "A"},
    ),
    (
        {"prompt": [_user("Q")], "response": "A", "history": [["q", "a"]]},
        {"prompt": [_user("q"), _assistant("a"), _user("Q")], "response": "A"},
    ),
    (
        {"prompt": "Q", "completion": "A", "history": [["q", "a"]]},
        {"prompt": [_user("q"), _assistant("a"), _user("Q")], "response": "A"},
    ),
    (
        {"prompt": [_user("Q")], "completion": [_assistant("A")]},
        {"prompt": [_user("Q")], "response": "A"},
    ),
    ({"messages": [_user("Q"), _assistant("A")]}, {"prompt": [_user("Q")], "response": "A"}),
    (
        {"messages": [_user("Q"), {"role": "assistant", "content": [{"type": "text", "text": "A"}]}]},
        {"prompt": [_user("Q")], "response": "A"},
    ),
    (
        {"conversations": ["Q", "A"], "source": "lima"},
        {"source": "lima", "prompt": [_user("Q")], "response": "A"},
    ),
    (
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
        {"prompt": [_user("Q")], "response": "A"},
    ),
    (  # the last turn waits for an answer that never came
        {
            "conversations": [
                {"from": "human", "value": "Q"},
                {"from": "gpt", "value": "A"},
                {"from": "human", "value": "R"},
            ]
        },
        {"prompt": [_user("Q")], "response": "A"},
    ),
    ({"prompt": "Q", "response": " as it is "}, {"prompt": "Q", "response": " as it is "}),
]


@pytest.mark.parametrize(("row", "expected"), DEMONSTRATIONS)
def test_demonstrations(row: dict, expected: dict) -> None:
    assert normalise(row, "demonstration") == expected


def test_prompts_of_conversations() -> None:
    turns = [_user("Q"), _assistant("A"), _user("R")]
    assert normalise({"messages": turns}, "prompt") == {"prompt": turns}
    assert normalise({"messages": turns[:2]}, "prompt") == {"prompt": turns[:1]}


def _two(better: str, worse: str, *ranks: int) -> list[dict]:
    first, second = ranks or (1, 2)
    return [{"text": better, "rank": first}, {"text": worse, "rank": second}]


def _hh(*turns: str) -> str:
    return "".join(f"\n\n{('Human', 'Assistant')[place % 2]}: {turn}" for place, turn in enumerate(turns))


RANKINGS = [
    ({"prompt": "Q", "chosen": "A", "rejected": "B "}, {"prompt": "Q", "responses": _two("A", "B")}),
    (
        {"prompt": [_user("Q")], "chosen": [_assistant("A")], "rejected": [_assistant("B")]},
        {"prompt": [_user("Q")], "responses": _two("A", "B")},
    ),
    (
        {"chosen": [_user("Q"), _assistant("A")], "rejected": [_user("Q"), _assistant("B")]},
        {"prompt": [_user("Q")], "responses": _two("A", "B")},
    ),
    (
        {"chosen": _hh("Q", "A"), "rejected": _hh("Q", "B")},
        {"prompt": [_user("Q")], "responses": _two("A", "B")},
    ),
    (
        {"chosen": _hh("Q", "a", "R", "A"), "rejected": _hh("Q", "a", "R", "")},
        {"prompt": [_user("Q"), _assistant("a"), _user("R")], "responses": _two("A", "")},
    ),
    (  # a few part before the last turn: the replies at the parting count
        {"chosen": _hh("Q", "A", "R", "x"), "rejected": _hh("Q", "B")},
        {"prompt": [_user("Q")], "responses": _two("A", "B")},
    ),
    (  # one side speaks twice
        {
            "chosen": "\n\nHuman: Q\n\nHuman: R\n\nAssistant: A",
            "rejected": "\n\nHuman: Q\n\nHuman: R\n\nAssistant: B",
        },
        {"prompt": [_user("Q\n\nR")], "responses": _two("A", "B")},
    ),
    (  # the same reply twice is a tie
        {"chosen": _hh("Q", "A"), "rejected": _hh("Q", "A ")},
        {"prompt": [_user("Q")], "responses": _two("A", "A", 1, 1)},
    ),
    (  # one dialogue goes on where the other ends: of their common last reply nothing is said
        {"chosen": _hh("Q", "A"), "rejected": _hh("Q", "A", "R")},
        {"prompt": [_user("Q")], "responses": _two("A", "A", 1, 1)},
    ),
    (
        {"prompt": "Q", "history": [], "responses": ["A", "B"], "ranking": [2, 1]},
        {"prompt": "Q", "responses": _two("A", "B", 2, 1)},
    ),
    (
        {"prompt": "Q", "history": [["q", "a"]], "responses": ["A", "B"], "ranking": [1, 2]},
        {"prompt": [_user("q"), _assistant("a"), _user("Q")], "responses": _two("A", "B")},
    ),
    ({"prompt": "Q", "responses": _two("A", "B")}, {"prompt": "Q", "responses": _two("A", "B")}),
]


@pytest.mark.parametrize(("row", "expected"), RANKINGS)
def test_rankings(row: dict, expected: dict) -> None:
    assert normalise(row, "ranking") == expected


WRONG = [
    ({"instruction": "Q", "output": "A", "history": ["q"]}, "'history' is not a list of"),
    ({"prompt": "Q", "response": "A", "history": ["q"]}, "'history' is not a list of"),
    ({"instruction": "Q", "instances": []}, "'instances' is not a list of objects"),
    ({"messages": ["Q", "A"]}, "'messages' is not a list of messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "holds more than text"),
    ({"conversations": [1]}, "'conversations' is neither"),
    ({"conversations": []}, "no 'responses'"),
    ({"prompt": "Q", "chosen": "A", "rejected": [_assistant("B")]}, "must both be strings or both be lists"),
    ({"prompt": "Q", "chosen": [_user("A")], "rejected": [_user("B")]}, "does not end with the assistant"),
    ({"chosen": "A", "rejected": "B"}, "neither a reply to a 'prompt' nor a transcript"),
    ({"chosen": _hh("Q", "A"), "rejected": _hh("R", "B")}, "do not answer the same prompt"),
    ({"chosen": _hh("Q", "A"), "rejected": _hh("Q")}, "do not answer the same prompt"),
    ({"chosen": _hh("Q", "A", "R"), "rejected": _hh("Q", "A", "S")}, "part at a turn of the user"),
    ({"prompt": "Q", "responses": ["A", "B"], "ranking": [1]}, "one rank for each"),
    ({"prompt": "Q", "responses": ["A", "B"], "ranking": None}, "one rank for each"),
    ({"responses": ["A", "B"], "ranking": [1, 2]}, "no 'prompt'"),
    ({"instruction": "Q", "output": "A"}, "no 'responses'"),
    ({"messages": [{"role": "user"}], "x": 1}, "no 'responses'"),
    ({"conversations": ["Q", None]}, "'conversations' is neither"),
]


@pytest.mark.parametrize(("row", "says"), WRONG)
def test_faults_in_known_shapes_are_told_with_their_line(tmp_path: Path, row: dict, says: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "Q", "chosen": "A", "rejected": "B"}\n' + json.dumps(row) + "\n")
    with pytest.raises(DataError) as caught:
        read_rankings(path)
    assert says in str(caught.value) and "data.jsonl:2" in str(caught.value)


def test_a_conversation_without_a_reply_is_no_demonstration(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"messages": [_user("Q")]}) + "\n")
    with pytest.raises(DataError, match="no 'response'"):
        read_demonstrations(path)


# -- real files; the numbers of records are those of the files' own README


def _real(name: str) -> Path:
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"the development data is not at hand: ../shared/data/{name}")
    return path


@pytest.mark.parametrize(
    ("name", "count", "several_turns"),
    [
        ("dolly-15k.jsonl.gz", 12329, 0),
        ("alpaca-gpt4-en-1k.jsonl.gz", 820, 0),
        ("alpaca-gpt4-zh-1k.jsonl.gz", 791, 0),
        ("lima.jsonl.gz", 879, 21),  # histories of 1, 2, 3 and 9 turns: 12 + 7 + 1 + 1
        ("oasst1-en-sft.jsonl.gz", 408, 248),
        ("self-instruct-seed-tasks.jsonl", 145, 0),
        ("belle-zh-seed-tasks.jsonl", 140, 0),
        ("p3-multitask.jsonl.gz", 4368, 0),
    ],
)
def test_real_demonstrations(name: str, count: int, several_turns: int) -> None:
    records = read_demonstrations(_real(f"instruction/{name}"))
    assert len(records) == count
    assert sum(len(record.prompt.messages) > 1 for record in records) == several_turns
    for record in records:
        assert record.response.strip() == record.response != ""
        assert record.prompt.messages[-1].role == "user"
        assert len(record.prompt.messages) % 2 == 1
    assert len(read_prompts(_real(f"instruction/{name}"))) == count


@pytest.mark.parametrize(
    ("name", "count", "empty", "ties"),
    [
        ("helpful-base", 1913, 3, 0),
        ("helpful-online", 946, 3, 1),
        ("harmless-base", 1858, 3, 0),
        ("helpful-rejection-sampled", 2222, 0, 0),
    ],
)
def test_real_hh_transcripts(name: str, count: int, empty: int, ties: int) -> None:
    """Every pair is read, the few that part early too; the prompt ends with the human."""
    records = read_rankings(_real(f"preference/hh-rlhf-{name}.jsonl.gz"))
    assert len(records) == count
    for record in records:
        better, worse = record.responses
        assert (better.rank, worse.rank) == (1, 1 if better.text == worse.text else 2)
        roles = [message.role for message in record.prompt.messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
    assert sum(not reply.text for record in records for reply in record.responses) == empty
    assert sum(record.responses[1].rank == 1 for record in records) == ties


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("en", {2: 118, 3: 224, 4: 12, 5: 1}),
        ("en100", {2: 50, 3: 103, 4: 27, 5: 3, 6: 6, 8: 1, 9: 1}),
        ("zh", {2: 356, 3: 220, 4: 53, 5: 11, 8: 1, 10: 1}),
    ],
)
def test_real_oasst_rankings(name: str, sizes: dict[int, int]) -> None:
    records = read_rankings(_real(f"preference/oasst1-{name}-rankings.jsonl.gz"))
    found = [len(record.responses) for record in records]
    assert {size: found.count(size) for size in set(found)} == sizes
    for record in records:
        assert sorted(reply.rank for reply in record.responses) == list(range(1, len(record.responses) + 1))
        assert record.prompt.messages[-1].role == "user"


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("c4-en-300.jsonl.gz", 247),
        ("imdb-unlabelled-reviews.jsonl.gz", 4500),
        ("wikipedia-zh-paragraphs.jsonl.gz", 583),
    ],
)
def test_real_texts_line_by_line(name: str, count: int) -> None:
    assert len(read_texts(_real(f"pretrain/{name}"))) == count


@pytest.mark.parametrize(
    "name", ["tinystories-subset", "alice-in-wonderland", "wikitext-2-valid", "zh-hongloumeng"]
)
def test_real_books(name: str) -> None:
    """Nothing but white space is lost, and documents have the length asked for, give or take a paragraph."""
    path = _real(f"pretrain/{name}.txt.gz")
    (whole,) = read_texts(path, target_characters=0)
    texts = read_texts(path, target_characters=2000)
    assert "".join("".join(text.text for text in texts).split()) == "".join(whole.text.split())
    assert all(len(text.text) >= 1900 for text in texts[:-1])
    assert len(whole.text) / len(texts) < 4000


def test_all_pretraining_files_at_once() -> None:
    _real("pretrain/alice-in-wonderland.txt.gz")
    assert len(read_texts(f"{SHARED}/pretrain/*.jsonl.gz,{SHARED}/pretrain/a*.txt.gz")) > 5000
