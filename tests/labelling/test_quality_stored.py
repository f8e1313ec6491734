"""The report of a stored project: rows of the store become the annotations that one would write by hand."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="install the label extra")
pytest.importorskip("krippendorff", reason="install the label extra")

from instructgpt.data.records import Prompt
from instructgpt.labelling.quality import project_quality
from instructgpt.labelling.quality.stored import annotation_of
from instructgpt.labelling.store import people, projects, queue, review, tasks
from instructgpt.labelling.store.database import Store, open_store
from instructgpt.labelling.store.form import CompareAnswer, DemonstrationAnswer, Judgement, Kind, RankAnswer
from instructgpt.labelling.store.projects import ProjectSettings
from instructgpt.labelling.store.submit import submit
from instructgpt.labelling.store.tasks import NewReply, NewTask
from instructgpt.text.chat import Message


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path / "labels.db")
    yield opened
    opened.close()


def project(store: Store, kind: Kind, replies: int = 3) -> int:
    settings = ProjectSettings(name=kind, kind=kind, replies=replies, overlap=3, pass_mark=0.1)
    return projects.create_project(store, settings, by=None).id


def label(store: Store, person: int, project_id: int, ranks: dict[str, int], ticked: str = "") -> None:
    """Rank the next task's replies by their text; `ticked` is the reply that gives harmful advice."""
    lease = queue.next_task(store, person, project_id)
    assert lease is not None
    judged = tuple(
        Judgement(r.key, ranks[r.text], 8 - ranks[r.text], ("harmful_advice",) if r.text == ticked else ())
        for r in lease.replies
    )
    answer = (
        CompareAnswer(judged) if lease.kind == "compare" else RankAnswer(judged, prompt_flags=("sensitive",))
    )
    submit(store, person, lease.token, answer, active_seconds=12.0)


def test_rankings_screening_and_exclusion(store: Store) -> None:
    made = project(store, "rank")
    replies = (NewReply("a", rank=1), NewReply("b", rank=2, flags=("harmful_advice",)), NewReply("c", rank=2))
    tasks.add_tasks(store, made, [NewTask(Prompt.of("test"), replies)], by=None, purpose="screening")
    plain = tuple(NewReply(text) for text in "abc")
    tasks.add_tasks(store, made, [NewTask(Prompt.of("work", id="w"), plain)], by=None)
    ana, bo, cy = (people.ensure_person(store, name, "labeler").id for name in ("ana", "bo", "cy"))
    people.set_group(store, ana, "trained", by=None)
    for who, order in ((ana, (1, 2, 3)), (bo, (1, 3, 2)), (cy, (3, 2, 1))):
        # In the test ana finds the flag and bo does not; both put a first.
        label(store, who, made, dict(zip("abc", order, strict=True)), "b" if who == ana else "")
        label(store, who, made, dict(zip("abc", order, strict=True)))
    people.set_excluded(store, cy, True, by=None)
    report = project_quality(store, made, by=None)
    assert (report.annotations, report.overlapping) == (2, 1)
    assert report.overall.rankings.untied.value == pytest.approx(2 / 3)
    assert [(g.group, g.labelers) for g in report.groups] == [("trained", 1)]
    rows = {row.labeler.name: row for row in report.labelers}
    assert rows["cy"].labeler.excluded and rows["cy"].agreement.rankings.untied.value == pytest.approx(1 / 6)
    assert rows["ana"].habits.median_seconds == 12.0
    # Known pairs: a before b and a before c. Boxes: 3 replies of 11 flags, one of them known.
    screened = {name: row.screening for name, row in rows.items()}
    assert [s.rankings.value for s in screened.values() if s] == [1.0, 1.0, 0.0]
    assert [s.flags.value for s in screened.values() if s] == pytest.approx([1.0, 32 / 33, 32 / 33])
    ticked = {(f.about, f.flag): f.ticked for f in report.overall.flags}
    assert len(ticked) == 22 and ticked["prompt", "sensitive"] == 1.0
    assert ticked["reply", "harmful_advice"] == 0.0, "the test's ticks are no work"


def test_a_row_is_the_annotation_in_the_order_in_which_it_was_shown(store: Store) -> None:
    made = project(store, "compare", 2)
    tasks.add_tasks(store, made, [NewTask(Prompt.of("q", id="q"), (NewReply("a"), NewReply("b")))], by=None)
    for name in ("ana", "bo", "cy"):
        label(store, people.ensure_person(store, name, "labeler").id, made, {"a": 2, "b": 1})
    for row in review.labels(store, made, by=None):
        found = annotation_of(row)
        assert (found.item, found.kind, found.ranks) == ("q", "compare", {"0": 2, "1": 1})
        # A comparison need not carry flags: empty boxes there are no answers.
        assert found.flags == {} and found.prompt_flags is None
        assert found.shown == tuple(str(position) for position in row.shown) and set(found.shown) == {
            "0",
            "1",
        }
    assert project_quality(store, made, by=None).overall.rankings.untied.value == 1.0


def test_what_was_written_is_compared_with_the_labelers_own_texts(store: Store) -> None:
    made = project(store, "demonstration")
    tasks.add_tasks(store, made, [NewTask(Prompt.of(f"prompt {k}")) for k in range(12)], by=None)
    ana = people.ensure_person(store, "ana", "labeler").id
    for k in range(12):
        lease = queue.next_task(store, ana, made)
        assert lease is not None
        submit(store, ana, lease.token, DemonstrationAnswer((Message("assistant", f"text {k % 9}"),)))
    (row,) = project_quality(store, made, by=None).labelers
    assert row.habits.repeated_text == pytest.approx(3 / 12) and row.habits.signs == ("repeated-text",)
    assert row.agreement.rankings.untied.value is None and row.agreement.flags == ()
