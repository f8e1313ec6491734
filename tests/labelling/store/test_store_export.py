"""What comes out, and that the other stages read it as it is."""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from instructgpt.data.records import Prompt, read_demonstrations, read_prompts, read_rankings
from instructgpt.errors import ConfigError, DataError
from instructgpt.labelling.store import export, people, projects, queue, review, submit, tasks
from instructgpt.labelling.store.database import Store
from instructgpt.labelling.store.export import export_project
from instructgpt.labelling.store.form import (
    CompareAnswer,
    DemonstrationAnswer,
    Example,
    Judgement,
    PromptAnswer,
    RankAnswer,
)
from instructgpt.labelling.store.people import Person
from instructgpt.labelling.store.projects import Project, ProjectSettings
from instructgpt.labelling.store.refusals import Forbidden
from instructgpt.labelling.store.tasks import NewReply, NewTask
from instructgpt.maths.ranking import untied_pairs
from instructgpt.reward_model.comparisons import encode
from instructgpt.text.chat import Message, render_reply
from instructgpt.text.tokenizer import Tokenizer, train_tokenizer

Make = Callable[..., Project]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["Name a river. The Nile. The Rhine. Paris. I don't know."] * 4, vocab_size=300)


def new_project(store: Store, kind: Any, given: list[NewTask], **settings: Any) -> Project:
    project = projects.create_project(store, ProjectSettings("P", kind, **settings), by=None)
    tasks.add_tasks(store, project.id, given, by=None)
    return project


REPLIES = ("The Nile.", "The Rhine.", "Paris.", "I don't know.")


def rank_the_rivers(store: Store, ann: Person, ranks: dict[str, int], **more: Any) -> Project:
    """One ranking of REPLIES, as a labeler gives it who sees them in their own order."""
    asked = NewTask(
        Prompt.of("Name a river.", id="r1", user_id="u1", category="open QA", split="train"),
        tuple(NewReply(text, f"m{place}") for place, text in enumerate(REPLIES)),
    )
    project = new_project(store, "rank", [asked], replies=4)
    lease = queue.next_task(store, ann.id, project.id)
    assert lease is not None
    judged = tuple(
        Judgement(
            reply.key,
            ranks[reply.text],
            8 - ranks[reply.text],
            ("hallucination",) if reply.text == "Paris." else (),
        )
        for reply in lease.replies
    )
    submit.submit(store, ann.id, lease.token, RankAnswer(judged, **more))
    return project


def test_a_ranking_becomes_exactly_the_pairs_that_one_writes_by_hand(
    store: Store, labelers: list[Person], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    ranks = {"The Nile.": 1, "The Rhine.": 1, "Paris.": 3, "I don't know.": 2}
    project = rank_the_rivers(store, labelers[0], ranks)
    done = export_project(store, project.id, tmp_path, by=None)
    assert done.files == {"preferences_train.jsonl": 5, "rankings_train.jsonl": 1}

    records = read_rankings(tmp_path / "rankings_train.jsonl")
    (comparison,), _, dropped = encode(records, tokenizer, limit=512)
    assert dropped == 0
    better, worse, _ = untied_pairs(torch.tensor(comparison.ranks), [4])
    pairs = {
        (tuple(comparison.sequences[b]), tuple(comparison.sequences[w]))
        for b, w in zip(better.tolist(), worse.tolist(), strict=True)
    }
    by_hand = [
        ("The Nile.", "I don't know."),
        ("The Nile.", "Paris."),
        ("The Rhine.", "I don't know."),
        ("The Rhine.", "Paris."),
        ("I don't know.", "Paris."),
    ]
    asked = (Message("user", "Name a river."),)
    ids = {text: tuple(render_reply(tokenizer, asked, text).ids) for text in REPLIES}
    assert pairs == {(ids[b], ids[w]) for b, w in by_hand}

    as_pairs = read_rankings(tmp_path / "preferences_train.jsonl")
    assert {(one.responses[0].text, one.responses[1].text) for one in as_pairs} == set(by_hand)
    assert all([reply.rank for reply in one.responses] == [1, 2] for one in as_pairs)


def test_every_field_of_a_ranking_comes_out(store: Store, labelers: list[Person], tmp_path: Path) -> None:
    ranks = {"The Nile.": 1, "The Rhine.": 2, "Paris.": 2, "I don't know.": 3}
    project = rank_the_rivers(store, labelers[0], ranks, all_bad=True, prompt_flags=("ambiguous",))
    export_project(store, project.id, tmp_path, by=None)
    (row,) = [json.loads(line) for line in (tmp_path / "rankings_train.jsonl").read_text().splitlines()]
    assert row == {
        "prompt": "Name a river.",
        "responses": [
            {"text": "The Nile.", "rank": 1, "rating": 7, "model": "m0"},
            {"text": "The Rhine.", "rank": 2, "rating": 6, "model": "m1"},
            {"text": "Paris.", "rank": 2, "rating": 6, "model": "m2", "flags": ["hallucination"]},
            {"text": "I don't know.", "rank": 3, "rating": 5, "model": "m3"},
        ],
        "labeler": export.pseudonym(store, labelers[0].id),
        "id": "r1",
        "user_id": "u1",
        "category": "open QA",
        "split": "train",
        "all_bad": True,
        "prompt_flags": ["ambiguous"],
    }
    rows, left_out = export.export_rows(store, project.id, by=None, include_all_bad=False)
    assert (rows, left_out) == ({}, {"all-bad": 1})


def test_labelers_are_named_by_pseudonyms_that_last(store: Store, labelers: list[Person]) -> None:
    names = [export.pseudonym(store, person.id) for person in labelers]
    assert names == [export.pseudonym(store, person.id) for person in labelers]
    assert len(set(names)) == 4 and all(name.startswith("labeler-") and len(name) == 20 for name in names)
    guess = hashlib.blake2b(f"labeler:{labelers[0].id}".encode(), digest_size=6).hexdigest()
    assert names[0] != f"labeler-{guess}"  # without the key it can't be made


def test_excluding_is_reversible_and_rejecting_counts(store: Store, labelers: list[Person]) -> None:
    ann = labelers[0]
    project = rank_the_rivers(store, ann, {text: place for place, text in enumerate(REPLIES, start=1)})
    before = export.export_rows(store, project.id, by=None)
    people.set_excluded(store, ann.id, True, by=None)
    assert export.export_rows(store, project.id, by=None) == ({}, {"excluded": 1})
    people.set_excluded(store, ann.id, False, by=None)
    assert export.export_rows(store, project.id, by=None) == before
    (label,) = review.labels(store, project.id, by=None)
    review.set_rejected(store, label.label_id, True, by=None)
    assert export.export_rows(store, project.id, by=None) == ({}, {"rejected": 1})


def test_demonstrations_are_read_by_sft(store: Store, labelers: list[Person], tmp_path: Path) -> None:
    ann = labelers[0]
    before = (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Name a river."))
    asked = [
        NewTask(Prompt.of("Count.", split="valid")),
        NewTask(Prompt(before, split="train", answers=("Nile",))),
        NewTask(Prompt.of("Mine alone", consent=False, split="train")),
    ]
    project = new_project(store, "demonstration", asked)
    turns = {
        "Count.": (Message("assistant", "1 2 3"),),
        "Name a river.": (
            Message("assistant", "Nile"),
            Message("user", "More"),
            Message("assistant", "Rhine"),
        ),
        "Mine alone": (Message("assistant", "never"),),
    }
    for _ in asked:
        lease = queue.next_task(store, ann.id, project.id)
        assert lease is not None
        submit.submit(store, ann.id, lease.token, DemonstrationAnswer(turns[lease.messages[-1].content]))
    done = export_project(store, project.id, tmp_path, by=None)
    assert done.left_out == {"no-consent": 1}
    (valid,) = read_demonstrations(tmp_path / "demonstrations_valid.jsonl")
    assert (valid.prompt.text, valid.response) == ("Count.", "1 2 3")
    (train,) = read_demonstrations(tmp_path / "demonstrations_train.jsonl")
    assert train.prompt.messages == (*before, Message("assistant", "Nile"), Message("user", "More"))
    assert train.response == "Rhine" and train.prompt.answers == ()


def test_written_prompts_and_their_shots(store: Store, labelers: list[Person], tmp_path: Path) -> None:
    ann = labelers[0]
    project = projects.create_project(store, ProjectSettings("P", "prompt", valid=0.0), by=None)
    tasks.add_prompt_tasks(store, project.id, 1, style="plain", by=None)
    tasks.add_prompt_tasks(store, project.id, 1, style="few-shot", by=None)
    shots = (Example("one", "1"), Example("two", "2"), Example("three", "3"))
    for answer in (PromptAnswer("Name a river.", category="open QA"), PromptAnswer("As digits:", shots)):
        lease = queue.next_task(store, ann.id, project.id)
        assert lease is not None
        submit.submit(store, ann.id, lease.token, answer)
    export_project(store, project.id, tmp_path, by=None)
    written = read_prompts(tmp_path / "prompts_train.jsonl")
    assert [prompt.text for prompt in written] == [
        "Name a river.",
        "As digits:\n\ntwo\n2\n\nthree\n3\n\none",
        "As digits:\n\none\n1\n\nthree\n3\n\ntwo",
        "As digits:\n\none\n1\n\ntwo\n2\n\nthree",
    ]
    assert written[0].category == "open QA"
    shown = read_demonstrations(tmp_path / "demonstrations_train.jsonl")
    assert [(one.prompt.text[-5:], one.response) for one in shown] == [
        ("\n\none", "1"),
        ("\n\ntwo", "2"),
        ("three", "3"),
    ]


def test_comparisons_with_a_tie_and_messages(store: Store, labelers: list[Person], tmp_path: Path) -> None:
    ann = labelers[0]
    long = (Message("system", "Be brief."), Message("user", "Hi"))
    pair = (NewReply("Hello", "m0"), NewReply("Hello there", "m1"))
    asked = [NewTask(Prompt(long, split="test"), pair), NewTask(Prompt.of("Yo", split="test"), pair)]
    project = new_project(store, "compare", asked, replies=2)
    for ranks in ({"Hello": 1, "Hello there": 2}, {"Hello": 1, "Hello there": 1}):
        lease = queue.next_task(store, ann.id, project.id)
        assert lease is not None
        judged = tuple(Judgement(reply.key, ranks[reply.text]) for reply in lease.replies)
        submit.submit(store, ann.id, lease.token, CompareAnswer(judged))
    done = export_project(store, project.id, tmp_path, by=None)
    assert done.files == {"comparisons_test.jsonl": 2, "preferences_test.jsonl": 1}
    clear, tied = read_rankings(tmp_path / "comparisons_test.jsonl")
    assert [reply.rank for reply in clear.responses] == [1, 2] and clear.prompt.messages == long
    assert [reply.rank for reply in tied.responses] == [1, 1]
    (preferred,) = read_rankings(tmp_path / "preferences_test.jsonl")
    assert preferred.prompt.messages == long
    assert [reply.text for reply in preferred.responses] == ["Hello", "Hello there"]


def test_splits_go_by_user_and_by_the_projects_shares(store: Store, labelers: list[Person]) -> None:
    asked = [
        NewTask(Prompt.of(f"question {number}", id=f"q{number}", user_id=f"user {number % 20}"))
        for number in range(60)
    ]
    project = new_project(store, "demonstration", asked, valid=0.3, test=0.2)
    for _ in asked:
        lease = queue.next_task(store, labelers[0].id, project.id)
        assert lease is not None
        submit.submit(store, labelers[0].id, lease.token, DemonstrationAnswer((Message("assistant", "x"),)))
    rows, _ = export.export_rows(store, project.id, by=None)
    users = {name: {row["user_id"] for row in part} for name, part in rows.items()}
    assert set(users) == {"demonstrations_train", "demonstrations_valid", "demonstrations_test"}
    assert sum(map(len, users.values())) == 20  # no user in two parts
    everything, _ = export.export_rows(store, project.id, by=None, valid=0.0, test=0.0)
    assert {name: len(part) for name, part in everything.items()} == {"demonstrations_train": 60}
    with pytest.raises(ConfigError):
        export.export_rows(store, project.id, by=None, valid=0.9, test=0.2)


def test_exporting_again_leaves_no_old_files(store: Store, labelers: list[Person], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    project = rank_the_rivers(
        store, labelers[0], {text: place for place, text in enumerate(REPLIES, start=1)}
    )
    folder.mkdir()
    (folder / "mine.jsonl").write_text("{}\n")
    export_project(store, project.id, folder, by=None)
    people.set_excluded(store, labelers[0].id, True, by=None)
    export_project(store, project.id, folder, by=None)
    assert sorted(path.name for path in folder.iterdir()) == ["export.json", "mine.jsonl"]
    (folder / "export.json").write_text("[]")
    with pytest.raises(DataError, match="choose an empty folder"):
        export_project(store, project.id, folder, by=None)


def test_the_archive_holds_the_same_lines_and_the_same_bytes(
    store: Store, labelers: list[Person], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    project = rank_the_rivers(
        store, labelers[0], {text: place for place, text in enumerate(REPLIES, start=1)}
    )
    packed = export.export_zip(store, project.id, by=None)
    assert packed == export.export_zip(store, project.id, by=None)
    export_project(store, project.id, folder, by=None)
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert sorted(archive.namelist()) == sorted(path.name for path in folder.iterdir())
        for path in folder.iterdir():
            assert archive.read(path.name) == path.read_bytes()


def test_only_admins_export(store: Store, labelers: list[Person], make_project: Make, tmp_path: Path) -> None:
    project = make_project(1)
    rob = people.create_person(store, "Rob", None, "reviewer", by=None)
    for person in (labelers[0], rob):
        with pytest.raises(Forbidden):
            export_project(store, project.id, tmp_path, by=person.id)
        with pytest.raises(Forbidden):
            export.export_feedback(store, tmp_path, by=person.id)
