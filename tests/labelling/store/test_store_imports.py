"""Tasks and replies from files: what is taken, and what is said of what is not."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instructgpt.data.records import Prompt
from instructgpt.errors import DataError
from instructgpt.labelling.store import (
    audit,
    imports,
    people,
    projects,
    queue,
    review,
    screening,
    submit,
    tasks,
)
from instructgpt.labelling.store.database import Store
from instructgpt.labelling.store.imports import import_replies, import_tasks
from instructgpt.labelling.store.projects import Project, ProjectSettings
from instructgpt.labelling.store.refusals import Forbidden, Invalid, NotFound
from instructgpt.labelling.store.tasks import Added, NewReply, NewTask

Make = Callable[..., Project]


def upload(*rows: Any, name: str = "mine.jsonl") -> tuple[str, bytes]:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    return name, "".join(f"{line}\n" for line in lines).encode()


def test_all_shapes_of_replies_are_taken_and_all_fields_kept(store: Store, make_project: Make) -> None:
    project = make_project(0, replies=2)
    full = {
        "id": "a",
        "user_id": "u",
        "category": "chat",
        "group": "g",
        "split": "test",
        "source": "s",
        "consent": True,
    }
    rows = [
        {"prompt": "one", "responses": ["x", {"text": "y", "model": "m"}], "answer": "7", **full},
        {"prompt": [{"role": "user", "content": "two"}], "responses": ["x"]},
        {"prompt": "three"},
        {"prompt": "four", "chosen": "good", "rejected": "bad"},
        {"prompt": "five", "responses": [{"text": "p", "rank": 2}, {"text": "q", "rank": 1, "rating": 7}]},
    ]
    assert import_tasks(store, project.id, upload(*rows), by=None) == Added(5, 0, 2)
    found = tasks.tasks(store, project.id, by=None)
    assert found[0].prompt == Prompt.of("one", answers=("7",), **full)
    assert [(reply.text, reply.model) for reply in found[0].replies] == [("x", None), ("y", "m")]
    assert [task.state for task in found] == ["open", "waiting", "waiting", "open", "open"]
    # For real work a rank that a file brings along is nobody's business.
    assert [reply.known_rank for task in found for reply in task.replies] == [None] * 7


def test_an_import_sent_twice_adds_nothing(store: Store, make_project: Make, tmp_path: Path) -> None:
    project = make_project(0)
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "one"}\n\n{"prompt": "two"}\n{"prompt": "one"}\n')
    assert import_tasks(store, project.id, path, by=None) == Added(2, 1, 2)
    assert import_tasks(store, project.id, path, by=None) == Added(0, 3, 0)
    assert projects.project(store, project.id).tasks == 2


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ('{"prompt": ', "invalid JSON"),
        ({"text": "x"}, "has no 'prompt'"),
        ({"prompt": 5}, "'prompt' is a number"),
        ({"prompt": "x", "responses": "y"}, "'responses' is a string"),
        ({"prompt": "x", "responses": [5]}, "response 1 has no text"),
        ({"prompt": "x", "responses": [{"text": "y", "model": 3}]}, "'model' of response 1"),
        ({"prompt": "nul \x00"}, "NUL"),
        ({"prompt": "x", "responses": ["nul \x00"]}, "NUL"),
        ({"prompt": "x", "id": "i" * 201}, "more than 200"),
        ({"prompt": "x" * 100_001}, "more than 100000"),
        ({"prompt": "x", "explanation": 3}, "'explanation'"),
        ('{"prompt": "\\ud800"}', "surrogate"),
    ],
)
def test_a_wrong_line_is_named_and_nothing_is_added(
    sqlite_store: Store, tmp_path: Path, row: Any, told: str
) -> None:
    store = sqlite_store
    project = projects.create_project(store, ProjectSettings("P", "rank", replies=2), by=None)
    file = upload({"prompt": "fine"}, row)
    with pytest.raises(DataError, match=told) as caught:
        import_tasks(store, project.id, file, by=None)
    assert caught.value.where == "mine.jsonl:2"
    assert "tmp" not in str(caught.value)
    assert projects.project(store, project.id).tasks == 0


def test_uploads_are_bounded(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    project = projects.create_project(sqlite_store, ProjectSettings("P", "rank"), by=None)
    packed = gzip.compress(b'{"prompt": "x"}\n')
    with pytest.raises(DataError, match="packed"):
        import_tasks(sqlite_store, project.id, ("a.jsonl.gz", packed), by=None)
    with pytest.raises(DataError, match="not valid UTF-8"):
        import_tasks(sqlite_store, project.id, ("../../etc/passwd", packed), by=None)
    monkeypatch.setattr(imports, "MAX_UPLOAD", 10)
    with pytest.raises(DataError, match="more than"):
        import_tasks(sqlite_store, project.id, upload({"prompt": "x"}), by=None)
    monkeypatch.setattr(tasks, "MAX_TASKS", 2)
    with pytest.raises(Invalid, match="more than 2"):
        tasks.add_tasks(sqlite_store, project.id, [NewTask(Prompt.of(str(n))) for n in range(3)], by=None)


def test_only_admins_import_and_only_where_there_is_a_project(store: Store, make_project: Make) -> None:
    project = make_project(0)
    ann = people.create_person(store, "Ann", None, "labeler", by=None)
    with pytest.raises(Forbidden):
        import_tasks(store, project.id, upload({"prompt": "x"}), by=ann.id)
    with pytest.raises(NotFound):
        import_tasks(store, 99, upload({"prompt": "x"}), by=None)


def test_briefs_ask_for_prompts(store: Store, make_project: Make) -> None:
    project = make_project(0, kind="prompt")
    rows = [{"brief": "a nurse", "style": "user-based"}, {"style": "few-shot"}, {}]
    assert import_tasks(store, project.id, upload(*rows), by=None).added == 3
    assert [(task.style, task.brief) for task in tasks.tasks(store, project.id, by=None)] == [
        ("user-based", "a nurse"),
        ("few-shot", ""),
        ("plain", ""),
    ]
    for wrong in ({"style": "rude"}, {"brief": 5}, {"style": "user-based"}):
        with pytest.raises(DataError) as caught:
            import_tasks(store, project.id, upload(wrong), by=None)
        assert caught.value.where == "mine.jsonl:1"


def test_screening_tasks_need_their_known_answer(store: Store, make_project: Make) -> None:
    project = make_project(0)
    known = [{"text": "a", "rank": 1, "flags": ["hallucination"]}, {"text": "b", "rank": 2, "rating": 3}]
    good = {"prompt": "x", "responses": known, "explanation": "since"}
    assert import_tasks(store, project.id, upload(good), by=None, purpose="screening").added == 1
    (task,) = tasks.tasks(store, project.id, by=None, purpose="screening")
    assert [(one.known_rank, one.known_flags) for one in task.replies] == [(1, ("hallucination",)), (2, ())]
    assert task.explanation == "since" and projects.project(store, project.id).screening_tasks == 1
    for wrong in (
        ["a", "b"],
        [{"text": "a", "rank": 1}, "b"],
        [{"text": "a", "rank": 1}],
        [{"text": "a", "rank": 1}, {"text": "b", "rank": 10}],
        [{"text": "a", "rank": 1}, {"text": "b", "rank": "2"}],
        [{"text": "a", "rank": 1}, {"text": "b", "rank": 2, "flags": ["rude"]}],
        [{"text": "a", "rank": 1}, {"text": "b", "rank": 2, "rating": 9}],
    ):
        with pytest.raises(DataError):
            import_tasks(
                store, project.id, upload({"prompt": "y", "responses": wrong}), by=None, purpose="screening"
            )


# -- replies that come later


def test_replies_find_their_prompt_by_id_or_by_text(store: Store, make_project: Make) -> None:
    project = make_project(0, replies=2)
    rows = [{"prompt": "one", "id": "p1"}, {"prompt": "two"}, {"prompt": "three", "id": "p3"}]
    import_tasks(store, project.id, upload(*rows), by=None)
    later = [
        {"id": "p1", "prompt": "one", "responses": ["a", {"text": "b", "model": "m"}]},
        {"prompt": "two", "response": "c", "model": "m"},
        {"prompt": "three", "responses": ["d"]},
    ]
    assert import_replies(store, project.id, upload(*later), by=None) == Added(4, 0, 2)
    assert import_replies(store, project.id, upload(*later), by=None) == Added(0, 4, 2)
    by_id = [{"id": "p3", "responses": ["e"]}]
    assert import_replies(store, project.id, upload(*by_id), by=None) == Added(1, 0, 0)
    found = tasks.tasks(store, project.id, by=None)
    assert [[(one.text, one.model) for one in task.replies] for task in found] == [
        [("a", None), ("b", "m")],
        [("c", "m")],
        [("d", None), ("e", None)],
    ]
    assert [task.state for task in found] == ["open", "waiting", "open"]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"id": "p9", "responses": ["a"]}, "no task of this project"),
        ({"prompt": "nine", "responses": ["a"]}, "no task of this project"),
        ({"id": "p1", "responses": []}, "no responses"),
        ({"id": "p1"}, "'responses' is null"),
        ({"id": "p1", "responses": ["\x00"]}, "NUL"),
    ],
)
def test_replies_to_nothing_are_named_by_line(store: Store, make_project: Make, row: Any, told: str) -> None:
    project = make_project(0)
    import_tasks(store, project.id, upload({"prompt": "one", "id": "p1"}), by=None)
    with pytest.raises(DataError, match=told) as caught:
        import_replies(store, project.id, upload(row, name="replies.jsonl"), by=None)
    assert caught.value.where == "replies.jsonl:1"
    (task,) = tasks.tasks(store, project.id, by=None)
    assert task.replies == ()


def test_where_nothing_is_judged_replies_are_refused(store: Store, make_project: Make) -> None:
    project = make_project(1, kind="demonstration")
    with pytest.raises(DataError, match="takes no replies"):
        import_replies(store, project.id, upload({"id": "q1", "responses": ["a"]}), by=None)
    with pytest.raises(Invalid, match="nothing is judged"):
        tasks.add_tasks(store, project.id, [NewTask(Prompt.of("x"), (NewReply("a"),))], by=None)


def test_a_long_import_is_stored_in_order_over_several_transactions(store: Store, make_project: Make) -> None:
    project = make_project(0, kind="demonstration")
    given = [NewTask(Prompt.of(f"question {number}", id=f"q{number}")) for number in range(1100)]
    assert tasks.add_tasks(store, project.id, given[:600], by=None) == Added(600, 0, 0)
    assert tasks.add_tasks(store, project.id, given, by=None) == Added(500, 600, 0)
    found = tasks.tasks(store, project.id, by=None, limit=2000)
    assert [task.key for task in found] == [task.prompt.id for task in given if task.prompt]
    assert projects.project(store, project.id).tasks == 1100


@pytest.mark.parametrize("number", [-1, 0, 2**31, 2**63, 2**70])
def test_numbers_that_no_database_holds(store: Store, make_project: Make, number: int) -> None:
    project = make_project(3)
    ann = people.create_person(store, "Ann", None, "labeler", by=None)
    for act in (
        lambda: projects.project(store, number),
        lambda: tasks.task(store, number, by=None),
        lambda: tasks.tasks(store, number, by=None),
        lambda: queue.next_task(store, ann.id, number),
        lambda: queue.lease(store, ann.id, number),
        lambda: submit.my_label(store, ann.id, number),
        lambda: review.labels(store, number, by=None),
        lambda: review.set_rejected(store, number, True, by=None),
        lambda: screening.grade(store, number, 0.5, by=None),
    ):
        with pytest.raises(NotFound):
            act()
    beyond = number > 3
    assert len(tasks.tasks(store, project.id, by=None, after_id=number)) == (0 if beyond else 3)
    assert len(tasks.tasks(store, project.id, by=None, limit=number)) == (3 if beyond else 0)
    assert submit.my_labels(store, ann.id, number, before_id=number, limit=number) == []
    assert audit.audit_log(store, by=None, project_id=number, before_id=number, limit=number) == []
    for wrong in ({"state": "sleepy"}, {"purpose": "nul \x00"}):
        with pytest.raises(Invalid):
            tasks.tasks(store, project.id, by=None, **wrong)


def test_briefs_of_a_test_that_were_withdrawn_leave_their_numbers(store: Store, make_project: Make) -> None:
    project = make_project(0, kind="prompt")
    for _ in range(2):
        tasks.add_tasks(store, project.id, [NewTask(None)], by=None, purpose="screening")
        (last,) = tasks.tasks(store, project.id, by=None, state="open")
        tasks.withdraw_task(store, last.id, True, by=None)
    assert projects.project(store, project.id).screening_tasks == 0
