"""The test before real work, the examples before the test, and reviewers' decisions."""

from collections.abc import Callable

import pytest

from instructgpt.data.records import Prompt
from instructgpt.labelling.store import (
    members,
    people,
    progress,
    projects,
    queue,
    review,
    screening,
    submit,
    tasks,
)
from instructgpt.labelling.store.database import Store
from instructgpt.labelling.store.form import REPLY_FLAGS, Answer, DemonstrationAnswer, Judgement, RankAnswer
from instructgpt.labelling.store.people import Person
from instructgpt.labelling.store.projects import Project
from instructgpt.labelling.store.queue import Lease
from instructgpt.labelling.store.refusals import Conflict, Forbidden, Invalid, NotFound
from instructgpt.labelling.store.screening import flag_score, order_score
from instructgpt.labelling.store.tasks import NewReply, NewTask
from instructgpt.text.chat import Message

Make = Callable[..., Project]


@pytest.mark.parametrize(
    ("known", "given", "share"),
    [
        ([1, 2, 3], [1, 2, 3], 1.0),
        ([1, 2, 3], [3, 2, 1], 0.0),
        ([1, 2, 3], [1, 3, 2], 2 / 3),  # pairs 12 and 13 right, 23 wrong
        ([1, 2, 3], [1, 1, 1], 0.5),
        ([1, 1, 2], [2, 1, 3], 1.0),  # the known tie orders nothing; 13 and 23 right
        ([1, 1], [1, 2], 1.0),
        ([1, 2, 2, 3], [1, 1, 2, 3], 4.5 / 5),  # five untied pairs, one of them tied by the labeler
    ],
)
def test_order_score_by_hand(known: list[int], given: list[int], share: float) -> None:
    assert order_score(known, given) == pytest.approx(share)


def test_flag_score_by_hand() -> None:
    known, given_ = [["hallucination"], []], [["hallucination", "inappropriate"], []]
    assert flag_score(known, given_) == pytest.approx(21 / 22)  # 2 replies by 11 flags, one cell differs
    assert len(REPLY_FLAGS) * 2 == 22


def known_task(name: str, *ranks: int) -> NewTask:
    return NewTask(Prompt.of(name), tuple(NewReply(f"reply {rank}", rank=rank) for rank in ranks))


def judge(lease: Lease, right: bool) -> Answer:
    """The known order, or the reverse of it: the replies of these tests say their rank."""
    sign = 1 if right else -1
    order = sorted(lease.replies, key=lambda reply: sign * int(reply.text[-1]))
    return RankAnswer(tuple(Judgement(reply.key, rank, 4) for rank, reply in enumerate(order, start=1)))


def answer_test(store: Store, person: Person, project: Project, marks: list[bool]) -> None:
    for right in marks:
        lease = queue.next_task(store, person.id, project.id)
        assert lease is not None and lease.purpose == "screening"
        submit.submit(store, person.id, lease.token, judge(lease, right))


@pytest.fixture
def tested(store: Store, make_project: Make) -> Project:
    """A project with a test of four and two tasks."""
    project = make_project(2, pass_mark=0.75)
    tasks.add_tasks(
        store, project.id, [known_task(f"test {n}", 2, 1, 3) for n in range(4)], by=None, purpose="screening"
    )
    return projects.project(store, project.id)


def test_work_begins_after_a_test_that_is_passed(
    store: Store, labelers: list[Person], tested: Project
) -> None:
    ann = labelers[0]
    lease = queue.next_task(store, ann.id, tested.id)
    assert lease is not None and (lease.purpose, lease.screening_left, lease.expires_at) == (
        "screening",
        4,
        None,
    )
    assert len(lease.replies) == 3  # all of a screening task, although the project shows two
    with pytest.raises(Invalid):
        submit.skip(store, ann.id, lease.token, "unclear")
    answer_test(store, ann, tested, [True, True, False, True])
    (standing,) = members.projects_for(store, ann.id)
    assert (standing.screening, standing.screening_score) == ("passed", 0.75)
    lease = queue.next_task(store, ann.id, tested.id)
    assert lease is not None and lease.purpose == "work" and lease.screening_left == 0
    assert submit.my_labels(store, ann.id, tested.id) == []
    assert review.labels(store, tested.id, by=None) == []
    known = review.labels(store, tested.id, by=None, purpose="screening")
    assert len(known) == 4 and all(label.known for label in known)


def test_who_fails_gets_no_work_until_a_reviewer_says_so(
    store: Store, labelers: list[Person], tested: Project
) -> None:
    ann, bob, *_ = labelers
    rob = people.create_person(store, "Rob", None, "reviewer", by=None)
    answer_test(store, ann, tested, [True, False, False, True])
    with pytest.raises(Forbidden) as caught:
        queue.next_task(store, ann.id, tested.id)
    assert caught.value.code == "screening-failed"
    with pytest.raises(Forbidden):
        screening.set_screening(store, tested.id, ann.id, "passed", by=bob.id)
    screening.set_screening(store, tested.id, ann.id, "pending", by=rob.id)
    answer_test(store, ann, tested, [True] * 4)  # the same tasks again
    standing = next(one for one in members.members(store, tested.id, by=None) if one.person == ann)
    assert (standing.screening, standing.screening_score, standing.screening_done) == ("passed", 1.0, 4)
    assert len(screening.screening_answers(store, tested.id, ann.id, by=rob.id)) == 4
    screening.set_screening(store, tested.id, bob.id, "passed", by=rob.id)
    lease = queue.next_task(store, bob.id, tested.id)
    assert lease is not None and lease.purpose == "work"


def test_a_form_of_a_test_that_was_called_off_is_not_taken(
    store: Store, labelers: list[Person], tested: Project
) -> None:
    ann = labelers[0]
    old = queue.next_task(store, ann.id, tested.id)
    assert old is not None
    screening.set_screening(store, tested.id, ann.id, "pending", by=None)
    with pytest.raises(Conflict):
        submit.submit(store, ann.id, old.token, judge(old, True))
    with pytest.raises(NotFound):
        queue.lease(store, ann.id, old.assignment_id)
    answer_test(store, ann, tested, [True] * 4)
    (standing,) = members.projects_for(store, ann.id)
    assert (standing.screening, standing.screening_done) == ("passed", 4)


def test_screening_waits_over_days_and_over_deactivation(
    store: Store, labelers: list[Person], tested: Project, clock: "object"
) -> None:
    ann = labelers[0]
    lease = queue.next_task(store, ann.id, tested.id)
    clock.pass_minutes(10_000)  # type: ignore[attr-defined]
    assert queue.return_expired(store) == 0
    people.set_active(store, ann.id, False, by=None)
    people.set_active(store, ann.id, True, by=None)
    assert queue.next_task(store, ann.id, tested.id) == lease


def test_withdrawing_the_last_open_test_tasks_decides(
    store: Store, labelers: list[Person], tested: Project
) -> None:
    ann = labelers[0]
    answer_test(store, ann, tested, [True, True])
    for task in tasks.tasks(store, tested.id, by=None, purpose="screening")[2:]:
        tasks.withdraw_task(store, task.id, True, by=None)
    lease = queue.next_task(store, ann.id, tested.id)
    assert lease is not None and lease.purpose == "work"


def test_written_tests_are_graded_by_reviewers(
    store: Store, labelers: list[Person], make_project: Make
) -> None:
    ann, bob, *_ = labelers
    rob = people.create_person(store, "Rob", None, "reviewer", by=None)
    project = make_project(1, kind="demonstration", pass_mark=6 / 7)
    tasks.add_tasks(
        store, project.id, [NewTask(Prompt.of(f"write {n}")) for n in range(2)], by=None, purpose="screening"
    )
    for _ in range(2):
        lease = queue.next_task(store, ann.id, project.id)
        assert lease is not None
        submit.submit(store, ann.id, lease.token, DemonstrationAnswer((Message("assistant", "x"),)))
    with pytest.raises(Forbidden) as caught:
        queue.next_task(store, ann.id, project.id)
    assert caught.value.code == "screening-grading"
    first, second = screening.screening_answers(store, project.id, ann.id, by=rob.id)
    assert (first.score, second.score) == (None, None)
    with pytest.raises(Forbidden):
        screening.grade(store, first.label_id, 1.0, by=bob.id)
    with pytest.raises(Invalid):
        screening.grade(store, first.label_id, 1.5, by=rob.id)
    screening.grade(store, first.label_id, 5 / 7, by=rob.id)
    screening.grade(store, second.label_id, 1.0, by=rob.id)  # the mean of 5/7 and 7/7 is 6/7
    lease = queue.next_task(store, ann.id, project.id)
    assert lease is not None and lease.purpose == "work"
    screening.grade(store, second.label_id, 0.9, by=rob.id)
    (standing,) = [one for one in members.projects_for(store, ann.id)]
    assert standing.screening == "failed"


def test_examples_are_read_before_and_hide_the_models(
    store: Store, labelers: list[Person], make_project: Make
) -> None:
    ann = labelers[0]
    project = make_project(1)
    example = NewTask(
        Prompt.of("example"), (NewReply("a", "m", 1, 6.0), NewReply("b", "m", 2)), explanation="a is short"
    )
    tasks.add_tasks(store, project.id, [example], by=None, purpose="onboarding")
    with pytest.raises(Conflict) as caught:
        queue.next_task(store, ann.id, project.id)
    assert caught.value.code == "onboarding-first"
    (shown,) = screening.onboarding(store, ann.id, project.id)
    assert shown.explanation == "a is short"
    assert [(one.known_rank, one.known_rating, one.model) for one in shown.replies] == [
        (1, 6.0, None),
        (2, None, None),
    ]
    screening.finish_onboarding(store, ann.id, project.id)
    screening.finish_onboarding(store, ann.id, project.id)
    assert queue.next_task(store, ann.id, project.id) is not None


# -- reviewing


def test_a_rejected_label_gives_its_task_to_another(
    store: Store, labelers: list[Person], make_project: Make
) -> None:
    ann, bob, *_ = labelers
    rob = people.create_person(store, "Rob", None, "reviewer", by=None)
    project = make_project(1)
    lease = queue.next_task(store, ann.id, project.id)
    assert lease is not None
    submit.submit(store, ann.id, lease.token, judge(lease, True), active_seconds=20.0)
    (label,) = review.labels(store, project.id, by=rob.id)
    with pytest.raises(Forbidden):
        review.set_rejected(store, label.label_id, True, by=ann.id)
    review.set_rejected(store, label.label_id, True, by=rob.id, reason="careless")
    review.set_rejected(store, label.label_id, True, by=rob.id)
    assert review.labels(store, project.id, by=rob.id) == []
    assert [one.rejected for one in review.labels(store, project.id, by=rob.id, include_rejected=True)] == [
        True
    ]
    assert queue.next_task(store, ann.id, project.id) is None  # never the same task twice
    with pytest.raises(Conflict):
        submit.revise(store, ann.id, lease.assignment_id, judge(lease, False), token=submit.edit_form())
    taken = queue.next_task(store, bob.id, project.id)
    assert taken is not None
    with pytest.raises(Conflict) as caught:
        review.set_rejected(store, label.label_id, False, by=rob.id)
    assert caught.value.code == "slot-taken"
    submit.skip(store, bob.id, taken.token, "unclear")
    review.set_rejected(store, label.label_id, False, by=rob.id)
    assert len(review.labels(store, project.id, by=rob.id)) == 1


def test_label_records_say_who_saw_what_in_which_order(
    store: Store, labelers: list[Person], make_project: Make
) -> None:
    ann = labelers[0]
    people.set_group(store, ann.id, "vendor", by=None)
    project = make_project(1, replies=5)
    lease = queue.next_task(store, ann.id, project.id)
    assert lease is not None
    submit.submit(store, ann.id, lease.token, judge(lease, True), active_seconds=20.0)
    (label,) = review.labels(store, project.id, by=None)
    assert [one.reply for one in label.answer.judgements] == ["0", "1", "2", "3", "4"]  # type: ignore[union-attr]
    assert [one.rank for one in label.answer.judgements] == [1, 2, 3, 4, 5]  # type: ignore[union-attr]
    assert [f"reply {place}" for place in label.shown] == [reply.text for reply in lease.replies]
    assert label.models == tuple(f"model-{place}" for place in range(5))
    assert (label.group, label.active_seconds, label.task_key) == ("vendor", 20.0, "q1")


def test_labelers_see_no_dashboards(store: Store, labelers: list[Person], make_project: Make) -> None:
    project = make_project(1)
    (task,) = tasks.tasks(store, project.id, by=None)
    for read in (
        lambda by: review.labels(store, project.id, by=by),
        lambda by: progress.progress(store, project.id, by=by),
        lambda by: progress.labeler_progress(store, project.id, by=by),
        lambda by: progress.throughput(store, project.id, by=by),
        lambda by: progress.seconds_per_task(store, project.id, by=by),
        lambda by: progress.skip_reasons(store, project.id, by=by),
        lambda by: members.members(store, project.id, by=by),
        lambda by: tasks.tasks(store, project.id, by=by),
        lambda by: tasks.task(store, task.id, by=by),
        lambda by: screening.screening_answers(store, project.id, labelers[1].id, by=by),
    ):
        with pytest.raises(Forbidden):
            read(labelers[0].id)
        read(None)


def test_progress_by_hand(store: Store, labelers: list[Person], make_project: Make, clock: "object") -> None:
    ann, bob, cem, _ = labelers
    project = make_project(4, overlap=2)
    for person, seconds in ((ann, 10.0), (bob, 30.0)):
        lease = queue.next_task(store, person.id, project.id)
        assert lease is not None
        submit.submit(store, person.id, lease.token, judge(lease, True), active_seconds=seconds)
    clock.pass_minutes(107)  # type: ignore[attr-defined]  # past midnight, UTC
    lease = queue.next_task(store, ann.id, project.id)
    assert lease is not None
    submit.submit(store, ann.id, lease.token, judge(lease, True), active_seconds=20.0)
    lease = queue.next_task(store, cem.id, project.id)
    assert lease is not None
    submit.skip(store, cem.id, lease.token, "disturbing")
    assert queue.next_task(store, cem.id, project.id)
    tasks.withdraw_task(store, tasks.tasks(store, project.id, by=None)[3].id, True, by=None)
    assert progress.progress(store, project.id, by=None) == progress.Progress(
        tasks=4,
        waiting=0,
        open=2,
        full=1,
        withdrawn=1,
        wanted_labels=6,
        labels=3,
        leased=1,
        skipped=1,
        rejected=0,
        finished_tasks=1,
        stuck_tasks=0,
    )
    by_name = {one.person.name: one for one in progress.labeler_progress(store, project.id, by=None)}
    assert (by_name["Ann"].labels, by_name["Ann"].median_seconds, by_name["Cem"].skips) == (2, 15.0, 1)
    assert (by_name["Cem"].leased, by_name["Dua"].labels, by_name["Dua"].last_at) == (1, 0, None)
    assert progress.throughput(store, project.id, by=None) == [
        # 1,700,000,000 is 19,675 whole days and 80,000 seconds after the epoch.
        progress.Bucket(19_675 * 86_400.0, ann.id, 1),
        progress.Bucket(19_675 * 86_400.0, bob.id, 1),
        progress.Bucket(19_676 * 86_400.0, ann.id, 1),
    ]
    assert sorted(progress.seconds_per_task(store, project.id, by=None)) == [10.0, 20.0, 30.0]
    assert progress.skip_reasons(store, project.id, by=None) == {"disturbing": 1}
    with pytest.raises(NotFound):
        progress.progress(store, 99, by=None)
