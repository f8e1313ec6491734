"""Which task whom: leases, overlap, time-outs, quotas, skipping, and forms that are sent twice."""

from collections.abc import Callable
from typing import Any

import pytest

from instructgpt.labelling.store import leases, members, people, projects, queue, submit, tasks
from instructgpt.labelling.store.database import Store
from instructgpt.labelling.store.form import (
    Answer,
    CompareAnswer,
    DemonstrationAnswer,
    Example,
    Judgement,
    PromptAnswer,
    RankAnswer,
    digest,
)
from instructgpt.labelling.store.people import Person
from instructgpt.labelling.store.projects import Project
from instructgpt.labelling.store.queue import Lease
from instructgpt.labelling.store.refusals import Conflict, Forbidden, Invalid, NotFound, QuotaReached
from instructgpt.text.chat import Message

Make = Callable[..., Project]


def answer_to(lease: Lease, rating: int = 5) -> Answer:
    """Any right answer: replies in the order in which they are shown."""
    if lease.kind == "demonstration":
        return DemonstrationAnswer((Message("assistant", "a reply"),))
    if lease.kind == "prompt":
        pairs = (Example("q", "r"), Example("s", "t")) if lease.style == "few-shot" else ()
        return PromptAnswer("a prompt", pairs)
    judged = tuple(Judgement(reply.key, rank, rating) for rank, reply in enumerate(lease.replies, start=1))
    return RankAnswer(judged) if lease.kind == "rank" else CompareAnswer(judged)


def take(store: Store, person: Person, project: Project) -> Lease:
    found = queue.next_task(store, person.id, project.id)
    assert found is not None
    return found


def do(store: Store, person: Person, project: Project) -> str:
    """Take one task and submit it: what was asked."""
    lease = take(store, person, project)
    submit.submit(store, person.id, lease.token, answer_to(lease))
    return lease.messages[-1].content


def state_of(store: Store, project: Project) -> list[tuple[str, str, int, int]]:
    found = tasks.tasks(store, project.id, by=None, limit=1000)
    return [(task.key, task.state, task.taken, task.labels) for task in found]


def test_tasks_come_in_order_and_a_reload_gives_the_same_one(
    store: Store, labelers: list[Person], make_project: Make
) -> None:
    project = make_project(3)
    ann = labelers[0]
    first = take(store, ann, project)
    assert take(store, ann, project) == first
    assert queue.lease(store, ann.id, first.assignment_id) == first
    assert first.messages == (Message("user", "question 1"),)
    assert first.expires_at == pytest.approx(first.leased_at + 3600)
    submit.submit(store, ann.id, first.token, answer_to(first))
    assert [do(store, ann, project) for _ in range(2)] == ["question 2", "question 3"]
    assert queue.next_task(store, ann.id, project.id) is None


@pytest.mark.parametrize("overlap", [1, 2, 3])
def test_each_task_gets_exactly_its_overlap_from_different_labelers(
    store: Store, labelers: list[Person], make_project: Make, overlap: int
) -> None:
    project = make_project(4, overlap=overlap)
    asked: list[tuple[str, str]] = []
    for _ in range(4):
        for person in labelers:
            lease = queue.next_task(store, person.id, project.id)
            if lease is not None:
                submit.submit(store, person.id, lease.token, answer_to(lease))
                asked.append((person.name, lease.messages[0].content))
    assert len(asked) == len(set(asked)) == 4 * overlap
    assert state_of(store, project) == [(f"q{n}", "full", overlap, overlap) for n in range(1, 5)]
    assert all(queue.next_task(store, person.id, project.id) is None for person in labelers)


def test_a_task_that_is_out_is_not_given_twice(
    store: Store, labelers: list[Person], make_project: Make
) -> None:
    project = make_project(2)
    leases_ = [queue.next_task(store, person.id, project.id) for person in labelers]
    asked = [lease.messages[0].content for lease in leases_ if lease]
    assert asked == ["question 1", "question 2"]


def test_time_up_gives_the_task_to_another_and_never_back(
    store: Store, labelers: list[Person], make_project: Make, clock: Any
) -> None:
    ann, bob, cem, _ = labelers
    project = make_project(3, lease_minutes=10)
    first = take(store, ann, project)
    clock.pass_minutes(9.99)
    assert do(store, bob, project) == "question 2"
    clock.pass_minutes(0.01)
    # What came back goes before what nobody has seen.
    assert take(store, cem, project).messages[0].content == "question 1"
    assert take(store, ann, project).messages[0].content == "question 3"
    with pytest.raises(Conflict) as caught:
        submit.submit(store, ann.id, first.token, answer_to(first))
    assert caught.value.code == "lease-lost"
    # The form can still be looked at: what was written in it must not be lost with the time.
    assert queue.lease(store, ann.id, first.assignment_id) == first


def test_a_late_answer_is_kept_while_nobody_else_has_the_task(
    store: Store, labelers: list[Person], make_project: Make, clock: Any
) -> None:
    ann, bob, *_ = labelers
    project = make_project(1, lease_minutes=10)
    late = take(store, ann, project)
    clock.pass_minutes(60)
    assert leases.return_expired(store) == 1 and leases.return_expired(store) == 0
    assert state_of(store, project) == [("q1", "open", 0, 0)]
    receipt = submit.submit(store, ann.id, late.token, answer_to(late))
    assert submit.submit(store, ann.id, late.token, answer_to(late)) == receipt
    assert state_of(store, project) == [("q1", "full", 1, 1)]
    assert queue.next_task(store, bob.id, project.id) is None


def test_signs_of_life_keep_a_task_but_not_for_ever(
    store: Store, labelers: list[Person], make_project: Make, clock: Any
) -> None:
    ann = labelers[0]
    project = make_project(1, lease_minutes=10)
    lease = take(store, ann, project)
    for _ in range(14):
        clock.pass_minutes(5)
        assert queue.renew(store, ann.id, lease.token) == pytest.approx(clock() + 600)
    clock.pass_minutes(5)  # 75 minutes: what is left of eight lengths of ten is five
    assert queue.renew(store, ann.id, lease.token) == pytest.approx(clock() + 300)
    clock.pass_minutes(5)
    leases.return_expired(store)
    with pytest.raises(Conflict):
        queue.renew(store, ann.id, lease.token)


def test_a_draft_is_there_in_another_tab_and_gone_after_submitting(
    store: Store, labelers: list[Person], make_project: Make
) -> None:
    ann, bob, *_ = labelers
    project = make_project(2)
    lease = take(store, ann, project)
    draft = {"ranks": [1, None], "note": "half \ud800 and \x00"}
    queue.save_draft(store, ann.id, lease.token, draft)
    assert take(store, ann, project).draft == draft
    for wrong in (float("nan"), {1, 2}, "x" * 600_000):
        with pytest.raises(Invalid):
            queue.save_draft(store, ann.id, lease.token, wrong)
    with pytest.raises(NotFound):
        queue.save_draft(store, bob.id, lease.token, draft)
    submit.submit(store, ann.id, lease.token, answer_to(lease))
    with pytest.raises(Conflict):
        queue.save_draft(store, ann.id, lease.token, draft)
    assert take(store, ann, project).draft is None


# -- forms that are sent twice


def test_a_form_sent_twice_makes_one_record_and_the_first_one_wins(
    store: Store, labelers: list[Person], make_project: Make, clock: Any
) -> None:
    ann = labelers[0]
    project = make_project(2)
    lease = take(store, ann, project)
    first, second = answer_to(lease, rating=7), answer_to(lease, rating=1)
    receipt = submit.submit(store, ann.id, lease.token, first, active_seconds=12.5)
    clock.pass_minutes(1)
    assert submit.submit(store, ann.id, lease.token, second) == receipt
    assert receipt.digest == digest(first) != digest(second)
    with pytest.raises(Conflict) as caught:
        submit.skip(store, ann.id, lease.token, "unclear")
    assert caught.value.code == "already-submitted"
    assert [label.answer for label in submit.my_labels(store, ann.id, project.id)] == [first]
    assert state_of(store, project)[0] == ("q1", "full", 1, 1)


def test_skipping_frees_the_task_for_others_only(
    store: Store, labelers: list[Person], make_project: Make
) -> None:
    ann, bob, *_ = labelers
    project = make_project(1)
    lease = take(store, ann, project)
    with pytest.raises(Invalid):
        submit.skip(store, ann.id, lease.token, "bored")
    receipt = submit.skip(store, ann.id, lease.token, "unclear", "no idea")
    assert submit.skip(store, ann.id, lease.token, "other") == receipt
    with pytest.raises(Conflict) as caught:
        submit.submit(store, ann.id, lease.token, answer_to(lease))
    assert caught.value.code == "already-skipped"
    assert queue.next_task(store, ann.id, project.id) is None
    assert do(store, bob, project) == "question 1"


def test_another_labelers_task_looks_as_if_it_were_not_there(
    store: Store, labelers: list[Person], make_project: Make
) -> None:
    ann, bob, *_ = labelers
    project = make_project(1)
    lease = take(store, ann, project)
    for act in (
        lambda: queue.lease(store, bob.id, lease.assignment_id),
        lambda: queue.renew(store, bob.id, lease.token),
        lambda: submit.submit(store, bob.id, lease.token, answer_to(lease)),
        lambda: submit.skip(store, bob.id, lease.token, "unclear"),
        lambda: submit.my_label(store, bob.id, lease.assignment_id),
        lambda: submit.revise(store, bob.id, lease.assignment_id, answer_to(lease), token=submit.edit_form()),
    ):
        with pytest.raises(NotFound) as caught:
            act()
        assert "Ann" not in str(caught.value)


@pytest.mark.parametrize("token", ["", "x", "\x00" * 20, "half \ud800" * 3, "' OR 1=1 --" * 2, "x" * 10_000])
def test_tokens_of_nothing(store: Store, labelers: list[Person], make_project: Make, token: str) -> None:
    make_project(1)
    with pytest.raises(NotFound):
        queue.renew(store, labelers[0].id, token)


def test_wrong_answers_leave_the_task_as_it_was(
    store: Store, labelers: list[Person], make_project: Make
) -> None:
    ann = labelers[0]
    project = make_project(1)
    lease = take(store, ann, project)
    one, two = (reply.key for reply in lease.replies)
    for wrong in (
        DemonstrationAnswer((Message("assistant", "x"),)),
        CompareAnswer((Judgement(one, 1), Judgement(two, 2))),
        RankAnswer(()),
        RankAnswer((Judgement(one, 1, 5),)),
        RankAnswer((Judgement(one, 1, 5), Judgement(one, 2, 5))),
        RankAnswer((Judgement(one, 1, 5), Judgement("0", 2, 5))),
        RankAnswer((Judgement(one, 1, 5), Judgement(two, 2, 8))),
        RankAnswer((Judgement(one, 0, 5), Judgement(two, 2, 5))),
        RankAnswer((Judgement(one, 1), Judgement(two, 2, 5))),
        RankAnswer((Judgement(one, 1, 5, ("rude",)), Judgement(two, 2, 5))),
    ):
        with pytest.raises(Invalid):
            submit.submit(store, ann.id, lease.token, wrong)
    assert take(store, ann, project) == lease and state_of(store, project) == [("q1", "full", 1, 0)]


# -- who may, and how much


def test_quotas_in_all_and_per_day(
    store: Store, labelers: list[Person], make_project: Make, clock: Any
) -> None:
    ann = labelers[0]
    project = make_project(9, quota=3, quota_per_day=2)
    do(store, ann, project)
    do(store, ann, project)
    with pytest.raises(QuotaReached) as caught:
        queue.next_task(store, ann.id, project.id)
    assert caught.value.code == "quota-day"
    clock.pass_minutes(107)  # 22:13 and 107 minutes is just after midnight, UTC
    do(store, ann, project)
    with pytest.raises(QuotaReached) as caught:
        queue.next_task(store, ann.id, project.id)
    assert caught.value.code == "quota-total"
    (standing,) = members.projects_for(store, ann.id)
    assert (standing.submitted, standing.today) == (3, 1)


def test_a_closed_project_takes_what_is_in_hands_and_gives_nothing(
    store: Store, labelers: list[Person], make_project: Make
) -> None:
    ann, bob, *_ = labelers
    project = make_project(2)
    lease = take(store, ann, project)
    projects.set_status(store, project.id, "paused", by=None)
    assert take(store, ann, project) == lease
    submit.submit(store, ann.id, lease.token, answer_to(lease))
    for person in (ann, bob):
        with pytest.raises(Conflict) as caught:
            queue.next_task(store, person.id, project.id)
        assert caught.value.code == "project-closed"


def test_a_project_for_members_only_is_not_there_for_others(
    store: Store, labelers: list[Person], make_project: Make
) -> None:
    ann, bob, *_ = labelers
    project = make_project(1, everyone=False)
    members.add_member(store, project.id, ann.id, by=None)
    assert [one.project.id for one in members.projects_for(store, ann.id)] == [project.id]
    assert members.projects_for(store, bob.id) == []
    with pytest.raises(NotFound):
        queue.next_task(store, bob.id, project.id)
    do(store, ann, project)
    members.remove_member(store, project.id, ann.id, by=None)
    with pytest.raises(NotFound):
        queue.next_task(store, ann.id, project.id)
    assert [one.submitted for one in members.members(store, project.id, by=None)] == [1]


def test_deactivating_gives_tasks_back_and_stops_the_labeler(
    store: Store, labelers: list[Person], make_project: Make
) -> None:
    ann, bob, *_ = labelers
    project = make_project(1)
    lease = take(store, ann, project)
    people.set_active(store, ann.id, False, by=None)
    for act in (
        lambda: queue.next_task(store, ann.id, project.id),
        lambda: submit.submit(store, ann.id, lease.token, answer_to(lease)),
    ):
        with pytest.raises(Forbidden) as caught:
            act()
        assert caught.value.code == "inactive"
    assert do(store, bob, project) == "question 1"


# -- what labelers see


def test_replies_are_shuffled_for_each_labeler_the_same_each_time_and_blind(
    store: Store, make_project: Make
) -> None:
    project = make_project(6, replies=5, overlap=4, quota=None)
    crowd = [people.create_person(store, f"L{number}", None, "labeler", by=None) for number in range(4)]
    orders = set()
    for person in crowd:
        for _ in range(6):
            lease = take(store, person, project)
            assert "model" not in str(lease) and take(store, person, project) == lease
            assert sorted(reply.text for reply in lease.replies) == [f"reply {place}" for place in range(5)]
            orders.add(tuple(reply.text for reply in lease.replies))
            keys = [reply.key for reply in lease.replies]
            assert len(set(keys)) == 5
            submit.submit(store, person.id, lease.token, answer_to(lease))
    assert len(orders) > 12  # of 24 draws from 120 orders


def test_only_the_first_k_replies_are_shown_and_fewer_wait(
    store: Store, labelers: list[Person], make_project: Make
) -> None:
    project = make_project(2, replies=3)
    lease = take(store, labelers[0], project)
    projects.update_project(
        store, project.id, projects.ProjectSettings("P", "rank", replies=2, overlap=2), by=None
    )
    # What is in hands stays as it was shown; the next one shows two.
    submit.submit(store, labelers[0].id, lease.token, answer_to(lease))
    other = take(store, labelers[1], project)
    assert {reply.text for reply in other.replies} == {"reply 0", "reply 1"}
    projects.update_project(
        store, project.id, projects.ProjectSettings("P", "rank", replies=9, overlap=2), by=None
    )
    assert {state for _, state, *_ in state_of(store, project)} == {"waiting"}
    assert queue.next_task(store, labelers[2].id, project.id) is None


def test_more_overlap_reopens_tasks_and_less_keeps_labels(
    store: Store, labelers: list[Person], make_project: Make
) -> None:
    ann, bob, *_ = labelers
    project = make_project(2)
    do(store, ann, project)
    do(store, ann, project)
    assert queue.next_task(store, bob.id, project.id) is None
    projects.update_project(
        store, project.id, projects.ProjectSettings("P", "rank", replies=2, overlap=2), by=None
    )
    assert [do(store, bob, project) for _ in range(2)] == ["question 1", "question 2"]
    projects.update_project(
        store, project.id, projects.ProjectSettings("P", "rank", replies=2, overlap=1), by=None
    )
    assert state_of(store, project) == [("q1", "full", 2, 2), ("q2", "full", 2, 2)]


@pytest.mark.parametrize("kind", ["demonstration", "prompt", "rank", "compare"])
def test_every_kind_of_task_goes_round(
    store: Store, labelers: list[Person], make_project: Make, kind: str
) -> None:
    ann = labelers[0]
    project = make_project(2, kind=kind)
    lease = take(store, ann, project)
    assert lease.kind == kind
    given = answer_to(lease)
    receipt = submit.submit(store, ann.id, lease.token, given)
    mine = submit.my_label(store, ann.id, lease.assignment_id)
    assert (
        mine.label_id == receipt.label_id
        and mine.messages == lease.messages
        and mine.replies == lease.replies
    )
    assert digest(mine.answer) == digest(given) == receipt.digest


def test_few_shot_prompts_need_examples(store: Store, labelers: list[Person], make_project: Make) -> None:
    project = make_project(0, kind="prompt")
    tasks.add_prompt_tasks(store, project.id, 1, style="few-shot", by=None)
    tasks.add_prompt_tasks(store, project.id, 1, style="user-based", brief="a nurse's questions", by=None)
    lease = take(store, labelers[0], project)
    with pytest.raises(Invalid):
        submit.submit(store, labelers[0].id, lease.token, PromptAnswer("Translate.", (Example("a", "b"),)))
    submit.submit(store, labelers[0].id, lease.token, answer_to(lease))
    lease = take(store, labelers[0], project)
    assert (lease.style, lease.brief, lease.messages) == ("user-based", "a nurse's questions", ())
    with pytest.raises(Invalid):
        pairs = (Example("a", "b"), Example("c", "d"))
        submit.submit(store, labelers[0].id, lease.token, PromptAnswer("Translate.", pairs))


# -- second thoughts


def test_a_revision_replaces_a_label_and_keeps_the_old_one(
    store: Store, labelers: list[Person], make_project: Make
) -> None:
    ann = labelers[0]
    project = make_project(1)
    lease = take(store, ann, project)
    old = submit.submit(store, ann.id, lease.token, answer_to(lease, rating=2))
    form = submit.edit_form()
    new = submit.revise(store, ann.id, lease.assignment_id, answer_to(lease, rating=6), token=form)
    assert submit.revise(store, ann.id, lease.assignment_id, answer_to(lease, rating=1), token=form) == new
    assert new.label_id != old.label_id
    (mine,) = submit.my_labels(store, ann.id, project.id)
    assert (mine.revision, mine.answer.judgements[0].rating) == (1, 6)  # type: ignore[union-attr]
    assert submit.submit(store, ann.id, lease.token, answer_to(lease)) == old
    assert state_of(store, project) == [("q1", "full", 1, 1)]
    projects.set_status(store, project.id, "closed", by=None)
    with pytest.raises(Conflict):
        submit.revise(store, ann.id, lease.assignment_id, answer_to(lease), token=submit.edit_form())


def test_withdrawn_tasks_are_not_given_and_can_come_back(
    store: Store, labelers: list[Person], make_project: Make
) -> None:
    ann, bob, *_ = labelers
    project = make_project(1)
    (task,) = tasks.tasks(store, project.id, by=None)
    lease = take(store, ann, project)
    tasks.withdraw_task(store, task.id, True, by=None)
    assert queue.next_task(store, bob.id, project.id) is None
    submit.submit(store, ann.id, lease.token, answer_to(lease))  # the work was done
    tasks.withdraw_task(store, task.id, False, by=None)
    assert state_of(store, project) == [("q1", "full", 1, 1)]
