"""Records: what is read, what comes back, and above all what is said when a file is wrong."""

import gzip
import json
import os
import resource
from pathlib import Path

import pytest

from instructgpt.data.jsonl import expand
from instructgpt.data.records import (
    EXAMPLES,
    Demonstration,
    Prompt,
    RankedResponse,
    Ranking,
    Text,
    read_demonstrations,
    read_prompts,
    read_rankings,
    read_texts,
    to_row,
    write_jsonl,
)
from instructgpt.errors import DataError, StorageError
from instructgpt.text.chat import Message

GOOD = '{"prompt": "Name a river.", "response": "The Nile."}'


def _file(folder: Path, *lines: str, name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def _fault(reader, path) -> str:
    with pytest.raises(DataError) as caught:
        reader(path)
    assert caught.value.exit_code == 2
    return str(caught.value)


# -- right files


def test_examples_in_errors_are_right_lines(tmp_path: Path) -> None:
    readers = {"prompt": read_prompts, "demonstration": read_demonstrations, "ranking": read_rankings}
    for kind, example in EXAMPLES.items():
        path = _file(tmp_path, example)
        assert len(readers.get(kind, read_texts)(path)) == 1


def test_every_field_survives_a_round_trip(tmp_path: Path) -> None:
    more = {"id": "p1", "user_id": "u1", "category": "open QA", "group": "g", "split": "train"}
    prompt = Prompt(
        (Message("system", "Be brief."), Message("user", "你好 🚀")), **more, source="s", consent=False
    )
    replies = (
        RankedResponse("a", 1, rating=6.5, flags=("hallucination",), model="m"),
        RankedResponse("", 2),
        RankedResponse("c", 2),
    )
    cases = [
        (read_prompts, [prompt, Prompt.of("plain")]),
        (read_demonstrations, [Demonstration(prompt, " kept as it is \n")]),
        (read_rankings, [Ranking(prompt, replies, labeler="l1"), Ranking(Prompt.of("x"), replies)]),
        (read_texts, [Text("one", source="web"), Text("two", "t2")]),
    ]
    for name in ("round.jsonl", "round.jsonl.gz"):
        for reader, records in cases:
            path = tmp_path / name
            assert write_jsonl(path, [to_row(record) for record in records]) == len(records)
            assert reader(path) == records


def test_plain_prompt_is_written_as_a_string() -> None:
    assert to_row(Demonstration(Prompt.of("Hi", id="1"), "Hello")) == {
        "prompt": "Hi",
        "response": "Hello",
        "id": "1",
    }


def test_missing_ids_are_the_same_everywhere() -> None:
    """blake2b-64 of the JSON list of roles and contents, so another run or machine names the prompt alike."""
    assert Prompt.of("Hi").id == Prompt.of("Hi", category="other").id != Prompt.of("Ho").id
    # python -c "import hashlib; print(hashlib.blake2b(b'[\"user\", \"Hi\"]', digest_size=8).hexdigest())"
    assert Prompt.of("Hi").id == "91f3d91ebb3c6003"


def test_numbers_as_ids_and_blank_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a", "id": 7, "user_id": 12}\r\n\r\n{"prompt": "b"}')
    first, second = read_prompts(path)
    assert (first.id, first.user_id, second.text) == ("7", "12", "b")


def test_prompts_of_other_records(tmp_path: Path) -> None:
    path = _file(tmp_path, GOOD, EXAMPLES["ranking"], '{"prompt": "x"}')
    assert [prompt.text for prompt in read_prompts(path)] == ["Name a river.", "Name a river.", "x"]


def test_globs_and_lists_of_files(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "c.jsonl"):
        _file(tmp_path, json.dumps({"prompt": name}), name=name)
    assert [prompt.text for prompt in read_prompts(f"{tmp_path}/*.jsonl")] == [
        "a.jsonl",
        "b.jsonl",
        "c.jsonl",
    ]
    listed = f"{tmp_path}/c.jsonl, {tmp_path}/[a]*.jsonl"
    assert [prompt.text for prompt in read_prompts(listed)] == ["c.jsonl", "a.jsonl"]


def test_a_file_whose_name_looks_like_a_glob(tmp_path: Path) -> None:
    path = _file(tmp_path, '{"prompt": "x"}', name="run[1].jsonl")
    assert expand(path) == [path]


# -- wrong files: each message holds place, fault and cure


def test_missing_file_names_the_near_ones(tmp_path: Path) -> None:
    _file(tmp_path, GOOD, name="demonstrations.jsonl")
    said = _fault(read_demonstrations, tmp_path / "demonstration.jsonl")
    assert "there is no such file" in said
    assert "did you mean" in said and "demonstrations.jsonl" in said
    assert "there is no" in _fault(read_demonstrations, tmp_path / "nowhere" / "x.jsonl")
    assert "no file matches" in _fault(read_demonstrations, f"{tmp_path}/*.jsonl.gz")
    assert "a path of data is empty" in _fault(read_demonstrations, f"{tmp_path}/demonstrations.jsonl,")


def test_folder_instead_of_a_file(tmp_path: Path) -> None:
    said = _fault(read_prompts, tmp_path)
    assert "this is a folder" in said and f"{tmp_path}/*.jsonl" in said


@pytest.mark.parametrize("name", ["data.jsonl", "data.jsonl.gz"])
@pytest.mark.parametrize("content", [b"", b"\n \n\n"])
def test_empty_file(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    said = _fault(read_demonstrations, path)
    assert "the file is empty" in said and str(path) in said and EXAMPLES["demonstration"] in said


def test_other_endings(tmp_path: Path) -> None:
    path = _file(tmp_path, "[]", name="data.json")
    assert "jq -c '.[]' data.json > data.jsonl" in _fault(read_prompts, path)
    assert ".jsonl or .jsonl.gz" in _fault(read_prompts, _file(tmp_path, "x", name="data.csv"))
    assert ".txt" in _fault(read_texts, _file(tmp_path, "x", name="data.pdf"))


def test_invalid_json_on_line_7(tmp_path: Path) -> None:
    path = _file(tmp_path, *[GOOD] * 6, '{"prompt": "x", "response": }', GOOD)
    said = _fault(read_demonstrations, path)
    assert f"{path}:7" in said and "invalid JSON: Expecting value, column 29" in said
    assert EXAMPLES["demonstration"] in said


def test_json_over_several_lines(tmp_path: Path) -> None:
    said = _fault(read_demonstrations, _file(tmp_path, "[", GOOD, "]"))
    assert "data.jsonl:1" in said and "jq -c '.[]'" in said


def test_line_that_is_no_object(tmp_path: Path) -> None:
    said = _fault(read_demonstrations, _file(tmp_path, GOOD, '["prompt"]'))
    assert "data.jsonl:2" in said and "holds a list, not an object" in said


def test_record_without_a_response(tmp_path: Path) -> None:
    said = _fault(read_demonstrations, _file(tmp_path, GOOD, '{"prompt": "x", "answer": "y"}'))
    assert "data.jsonl:2" in said
    assert "the record has no 'response' (it has 'prompt', 'answer')" in said
    assert EXAMPLES["demonstration"] in said


WRONG_DEMONSTRATIONS = [
    ({"response": "y"}, "no 'prompt'"),
    ({"prompt": 7, "response": "y"}, "'prompt' is a number, not a string or a list of messages"),
    ({"prompt": " ", "response": "y"}, "'prompt' is empty"),
    ({"prompt": "x", "response": None}, "'response' is null, not a string"),
    ({"prompt": "x", "response": ["y"]}, "'response' is a list, not a string"),
    ({"prompt": "x", "response": "\n"}, "'response' is empty"),
    ({"prompt": [], "response": "y"}, "'prompt' has no messages"),
    (
        {"prompt": ["hello"], "response": "y"},
        "message 1 of 'prompt' is not an object with 'role' and 'content'",
    ),
    (
        {"prompt": [{"role": "user", "content": 1}], "response": "y"},
        "content of message 1 of 'prompt' is a number",
    ),
    ({"prompt": [{"role": "robot", "content": "x"}], "response": "y"}, "role 'robot'"),
    (
        {"prompt": [{"role": "assistant", "content": "x"}], "response": "y"},
        "ends with the assistant's message",
    ),
    ({"prompt": [{"role": "user", "content": ""}], "response": "y"}, "'prompt' is empty"),
    ({"prompt": "x", "response": "y", "consent": "yes"}, "'consent' is a string, not true or false"),
    ({"prompt": "x", "response": "y", "user_id": 1.5}, "'user_id' is a number, not a string"),
    ({"prompt": "x", "response": "bad \ud83d"}, "'response' holds half of a surrogate pair (\\ud83d)"),
]


@pytest.mark.parametrize(("row", "says"), WRONG_DEMONSTRATIONS)
def test_wrong_demonstrations(tmp_path: Path, row: dict, says: str) -> None:
    said = _fault(read_demonstrations, _file(tmp_path, GOOD, json.dumps(row)))
    assert says in said and "data.jsonl:2" in said and "To mend it" in said


def _pair(**second: object) -> dict:
    return {"prompt": "x", "responses": [{"text": "a", "rank": 1}, {"text": "b", "rank": 2} | second]}


WRONG_RANKINGS = [
    ({"prompt": "x"}, "no 'responses'"),
    ({"prompt": "x", "responses": "a"}, "must be a list of at least two, it is a string"),
    ({"prompt": "x", "responses": [{"text": "a", "rank": 1}]}, "at least two, it has 1"),
    ({"prompt": "x", "responses": ["a", "b"]}, "response 1 is a string, not an object"),
    ({"prompt": "x", "responses": [{"text": "a", "rank": 1}, {"text": "b"}]}, "response 2 has no 'rank'"),
    ({"prompt": "x", "responses": [{"rank": 1}, {"text": "b", "rank": 2}]}, "response 1 has no 'text'"),
    (_pair(rank=0), "'rank' of response 2 is 0, not a whole number from 1"),
    (_pair(rank=True), "'rank' of response 2 is true"),
    (_pair(rank=1.5), "'rank' of response 2 is 1.5"),
    (_pair(text=None), "text of response 2 is null"),
    (_pair(rating="good"), "'rating' of response 2 is a string, not a number"),
    (_pair(flags="bad"), "'flags' of response 2 is not a list of strings"),
]


@pytest.mark.parametrize(("row", "says"), WRONG_RANKINGS)
def test_wrong_rankings(tmp_path: Path, row: dict, says: str) -> None:
    said = _fault(read_rankings, _file(tmp_path, json.dumps(row)))
    assert says in said and "data.jsonl:1" in said and "To mend it" in said


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "latin.jsonl"
    path.write_bytes(GOOD.encode() + b"\n" + '{"prompt": "café", "response": "x"}'.encode("latin1"))
    said = _fault(read_demonstrations, path)
    assert "latin.jsonl:2" in said and "byte 0xe9 is not valid UTF-8" in said and "iconv" in said
    text = tmp_path / "latin.txt"
    text.write_bytes(b"one\n\nthree\xe9\n")
    assert "latin.txt:3" in _fault(read_texts, text)


def test_gzip_that_is_cut_or_none(tmp_path: Path) -> None:
    whole = gzip.compress(
        "".join(
            json.dumps({"prompt": "x", "response": os.urandom(9).hex()}) + "\n" for _ in range(500)
        ).encode()
    )
    for content in (whole[: len(whole) // 2], GOOD.encode(), whole[:200] + b"\0" * 300):
        path = tmp_path / "data.jsonl.gz"
        path.write_bytes(content)
        assert "not whole gzip data" in _fault(read_demonstrations, path)


# -- texts


def test_texts_are_whole_paragraphs_up_to_a_length(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(
        "\n\nTitle\r\n\r\nfirst line\r\nsecond line\n\n\n\n" + "x" * 30 + "\n\nlast", encoding="utf-8"
    )
    # "Title" 5+2 and "first line\nsecond line" 22+2 make 31 >= 30; then x*30; then what is left.
    assert [text.text for text in read_texts(path, target_characters=30)] == [
        "Title\n\nfirst line\nsecond line",
        "x" * 30,
        "last",
    ]
    whole = [text.text for text in read_texts(path, target_characters=0)]
    assert whole == ["Title\n\nfirst line\nsecond line\n\n\n\n" + "x" * 30 + "\n\nlast"]


def test_a_text_without_blank_lines_is_cut_between_lines(tmp_path: Path) -> None:
    path = _file(tmp_path, *(f"line {number}" for number in range(4)), name="b.txt")
    assert [text.text for text in read_texts(path, 14)] == ["line 0\nline 1", "line 2\nline 3"]


def test_texts_from_both_kinds_of_file(tmp_path: Path) -> None:
    _file(tmp_path, '{"text": "one"}', name="a.jsonl")
    _file(tmp_path, "two", name="b.txt")
    assert [text.text for text in read_texts(f"{tmp_path}/a.jsonl,{tmp_path}/b.txt")] == ["one", "two"]
    assert "no 'text'" in _fault(read_texts, _file(tmp_path, GOOD))


# -- writing


def test_same_rows_same_bytes(tmp_path: Path) -> None:
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write_jsonl(tmp_path / name, [{"text": "é"}])
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_a_failure_to_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = _file(tmp_path, GOOD)

    def rows():
        yield {"prompt": "x"}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_jsonl(path, rows())
    assert path.read_text() == GOOD + "\n"
    assert os.listdir(tmp_path) == ["data.jsonl"]
    with pytest.raises(StorageError, match=r"can't write.*data\.jsonl/below"):
        write_jsonl(path / "below" / "x.jsonl", [{"prompt": "x"}])


def test_a_full_disk_is_told_and_leaves_what_was_there(tmp_path: Path) -> None:
    """A limit on file size stands for the full disk."""
    path = _file(tmp_path, GOOD)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(StorageError, match=r"file too large.*data\.jsonl.*free some space"):
            write_jsonl(path, [{"text": "x" * 100}] * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_text() == GOOD + "\n"
    assert os.listdir(tmp_path) == ["data.jsonl"]
